"""The other aligners, each behind one call, all half pixels made equal.

    answer = solve("opencv_sift", fixed, moving, "affine")

gives `moving_from_fixed` in pixels, or `None` where the peer says that it failed: an exception, or
its own documented sign. imgalign stands in the same table. A peer is used as its documentation
tells a careful user to; where it lacks a model, the next larger one is fitted and the nearest
member of the asked model taken over the picture. `tests/test_benchmarks.py` holds every adapter to
an analytic scene.
"""

import contextlib
import importlib
import importlib.util
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.geometry import MODELS, Matrix3, about, corners, nearest, project
from benchmarks.photos import LUMA

Array = NDArray[Any]
THREADS = int(os.environ.get("OMP_NUM_THREADS", "0")) or (os.cpu_count() or 1)


class RefusedError(Exception):
    """The peer itself says that it found nothing."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    matrix: Matrix3 | None
    trusted: bool  # given without a word of doubt
    why: str
    seconds: float
    details: Any = field(default=None, repr=False)  # imgalign's Alignment


@dataclass(frozen=True)
class Peer:
    """An adapter: which models it takes and which modules it needs."""

    call: Callable[[Array, Array, str], Any]
    models: tuple[str, ...]
    needs: tuple[str, ...]


def grey(picture: Array) -> Array:
    """`(h, w)` float32 in 0..255 (float pictures are taken to be in that range already)."""
    plane = picture[..., :3] @ LUMA if picture.ndim == 3 else picture
    return np.ascontiguousarray(plane / (257 if picture.dtype == np.uint16 else 1), np.float32)


def bytes_of(picture: Array) -> Array:
    """`(h, w)` 8 bit; everything but 8 bit is stretched between its outer half percents."""
    plane = grey(picture)
    if picture.dtype != np.uint8:
        low, high = np.percentile(plane, [0.5, 99.5])
        plane = (plane - low) / max(high - low, 1e-6) * 255
    return np.clip(np.round(plane), 0, 255).astype(np.uint8)


def one_size(fixed: Array, moving: Array) -> tuple[Array, Array]:
    """Both grown to the larger height and width, to the right and below, so that coordinates stay."""
    h, w = np.maximum(fixed.shape, moving.shape)
    grown = (np.pad(p, ((0, h - p.shape[0]), (0, w - p.shape[1])), constant_values=p.mean()) for p in (fixed, moving))
    return next(grown), next(grown)


def in_model(matrix: Matrix3, model: str, size_hw: tuple[int, int]) -> Matrix3:
    """Nearest translation, rigid or similarity to a larger transform, over the fixed picture."""
    if model in ("affine", "homography"):
        return matrix
    x, y = np.meshgrid(np.linspace(0, size_hw[1] - 1, 7), np.linspace(0, size_hw[0] - 1, 7))
    points = np.c_[x.ravel(), y.ravel()]
    return nearest(model, points, project(matrix, points))


def shift_by(dx: float, dy: float) -> Matrix3:
    """Translation."""
    return about(np.eye(2), np.zeros(2), np.array([dx, dy]))


# --------------------------------------------------------------------------- OpenCV
def _cv() -> Any:
    import cv2

    cv2.setNumThreads(THREADS)
    return cv2


def _motion(model: str) -> int:
    cv = _cv()
    motions = {"translate": cv.MOTION_TRANSLATION, "rigid": cv.MOTION_EUCLIDEAN, "homography": cv.MOTION_HOMOGRAPHY}
    return int(motions.get(model, cv.MOTION_AFFINE))


def _start(matrix: Matrix3, model: str) -> Array:
    start: Array = (matrix / matrix[2, 2]).astype(np.float32)
    return start if model == "homography" else start[:2].copy()


def _square(matrix: Array) -> Matrix3:
    whole: Matrix3 = np.vstack([matrix, [0, 0, 1]]).astype(float)[:3]
    return whole


def _ecc(fixed: Array, moving: Array, model: str, start: Matrix3, rounds: int = 200) -> Matrix3:
    """One call of findTransformECC; its matrix maps the template's (fixed) pixels to the input's."""
    cv = _cv()
    stop = (cv.TERM_CRITERIA_EPS | cv.TERM_CRITERIA_COUNT, rounds, 1e-6)
    try:
        found = cv.findTransformECC(fixed, moving, _start(start, model), _motion(model), stop, None, 5)[1]
    except cv.error as error:
        raise RefusedError(str(error).strip()) from error
    return _square(found)


def opencv_ecc(fixed: Array, moving: Array, model: str) -> Matrix3:
    """ECC at full resolution from the identity."""
    return in_model(_ecc(grey(fixed), grey(moving), model, np.eye(3)), model, fixed.shape[:2])


def opencv_ecc_pyramid(fixed: Array, moving: Array, model: str) -> Matrix3:
    """ECC over four halvings made by hand; pyrDown leaves pixel 0 on pixel 0, so levels differ by a factor alone."""
    levels = [(grey(fixed), grey(moving))]
    while len(levels) < 4 and min(levels[-1][0].shape + levels[-1][1].shape) >= 64:
        levels.append((_cv().pyrDown(levels[-1][0]), _cv().pyrDown(levels[-1][1])))
    matrix = np.eye(3)
    for level in reversed(range(len(levels))):
        up = np.diag([2.0**level, 2.0**level, 1.0])
        matrix = up @ _ecc(*levels[level], model, np.linalg.inv(up) @ matrix @ up) @ np.linalg.inv(up)
    return in_model(matrix / matrix[2, 2], model, fixed.shape[:2])


def opencv_ecc_multiscale(fixed: Array, moving: Array, model: str) -> Matrix3:
    """OpenCV 5's findTransformECCMultiScale with its own pyramid."""
    cv = _cv()
    if not hasattr(cv, "findTransformECCMultiScale"):
        raise RefusedError("this OpenCV has no findTransformECCMultiScale")
    settings = cv.ECCParameters()
    settings.motionType = _motion(model)
    settings.criteria = (cv.TERM_CRITERIA_EPS | cv.TERM_CRITERIA_COUNT, 200, 1e-6)
    try:
        found = cv.findTransformECCMultiScale(grey(fixed), grey(moving), _start(np.eye(3), model), settings)[1]
    except cv.error as error:
        raise RefusedError(str(error).strip()) from error
    return in_model(_square(found), model, fixed.shape[:2])


