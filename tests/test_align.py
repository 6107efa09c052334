import inspect
import sys
import typing

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import Blobs, about_centre, corner_error, pair, render

from imgalign.align import align, prepare
from imgalign.errors import ImgalignError, OptionError, ShapeError
from imgalign.judge import verdict
from imgalign.losses import LOSSES
from imgalign.refine.descent import OPTIMIZERS

SIZE = (120, 144)
SCENE = Blobs(41, 144, count=300, sigma=(2, 6))
FAR = {
    "translate": {"shift": (31, -22)},
    "rigid": {"shift": (14, 9), "angle_deg": 118},
    "similarity": {"shift": (-9, 6), "angle_deg": -64, "scale": 1.37},
    "affine": {"shift": (6, -5), "angle_deg": 33, "linear": np.array([[1.1, 0.08], [-0.02, 0.9]])},
    "homography": {
        "shift": (5, 4), "angle_deg": -27, "linear": np.array([[1.05, 0.04], [0, 0.95]]), "tilt": (5e-4, -4e-4),
    },
}  # fmt: skip


def pictures(truth, moving_hw=None, scene=SCENE):
    """8-bit pictures of the scene and of its moved self."""
    return [np.clip(110 + 60 * p, 0, 255).astype(np.uint8) for p in pair(scene, SIZE, truth, moving_hw)]


def error(result, truth):
    return corner_error(result.moving_from_fixed, truth, result.fixed_size_hw)


@pytest.mark.parametrize("model", list(FAR))
def test_every_model_is_found_from_far_away(model):
    truth = about_centre(SIZE, **FAR[model])
    result = align(*pictures(truth), model=model)
    # 8 bits over a contrast of 60: noise of 0.5 %.
    assert error(result, truth) < 0.05
    assert result.trusted
    assert result.model == model
    assert result.status == "converged"


@pytest.mark.parametrize(("across", "ratio"), [(24, 10), (40, 30), (24, 166), (16, 200)])
@pytest.mark.parametrize("turned", [False, True])
def test_long_and_thin_pictures_are_shifted_along_and_across(across, ratio, turned):
    size = across, ratio * across
    scene = Blobs(1, size[1], count=size[1] // 2, sigma=(1.5, 5))
    scene.centres[:, 1] *= 2 * across / size[1]
    for shift in ((3.3, 1.2), (0.12 * size[1], -2.1)):
        truth = about_centre(size, shift=shift)
        two = [np.clip(110 + 60 * p, 0, 255).astype(np.uint8) for p in pair(scene, size, truth)]
        result = align(*(p.T if turned else p for p in two), model="translate")
        found = result.moving_from_fixed[:2, 2]
        np.testing.assert_allclose(found[::-1] if turned else found, shift, atol=0.1)
        assert result.trusted, result.reasons


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint32])
def test_a_small_range_far_from_0_is_aligned_like_any_other(dtype):
    two = pictures(about_centre(SIZE, shift=(6, -5), angle_deg=4))
    plain, far = align(*two), align(*((1e9 + p).astype(dtype) for p in two))
    assert far.trusted
    # The rounding is another.
    assert corner_error(far.moving_from_fixed, plain.moving_from_fixed, SIZE) < 1e-3
    assert far.quality["correlation_after"] == pytest.approx(plain.quality["correlation_after"], abs=1e-5)


def test_a_result_says_what_it_is():
    truth = about_centre(SIZE, shift=(3, 2))
    result = align(*pictures(truth), model="rigid", seed=5)
    assert result.fixed_size_hw == result.moving_size_hw == SIZE
    assert result.corner_covariance.shape == (8, 8)
    assert 0 < result.corner_sigma_px < 0.1
    assert set(result.parameter_sigma) >= {"shift_x", "shift_y", "rotation_deg"}
    assert result.options["seed"] == 5
    assert result.options["init"] == "auto"
    assert result.reasons
    assert set(result.seconds) >= {"start", "refine", "verdict"}
    assert np.isfinite(list(result.quality.values())).all()


