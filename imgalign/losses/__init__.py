"""How badly a warped picture fits the fixed one: six differentiable losses, lower is better.

Convention: each is called `loss(fixed, warped, weight)` with two floating `(B, C, H, W)` images and a soft mask
`(B, 1, H, W)` of 0 to 1 (`None`: all ones), and gives `(B,)`. `weight` is zero where the warped image has nothing
under it. All losses are scaled alike, whatever the units of the images: 0 is a perfect fit (mutual information
stays above it, for its histogram is blurred), about 1 is nothing in common (0.7 for `gradient`, in which empty
places agree), 2 is no overlap at all.

Overlap: a loss is a mean per unit of weight, measured against the contrast inside the overlap, so that two flat
patches of sky do not fit well but fit not at all. A mean can still be low by luck when few pixels are left;
therefore it is drawn towards `NO_OVERLAP`, by less than 1 % at half overlap, by half at 1 % overlap, and all the
way, without a NaN, where nothing is left. Pixels that are NaN or infinite in either image count as masked.
"""

from imgalign.losses.correlation import lncc, ncc
from imgalign.losses.edges import gradient, gradient_pair
from imgalign.losses.information import mi
from imgalign.losses.overlap import NO_OVERLAP, Loss
from imgalign.losses.squares import RobustFit, robust, robust_fit, ssd

__all__ = [
    "LOSSES",
    "NO_OVERLAP",
    "Loss",
    "RobustFit",
    "gradient",
    "gradient_pair",
    "lncc",
    "mi",
    "ncc",
    "robust",
    "robust_fit",
    "ssd",
]

LOSSES: dict[str, Loss] = {"ssd": ssd, "robust": robust, "ncc": ncc, "lncc": lncc, "gradient": gradient, "mi": mi}