def _matches(fixed: Array, moving: Array) -> tuple[Array, Array]:
    """SIFT matches that pass Lowe's ratio test, `(N, 2)` each."""
    cv = _cv()
    finder = cv.SIFT_create()
    (here, a), (there, b) = (finder.detectAndCompute(bytes_of(p), None) for p in (fixed, moving))
    if a is None or b is None or min(len(a), len(b)) < 2:
        raise RefusedError("no features")
    kept = [m for m, second in cv.BFMatcher().knnMatch(a, b, k=2) if m.distance < 0.75 * second.distance]
    if len(kept) < 8:
        raise RefusedError("too few matches")
    return np.array([here[m.queryIdx].pt for m in kept]), np.array([there[m.trainIdx].pt for m in kept])


def opencv_sift(fixed: Array, moving: Array, model: str) -> Matrix3:
    """SIFT, ratio test, MAGSAC (RANSAC where MAGSAC has no such model); fewer than ten inliers are a refusal."""
    cv = _cv()
    cv.setRNGSeed(1)
    a, b = _matches(fixed, moving)
    rules: dict[str, Any] = {"maxIters": 5000, "confidence": 0.999}
    if model == "homography":
        matrix, inlier = cv.findHomography(a, b, cv.USAC_MAGSAC, 2.0, **rules)
    elif model == "affine":
        matrix, inlier = cv.estimateAffine2D(a, b, method=cv.USAC_MAGSAC, ransacReprojThreshold=2.0, **rules)
    elif model == "translate":
        votes = [(np.hypot(*(b - a - d).T) < 2).sum() for d in (b - a)[:1500]]
        inlier = np.hypot(*(b - a - (b - a)[int(np.argmax(votes))]).T) < 2
        matrix = np.eye(3)
    else:
        matrix, inlier = cv.estimateAffinePartial2D(a, b, method=cv.RANSAC, ransacReprojThreshold=2.0, **rules)
    if matrix is None or (inlier := np.ravel(inlier) > 0).sum() < 10:
        raise RefusedError("too few inliers")
    return _square(matrix) if model in ("affine", "homography") else nearest(model, a[inlier], b[inlier])