def test_the_predicted_error_is_that_of_the_answer():
    truth = about_centre(SIZE, shift=(2.3, 1.6), angle_deg=3)
    rng = np.random.default_rng(0)
    fixed, moving = (p + rng.normal(0, 0.15, SIZE) for p in pair(SCENE, SIZE, truth))
    result = align(fixed, moving, model="rigid")
    assert 0.2 * result.corner_sigma_px < error(result, truth) < 3 * result.corner_sigma_px


def test_options_of_other_optimizers_do_not_matter_to_levenberg_marquardt():
    two = pictures(about_centre(SIZE, shift=(3, 2)))
    plain = align(*two, model="rigid")
    other = align(*two, model="rigid", sampler="nearest", levels=7, lr=3.0, seed=9)
    np.testing.assert_array_equal(other.moving_from_fixed, plain.moving_from_fixed)
    assert other.options == plain.options | {"sampler": "nearest", "levels": 7, "lr": 3.0, "seed": 9}


def test_levels_of_other_optimizers_are_two_unless_asked():
    two = pictures(about_centre(SIZE, shift=(3, 2)))
    one, none, both = (
        align(*two, model="translate", optimizer="sgd", iterations=9, levels=n).history for n in (1, None, 2)
    )
    assert len(one) == 9
    assert none == both
    assert len(none) == 18


def test_swapping_the_pictures_inverts_the_answer():
    fixed, moving = pictures(about_centre(SIZE, **FAR["rigid"]))
    there, back = (align(*two, model="rigid") for two in ((fixed, moving), (moving, fixed)))
    assert corner_error(back.moving_from_fixed @ there.moving_from_fixed, np.eye(3), SIZE) < 0.05


def test_the_same_call_twice_gives_the_same_bits():
    fixed, moving = pictures(about_centre(SIZE, **FAR["rigid"]))
    first, second = (align(fixed, moving, model="rigid") for _ in range(2))
    np.testing.assert_array_equal(first.moving_from_fixed, second.moving_from_fixed)
    np.testing.assert_array_equal(first.corner_covariance, second.corner_covariance)
    assert first.probability == second.probability
    assert first.history == second.history


def test_inverted_contrast_is_aligned():
    truth = about_centre(SIZE, **FAR["rigid"])
    fixed, moving = pictures(truth)
    result = align(fixed, 255 - moving, model="rigid")
    assert error(result, truth) < 0.05
    assert result.trusted


def test_mirror_images_are_aligned_when_allowed():
    truth = about_centre(SIZE, angle_deg=25, linear=np.diag([-1.0, 1.0]))
    fixed, moving = pictures(truth)
    assert error(align(fixed, moving, model="rigid", allow_mirror=True), truth) < 0.05
    assert not align(fixed, moving, model="rigid").trusted


@pytest.mark.parametrize("moving_hw", [(90, 200), (64, 64), (260, 300)])
def test_pictures_of_other_sizes_are_aligned(moving_hw):
    truth = about_centre(SIZE, shift=(4, -3), angle_deg=15, moving_hw=moving_hw)
    result = align(*pictures(truth, moving_hw), model="rigid")
    assert error(result, truth) < 0.05
    assert result.moving_size_hw == moving_hw


def test_masks_keep_rubbish_out():
    truth = about_centre(SIZE, shift=(5, -4), angle_deg=8)
    fixed, moving = pictures(truth)
    mask, moving_mask = np.ones(SIZE), np.ones(SIZE, bool)
    mask[20:60, 30:80], moving_mask[70:110, 60:130] = 0, False
    rubbish = np.random.default_rng(1).integers(0, 256, SIZE, dtype=np.uint8)
    fixed[mask == 0], moving[~moving_mask] = rubbish[mask == 0], rubbish[~moving_mask]
    result = align(fixed, moving, model="rigid", mask=mask, moving_mask=moving_mask)
    assert error(result, truth) < 0.05


@pytest.mark.parametrize("how", ["nan", "alpha", "transparent rgb"])
def test_pictures_mask_themselves(how):
    truth = about_centre(SIZE, shift=(5, -4), angle_deg=8)
    fixed, moving = (p.astype(np.float32) / 255 for p in pictures(truth))
    hole = np.zeros(SIZE, bool)
    hole[30:70, 40:90] = True
    if how == "nan":
        moving = np.where(hole, np.nan, moving)
    else:
        channels = 1 if how == "alpha" else 3
        moving = np.dstack([np.where(hole, 1, moving)] * channels + [~hole])
    result = align(fixed, moving.astype(np.float32), model="rigid")
    assert error(result, truth) < 0.05


