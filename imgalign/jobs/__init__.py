"""From files to files: one pair, a stack, ten thousand pairs, one machine or many.

`pairs` reads, aligns, lays and writes (`laying`, `outcome`); `stack` lays a sequence on one reference (`averages`);
`batch` works through a `manifest`: names from `layout`, results in the `ledger`, each pair as `work` in a `pool` of
processes or on a `dask_engine`.
"""
