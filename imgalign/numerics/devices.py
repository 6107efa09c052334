"""Two places: planes are tensors on the device that was asked for, everything small is NumPy's.

Pictures, masks and spectra are planes. Matrices, normal equations, slopes, losses and scales are a few numbers a row,
wanted in float64, which not every device has, and worked on in steps so short that asking a device would take longer
than doing them; NumPy does each in a third of the time that PyTorch takes to call it. Bringing them back means waiting
for all that the device has been asked to do, so what is needed together comes together.
"""

import torch
from torch import Tensor

from imgalign._types import Floats


def gathered(*parts: Tensor) -> list[Floats]:
    """Small tensors of one device and dtype as float64 arrays, by one transfer."""
    if parts[0].device.type == "cpu":
        return [part.numpy().astype(float) for part in parts]
    # float64 only once they are there.
    flat = torch.cat([part.flatten() for part in parts]).cpu().double()
    split = flat.split([p.numel() for p in parts])
    return [x.reshape(part.shape).numpy() for x, part in zip(split, parts, strict=True)]


def precise(tensor: Tensor) -> Tensor:
    """A plane in the most exact float dtype that its device has."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()