def test_an_occluder_is_let_go():
    truth = about_centre(SIZE, shift=(2, 3), angle_deg=5)
    fixed, moving = pictures(truth)
    moving[40:80, 50:90] = pictures(truth, scene=Blobs(99, 144, count=300))[1][40:80, 50:90]
    assert error(align(fixed, moving, model="rigid"), truth) < 0.1


def test_pil_images_and_tensors_give_what_arrays_give():
    fixed, moving = pictures(about_centre(SIZE, shift=(5, -4)))
    expected = align(fixed, moving, model="translate").moving_from_fixed
    as_pil = align(Image.fromarray(fixed), Image.fromarray(moving), model="translate")
    as_tensor = align(torch.as_tensor(fixed), torch.as_tensor(moving)[None], model="translate")
    np.testing.assert_allclose(as_pil.moving_from_fixed, expected, atol=1e-6)
    np.testing.assert_allclose(as_tensor.moving_from_fixed, expected, atol=1e-6)


def test_a_batch_of_tensors_gives_a_tuple_of_what_its_elements_give():
    two = [pictures(about_centre(SIZE, shift=s)) for s in ((5, -4), (-11, 3))]
    fixed, moving = (torch.as_tensor(np.stack([p[k] for p in two]))[:, None] for k in (0, 1))
    results = align(fixed, moving, model="translate")
    assert isinstance(results, tuple)
    for result, (f, m) in zip(results, two, strict=True):
        alone = align(f, m, model="translate")
        np.testing.assert_allclose(result.moving_from_fixed, alone.moving_from_fixed, atol=1e-6)


def test_one_fixed_picture_serves_a_batch():
    fixed, moving = pictures(about_centre(SIZE, shift=(5, -4)))
    results = align(fixed, torch.as_tensor(moving)[None, None].repeat(2, 1, 1, 1), model="translate")
    np.testing.assert_array_equal(results[0].moving_from_fixed, results[1].moving_from_fixed)


def test_batches_of_unlike_length_are_refused():
    with pytest.raises(ShapeError, match="one batch size, got 2 and 3"):
        align(torch.rand(2, 1, 32, 32), torch.rand(3, 1, 32, 32))


@pytest.mark.parametrize("which", [0, 1])
def test_constant_pictures_are_not_trusted(which):
    two = pictures(np.eye(3))
    two[which] = np.full(SIZE, 90, np.uint8)
    result = align(*two)
    assert not result.trusted
    assert result.probability == 0
    assert "constant" in result.reasons[0]


def test_pictures_masked_everywhere_are_not_trusted():
    fixed, moving = pictures(np.eye(3))
    result = align(fixed, moving, mask=np.zeros(SIZE))
    assert not result.trusted
    assert "masked" in result.reasons[0]


@pytest.mark.parametrize("weight", [0.5, 1 / 255, 1e-6])
@pytest.mark.parametrize("size_hw", [SIZE, (480, 576)])
def test_pictures_that_are_half_transparent_all_over_align_as_if_they_were_not(weight, size_hw):
    fixed, moving = pair(SCENE, size_hw, about_centre(size_hw, shift=(5, -4)))
    faint = align(fixed, moving, model="translate", mask=np.full(size_hw, weight))
    # Weights that are rounded differ in their last digits.
    whole = align(fixed, moving, model="translate").moving_from_fixed
    np.testing.assert_allclose(faint.moving_from_fixed, whole, atol=1e-6)


def test_a_mask_with_holes_in_every_block_leaves_something_to_align():
    size_hw = 800, 800  # of so many pixels, what is aligned first is reduced
    fixed, moving = pair(Blobs(5, 800, count=600, sigma=(4, 12)), size_hw, about_centre(size_hw, shift=(5, -4)))
    every_other = np.indices(size_hw).sum(0) % 2 == 0
    result = align(fixed, moving, model="translate", mask=every_other)
    assert corner_error(result.moving_from_fixed, about_centre(size_hw, shift=(5, -4)), size_hw) < 0.1


