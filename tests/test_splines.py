import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from scipy.ndimage import spline_filter

from imgalign.numerics.splines import MARGIN, cubic_slopes, cubic_weights, spline_coefficients

T = torch.linspace(0, 1, 11, dtype=torch.float64)
SPLINE = BSpline.basis_element(np.arange(-2.0, 3), extrapolate=False)
TAPS = np.arange(-1, 3)


def test_weights_and_slopes_are_scipys():
    apart = T.numpy() - TAPS[:, None]
    inside = np.abs(apart) < 2
    for found, spline in ((cubic_weights(T), SPLINE), (cubic_slopes(T), SPLINE.derivative())):
        expected = np.where(inside, spline(np.where(inside, apart, 0)), 0)
        np.testing.assert_allclose(torch.stack(found), expected, atol=1e-12)


def test_weights_of_a_number_are_those_of_a_tensor():
    assert cubic_weights(0.3) == pytest.approx([float(w) for w in cubic_weights(T[3])])
    assert cubic_slopes(0.3) == pytest.approx([float(w) for w in cubic_slopes(T[3])])


@pytest.mark.parametrize("size_hw", [(9, 13), (3, 5), (2, 7)])
def test_coefficients_are_scipys_with_mirrored_borders(size_hw):
    picture = torch.rand(1, 1, *size_hw, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = spline_coefficients(picture)[0, 0]
    expected = np.pad(spline_filter(picture[0, 0].numpy(), order=3, mode="mirror"), MARGIN, mode="reflect")
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
