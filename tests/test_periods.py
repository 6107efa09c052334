"""Pictures that look much the same some way off."""

import numpy as np
import pytest
import torch
from scenes import Blobs, render

from imgalign.planes.levels import Levels
from imgalign.start.periods import ALIKE, likeness

SIZE = (80, 96)
THINGS = Blobs(3, 110, count=400, sigma=(1.5, 3))


def waves(x, y):
    return np.cos(x / 2) * np.cos(y / 2.5)


def looked_at(scene, weight=None):
    picture = torch.as_tensor(render(scene, SIZE).astype(np.float32))[None, None]
    masked = picture, torch.ones_like(picture) if weight is None else weight
    return likeness(Levels(masked, masked).at(1, 1).features[0]) > ALIKE


@pytest.mark.parametrize(
    ("scene", "expected"),
    [(waves, True), (THINGS, False), (lambda x, y: waves(x, y) + THINGS(x, y) / 4, True), (lambda x, y: 0 * x, False)],
)
def test_a_picture_repeats_where_it_looks_the_same_elsewhere(scene, expected):
    assert looked_at(scene) == expected


@pytest.mark.parametrize("masked", [False, True])
def test_two_things_alike_are_told_of_unless_one_is_masked(masked):
    def twice(x, y):
        return THINGS(x % 48, y)

    weight = torch.ones(1, 1, *SIZE)
    weight[..., 48:] = not masked
    assert looked_at(twice, weight) != masked
