import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from imgalign.errors import OptionError, ShapeError
from imgalign.warp import source
from imgalign.warp.resample import warp

C, S = np.cos(0.3), np.sin(0.3)
SHIFT = np.array([[1, 0, 3.3], [0, 1, -2.7], [0, 0, 1]])
ROTATION = np.array([[C, -S, 40], [S, C, -30], [0, 0, 1]])
HOMOGRAPHY = np.array([[C, -S, 40], [S, C, -30], [2e-4, -1e-4, 1]])
EVERY = ("nearest", "bilinear", "cubic", "lanczos")
SIZE, OUT = (300, 340), (280, 310)


def landed(matrix, size_hw):
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(float)
    px, py, depth = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
    return px / depth, py / depth


def waves(x, y, cutoff):
    """Twelve plane waves, none shorter than 1 / cutoff pixels, of variance 6."""
    rng, total = np.random.default_rng(3), 0
    for _ in range(12):
        frequency, angle, phase = rng.uniform(0.02, cutoff), *rng.uniform(0, 2 * np.pi, 2)
        total = total + np.sin(2 * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return total


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


@pytest.mark.parametrize("matrix", [SHIFT, ROTATION, HOMOGRAPHY], ids=["shift", "rotation", "homography"])
@pytest.mark.parametrize(
    ("kernel", "most"),
    # Interpolation errors of these kernels on waves of up to 0.1 cycles a pixel and a variance of 6: theirs by nature.
    [("bilinear", 0.1), ("cubic", 0.001), ("lanczos", 0.03)],
)
def test_warp_of_a_formula_is_the_formula(matrix, kernel, most):
    picture = waves(*landed(np.eye(3), SIZE), 0.1)
    out, covered = warp(picture, moving_from_fixed=matrix, size_hw=OUT, interpolation=kernel, antialias=False)
    inner = ndimage.binary_erosion(covered, iterations=8)
    assert np.sqrt(np.mean((out - waves(*landed(matrix, OUT), 0.1))[inner] ** 2)) < most


@pytest.mark.parametrize("matrix", [SHIFT, ROTATION, HOMOGRAPHY])
@pytest.mark.parametrize(("dtype", "most"), [(np.float64, 1e-7), (np.float32, 1e-3)])
def test_cubic_is_scipys_spline(matrix, dtype, most):
    """Four exact three-tap filters against SciPy's recursion; float32 positions are good to some 5e-5 px."""
    picture = waves(*landed(np.eye(3), SIZE), 0.4)
    out, covered = warp(picture.astype(dtype), moving_from_fixed=matrix, size_hw=OUT)
    x, y = landed(matrix, OUT)
    expected = ndimage.map_coordinates(picture, [y, x], order=3, mode="mirror")
    inner = ndimage.binary_erosion(covered)
    assert np.abs(out - expected)[inner].max() < most


def lanczos_at(row, at):
    """Six taps of sinc(d) sinc(d / 3), of sum one, at one place of a row that is continued by reflection."""
    taps = np.arange(np.floor(at) - 2, np.floor(at) + 4)
    weights = np.sinc(at - taps) * np.sinc((at - taps) / 3)
    far = np.abs((taps + len(row) - 1) % (2 * len(row) - 2) - len(row) + 1).astype(int)
    return row[far] @ weights / weights.sum()


@pytest.mark.parametrize(("x", "y"), [(0.3, -0.4), (-7.25, 11.5), (3, 0.5), (-0.4, 25.2), (400, 0.5), (-0.3, 31)])
def test_a_shift_is_what_scipy_reads_up_to_the_border(x, y, monkeypatch):
    """One pass along rows and one along columns; half a pixel beyond the outermost centres these continue."""
    monkeypatch.setattr("imgalign.warp.resample._TILE", 23)
    picture = np.random.default_rng(4).normal(size=(31, 37))
    rows, columns = (np.clip(np.arange(size) + by, 0, size - 1) for size, by in zip(picture.shape, (y, x), strict=True))
    where = np.meshgrid(rows, columns, indexing="ij")
    along = np.array([[lanczos_at(line, at) for at in columns] for line in picture])
    expected = {
        "bilinear": ndimage.map_coordinates(picture, where, order=1, mode="mirror"),
        "cubic": ndimage.map_coordinates(picture, where, order=3, mode="mirror"),
        "lanczos": np.array([[lanczos_at(line, at) for at in rows] for line in along.T]).T,
    }
    for kernel, wanted in expected.items():
        out, covered = warp(picture, moving_from_fixed=shift(x, y), size_hw=(31, 37), interpolation=kernel)
        assert np.abs(out - wanted)[covered].max(initial=0) < 1e-7


def test_covered_is_where_a_centre_falls_on_the_picture():
    x, y = landed(HOMOGRAPHY, OUT)
    expected = (x >= -0.5) & (x <= SIZE[1] - 0.5) & (y >= -0.5) & (y <= SIZE[0] - 0.5)
    for kernel in EVERY:
        covered = warp(np.ones(SIZE), moving_from_fixed=HOMOGRAPHY, size_hw=OUT, interpolation=kernel)[1]
        assert np.array_equal(covered, expected)


@pytest.mark.parametrize("kernel", EVERY)
@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "i4", "u8", "f2", "f4", "f8"])
def test_identity_and_whole_shifts_are_exact_copies(kernel, dtype):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(dtype)
    out = warp(picture, moving_from_fixed=np.eye(3), size_hw=(40, 50), interpolation=kernel)[0]
    assert np.array_equal(out, picture)
    assert out.dtype == picture.dtype
    out, covered = warp(picture, moving_from_fixed=shift(7, -4), size_hw=(44, 43), interpolation=kernel)
    assert np.array_equal(out[4:], picture[:, 7:])
    assert covered[4:].all()
    assert not covered[:4].any()