@pytest.mark.parametrize("model", ["translate", "homography"])
def test_unrelated_noise_is_not_trusted(model):
    rng = np.random.default_rng(4)
    result = align(*rng.integers(0, 256, (2, *SIZE), dtype=np.uint8), model=model)
    assert not result.trusted
    assert result.reasons


@pytest.mark.parametrize("model", ["translate", "rigid"])
def test_unrelated_scenes_are_not_trusted(model):
    fixed, _ = pictures(np.eye(3))
    _, moving = pictures(np.eye(3), scene=Blobs(1234, 144, count=300, sigma=(2, 6)))
    assert not align(fixed, moving, model=model).trusted


def test_trust_is_a_threshold_on_the_probability():
    fixed, moving = pictures(about_centre(SIZE, shift=(2, 1)))
    result = align(fixed, moving, model="translate", trust=1.0)
    assert result.trusted == (result.probability >= 1.0)
    assert align(fixed, moving, model="translate", trust=0.0).trusted


@pytest.mark.parametrize(
    ("bounds", "inside"),
    [({"max_shift": 5}, False), ({"max_rotation": 10}, False), ({"max_rotation": 45, "max_shift": 30}, True)],
)
def test_bounds_hold(bounds, inside):
    truth = about_centre(SIZE, shift=(9, 6), angle_deg=30)
    result = align(*pictures(truth), model="rigid", **bounds)
    assert result.trusted == inside
    assert (error(result, truth) < 0.05) == inside


def test_scale_bounds_hold():
    truth = about_centre(SIZE, scale=1.5)
    assert not align(*pictures(truth), model="similarity", max_scale=1.2, max_rotation=10).trusted
    assert align(*pictures(truth), model="similarity", max_scale=1.6, max_rotation=10).trusted


@pytest.mark.parametrize("noise", [0, 25])
@pytest.mark.parametrize(
    ("model", "motion", "bounds"),
    [
        ("translate", {"shift": (5, 0)}, {"max_shift": 5}),
        ("rigid", {"shift": (-3, 4)}, {"max_shift": 5, "max_rotation": 0}),
        ("similarity", {"shift": (8, -3)}, {"max_rotation": 0, "max_scale": 1}),
        ("affine", {"shift": (8, -3)}, {"max_rotation": 0, "max_scale": 1}),
        ("homography", {"shift": (2, -3)}, {"max_rotation": 0, "max_scale": 1}),
        ("rigid", {"angle_deg": -10}, {"max_rotation": 10}),
        ("similarity", {"scale": 0.8}, {"max_scale": 1.25}),
    ],
)
def test_what_lies_on_a_bound_is_found(model, motion, bounds, noise):
    truth = about_centre(SIZE, **motion)
    rng = np.random.default_rng(8)
    fixed, moving = (p + rng.normal(0, noise, SIZE) for p in pictures(truth))
    result = align(fixed, moving, model=model, **bounds)
    assert result.trusted, result.reasons
    # Beyond the bound by no more than its own error explains; without noise rounding alone is left.
    beyond = 0.05 + 3 * result.corner_sigma_px
    assert np.hypot(*result.numbers.shift_px) < bounds.get("max_shift", np.inf) + beyond
    assert abs(result.numbers.rotation_deg) < bounds.get("max_rotation", 180) + np.degrees(beyond / 60)
    assert error(result, truth) < beyond


@pytest.mark.parametrize(
    ("motion", "bounds"),
    [
        ({"shift": (5.3, 0)}, {"max_shift": 5}),
        ({"angle_deg": 0.5}, {"max_rotation": 0}),
        ({"scale": 1.01}, {"max_scale": 1}),
        ({"scale": 1 / 1.01}, {"max_scale": 1}),
    ],
)
def test_what_lies_clearly_beyond_a_bound_is_not_trusted(motion, bounds):
    assert not align(*pictures(about_centre(SIZE, **motion)), model="similarity", **bounds).trusted


