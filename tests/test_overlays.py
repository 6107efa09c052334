"""What lies over both pictures at the same place."""

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair

from imgalign import align
from imgalign.numerics.masks import full_weight
from imgalign.planes import overlays

SIZE = (200, 240)
TRUTH = about_centre(SIZE, shift=(9.3, -6.4), angle_deg=4)


def scene(truth=TRUTH, noise=0.03, seed=1):
    rng = np.random.default_rng(seed)
    return [
        x + noise * x.std() * rng.normal(size=SIZE) for x in pair(Blobs(31, 240, count=300, sigma=(3, 8)), SIZE, truth)
    ]


def captioned(picture):
    """With white strokes on a black bar, as cameras and microscopes write them."""
    out = picture.copy()
    out[8:40, 10:150] = picture.min() - 1
    strokes = np.random.default_rng(5).random((6, 26)) > 0.5
    out[12:36, 16:146][:24, :130] = np.where(np.kron(strokes, np.ones((4, 5))), picture.max() + 1, picture.min() - 1)
    return out


def seen(picture):
    image = torch.as_tensor(np.asarray(picture, np.float32))[None, None]
    return image, full_weight(image)


def test_a_caption_is_found_and_little_else():
    inside = overlays.shared(*(seen(captioned(p)) for p in scene()))
    assert inside is not None
    over = ~np.kron(inside, np.ones((2, 2), bool))
    assert over[12:36, 16:146].mean() > 0.95
    over[:60, :170] = False
    assert not over.any()


@pytest.mark.parametrize(
    "changed",
    [
        lambda one, other: (one, other),  # nothing lies over them
        lambda one, _: (one, one),
        lambda one, other: (captioned(one), other),  # over one alone
        lambda one, other: (captioned(one), np.roll(captioned(other), 7, 1)),  # somewhere else
        lambda one, other: (captioned(one), captioned(other)[:-8]),
    ],
)
def test_other_pictures_are_left_whole(changed):
    assert overlays.shared(*map(seen, changed(*scene()))) is None


def test_what_lies_around_the_middle_of_a_rotation_is_part_of_the_scene():
    """It moves by less than a pixel, and its edges agree as a caption's do."""
    blobs, rng = Blobs(1, 240, count=4000, sigma=(1.5, 3)), np.random.default_rng(2)
    sharp = pair(lambda x, y: np.tanh(4 * blobs(x, y)), SIZE, about_centre(SIZE, angle_deg=1, scale=1.007))
    pictures = [x + rng.normal(0, 0.02, SIZE) for x in sharp]
    assert overlays.shared(*map(seen, pictures)) is None


def test_a_caption_does_not_hold_the_scene():
    found = align(*map(captioned, scene()), model="rigid")
    assert found.trusted
    assert corner_error(found.moving_from_fixed, TRUTH, SIZE) < 0.1
    assert found.reasons[-1] == "what lies over both pictures alike was left out"


def test_a_scene_that_has_not_moved_is_trusted_under_a_caption():
    found = align(*map(captioned, scene(np.eye(3))), model="rigid")
    assert found.trusted
    assert corner_error(found.moving_from_fixed, np.eye(3), SIZE) < 0.1


def test_unrelated_pictures_under_one_caption_are_not_trusted():
    fixed, moving = scene()[0], pair(Blobs(77, 240, count=300, sigma=(3, 8)), SIZE, np.eye(3))[0]
    assert not align(captioned(fixed), captioned(moving), model="rigid").trusted
