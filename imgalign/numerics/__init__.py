"""What the steps of the alignment count with: sums, masks, splines, spectra, noise, and two pictures compared.

`problem` is two pictures on one level, `residuals` what they differ by, `basis` the normal equations; `noise` and
`spectral` say what of a picture is noise, at which frequencies.
"""
