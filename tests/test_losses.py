import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from imgalign.errors import OptionError, ShapeError
from imgalign.gradients import central_differences
from imgalign.losses import LOSSES, NO_OVERLAP, gradient, gradient_pair, lncc, mi, ncc, robust, robust_fit, ssd

NAMES = sorted(LOSSES)
Scene = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def blobs(seed: int = 0, count: int = 25, extent: float = 40.0) -> Scene:
    """A scene from a formula: Gaussian spots, which can be evaluated anywhere."""
    random = np.random.default_rng(seed)
    spots = [(*random.uniform(-4, extent + 4, 2), random.uniform(2, 4), random.uniform(0.3, 1)) for _ in range(count)]

    def scene(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        value = torch.zeros_like(x)
        for cx, cy, sigma, height in spots:
            value = value + height * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
        return value

    return scene


def render(scene: Scene, shift: torch.Tensor | tuple[float, float] = (0.0, 0.0), size: int = 40) -> torch.Tensor:
    """The scene on a grid moved by `shift`, `(1, 1, size, size)` float64; differentiable in `shift`."""
    axis = torch.arange(size, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return scene(x + shift[0], y + shift[1])[None, None]


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def descend(loss: Callable[[torch.Tensor], torch.Tensor], start: tuple[float, float]) -> torch.Tensor:
    shift = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([shift], lr=0.5, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(shift).sum()
        value.backward()
        return value

    optimizer.step(closure)
    return shift.detach()


@pytest.mark.parametrize("name", NAMES)
def test_loss_gives_one_number_a_row_and_is_near_zero_for_a_fit(name: str) -> None:
    image = random_image(3, 2, 24, 24)
    value = LOSSES[name](image, image, torch.ones(3, 1, 24, 24, dtype=torch.float64))
    assert value.shape == (3,)
    assert (value < (0.6 if name == "mi" else 0.01)).all()


@pytest.mark.parametrize("name", NAMES)
def test_unrelated_images_cost_about_one(name: str) -> None:
    value = LOSSES[name](random_image(1, 1, 64, 64), random_image(1, 1, 64, 64, seed=1), None)
    assert 0.65 < value.item() < 1.1


@pytest.mark.parametrize("name", NAMES)
def test_descent_aligns_pictures_of_one_scene(name: str) -> None:
    scene = blobs()
    fixed = render(scene)

    # The residual left is not the losses': the truth is the formula's, without interpolation.
    found = descend(lambda shift: LOSSES[name](fixed, 20 + 3 * render(scene, shift), None), (1.3, -0.9))
    assert found.abs().max() < 0.01


@pytest.mark.parametrize(("name", "tolerance"), [("lncc", 0.1), ("gradient", 0.001)])
def test_slow_light_changes_do_not_move_the_minimum(name: str, tolerance: float) -> None:
    scene = blobs()
    axis = torch.linspace(0, 1, 40, dtype=torch.float64)
    light = 1.0 * axis[None, None, None, :] + 0.7 * axis[None, None, :, None]
    fixed = render(scene)
    found = descend(lambda shift: LOSSES[name](fixed, render(scene, shift) + light, None), (0.8, -0.6))
    assert found.abs().max() < tolerance


@pytest.mark.parametrize("name", ["lncc", "mi"])
def test_inverted_and_bent_contrast_is_aligned(name: str) -> None:
    scene = blobs()
    fixed = render(scene)
    found = descend(lambda shift: LOSSES[name](fixed, 1 / (0.3 + render(scene, shift)), None), (0.9, -0.7))
    assert found.abs().max() < 0.1


def test_magnitudes_fit_edges_of_inverted_contrast() -> None:
    scene = blobs()
    fixed = render(scene)
    found = descend(lambda shift: gradient(fixed, 5 - render(scene, shift), of="magnitude"), (0.8, -0.7))
    assert found.abs().max() < 0.01


def test_robust_ignores_an_occluder_that_pulls_least_squares_away() -> None:
    scene, other = blobs(), blobs(seed=5)

    def warped(shift: torch.Tensor) -> torch.Tensor:
        picture = render(scene, shift)
        hidden = torch.zeros_like(picture)
        hidden[..., 5:25, 5:22] = 1
        return picture * (1 - hidden) + (1 + render(other)) * hidden

    fixed = render(scene)
    errors = {name: descend(lambda s, n=name: LOSSES[n](fixed, warped(s), None), (0.6, -0.5)).norm() for name in NAMES}
    assert errors["robust"] < 0.01
    assert errors["robust"] < 0.2 * errors["ssd"]


def test_robust_does_not_take_misplaced_letters_for_outliers_on_white_paper() -> None:
    letters, random = blobs(count=8, extent=64), torch.Generator().manual_seed(0)

    def page(shift: torch.Tensor | tuple[float, float]) -> torch.Tensor:  # 7 % ink, with sharp edges
        return 1 - torch.sigmoid((render(letters, shift, size=64) - 0.3) * 25)

    noise = 0.01 * torch.randn(2, 1, 1, 64, 64, generator=random, dtype=torch.float64)
    found = descend(lambda shift: robust(page((0.0, 0.0)) + noise[0], page(shift) + noise[1]), (2.5, -2.0))
    assert found.abs().max() < 0.02  # with the plain median as scale it stays where it starts


def test_ssd_is_one_minus_the_squared_correlation_and_ncc_one_minus_it() -> None:
    fixed, warped = random_image(1, 1, 9, 11), 0.4 * random_image(1, 1, 9, 11) + random_image(1, 1, 9, 11, seed=1)
    rho = np.corrcoef(fixed.flatten().numpy(), warped.flatten().numpy())[0, 1]
    assert ssd(fixed, warped).item() == pytest.approx(1 - rho**2)
    assert ncc(fixed, 7 - 3 * warped).item() == pytest.approx(1 + rho)


def test_lncc_with_a_window_over_everything_is_the_squared_correlation() -> None:
    fixed, warped = random_image(1, 1, 9, 9), random_image(1, 1, 9, 9) + random_image(1, 1, 9, 9, seed=1)
    rho = np.corrcoef(fixed.flatten().numpy(), warped.flatten().numpy())[0, 1]
    assert lncc(fixed, warped, window="box", sigma_px=30).item() == pytest.approx(1 - rho**2, rel=1e-3)
    assert lncc(fixed, warped, window="box", sigma_px=30, signed=True).item() == pytest.approx(1 - rho, rel=1e-3)


def test_mutual_information_approaches_that_of_a_hard_histogram() -> None:
    fixed, warped = random_image(1, 1, 200, 200), random_image(1, 1, 200, 200, seed=1)
    warped = 0.7 * fixed + 0.3 * warped
    counts, *_ = np.histogram2d(fixed.flatten().numpy(), warped.flatten().numpy(), bins=24)
    p = counts / counts.sum()
    rows, columns = p.sum(1), p.sum(0)
    information = np.nansum(p * np.log(np.where(p > 0, p, 1) / np.outer(rows, columns)))
    entropy = -sum((m[m > 0] * np.log(m[m > 0])).sum() for m in (rows, columns))
    # Soft bins blur the histogram; a quarter of the information is what 24 of them lose here.
    assert 1 - mi(fixed, warped, bins=24).item() == pytest.approx(2 * information / entropy, rel=0.25)


def test_gradient_pair_is_the_mean_difference_of_numpy_magnitudes() -> None:
    first, second = random_image(1, 1, 7, 8), random_image(1, 1, 7, 8, seed=1)
    lengths = [np.hypot(*np.gradient(image[0, 0].numpy())) for image in (first, second)]
    assert gradient_pair(first, second, eps=0).item() == pytest.approx(np.abs(lengths[0] - lengths[1]).mean())
    assert gradient_pair(first, second, eps=0, norm="l2").item() == pytest.approx(
        np.square(lengths[0] - lengths[1]).mean()
    )


def closed(name: str, fixed: torch.Tensor, warped: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The loss as a function of everything that it is differentiated by (not of scale, gain, bias, bin span)."""
    fit = robust_fit(fixed, warped)
    return lambda f, w, m: robust(f, w, m, fit=fit) if name == "robust" else LOSSES[name](f, w, m)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "mi"])
def test_loss_passes_gradcheck_in_images_and_weight(name: str) -> None:
    fixed, warped = random_image(2, 2, 5, 6), random_image(2, 2, 5, 6, seed=1)
    weight = 0.2 + 0.7 * random_image(2, 1, 5, 6, seed=2)
    function = closed(name, fixed, warped)
    assert gradcheck(function, [t.requires_grad_() for t in (fixed, warped, weight)], atol=1e-6)


def test_mi_passes_gradcheck_where_its_span_is_held() -> None:
    fixed, warped = random_image(1, 2, 6, 6), random_image(1, 2, 6, 6, seed=1)
    for image in (fixed, warped):  # the ends of the span are pixels of their own, under constant weight
        image[..., 0, 0], image[..., 0, 1] = -0.1, 1.1
    weight = 0.2 + 0.7 * random_image(1, 1, 6, 6, seed=2)

    def inner(f: torch.Tensor, w: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        whole = [
            torch.cat([held[..., :1, :], moved], 2)
            for held, moved in zip((fixed, warped, weight), (f, w, m), strict=True)
        ]
        return mi(*whole, bins=7)

    parts = [t[..., 1:, :].clone().requires_grad_() for t in (fixed, warped, weight)]
    assert gradcheck(inner, parts, atol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("of", ["vector", "magnitude"])
def test_gradient_losses_of_all_kinds_pass_gradcheck(norm: str, of: str) -> None:
    fixed, warped = random_image(2, 1, 4, 5).requires_grad_(), random_image(2, 1, 4, 5, seed=1).requires_grad_()
    assert gradcheck(lambda f, w: gradient(f, w, norm=norm, of=of), [fixed, warped])
    assert gradcheck(lambda f, w: gradient_pair(f, w, norm=norm, of=of), [fixed, warped])


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_one_by_one_and_a_single_fixed_serves_all(name: str) -> None:
    fixed, warped = random_image(1, 2, 12, 13), random_image(3, 2, 12, 13, seed=1)
    weight = random_image(3, 1, 12, 13, seed=2)
    singles = [LOSSES[name](fixed, warped[i : i + 1], weight[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(LOSSES[name](fixed, warped, weight), torch.cat(singles))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_degenerate_images_give_a_finite_loss_and_finite_derivatives(name: str, dtype: torch.dtype) -> None:
    textured = random_image(1, 1, 12, 12).to(dtype)
    flat, full, none = torch.full_like(textured, 31234.5), torch.ones_like(textured), torch.zeros_like(textured)
    for fixed, moving, weight, wanted in [
        (textured, textured, none, NO_OVERLAP),
        (flat, flat, full, 1.0),
        (textured, flat, full, 1.0),
        (flat, textured, full, 1.0),
        (none, none, full, 1.0),
    ]:
        warped = moving.clone().requires_grad_()
        value = LOSSES[name](fixed, warped, weight)
        value.sum().backward()
        # Pixels far from the median cost the robust loss less than their square; the rounded absolute value of the
        # gradient loss is short by a hundredth of the mean length.
        assert value.item() == pytest.approx(wanted, abs={"robust": 0.2, "gradient": 0.01}.get(name, 1e-3))
        assert warped.grad is not None
        assert warped.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_masked_pixels_and_nan_reach_neither_value_nor_derivative(name: str) -> None:
    fixed, warped = random_image(1, 2, 16, 16), random_image(1, 2, 16, 16, seed=1)
    weight = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    weight[..., 10:] = 0
    spoilt_fixed, spoilt = fixed.clone(), warped.clone().requires_grad_()
    spoilt_fixed[..., 12:] = math.inf
    with torch.no_grad():
        spoilt[:, 0, :, 10:13] = math.nan
    want = LOSSES[name](fixed, warped, weight)
    for mask in (weight, None):  # NaN masks by itself
        got = LOSSES[name](spoilt_fixed, spoilt, mask)
        torch.testing.assert_close(got, want)
    got.sum().backward()
    assert spoilt.grad is not None
    assert spoilt.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_sliding_apart_does_not_win(name: str) -> None:
    """Two pictures of one scene with noise and a flat sky: no small overlap beats the true place."""
    scene, random = blobs(), torch.Generator().manual_seed(0)
    fixed, moving = (
        render(scene, (0.0, -12.0)) + 0.05 * torch.randn(1, 1, 40, 40, generator=random, dtype=torch.float64)
        for _ in range(2)
    )
    values = []
    for shift in range(0, 41, 2):  # the rows that leave are replaced by nothing
        weight = torch.ones(1, 1, 40, 40, dtype=torch.float64)
        weight[..., 40 - shift :, :] = 0
        values.append(LOSSES[name](fixed, moving.roll(-shift, dims=2), weight).item())
    assert np.argmin(values) == 0
    assert values[-1] == NO_OVERLAP


def test_ncc_keeps_its_digits_near_a_perfect_fit() -> None:
    fixed = random_image(1, 1, 64, 64)
    warped = fixed + 1e-5 * random_image(1, 1, 64, 64, seed=1)
    exact, single = ncc(fixed, warped).item(), ncc(fixed.float(), warped.float()).item()
    assert 0 < exact < 1e-9  # less than one last bit of 1 in float32
    assert single == pytest.approx(exact, rel=0.01)


def naive_gradient_pair(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The recipe of the web: a plain square root."""
    lengths = [torch.sqrt(dx**2 + dy**2) for dx, dy in map(central_differences, (first, second))]
    return (lengths[0] - lengths[1]).abs().mean()


def train(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], weight: float, lr: float, steps: int
) -> list[float]:
    """A small network learns to undo a blur and a gain from gradients; the picture has a flat region."""
    torch.manual_seed(0)
    target = render(blobs(), size=24).float()
    target[..., :10, :] = 0.25
    blurred = torch.nn.functional.avg_pool2d(target, 3, 1, 1, count_include_pad=False) * 0.5
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2, padding_mode="replicate"), torch.nn.ReLU(), torch.nn.Conv2d(6, 1, 1)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(network(blurred), target).mean()
        (weight * value).backward()
        optimizer.step()
        values.append(value.item())
    return [*values, *(parameter.sum().item() for parameter in network.parameters())]


@pytest.mark.parametrize("weight", [1.0, 1e-4])
@pytest.mark.parametrize("lr", [1e-2, 1e-6])
def test_plain_square_root_turns_parameters_to_nan_and_ours_does_not(weight: float, lr: float) -> None:
    assert all(math.isnan(value) for value in train(naive_gradient_pair, weight, lr, 3)[-4:])
    assert all(math.isfinite(value) for value in train(gradient_pair, weight, lr, 3))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_network_trained_with_the_gradient_pair_loss_converges(norm: str) -> None:
    values = train(lambda a, b: gradient_pair(a, b, norm=norm), 1.0, 1e-2, 300)
    assert all(math.isfinite(value) for value in values)
    assert values[299] < 0.25 * values[0]


@pytest.mark.parametrize(
    ("fixed", "warped", "weight", "message"),
    [
        ((1, 3, 8, 8), (1, 1, 8, 8), None, "one shape"),
        ((1, 1, 8, 8), (1, 1, 8, 9), None, "one shape"),
        ((8, 8), (8, 8), None, "one shape"),
        ((2, 1, 8, 8), (3, 1, 8, 8), None, "one shape"),
        ((1, 1, 0, 8), (1, 1, 0, 8), None, "hold pixels"),
        ((1, 2, 8, 8), (1, 2, 8, 8), (1, 2, 8, 8), "weight must be"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit_are_refused(
    name: str, fixed: tuple[int, ...], warped: tuple[int, ...], weight: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        LOSSES[name](torch.zeros(fixed), torch.zeros(warped), None if weight is None else torch.ones(weight))


def test_dtypes_and_options_that_cannot_work_are_refused() -> None:
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ShapeError, match="floating dtype"):
        ncc(image.int(), image.int())
    with pytest.raises(ShapeError, match="floating dtype"):
        ncc(image, image.double())
    with pytest.raises(OptionError, match="bins"):
        mi(image, image, bins=3)
    with pytest.raises(OptionError, match="sigma_px"):
        lncc(image, image, sigma_px=0)
    with pytest.raises(OptionError, match="norm"):
        gradient(image, image, norm="l3")  # type: ignore[arg-type]
