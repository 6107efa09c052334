"""Two places: planes live on the device that was asked for, everything small on the CPU.

Pictures, masks and spectra are planes. Matrices, normal equations, slopes, losses and scales are a few numbers a row,
wanted in float64, which not every device has, and worked on in steps so short that asking a device would take longer
than doing them. Bringing them back means waiting for all that the device has been asked to do, so what is needed
together comes together.
"""

import torch
from torch import Tensor


def gathered(*parts: Tensor) -> list[Tensor]:
    """Small tensors of one device and dtype on the CPU in float64, by one transfer."""
    if parts[0].device.type == "cpu":
        return [part.double() for part in parts]
    # float64 only once they are there.
    flat = torch.cat([part.flatten() for part in parts]).cpu().double()
    return [x.reshape(part.shape) for x, part in zip(flat.split([p.numel() for p in parts]), parts, strict=True)]


def precise(tensor: Tensor) -> Tensor:
    """A plane in the most exact float dtype that its device has."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()
