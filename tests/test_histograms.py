import pytest
import torch
from torch.autograd import gradcheck

from imgalign.numerics.histograms import joint_histogram, regular_subset, weighted_quantile


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_pair_is_shared_linearly_and_by_the_cubic_spline() -> None:
    u, v = torch.tensor([[1.25]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    counts = joint_histogram(u, v, torch.full_like(u, 2.0), bins=4)
    assert counts.shape == (1, 4, 7)
    torch.testing.assert_close(counts.sum(2), torch.tensor([[0, 1.5, 0.5, 0]], dtype=torch.float64))
    torch.testing.assert_close(counts.sum(1) * 3, torch.tensor([[0, 0, 1, 4, 1, 0, 0]], dtype=torch.float64))


def test_every_pair_counts_by_its_weight_up_to_both_ends() -> None:
    u, v = torch.tensor([[0.0, 7.0, 3.0]]), torch.tensor([[7.0, 0.0, 7.0]])
    assert joint_histogram(u, v, torch.ones_like(u), bins=8).sum().item() == pytest.approx(3)


def test_joint_histogram_passes_gradcheck() -> None:
    u, v, w = uniform(2, 9) * 5, uniform(2, 9, seed=1) * 5, uniform(2, 9, seed=2)
    assert gradcheck(lambda *a: joint_histogram(*a, bins=6), [t.requires_grad_() for t in (u, v, w)])


def test_joint_histogram_of_a_batch_equals_one_by_one() -> None:
    u, v, w = uniform(3, 50) * 7, uniform(3, 50, seed=1) * 7, uniform(3, 50, seed=2)
    singles = [joint_histogram(u[i : i + 1], v[i : i + 1], w[i : i + 1], bins=8) for i in range(3)]
    torch.testing.assert_close(joint_histogram(u, v, w, bins=8), torch.cat(singles))


def test_weighted_quantile_of_whole_weights_is_the_median_of_repeats() -> None:
    values = torch.tensor([[5.0, 1.0, 3.0, 2.0]])
    assert weighted_quantile(values, torch.tensor([[1.0, 1, 1, 0]]), 0.5).item() == 3
    assert weighted_quantile(values, torch.tensor([[9.0, 1, 1, 1]]), 0.5).item() == 5
    assert weighted_quantile(values, torch.ones(1, 4), 0.0).item() == 1
    assert weighted_quantile(values, torch.ones(1, 4), 1.0).item() == 5


def test_regular_subset_keeps_small_images_whole_and_thins_large_ones() -> None:
    assert regular_subset(torch.zeros(2, 3, 4, 5)).shape == (2, 3, 20)
    thinned = regular_subset(torch.arange(10_000.0).view(1, 1, 100, 100), size=1000)
    assert 900 <= thinned.shape[2] <= 1000
    assert len(set((thinned % 100).flatten().tolist())) == 100