def test_an_answer_beyond_a_bound_stays_untrusted_where_a_frame_may_explain_it(monkeypatch):
    monkeypatch.setattr("imgalign.planes.surround.shared", lambda *_: np.ones((12, 12), bool))
    monkeypatch.setattr("imgalign.planes.surround.stays", lambda *_: True)
    result = align(*pictures(about_centre(SIZE, shift=(5.3, 0))), model="translate", max_shift=5, trust=0.1)
    assert result.status == "at a bound"
    assert not result.trusted
    assert result.reasons[0] == "the answer lies outside the bounds that were set"


@pytest.mark.parametrize("init", ["identity", "center", "phase", "auto", "matrix", "list", "alignment"])
def test_every_form_of_a_start_works(init):
    truth = about_centre(SIZE, shift=(1.5, -1), angle_deg=1)
    fixed, moving = pictures(truth)
    start = {"matrix": truth, "list": truth.tolist()}.get(init, init)
    if init == "alignment":
        start = align(fixed, moving, model="rigid")
    assert error(align(fixed, moving, model="rigid", init=start), truth) < 0.05


def test_a_start_without_overlap_is_an_answer_that_is_not_trusted():
    result = align(*pictures(np.eye(3)), init=about_centre(SIZE, shift=(5000, 0)))
    assert not result.trusted
    assert result.status == "no overlap"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "warp"}, "unknown model 'warp'; choose one of translate"),
        ({"loss": "l1"}, "unknown loss 'l1'"),
        ({"optimizer": "newton"}, "unknown optimizer 'newton'"),
        ({"sampler": "lanczos"}, "unknown sampler 'lanczos'"),
        ({"init": "guess"}, "unknown init 'guess'"),
        ({"init": np.zeros((3, 3))}, "can be inverted"),
        ({"init": np.eye(2)}, "3 x 3"),
        ({"init": np.full((3, 3), np.nan)}, "finite"),
        ({"levels": 0}, "levels must be above 0"),
        ({"iterations": -1}, "iterations must be above 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"precision": 0.0}, "precision must be above 0"),
        ({"precision": float("nan")}, "precision must be above 0"),
        ({"max_shift": -2}, "max_shift must be above 0"),
        ({"max_rotation": -2}, "max_rotation must be 0 or more"),
        ({"max_scale": 0.5}, "max_scale is a factor from 1 to 20"),
        ({"trust": 1.5}, "trust is a probability"),
        ({"threads": 0}, "threads must be 1 or more"),
        ({"threads": "2"}, "threads must be a whole number, got '2'"),
        ({"allow_mirror": "no"}, "allow_mirror must be True or False"),
        ({"init": [["a", 1, 1]] * 3}, "3 x 3"),
        ({"init": [[1, 2], [1]]}, "3 x 3"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": torch.device("meta")}, "unknown device 'meta'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        align(*pictures(np.eye(3)), **options)


def test_a_device_may_be_pytorchs_own():
    fixed, moving = pictures(about_centre(SIZE, shift=(2, 1)))
    ready = prepare(fixed, device=torch.device("cpu"))
    assert align(ready, moving, model="translate", device=torch.device("cpu")).trusted


def test_no_more_threads_than_cores(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    own = torch.get_num_threads()
    for threads in (2, 100_000):
        align(np.zeros((9, 9)), np.zeros((9, 9)), threads=threads)
    assert asked == [2, own, 4, own]


def test_threads_are_the_callers_again_after_an_error():
    own = torch.get_num_threads()
    with pytest.raises(ShapeError):
        align(np.zeros((9, 9)), np.zeros((4, 4)), threads=own + 1)
    assert torch.get_num_threads() == own


def test_answer_does_not_depend_on_threads():
    truth = about_centre((250, 300), shift=(9, -5), angle_deg=21, scale=1.1)
    scene = Blobs(43, 300, count=500, sigma=(2, 6))
    noise = np.random.default_rng(5).normal(0, 20, (2, 250, 300))
    two = np.clip(110 + 60 * np.stack(pair(scene, (250, 300), truth)) + noise, 0, 255).astype(np.uint8)
    one, other = (align(*two, model="similarity", threads=threads) for threads in (1, 2))
    assert np.array_equal(one.moving_from_fixed, other.moving_from_fixed)
    assert one.corner_sigma_px == other.corner_sigma_px


@pytest.mark.skipif(sys.version_info < (3, 11), reason="overloads are not kept")
def test_overloads_take_what_align_takes():
    names = list(inspect.signature(align).parameters)
    overloads = typing.get_overloads(align)
    assert [list(inspect.signature(one).parameters) for one in overloads] == [names, names]


def test_bad_pixels_scattered_over_both_pictures_cost_little():
    size = 160, 180
    truth = about_centre(size, angle_deg=25, shift=(12, -8), scale=1.1)
    errors = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        both = pair(Blobs(seed, 180, 300, (2, 6)), size, truth)
        for picture in both:
            picture[rng.random(size) < 0.05] = np.nan
        result = align(*both, model="similarity")
        assert result.trusted
        errors.append(corner_error(result.moving_from_fixed, truth, size))
    # There is no noise.
    assert max(errors) < 3e-3


def test_bad_pictures_are_refused():
    with pytest.raises(ShapeError, match="at least 8 x 8"):
        align(np.zeros((4, 4)), np.zeros((9, 9)))
    with pytest.raises(ImgalignError, match="mask of moving"):
        align(*pictures(np.eye(3)), moving_mask=np.ones((3, 3)))


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_answers_to_a_tenth_of_a_pixel(loss):
    truth = about_centre(SIZE, shift=(1.3, -0.7), angle_deg=1)
    result = align(*pictures(truth), model="rigid", loss=loss, init="identity")
    assert error(result, truth) < 0.1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_answers_to_a_tenth_of_a_pixel(optimizer):
    truth = about_centre(SIZE, shift=(1.3, -0.7), angle_deg=1)
    result = align(*pictures(truth), model="rigid", optimizer=optimizer, init="identity", iterations=40)
    assert error(result, truth) < 0.1


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, {"optimizer": "sgd"}, {"loss": "mi", "optimizer": "adam"}])
def test_the_error_bar_of_a_descended_answer_is_its_own(options):
    """The nearest pixel's loss is a staircase, on which answers come to lie some tenths of a pixel off."""
    truth = about_centre(SIZE, shift=(1.37, -0.55))
    result = align(*pictures(truth), model="translate", sampler="nearest", **options)
    assert error(result, truth) > 0.03
    assert result.corner_sigma_px > 0.9 * error(result, truth)


@pytest.mark.parametrize(("steps", "status"), [({"iterations": 2}, "iteration limit"), ({}, "converged")])
def test_the_status_says_whether_a_descent_came_to_rest(steps, status):
    assert align(*pictures(about_centre(SIZE, shift=(1.4, -0.6))), optimizer="sgd", **steps).status == status


def test_a_descent_that_leads_astray_is_judged_where_it_ends(monkeypatch):
    astray = about_centre(SIZE, shift=(31, 20))
    monkeypatch.setattr("imgalign.descended.descend", lambda *_, **__: (astray, [0.5], True))
    result = align(*pictures(about_centre(SIZE, shift=(1.4, -0.6))), model="translate", loss="mi")
    np.testing.assert_allclose(result.moving_from_fixed, astray)
    assert not result.trusted
    assert result.corner_sigma_px > 30
    assert result.quality["correlation_relit"] < 0.5
    assert result.quality["overlap"] == pytest.approx((1 - 31 / 144) * (1 - 20 / 120), abs=0.02)


def test_align_asks_for_no_gradients_of_its_caller():
    fixed, moving = (torch.as_tensor(p).float().requires_grad_() for p in pictures(about_centre(SIZE, shift=(1, 1))))
    assert isinstance(align(fixed, moving, model="translate").moving_from_fixed, np.ndarray)
    assert torch.is_grad_enabled()


def test_small_pictures_are_aligned_or_doubted():
    fixed, moving = (render(SCENE, (24, 28), m) for m in (None, about_centre((24, 28), shift=(-1.2, 0.8))))
    result = align(fixed, moving, model="translate")
    # Few blobs are left in so small a picture: a right answer may be doubted, a wrong one must be.
    wrong_px = corner_error(result.moving_from_fixed, about_centre((24, 28), shift=(1.2, -0.8)), (24, 28))
    assert wrong_px < 0.1 or not result.trusted


def test_probability_falls_with_evidence():
    strong = verdict.Evidence(30, 1.0, 3.0, 0.9, 1.0, 0.95, 0.9, 3.0, corner_sigma_px=0.02)
    weak = verdict.Evidence(2, 0.1, 3.0, 0.2, 0.0, 0.1, 0.1, 0.0)
    assert verdict.probability(strong) > 0.9
    assert verdict.probability(weak) < 0.1


def test_a_prepared_picture_gives_the_same_and_brings_its_mask():
    fixed, moving = pair(SCENE, SIZE, about_centre(SIZE, shift=(2.5, -1)))
    mask = np.ones(SIZE)
    mask[:, :40] = 0
    ready = prepare(fixed, mask=mask)
    plain = align(fixed, moving, model="translate", mask=mask).moving_from_fixed
    for _ in range(2):
        np.testing.assert_array_equal(align(ready, moving, model="translate").moving_from_fixed, plain)
    with pytest.raises(OptionError, match="has its mask already"):
        align(ready, moving, mask=mask)


@pytest.mark.parametrize("kind", ["array", "floats", "tensor", "read-only view"])
def test_a_prepared_picture_stays_what_it_was_when_its_memory_is_used_again(kind):
    fixed, moving = pictures(about_centre(SIZE, shift=(2.5, -1)))
    expected = align(fixed, moving, model="translate").moving_from_fixed
    frame = fixed.astype(np.float32) if kind == "floats" else fixed.copy()
    view = frame.view()
    view.setflags(write=kind != "read-only view")
    ready = prepare(torch.from_numpy(frame) if kind == "tensor" else view)
    frame[:] = 0
    np.testing.assert_allclose(align(ready, moving, model="translate").moving_from_fixed, expected, atol=1e-3)


def test_a_shift_along_the_only_edges_has_a_large_error_bar():
    x = np.indices(SIZE)[1]
    fixed, moving = (sum(np.sin(f * (x - d) + 7 * f) for f in np.linspace(0.1, 0.6, 9)) for d in (0, 3.25))
    result = align(fixed, moving, model="translate")
    assert not result.trusted
    assert result.moving_from_fixed[0, 2] == pytest.approx(3.25, abs=0.01)
    assert result.parameter_sigma["shift_x"] < 0.1
    assert result.parameter_sigma["shift_y"] > 20


@pytest.mark.parametrize("number", [np.finfo("f4").min, -1e20, -1e10, -9999, 9999])
@pytest.mark.parametrize("model", ["translate", "affine"])
def test_numbers_that_fill_holes_count_as_nan(number, model):
    truth = about_centre(SIZE, shift=(5.3, -3.6))
    results = []
    for filler in (number, np.nan):
        fixed, moving = (p.astype(np.float32) for p in pair(SCENE, SIZE, truth))
        fixed[:, -30:], moving[:40] = filler, filler
        results.append(align(fixed, moving, model=model))
    assert results[0].trusted
    # No noise but that of the sampler.
    assert error(results[0], truth) < 0.01
    np.testing.assert_array_equal(results[0].moving_from_fixed, results[1].moving_from_fixed)


@pytest.mark.parametrize("scales", [(1e-20, 1e-20), (1e15, 1e15), (1e-25, 1.0), (1.0, 1e17)])
def test_tiny_and_huge_pictures_align_as_exactly(scales):
    truth = about_centre(SIZE, shift=(5.3, -3.6), angle_deg=7)
    rng = np.random.default_rng(1)
    noisy = [p + rng.normal(0, 0.05, SIZE) for p in pair(SCENE, SIZE, truth)]
    ordinary, scaled = (
        align(*((p * s).astype(np.float32) for p, s in zip(noisy, by, strict=True)), model="rigid")
        for by in ((1, 1), scales)
    )
    assert scaled.trusted
    # Of an error of some hundredths, what the rounding of 32 bits changes.
    assert corner_error(scaled.moving_from_fixed, ordinary.moving_from_fixed, SIZE) < 1e-3
    assert scaled.corner_sigma_px == pytest.approx(ordinary.corner_sigma_px, rel=0.02)
