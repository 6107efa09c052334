"""Laying a picture on another grid, in NumPy: the pixels that are written, as they came.

`kinds` opens what a caller holds, `canvas` says which grid, `resample` fills it tile by tile (`source`, `tiles`,
`kernels`).
"""
