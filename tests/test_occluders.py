import numpy as np
import pytest
import torch
from scenes import Blobs, render

from imgalign.refine.occluders import compared, regrown

SIZE = (98, 121)
SCENE = render(Blobs(5, 120, count=300, sigma=(2, 5)), SIZE)
THING = np.s_[30:62, 40:75]
AROUND = np.s_[18:74, 28:87]  # it may cost three blocks on each side


def tensors(*planes):
    return (torch.as_tensor(np.asarray(p, np.float32))[None, None] for p in planes)


def there(fixed, moving, weight=None, **options):
    return compared(*tensors(fixed, moving, np.ones(SIZE) if weight is None else weight)).alike(**options)


def noise(strength=0.1):
    return np.random.default_rng(3).normal(0, strength * SCENE.std(), SIZE)


def covered(contrasts):
    """The scene with something on it, brighter by so many contrasts, and with a picture of its own."""
    picture = SCENE.copy()
    picture[THING] = render(Blobs(6, 120, count=300, sigma=(2, 5)), SIZE)[THING] + contrasts * SCENE.std()
    return picture


@pytest.mark.parametrize("gain", [1.0, 0.2, -3.0])
@pytest.mark.parametrize("contrasts", [-3, 3, 10, 100])
def test_what_lies_over_one_picture_is_let_go_at_any_gain(contrasts, gain):
    fixed, moving = SCENE, 7 + gain * (covered(contrasts) + noise())
    for found in (there(fixed, moving), there(moving, fixed)):
        weight = found[0, 0].numpy()
        assert weight[THING].mean() < 0.01  # by chance it may look like the scene for a few pixels
        weight[AROUND] = 1
        assert weight.min() == 1


def test_a_thing_over_a_third_of_the_picture_is_let_go():
    moving = SCENE.copy()
    moving[:, :40] = 20 * SCENE.std()
    weight = there(SCENE, moving)
    assert weight[..., :40].max() < 0.1
    assert weight[..., 56:].min() == 1


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
def test_noise_is_no_occluder(strength):
    assert there(SCENE, 4 - 2 * (SCENE + noise(strength))) is None


def test_structure_that_fits_a_little_worse_stays():
    moved = render(Blobs(5, 120, count=300, sigma=(2, 5)), SIZE, np.array([[1, 0, 0.6], [0, 1, -0.4], [0, 0, 1.0]]))
    assert there(SCENE, moved) is None


def test_nothing_is_let_go_where_most_differs():
    moving = SCENE.copy()
    moving[:, 40:80], moving[:, 80:] = 20, -20
    assert there(SCENE, moving) is None


def test_unrelated_pictures_differ_nowhere_more_than_elsewhere():
    assert there(SCENE, render(Blobs(6, 120, count=300, sigma=(2, 5)), SIZE)) is None


def test_what_is_masked_says_nothing():
    weight = np.ones(SIZE)
    weight[THING] = 0
    assert there(SCENE, covered(100), weight) is None
    assert there(SCENE, SCENE, np.zeros(SIZE)) is None


def test_flat_pictures_are_alike():
    assert there(np.full(SIZE, 3.0), np.full(SIZE, 200.0)) is None
    assert there(np.full(SIZE, 3.0), SCENE) is None


def on_even_ground():
    """A scene that leaves a third of the picture empty, where something faint lies in the other picture."""
    scene = SCENE.copy()
    scene[:, 80:] = scene.min()
    moving = scene + noise()
    moving[30:62, 90:115] += 0.7 * SCENE.std()
    return scene, moving


def test_a_faint_thing_on_even_ground_is_one_only_under_an_even_light():
    inside = np.s_[..., 34:58, 94:111]
    assert there(*on_even_ground())[inside].max() == 1  # only its edge is let go
    weight = there(*on_even_ground(), even=True)
    assert weight[inside].max() < 0.1
    weight[..., 18:74, 78:] = 1
    assert weight.min() == 1


def test_structure_of_another_picture_is_no_part_of_the_scene_however_bright_both_are():
    bright = np.where(np.arange(SIZE[1]) < 78, 6 * SCENE.std(), 0)
    moving = covered(0) + bright
    assert there(SCENE + bright, moving)[0, 0].numpy()[THING].mean() < 0.1


def test_light_that_changes_is_no_occluder_of_structure():
    assert there(SCENE, SCENE * np.linspace(0.8, 1.2, SIZE[1]) + np.linspace(0, 0.3, SIZE[0])[:, None]) is None


@pytest.mark.parametrize("lost_px", [3, 6])
def test_single_pixels_give_back_what_blocks_left_out_too_much(lost_px):
    fixed, moving = SCENE + noise(), covered(3) + np.random.default_rng(4).normal(0, 0.1 * SCENE.std(), SIZE)
    blocks = np.ones(SIZE)
    blocks[30 - lost_px : 62 + lost_px, 40 - lost_px : 75 + lost_px] = 0
    weight = regrown(*tensors(blocks, fixed, moving))[0, 0].numpy()
    assert weight[THING].max() == 0
    weight[27:65, 37:78] = 1
    assert weight.mean() > 0.999  # a few pixels differ by chance


def test_single_pixels_let_go_what_blocks_half_believed():
    fixed, moving = SCENE + noise(), covered(3) + np.random.default_rng(4).normal(0, 0.1 * SCENE.std(), SIZE)
    half = np.ones(SIZE)
    half[20:72, 30:85] = 0.5
    weight = regrown(*tensors(half, fixed, moving))[0, 0].numpy()
    assert weight[THING].mean() < 0.01
    assert weight[:20].min() == 1
    weight[26:66, 36:79] = 1
    assert weight.mean() > 0.99


def test_single_pixels_are_not_told_apart_where_more_than_noise_is_left():
    half = np.ones(SIZE)
    half[20:72, 30:85] = 0.5
    curved = np.abs(SCENE - np.median(SCENE))  # another tone, as of another modality
    assert np.array_equal(regrown(*tensors(half, SCENE, curved))[0, 0].numpy(), half.astype(np.float32))
