"""Two pictures on one level, ready to be compared again and again."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from imgalign._types import Image, Matrices, Weight
from imgalign.sampling import Reader


@dataclass(frozen=True)
class Problem:
    """Two pictures on one level, ready to be read again and again.

    Attributes:
        fixed: `(1, C, h, w)` picture on whose pixels residuals stand.
        gradient_x: Its derivative along x, per pixel, the same shape.
        gradient_y: Its derivative along y.
        weight: `(1, 1, h, w)` soft mask of the fixed picture.
        moving: Reader of the moving picture, with its mask.
        oriented: The last two channels are a double-angle orientation field, which turns with the picture.
        gain: What each sample of the moving picture is multiplied by, `(1, C, h, w)`, and
        offset: what is taken off then: changes of light, known beforehand.
        spread: Standard deviation of residuals over the usual one, `(1, 1, h, w)`, where it is known to differ; None
            for the same everywhere. Residuals are outliers in units of it, and `weight` holds its inverse square.
        rounding: Standard deviation of what rounding to few values leaves at unit contrast: no residual is an outlier
            for less. Most of those of two pages of one bit are nothing where one is a whole pixel off.
        contrast: Of the scene in the fixed over that in the moving picture, where it is known; None for as the pictures
            have it, noise and all.
        share: Of the fixed picture in the mean of both.
    """

    fixed: Image
    gradient_x: Image
    gradient_y: Image
    weight: Weight
    moving: Reader
    oriented: bool = False
    gain: Image | None = None
    offset: Image | None = None
    spread: Image | None = None
    rounding: float = 0.0
    contrast: float | None = None
    share: float = 0.5

    def within(self, weight: Weight | None) -> "Problem":
        """The same with less weight where a soft mask says so; None for nowhere."""
        return self if weight is None else replace(self, weight=self.weight * weight)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns of the level."""
        return self.fixed.shape[-2], self.fixed.shape[-1]

    def read(self, matrices: Matrices) -> tuple[Image, Weight]:
        """The moving picture under the fixed one's pixels, `(B, C, h, w)`, relit; and the weight of both."""
        moving, weight = self.moving.on_grid(matrices, self.size_hw)
        if self.oriented:
            moving = turned(moving, matrices)
        if self.gain is not None and self.offset is not None:
            moving = torch.addcmul(-self.offset, moving, self.gain)
        return moving, weight * self.weight


def turned(moving: Image, matrices: Matrices) -> Image:
    """Turn the double-angle channels back by each hypothesis' own rotation, and reflect them where it mirrors."""
    (xx, xy), (yx, yy) = matrices[:, :2, :2].transpose(1, 2, 0)
    flip = np.where(xx * yy < xy * yx, -1.0, 1.0)
    # A mirror image is a rotation after a reflection of x.
    angle = 2 * np.arctan2(flip * yx - xy, flip * xx + yy)
    turn = torch.from_numpy(np.stack([np.cos(angle), np.sin(angle), flip])[..., None, None])
    c, s, f = turn.to(moving.dtype).to(moving.device)
    re, im = moving[:, -2], moving[:, -1]
    return torch.cat([moving[:, :-2], (c * re + s * im)[:, None], (f * (c * im - s * re))[:, None]], 1)