@pytest.mark.parametrize("kernel", EVERY)
def test_quarter_turns_are_exact(kernel):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    turn = np.array([[0, 1, 0], [-1, 0, 39], [0, 0, 1.0]])  # output (x, y) shows picture (y, 39 - x)
    out, covered = warp(picture, moving_from_fixed=turn, size_hw=(50, 40), interpolation=kernel)
    assert np.array_equal(out, np.rot90(picture, -1))
    assert covered.all()


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "i8"])
def test_nearest_keeps_labels(dtype):
    labels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (60, 70), dtype)
    out, covered = warp(labels, moving_from_fixed=ROTATION, size_hw=(90, 90), interpolation="nearest")
    x, y = landed(ROTATION, (90, 90))
    row, column = np.rint(y).clip(0, 59).astype(int), np.rint(x).clip(0, 69).astype(int)
    assert np.array_equal(out, np.where(covered, labels[row, column], 0))


@pytest.mark.parametrize("factor", [2, 3, 4, 7.5, 20])
@pytest.mark.parametrize("kernel", ["bilinear", "cubic", "lanczos"])
def test_shrinking_is_pillows_anti_aliased_resize(factor, kernel):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (100, 120), np.uint8)).resize((480, 400), Image.Resampling.BICUBIC)
    h, w = int(400 / factor), int(480 / factor)
    matrix = np.array([[factor, 0, factor / 2 - 0.5], [0, factor, factor / 2 - 0.5], [0, 0, 1]])
    out = warp(np.asarray(smooth), moving_from_fixed=matrix, size_hw=(h, w), interpolation=kernel)[0]
    method = {"cubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}.get(
        kernel, Image.Resampling.BILINEAR
    )
    expected = np.asarray(smooth.resize((w, h), method, box=(0, 0, w * factor, h * factor)), float)
    # Grey levels, of 10 to 60 standard deviation: windows sampled at other places, and other borders.
    assert np.sqrt(np.mean((out - expected) ** 2)) < 1.5


def test_shrinking_does_not_fold_frequencies_over():
    """A zone plate of all frequencies up to Nyquist, shrunk four times and turned: most of it must become grey."""
    x, y = landed(np.eye(3), (800, 800))
    plate = np.cos((x**2 + y**2) * np.pi / 1600)
    matrix = np.array([[4 * C, -4 * S, 300], [4 * S, 4 * C, -50], [0, 0, 1]])
    smooth, covered = warp(plate, moving_from_fixed=matrix, size_hw=(150, 150))
    rough = warp(plate, moving_from_fixed=matrix, size_hw=(150, 150), antialias=False)[0]
    assert smooth[covered].std() < 0.05
    assert rough[covered].std() > 0.5


