"""Pictures and parameter files on disk: read with all their bits, written whole or not at all. No PyTorch.

`images` is the way in and out: by `decoding` (Pillow, `png`, `tiff`) and `encoding` (`png`, `tiff_writing`, `netpbm`);
`record` does parameter files, `reading` the pictures of a job, ahead of their use, and `outputs` what a job will write.
"""
