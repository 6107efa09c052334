"""The third step: from a start to the answer, and its error bar.

`ladder` takes many hypotheses from coarse to fine by `levenberg_marquardt`; `polish` makes the last one as exact as the
noise allows, on blurred pictures (`smooth`) and on all frequencies (`sharp`), with what else differs taken away:
`tone`, `light`, `focus`, `occluders`, `borders`. `correlation_ratio` follows curves of grey values where two modalities
share nothing simpler. `uncertainty` says how well the answer is known. Other losses go down by autograd (`descent`).
"""
