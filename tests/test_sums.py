import numpy as np
import pytest
import torch

from imgalign.numerics.basis import basis_of
from imgalign.numerics.sums import mean, plane_sums, total, variance
from imgalign.transforms import MODELS

SIZES = [(250, 250), (251, 333), (37, 1100), (480, 640), (9, 12)]


@pytest.fixture
def with_threads():
    own = torch.get_num_threads()

    def call(threads, function, *arguments):
        torch.set_num_threads(threads)
        return function(*arguments)

    yield call
    torch.set_num_threads(own)


def picture(size_hw, planes=(2, 3), seed=0):
    return torch.rand(*planes, *size_hw, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size_hw", SIZES)
def test_sums_are_those_of_numpy(size_hw):
    image, weight = picture(size_hw), picture(size_hw, seed=1)
    exact, shares = image.numpy().astype(float), weight.numpy().astype(float)
    np.testing.assert_allclose(plane_sums(image), exact.sum((2, 3)), rtol=1e-5)
    assert float(total(image)) == pytest.approx(exact.sum(), rel=1e-5)
    assert float(mean(image, weight)) == pytest.approx(np.average(exact, weights=shares), rel=1e-5)
    assert float(variance(image)) == pytest.approx(exact.var(ddof=1), rel=1e-5)


def test_mean_of_nothing_is_nothing():
    assert float(mean(picture((8, 9)), torch.zeros(2, 3, 8, 9))) == 0


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("function", [plane_sums, total, variance])
def test_sums_do_not_depend_on_threads(size_hw, function, with_threads):
    image = picture(size_hw, (1, 1))
    assert torch.equal(with_threads(1, function, image), with_threads(2, function, image))


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("name", ["translate", "affine", "homography"])
def test_moments_are_those_of_the_formula(size_hw, name):
    image = picture(size_hw)
    basis = basis_of(MODELS[name], size_hw)
    found = sum(basis.moments(image[..., rows, :], rows) for rows in basis.slabs(20 * size_hw[1]))
    exact = np.einsum("yi,bcyx,xj->bcij", basis.powers_y, image.numpy().astype(float), basis.powers_x)
    assert found.shape == exact.shape
    np.testing.assert_allclose(found, exact, atol=1e-5 * exact.max())


@pytest.mark.parametrize("size_hw", [*SIZES, (3, 400_000)])
def test_slabs_hold_every_row_once_and_few_values(size_hw):
    slabs = [np.arange(size_hw[0])[rows] for rows in basis_of(MODELS["affine"], size_hw).slabs(size_hw[1])]
    np.testing.assert_array_equal(np.concatenate(slabs), np.arange(size_hw[0]))
    assert all(len(rows) == 1 or len(rows) * size_hw[1] <= 1 << 17 for rows in slabs)


@pytest.mark.parametrize("size_hw", SIZES)
def test_moments_do_not_depend_on_threads(size_hw, with_threads):
    basis, image = basis_of(MODELS["homography"], size_hw), picture(size_hw, (1, 14))
    everywhere = slice(0, size_hw[0])
    assert torch.equal(*(with_threads(threads, basis.moments, image, everywhere) for threads in (1, 2)))