def opencv_sift_ecc(fixed: Array, moving: Array, model: str) -> Matrix3:
    """SIFT for the start, ECC for the precision; ECC is dropped where it fails or runs away."""
    try:
        start = opencv_sift(fixed, moving, model)
    except RefusedError:
        return opencv_ecc_pyramid(fixed, moving, model)
    try:
        fine = in_model(_ecc(grey(fixed), grey(moving), model, start, 100), model, fixed.shape[:2])
    except RefusedError:
        return start
    ends = corners(fixed.shape[:2])
    moved = np.linalg.norm(project(fine, ends) - project(start, ends), axis=1).mean()
    return fine if moved < 0.02 * max(fixed.shape[:2]) else start


# ---------------------------------------------------------------------- scikit-image
def skimage_phase(fixed: Array, moving: Array, _model: str) -> Matrix3:
    """Phase correlation to a hundredth of a pixel."""
    correlate: Any = importlib.import_module("skimage.registration").phase_cross_correlation
    a, b = one_size(grey(fixed), grey(moving))
    down, right = correlate(a, b, upsample_factor=100)[0]  # moves moving onto fixed
    return shift_by(-right, -down)


# ------------------------------------------------------------------------- SimpleITK
def _sitk(fixed: Array, moving: Array, model: str, spline: bool) -> Matrix3:
    sitk: Any = importlib.import_module("SimpleITK")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(THREADS)
    a, b = sitk.GetImageFromArray(grey(fixed)), sitk.GetImageFromArray(grey(moving))
    kinds = {"translate": sitk.TranslationTransform, "affine": sitk.AffineTransform}
    bare = {"rigid": sitk.Euler2DTransform, "similarity": sitk.Similarity2DTransform}
    start = kinds[model](2) if model in kinds else bare[model]()
    if model != "translate":
        start = sitk.CenteredTransformInitializer(a, b, start, sitk.CenteredTransformInitializerFilter.GEOMETRY)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    if a.GetNumberOfPixels() > 250_000:  # its own advice for large pictures
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentagePerLevel([1.0, 0.5, 0.2], 1)
    method.SetInterpolator(sitk.sitkBSpline if spline else sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-5, 300, 0.5, 1e-9)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(start, inPlace=False)
    try:
        found = method.Execute(a, b)
    except RuntimeError as error:
        raise RefusedError(str(error).strip().splitlines()[-1]) from error
    ends = corners(fixed.shape[:2])
    return nearest("affine", ends, np.array([found.TransformPoint(p) for p in ends.tolist()]))


def sitk_linear(fixed: Array, moving: Array, model: str) -> Matrix3:
    """Correlation, three levels, linear interpolation."""
    return _sitk(fixed, moving, model, spline=False)


def sitk_spline(fixed: Array, moving: Array, model: str) -> Matrix3:
    """The same with cubic splines: slower, more exact."""
    return _sitk(fixed, moving, model, spline=True)