@pytest.mark.parametrize("factor", [1.5, 4.3, 30])
def test_shrinking_keeps_a_constant(factor):
    matrix = np.array([[factor * C, -factor * S, 40], [factor * S, factor * C, 0], [1e-5, 0, 1]])
    out, covered = warp(np.full((300, 300), 77, np.uint8), moving_from_fixed=matrix, size_hw=(100, 100))
    assert covered.any()
    assert (out[covered] == 77).all()


@pytest.mark.parametrize("kernel", ["bilinear", "cubic", "lanczos"])
@pytest.mark.parametrize("scale", [1, 3])
def test_colours_under_transparency_do_not_bleed(kernel, scale):
    picture = np.full((60, 60, 4), 200, np.uint8)
    picture[..., 3] = 0
    picture[15:45, 15:45] = (10, 250, 30, 255)
    matrix = np.array([[scale, 0, 0.4], [0, scale, 0.3], [0, 0, 1]])
    out = warp(picture, moving_from_fixed=matrix, size_hw=(60, 60), interpolation=kernel, has_alpha=True)[0]
    assert np.abs(out[out[..., 3] > 25][:, :3].astype(int) - (10, 250, 30)).max() <= 1
    assert out[..., 3].max() == 255


@pytest.mark.parametrize("kernel", ["bilinear", "cubic", "lanczos"])
def test_holes_stay_holes_and_do_not_spread(kernel):
    picture = np.full((60, 60), 5, np.float32)
    picture[30:33, 30:33] = np.nan
    picture[10, 10] = np.inf
    out, covered = warp(picture, moving_from_fixed=shift(0.4, 0.3), size_hw=(60, 60), interpolation=kernel)
    assert covered.all()
    assert 6 <= np.isnan(out).sum() <= 12  # nine, and those whose value is mostly made of them; a single one is bridged
    assert np.nanmax(np.abs(out - 5)) < 1e-4


def test_overshoot_is_clamped_and_values_are_rounded():
    step = np.zeros((20, 40), np.uint8)
    step[:, 20:] = 255
    out = warp(step, moving_from_fixed=shift(0.5, 0), size_hw=(20, 40), interpolation="cubic")[0]
    assert (out[:, :15] == 0).all()
    assert (out[:, 25:] == 255).all()
    ramp = np.tile(np.arange(40, dtype=np.uint8) * 3, (20, 1))
    halves = warp(ramp, moving_from_fixed=shift(1 / 3, 0), size_hw=(20, 39), interpolation="bilinear")[0]
    assert np.array_equal(halves[5], ramp[5, :39] + 1)


@pytest.mark.parametrize("dtype", ["u4", "i8", "u8"])
def test_wide_integers_do_not_wrap(dtype):
    top = np.iinfo(dtype).max
    picture = np.full((12, 12), top, dtype)
    picture[::2] = 0
    out = warp(picture, moving_from_fixed=shift(0.5, 0), size_hw=(12, 11), interpolation="cubic")[0]
    assert np.abs(out[::2].astype(float)).max() < 1e-8 * top  # the spline's filter is good to 1.4e-9
    assert out[1::2].astype(float).min() > (1 - 1e-8) * top


def test_outside_is_nan_nothing_or_fill():
    ones = np.ones((4, 4, 3), np.uint8)
    far = {"moving_from_fixed": shift(-100, 0.5), "size_hw": (2, 2)}
    assert (warp(ones, **far)[0] == 0).all()
    assert np.isnan(warp(ones.astype(np.float32), **far)[0]).all()
    assert (warp(ones, fill=(7, 8, 9), **far)[0] == (7, 8, 9)).all()
    assert (warp(ones, fill=7, add_alpha=True, **far)[0] == (7, 7, 7, 255)).all()
    assert (warp(ones, add_alpha=True, **far)[0] == 0).all()
    alpha = np.ones((4, 4, 4), np.uint8)
    assert (warp(alpha, has_alpha=True, **far)[0] == 0).all()
    assert (warp(alpha, has_alpha=True, fill=7, **far)[0] == (7, 7, 7, 255)).all()


def test_added_alpha_is_the_coverage():
    out, covered = warp(np.ones((50, 50), np.uint16), moving_from_fixed=ROTATION, size_hw=(60, 60), add_alpha=True)
    assert np.array_equal(out[..., 1], covered * np.uint16(65535))


