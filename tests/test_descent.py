import numpy as np
import pytest
import torch
from scenes import TRUTHS, Blobs, about_centre, corner_error, pair

from imgalign.losses import LOSSES
from imgalign.refine.descent import OPTIMIZERS, descend, minimise
from imgalign.sampling import KERNELS
from imgalign.transforms import MODELS

SIZE = (60, 72)
SCENE = Blobs(21, 75, count=60, sigma=(2.5, 6))


def planes(array):
    tensor = torch.as_tensor(array.astype(np.float32))[None, None]
    return tensor, torch.ones_like(tensor)


def error(truth, model, *, loss="ssd", optimizer="lbfgs", sampler="bilinear", **options):
    fixed, moving = (planes(p) for p in pair(SCENE, SIZE, truth))
    matrix, history, _ = descend(
        fixed, moving, np.eye(3), MODELS[model], loss=loss, optimizer=optimizer, sampler=sampler, **options
    )
    assert np.isfinite(history).all()
    return corner_error(matrix, truth, SIZE)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_finds_a_small_move(loss):
    truth = about_centre(SIZE, shift=(0.8, -0.6), angle_deg=0.7)
    # Histograms of 4320 pixels see less than their differences do.
    assert error(truth, "rigid", loss=loss) < 0.1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_finds_a_small_move(optimizer):
    truth = about_centre(SIZE, shift=(0.8, -0.6))
    assert error(truth, "translate", loss="ncc", optimizer=optimizer) < 0.1


@pytest.mark.parametrize("sampler", KERNELS)
def test_every_sampler_finds_a_small_move(sampler):
    # The nearest pixel's loss is a staircase, on which a line search finds no descent.
    options = {"optimizer": "sgd", "lr": 0.3} if sampler == "nearest" else {}
    assert error(about_centre(SIZE, shift=(0.8, -0.6)), "translate", sampler=sampler, **options) < 0.5


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_is_recovered(model):
    assert error(about_centre(SIZE, **TRUTHS[model]), model, sampler="cubic") < 0.05


def test_small_pictures_skip_the_levels_they_are_too_small_for():
    assert error(about_centre(SIZE, shift=(0.5, 0.5)), "translate", levels=9) < 0.05


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_minimise_goes_to_the_bottom_of_a_parabola(optimizer):
    bottom = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found, at_rest = minimise(lambda p: ((p - bottom) ** 2).sum(), 3, optimizer, 300, 0.1)
    assert at_rest
    torch.testing.assert_close(found, bottom, rtol=0, atol=1e-3)


def test_minimise_keeps_the_best_it_has_seen():
    history = []
    found, at_rest = minimise(lambda p: ((p - 1) ** 2).sum(), 1, "sgd", 5, 1.5, history)  # overshoots: ever worse
    assert found.item() == 0
    assert not at_rest
    assert history == sorted(history)


def test_a_loss_that_is_no_number_ends_the_descent():
    history = []
    found, at_rest = minimise(lambda p: (p - 1).sum() * float("nan"), 1, "adam", 50, 0.1, history)
    assert len(history) == 1
    assert found.item() == 0
    assert not at_rest


@pytest.mark.parametrize(("steps", "lr"), [(2, 0.4), (30, 1e-3), (1000, 1e-7), (20, 1e9)])
def test_a_descent_that_was_cut_off_or_hardly_moves_is_not_at_rest(steps, lr):
    assert not minimise(lambda p: ((p - 1) ** 2).sum(), 1, "sgd", steps, lr)[1]