# --------------------------------------------------------------------- elastix, greedy
def itk_elastix(fixed: Array, moving: Array, model: str) -> Matrix3:
    """Elastix with its default parameter map of the model."""
    import itk

    settings = itk.ParameterObject.New()
    base = {"translate": "translation", "affine": "affine"}.get(model, "rigid")
    chosen = settings.GetDefaultParameterMap(base)
    if model == "similarity":
        chosen["Transform"] = ["SimilarityTransform"]
    chosen["RandomSeed"], chosen["WriteResultImage"] = ["7"], ["false"]
    settings.AddParameterMap(chosen)
    try:
        _, out = itk.elastix_registration_method(
            itk.image_view_from_array(grey(fixed)),
            itk.image_view_from_array(grey(moving)),
            parameter_object=settings,
            number_of_threads=THREADS,
            log_to_console=False,
        )
    except RuntimeError as error:
        raise RefusedError(str(error).strip().splitlines()[-1]) from error
    found = out.GetParameterMap(0)
    numbers = np.array([float(v) for v in found["TransformParameters"]])
    if model == "translate":
        return shift_by(*numbers)
    if model == "affine":
        linear = numbers[:4].reshape(2, 2)
    else:
        scale, angle = (1.0, numbers[0]) if model == "rigid" else numbers[:2]
        linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([float(v) for v in found["CenterOfRotationPoint"]])
    return about(linear, middle, middle + numbers[-2:])


def greedy(fixed: Array, moving: Array, model: str) -> Matrix3:
    """Greedy with patch correlation; it answers in a frame with both axes reversed."""
    sitk: Any = importlib.import_module("SimpleITK")
    from picsl_greedy import Greedy2D

    freedom = {"rigid": 6, "similarity": 7, "affine": 12}[model]
    engine = Greedy2D()
    command = f"-a -dof {freedom} -i f m -o matrix -n 100x50x20 -m NCC 4x4 -ia-image-centers -V 0 -threads {THREADS}"
    try:
        engine.execute(
            command, f=sitk.GetImageFromArray(grey(fixed)), m=sitk.GetImageFromArray(grey(moving)), matrix=None
        )
    except RuntimeError as error:
        raise RefusedError(str(error).strip()) from error
    reverse = np.diag([-1.0, -1.0, 1.0])
    return np.asarray(reverse @ np.asarray(engine["matrix"], float) @ reverse)


# --------------------------------------------------------------------------- kornia
def _kornia(fixed: Array, moving: Array, model: str, settings: dict[str, Any]) -> Matrix3:
    import torch
    from kornia.geometry.transform import HomographyWarper, ImageRegistrator
    from kornia.geometry.transform.image_registrator import Similarity

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    a, b = (torch.from_numpy(p)[None, None] / 255 for p in one_size(grey(fixed), grey(moving)))
    h, w = a.shape[2:]
    names = {"translate": "translation", "similarity": "similarity"}
    kind: Any = Similarity(True, False, True) if model == "rigid" else names.get(model, "homography")
    settings = {"pyramid_levels": int(np.clip(np.log2(min(h, w) / 16), 1, 5)), **settings}
    if model == "rigid":
        settings["warper"] = HomographyWarper
    found = ImageRegistrator(kind, **settings).register(b, a)[0].detach().double().numpy()
    if not np.isfinite(found).all():
        raise RefusedError("diverged")
    unit = np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1]])  # outer edges at -1 and 1
    matrix = np.linalg.inv(unit) @ found @ unit
    return in_model(matrix / matrix[2, 2], model, fixed.shape[:2])


def kornia_default(fixed: Array, moving: Array, model: str) -> Matrix3:
    """ImageRegistrator as it comes."""
    return _kornia(fixed, moving, model, {})


def kornia_tuned(fixed: Array, moving: Array, model: str) -> Matrix3:
    """ImageRegistrator with a larger step, more rounds and a tighter tolerance."""
    return _kornia(fixed, moving, model, {"lr": 1e-2, "num_iterations": 200, "tolerance": 1e-6})


# --------------------------------------------------------------- pystackreg, imreg_dft
def pystackreg(fixed: Array, moving: Array, model: str) -> Matrix3:
    """TurboReg's pyramid, in its Python port."""
    from pystackreg import StackReg

    kinds = (StackReg.TRANSLATION, StackReg.RIGID_BODY, StackReg.SCALED_ROTATION, StackReg.AFFINE)
    a, b = one_size(grey(fixed), grey(moving))
    return np.asarray(StackReg(kinds[MODELS.index(model)]).register(a, b), float)