@pytest.mark.parametrize("kernel", EVERY)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("scale", [0.7, 1, 3, 40])
def test_tiny_pictures_work(kernel, size, scale):
    matrix = np.array([[scale, 0, 0.25], [0, scale, 0.25], [0, 0, 1]])
    out, covered = warp(np.full(size, 3.5), moving_from_fixed=matrix, size_hw=size, interpolation=kernel)
    assert covered[0, 0]
    assert out[covered] == pytest.approx(3.5)


def test_a_horizon_in_the_output_is_no_trouble():
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-1 / 50, 0, 1]])  # depth 0 at x = 50
    out, covered = warp(np.full((40, 40), 9, np.uint8), moving_from_fixed=matrix, size_hw=(40, 200))
    assert covered[:, 0].all()
    assert not covered[:, 50:].any()
    assert (out[covered] == 9).all()


@pytest.mark.parametrize("kernel", EVERY)
def test_tiles_leave_no_seams(kernel, monkeypatch):
    """The same from tiles of another size, with averaging where it applies, as from one."""
    picture = np.random.default_rng(0).integers(0, 256, (200, 220, 3), np.uint8)
    for matrix in (HOMOGRAPHY, HOMOGRAPHY @ np.diag([2.5, 2.5, 1])):
        results = []
        for side in (48, 2048):
            monkeypatch.setattr("imgalign.warp.resample._TILE", side)
            results.append(
                warp(picture, moving_from_fixed=matrix, size_hw=(180, 190), interpolation=kernel)[0].astype(int)
            )
        assert np.abs(results[0] - results[1]).max() <= (1 if matrix is HOMOGRAPHY else 6)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"interpolation": "sharp"}, OptionError, "unknown interpolation"),
        ({"pixels": np.ones(4)}, ShapeError, "wanted pixels"),
        ({"pixels": np.ones((0, 4))}, ShapeError, "wanted pixels"),
        ({"pixels": np.ones((4, 4), complex)}, ShapeError, "complex"),
        ({"fill": (1, 2)}, OptionError, "fill has 2 values"),
        ({"fill": "black"}, OptionError, "fill must be a number or one a channel, got 'black'"),
        ({"fill": 300}, OptionError, "between 0 and 255"),
    ],
)
def test_bad_arguments_are_refused(changes, error, words):
    arguments = {"pixels": np.ones((4, 4, 3), np.uint8), "moving_from_fixed": SHIFT, "size_hw": (4, 4), **changes}
    with pytest.raises(error, match=words):
        warp(arguments.pop("pixels"), **arguments)


@pytest.mark.parametrize(("start", "stop"), [(2, 5), (-3, 4), (1, 12), (-6, 13), (-20, -14), (9, 30), (-25, 31)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_picture_is_continued_by_reflection_however_far(start, stop, axis):
    picture = np.random.default_rng(5).integers(0, 99, (7, 7, 2))
    far = np.pad(picture, [(40, 40) if k == axis else (0, 0) for k in range(3)], mode="reflect")
    np.testing.assert_array_equal(source.cut(picture, axis, start, stop), far.take(range(40 + start, 40 + stop), axis))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "u8"])
@pytest.mark.parametrize("x", [3, 3.5])
def test_alpha_is_added_in_every_integer(dtype, x):
    picture = np.full((9, 11), 77, dtype)
    out, covered = warp(picture, moving_from_fixed=shift(x, 0), size_hw=(9, 11), add_alpha=True)
    assert np.array_equal(out[..., 1], np.where(covered, np.array(np.iinfo(dtype).max, dtype), 0))
    assert out.dtype == picture.dtype


def test_a_fill_is_rounded_as_pixels_are():
    out = warp(np.zeros((4, 4, 3), np.uint8), moving_from_fixed=shift(9, 0), size_hw=(4, 4), fill=(254.9, 0.6, 7))[0]
    assert out[0, 0].tolist() == [255, 1, 7]


@pytest.mark.parametrize("kernel", EVERY)
@pytest.mark.parametrize("value", [2**31 - 4, -(2**31) + 3, 12345])
def test_a_constant_stays_itself(kernel, value):
    """Numbers of 32 bits to the last."""
    picture = np.full((60, 70), value, np.int32)
    for matrix in (shift(0.5, 0.25), np.diag([0.9, 1.3, 1])):
        out, covered = warp(picture, moving_from_fixed=matrix, size_hw=(30, 40), interpolation=kernel)
        assert covered.all()
        assert (out == value).all()
