import math

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair, tensor

from imgalign import sharp
from imgalign.polish import polish
from imgalign.sharp import Standard, _told_share
from imgalign.transforms import MODELS

SIZE = (144, 160)


def test_noise_on_empty_ground_has_no_share_in_the_gradients():
    rng = np.random.default_rng(0)
    structure = np.where(np.arange(SIZE[1]) < 80, 1.0, 0.0)
    slope, noise = (structure * rng.normal(0, 1, SIZE) for _ in range(2)), [rng.normal(0, 0.4, SIZE) for _ in range(2)]
    gradients = tuple(tensor(s + n) for s, n in zip(slope, noise, strict=True))
    same = tensor(rng.normal(0, 1, SIZE))
    standard = Standard(same, same + tensor(rng.normal(0, 0.1, SIZE)), torch.ones(1))
    held = 0.16 / (0.16 + 0.5)  # of the power: there is structure on half of the picture
    share = _told_share(gradients, torch.ones(1, 1, *SIZE), standard, held)[0, 0].numpy()
    # Alike everywhere it would be one; all of the structure is where its share of the power is 1 / 1.16.
    assert share[:, 8:72].mean() == pytest.approx(1 / 1.16 / (1 - held), rel=0.03)
    assert share[:, 88:-8].mean() < 0.1


@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_a_bright_thing_on_empty_ground_is_laid_more_exactly_where_the_ground_is_left_out(noise, monkeypatch):
    scene = Blobs(3, 30, count=40, sigma=(1.5, 4))
    scene.centres += 65  # in the middle of a picture that is empty elsewhere
    truth = about_centre(SIZE, shift=(0.4, -0.3), angle_deg=0.2)
    clean = pair(scene, SIZE, truth)

    def root_mean_square():
        squares = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            fixed, moving = (
                torch.as_tensor(x + rng.normal(0, noise, SIZE), dtype=torch.float32)[None, None] for x in clean
            )
            ones = torch.ones_like(fixed)
            with torch.no_grad():
                done = polish((fixed, ones), (moving, ones), truth, MODELS["rigid"])
            squares.append(corner_error(done.moving_from_fixed, truth, SIZE) ** 2)
        return math.sqrt(np.mean(squares))

    weighed = root_mean_square()
    monkeypatch.setattr(sharp, "_LITTLE", 1.0)
    assert weighed < 0.85 * root_mean_square()
