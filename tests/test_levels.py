import numpy as np
import pytest
import torch
from scenes import Blobs, render

from imgalign.planes.levels import Levels

SIZE = (200, 260)


def picture(seed, size_hw=SIZE, factor=1.0):
    array = render(Blobs(seed, 260, count=300, sigma=(3, 8)), size_hw) * factor
    image = torch.as_tensor(array, dtype=torch.float32)[None, None]
    return image, torch.ones_like(image)


@pytest.mark.parametrize("kind", ["features", "edges"])
def test_pictures_of_one_size_come_out_as_those_of_two(kind):
    """Each has contrast and edges of its own, however strong those of the other are."""
    fixed, moving = picture(0), picture(1, factor=30.0)
    together = getattr(Levels(fixed, moving).at(2.0, 2.0), kind)
    other_size = picture(2, (180, 220))
    pairs = Levels(fixed, other_size), Levels(other_size, moving)
    apart = [getattr(levels.at(2.0, 2.0), kind)[role] for role, levels in enumerate(pairs)]
    for (one, weight), (alone, its_weight) in zip(together, apart, strict=True):
        assert one.shape == (1, {"features": 3, "edges": 2}[kind], 100, 130)
        torch.testing.assert_close(one, alone, rtol=0, atol=1e-4)
        torch.testing.assert_close(weight, its_weight)


def test_brightness_and_contrast_do_not_count():
    image, weight = picture(3)
    fixed, moving = Levels((image, weight), (7 + 0.1 * image, weight)).at(2.0, 2.0).features
    assert torch.allclose(fixed[0], moving[0], atol=5e-3)


def test_edges_are_the_last_channels_of_features():
    level = Levels(picture(4), picture(5)).at(2.0, 2.0)
    for (features, _), (edges, _) in zip(level.features, level.edges, strict=True):
        torch.testing.assert_close(features[:, 1:], edges, rtol=0, atol=0)


def test_each_picture_has_a_reduction_of_its_own_and_levels_are_kept():
    levels = Levels(picture(4), picture(5, (160, 300)))
    assert levels.longest == 300
    (fixed, _), (moving, _) = levels.at(2.0, 4.0).features
    assert fixed.shape[-2:] == (100, 130)
    assert moving.shape[-2:] == (40, 75)
    assert levels.at(2.0, 4.0) is levels.at(2.0, 4.0)


@pytest.mark.parametrize("reduction", [1.5, 3.0])
def test_bad_pixels_scattered_over_a_picture_leave_its_edges(reduction):
    """A level pixel of some masked and many seen ones is seen: few have none beside them at all."""
    image, weight = picture(6)
    bad = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.05
    whole, speckled = (
        Levels(p, p).at(reduction, reduction).edges[0][0]
        for p in ((image, weight), (image.masked_fill(bad, 1e3), weight.masked_fill(bad, 0.0)))
    )
    # Their weights are 0.95, and near level pixels of which less than half is seen there are none.
    assert (whole * speckled).mean() > 0.75 * whole.square().mean()


def test_what_is_masked_does_not_show():
    image, weight = picture(6)
    weight[..., 60:140, 80:180] = 0
    other = image.clone()
    other[..., 60:140, 80:180] = torch.as_tensor(np.random.default_rng(0).uniform(-50, 50, (80, 100)))
    for kind in ("features", "edges"):
        (one, _), (two, _) = (getattr(Levels((x, weight), picture(7)).at(2.0, 2.0), kind)[0] for x in (image, other))
        torch.testing.assert_close(one, two, rtol=0, atol=1e-3)


def stripes(size_hw=(203, 262), period_px=4.0):
    """Upright stripes on the left, level ones on the right, far finer than the pixels of a level."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    array = np.cos(2 * np.pi / period_px * np.where(x < size_hw[1] // 2, x, y) + 0.3)
    image = torch.as_tensor(array, dtype=torch.float32)[None, None]
    return image, torch.ones_like(image)


def test_fine_edges_say_which_way_runs_what_a_level_does_not_show():
    level = Levels(stripes(), stripes(), fine=True).at(6.5, 6.5)
    for field, weight in level.edges:
        assert field.shape[-2:] == weight.shape[-2:]
        # Of double angles: across upright stripes the gradient lies at 0, across level ones at 90 degrees.
        left, right = (side[:, 3:-3, 3:-3].mean((1, 2)).tolist() for side in field[0].chunk(2, -1))
        assert left[0] > 0.5
        assert right[0] < -0.5
        assert max(abs(left[1]), abs(right[1])) < 0.05


def test_fine_edges_stand_in_for_the_others_in_features():
    level = Levels(stripes(), picture(6), fine=True).at(3.0, 5.0)
    for (features, _), (edges, _) in zip(level.features, level.edges, strict=True):
        torch.testing.assert_close(features[:, 1:], edges, rtol=0, atol=0)


@pytest.mark.parametrize("size_hw", [(500, 640), (24, 1200)])
@pytest.mark.parametrize("reduction", [1.0, 1.7, 2.3, 6.5])
def test_levels_finer_than_fine_edges_have_their_own(size_hw, reduction):
    two = picture(8, size_hw), picture(9)
    fine, plain = (Levels(*two, fine=kind).at(reduction, reduction) for kind in (True, False))
    for (features, weight), (own, _) in zip(fine.features, plain.features, strict=True):
        assert features.shape == own.shape
        assert features.shape[-2:] == weight.shape[-2:]
    assert torch.equal(fine.edges[0][0], plain.edges[0][0]) == (reduction <= max(size_hw) / 288)


def test_fine_edges_of_what_is_masked_do_not_show():
    image, weight = stripes()
    weight[..., 60:120, 80:160] = 0
    other = torch.where(weight > 0, image, 50 * torch.sin(torch.arange(image.shape[-1]) * 1.7))
    (one, _), (two, _) = (Levels((x, weight), picture(7), fine=True).at(4.0, 4.0).edges[0] for x in (image, other))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-3)