def imreg_dft(fixed: Array, moving: Array, model: str) -> Matrix3:
    """Fourier-Mellin. Its warp rounds sizes, so the matrix is read off ramps that went through that warp."""
    import imreg_dft as dft

    a, b = (p.astype(float) for p in one_size(grey(fixed), grey(moving)))
    if model == "translate":
        down, right = dft.translation(a, b)["tvec"]
        return shift_by(-right, -down)
    held = {"scale": [1.0, 0.0]} if model == "rigid" else {}
    found = dft.similarity(a, b, numiter=3, constraints=held)
    rows, columns = np.indices(a.shape).astype(float)
    x, y, cover = (
        dft.transform_img(ramp, found["scale"], found["angle"], found["tvec"], bgval=0.0, order=1)
        for ramp in (columns, rows, np.ones_like(rows))
    )
    inside = cover > 0.9999
    if inside.sum() < 100:
        raise RefusedError("nothing left of the picture")
    return nearest(model, np.c_[columns[inside], rows[inside]], np.c_[x[inside], y[inside]])


# -------------------------------------------------------------------------- imgalign
def imgalign(fixed: Array, moving: Array, model: str, **options: Any) -> Any:
    """imgalign.align with its defaults: an Alignment."""
    from imgalign import align

    return align(fixed, moving, model=model, threads=THREADS, **options)


UP_TO_AFFINE = MODELS[:4]
PEERS = {
    "imgalign": Peer(imgalign, MODELS, ("imgalign.align",)),
    "opencv_sift": Peer(opencv_sift, MODELS, ("cv2",)),
    "opencv_sift_ecc": Peer(opencv_sift_ecc, MODELS, ("cv2",)),
    "opencv_ecc": Peer(opencv_ecc, MODELS, ("cv2",)),
    "opencv_ecc_pyramid": Peer(opencv_ecc_pyramid, MODELS, ("cv2",)),
    "opencv_ecc_multiscale": Peer(opencv_ecc_multiscale, MODELS, ("cv2",)),
    "sitk_linear": Peer(sitk_linear, UP_TO_AFFINE, ("SimpleITK",)),
    "sitk_spline": Peer(sitk_spline, UP_TO_AFFINE, ("SimpleITK",)),
    "itk_elastix": Peer(itk_elastix, UP_TO_AFFINE, ("itk",)),
    "greedy": Peer(greedy, ("rigid", "similarity", "affine"), ("picsl_greedy", "SimpleITK")),
    "kornia_default": Peer(kornia_default, MODELS, ("kornia",)),
    "kornia_tuned": Peer(kornia_tuned, MODELS, ("kornia",)),
    "pystackreg": Peer(pystackreg, UP_TO_AFFINE, ("pystackreg",)),
    "imreg_dft": Peer(imreg_dft, MODELS[:3], ("imreg_dft",)),
    "skimage_phase": Peer(skimage_phase, ("translate",), ("skimage",)),
}


def available(name: str) -> bool:
    """Whether what the adapter needs is installed."""
    try:
        return all(importlib.util.find_spec(module) is not None for module in PEERS[name].needs)
    except ModuleNotFoundError:
        return False


def solve(name: str, fixed: Array, moving: Array, model: str, **options: Any) -> Answer:
    """Align one pair with one peer.

    Args:
        name: of `PEERS`.
        fixed: `(H, W)` or `(H, W, 3)`, 8 or 16 bit, or float in 0..255.
        moving: likewise.
        model: name.
        **options: for imgalign only.
    """
    began = time.perf_counter()
    matrix, trusted, why, details = None, False, "", None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some peers talk
            found = PEERS[name].call(fixed, moving, model, **options)
        if hasattr(found, "moving_from_fixed"):
            details, trusted, why = found, bool(found.trusted), found.status
            found = found.moving_from_fixed
        else:
            trusted = True
        matrix = np.asarray(found, float)
        if not np.isfinite(matrix).all():
            matrix, trusted, why = None, False, "not finite"
    except Exception as error:  # noqa: BLE001  a peer that raises has refused; the row says how
        why = f"{type(error).__name__}: {error}".replace("\n", " ")[:160]
    return Answer(matrix, trusted and matrix is not None, why, time.perf_counter() - began, details)
