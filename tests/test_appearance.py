import numpy as np
import torch
from scenes import Blobs, render

from imgalign.appearance import features

SIZE = (96, 120)


def test_pictures_done_together_come_out_as_singly():
    """Each has contrast and edges of its own, however strong those of the other are."""
    pictures = [render(Blobs(k, 120, count=200, sigma=(2, 5)), SIZE) * 30.0**k for k in range(2)]
    both = torch.as_tensor(np.stack(pictures), dtype=torch.float32)[:, None]
    weight = torch.ones(1, 1, *SIZE)
    together = features(both, weight)
    assert together.shape == (2, 3, *SIZE)
    for one, alone in zip(together, both, strict=True):
        assert torch.allclose(one, features(alone[None], weight)[0], atol=1e-4)


def test_brightness_and_contrast_do_not_count():
    picture = torch.as_tensor(render(Blobs(3, 120, count=200, sigma=(2, 5)), SIZE), dtype=torch.float32)[None, None]
    weight = torch.ones_like(picture)
    assert torch.allclose(features(picture, weight), features(7 + 0.1 * picture, weight), atol=5e-3)
