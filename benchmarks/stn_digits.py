"""A digit classifier with and without a spatial transformer in front, on randomly distorted digits.

Data: the 1,797 handwritten digits inside scikit-learn, 8 x 8 pixels, drawn anew into 28 x 28 each time, turned by up
to 60 degrees, scaled by 0.7 to 1.3, sheared by up to 0.3 and shifted by up to 5 px. Every epoch draws new distortions;
the test set is 539 digits never trained on, each distorted in four fixed ways.

Both networks have the same classifier, but the plain one is made wider until it has at least as many
parameters as the other has with its transformer. Same optimizer, steps, batches and distortions, seed by seed.

    python benchmarks/stn_digits.py --seeds 3 --picture benchmarks/out/stn_digits.png
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from imgalign.stn import SpatialTransformer, warp_bilinear

SIZE, CELL = 28, 2.0  # px of the canvas, and of a digit's pixel on it at scale 1
TEST_COPIES = 4


def digits(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images `(N, 1, 8, 8)` from 0 to 1 and labels: 70 % to train with, 30 % to test with."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
    images = torch.from_numpy(data.images).float()[order, None] / 16
    labels = torch.from_numpy(data.target).long()[order]
    cut = round(0.7 * len(labels))
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def distorted(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Each digit under its own rotation, scale, shear and shift, `(N, 1, SIZE, SIZE)`."""
    count = len(images)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=random, dtype=torch.float64)

    angle, scale, shear = uniform(-np.pi / 3, np.pi / 3), uniform(0.7, 1.3) * CELL, uniform(-0.3, 0.3)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    linear = torch.stack([cos, sin, -sin + shear * cos, cos + shear * sin], 1).view(count, 2, 2)
    shift = torch.stack([uniform(-5, 5), uniform(-5, 5)], 1)
    # A frame of empty pixels around the digit, for the sampler continues what lies on the border.
    framed = nn.functional.pad(images, (1, 1, 1, 1))
    centre_in, centre_out = 4.5, (SIZE - 1) / 2
    column = centre_in - (linear @ (centre_out + shift)[:, :, None])[:, :, 0]
    matrix = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    matrix[:, :2, :2], matrix[:, :2, 2] = linear, column
    return warp_bilinear(framed, matrix, size_hw=(SIZE, SIZE))


def classifier(width: int) -> nn.Sequential:
    """Two convolutions and two full layers."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (SIZE // 4) ** 2, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def parameters(network: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in network.parameters())


def networks(width: int) -> dict[str, nn.Module]:
    """The pair that is compared."""
    transformed = nn.Sequential(SpatialTransformer(1, model="affine", width=8), classifier(width))
    wider = width
    while parameters(classifier(wider)) < parameters(transformed):
        wider += 1
    return {"plain": classifier(wider), "transformer": transformed}


def train(network: nn.Module, seed: int, epochs: int) -> float:
    """Train, and give the error on the test set in per cent."""
    images, labels, test_images, test_labels = digits(seed)
    random = torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        if step % (len(images) // 64) == 0:
            order = torch.randperm(len(images), generator=random)
        batch = order[(step * 64) % (len(images) // 64 * 64) :][:64]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(distorted(images[batch], random)), labels[batch]).backward()
        optimizer.step()
        schedule.step()
    tests = distorted(test_images.repeat(TEST_COPIES, 1, 1, 1), torch.Generator().manual_seed(7))
    with torch.no_grad():
        wrong = network.eval()(tests).argmax(1) != test_labels.repeat(TEST_COPIES)
    return 100 * wrong.float().mean().item()


def picture(network: nn.Module, path: Path, seed: int) -> None:
    """A row a digit class: six test digits as they come, and the same as the transformer hands them on."""
    _, _, images, labels = digits(seed)
    transformer = network[0]  # type: ignore[index]
    rows = []
    for digit in range(10):
        some = images[labels == digit][:6]
        before = distorted(some, torch.Generator().manual_seed(digit))
        with torch.no_grad():
            after = transformer(before)
        rows.append(torch.cat([before, after])[:, 0])
    tiles = torch.stack(rows)  # (10, 12, SIZE, SIZE)
    tiles = nn.functional.pad(tiles, (1, 1, 1, 1), value=0.4)
    page = tiles.permute(0, 2, 1, 3).reshape(10 * (SIZE + 2), 12 * (SIZE + 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = Image.fromarray((255 * (1 - page.clamp(0, 1))).byte().numpy())
    grey.resize((2 * grey.width, 2 * grey.height), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Train all, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--width", type=int, default=12, help="channels of the classifier behind the transformer")
    parser.add_argument("--picture", type=Path, default=Path("benchmarks/out/stn_digits.png"))
    given = parser.parse_args()
    errors: dict[str, list[float]] = {"plain": [], "transformer": []}
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        for name, network in networks(given.width).items():
            began = time.perf_counter()
            errors[name].append(train(network, seed, given.epochs))
            print(
                f"seed {seed}, {name}: {parameters(network)} parameters, error {errors[name][-1]:.2f} % "
                f"({time.perf_counter() - began:.0f} s)",
                flush=True,
            )
            if name == "transformer" and seed == 0:
                picture(network, given.picture, seed)
    print("\n| network | error, % | by seed |\n|---|---|---|")
    for name, values in errors.items():
        by_seed = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {np.mean(values):.2f} ± {np.std(values, ddof=min(1, len(values) - 1)):.2f} | {by_seed} |")
    print(f"\nerrors left: {np.mean(errors['transformer']) / np.mean(errors['plain']):.2f} of the plain network's")


if __name__ == "__main__":
    main()
