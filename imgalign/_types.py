"""Shape aliases, so that signatures read as the mathematics does.

`B` batch (a row is a hypothesis or a pair), `C` channels, `H` x `W` pixels, `N` points, `P` parameters.
They are plain `Annotated` tensors, not jaxtyping's: a run-time package fewer, the same words.
"""

from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Image: TypeAlias = Annotated[Tensor, "B C H W"]
Weight: TypeAlias = Annotated[Tensor, "B 1 H W"]
Points: TypeAlias = Annotated[Tensor, "B N 2"]
Samples: TypeAlias = Annotated[Tensor, "B C N"]
Valid: TypeAlias = Annotated[Tensor, "B N"]
Matrix: TypeAlias = Annotated[Tensor, "B 3 3"]
Params: TypeAlias = Annotated[Tensor, "B P"]
Pixels: TypeAlias = NDArray[Any]  # (H, W) or (H, W, C), as a file or a caller gives them
Floats: TypeAlias = NDArray[np.float64]  # a few numbers
Matrix3: TypeAlias = NDArray[np.float64]  # (3, 3)
Matrices: TypeAlias = NDArray[np.float64]  # (B, 3, 3)

SamplerName = Literal["nearest", "bilinear", "cubic"]
