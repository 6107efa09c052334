import numpy as np
import pytest
import torch
from scenes import Blobs, render

from imgalign.occluders import alike

SIZE = (98, 121)
SCENE = render(Blobs(5, 120, count=300, sigma=(2, 5)), SIZE)
THING = np.s_[30:62, 40:75]
AROUND = np.s_[18:74, 28:87]  # it may cost three blocks on each side


def there(fixed, moving, weight=None):
    planes = (fixed, moving, np.ones(SIZE) if weight is None else weight)
    return alike(*(torch.as_tensor(np.asarray(p, np.float32))[None, None] for p in planes))


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
