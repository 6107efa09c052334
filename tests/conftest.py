"""Pictures from formulas, the command line in this process, and the command line as a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors, and perhaps a test process for each core


def scene(x, y):
    """A smooth picture without repetition, 0 to 1, for any coordinates: blobs of several sizes."""
    rng = np.random.default_rng(7)
    total = np.zeros(np.broadcast(x, y).shape)
    for number in range(300):
        low, high = (4, 12) if number < 50 else (1.5, 4)
        cx, cy, sigma, height = rng.uniform(-40, 200), rng.uniform(-40, 200), rng.uniform(low, high), rng.uniform(-1, 1)
        total += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return 0.5 + 0.35 * np.tanh(total)


def render(size_hw, scene_from_picture=None, dtype=np.uint8):
    """The scene seen through a matrix, as integers of full range or as floats."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(float)
    points = np.stack([x, y, np.ones_like(x)])
    px, py, pz = np.einsum("ij,jhw->ihw", np.eye(3) if scene_from_picture is None else scene_from_picture, points)
    values = scene(px / pz, py / pz)
    if np.issubdtype(dtype, np.integer):
        return (values * np.iinfo(dtype).max + 0.5).astype(dtype)
    return values.astype(dtype)


def shift(x, y):
    """The matrix that moves points by (x, y)."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


@dataclass(frozen=True)
class Pair:
    """Two files and the truth."""

    fixed: Path
    moving: Path
    moving_from_fixed: np.ndarray


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pair(workdir):
    """fixed.png and moving.png in the working folder, 120 x 144, shifted by a known amount."""
    truth = shift(3.25, -2.5)
    Image.fromarray(render((120, 144))).save(workdir / "fixed.png")
    Image.fromarray(render((120, 144), np.linalg.inv(truth))).save(workdir / "moving.png")
    return Pair(Path("fixed.png"), Path("moving.png"), truth)


@pytest.fixture
def invoke():
    """Run the command line in this process; gives exit_code, stdout, stderr."""
    from imgalign.cli import cli

    def call(*arguments, **options):
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="imgalign", **options)

    return call


@pytest.fixture
def fake_align(monkeypatch):
    """Put a quick stand-in in the place of `align`: it returns the truth, changed by `outcomes[number of the call]`."""
    from imgalign.alignment import Alignment

    calls, outcomes = [], {}

    def align(fixed, moving, *, model="affine", **options):
        calls.append({"model": model, **options})
        outcome = outcomes.get(len(calls), {})
        if isinstance(outcome, Exception):
            raise outcome
        fields = {
            "model": model,
            "moving_from_fixed": shift(3.25, -2.5),
            "fixed_size_hw": np.shape(fixed)[:2],
            "moving_size_hw": np.shape(moving)[:2],
            "status": "converged",
            "trusted": True,
            "probability": 0.97,
            "corner_covariance": np.eye(8) * 1e-4,
            "options": {"model": model, "seed": options.get("seed")},
            **outcome,
        }
        return Alignment(**fields)

    def prepare(picture, *, mask=None, device="auto", copy=True):
        prepared.append({"picture": picture, "mask": mask, "device": device})
        return picture

    prepared = []
    align.calls, align.outcomes, align.prepared = calls, outcomes, prepared
    module = ModuleType("imgalign.align")
    module.align, module.prepare = align, prepare
    monkeypatch.setitem(sys.modules, "imgalign.align", module)
    return align


@pytest.fixture
def process(workdir):
    """Run `python -m imgalign` as a process of its own in the working folder."""

    def call(*arguments, **environment):
        command = [sys.executable, "-m", "imgalign", *map(str, arguments)]
        everything = {**os.environ, "PYTHONPATH": str(ROOT), **environment}  # a checkout need not be installed
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=everything)

    return call


def json_lines(text):
    """Every line of a text as JSON."""
    return [json.loads(line) for line in text.splitlines()]


def opened(name):
    """A picture file, read and closed."""
    with Image.open(name) as image:
        image.load()
        return image.copy()


def pixels(name):
    """A picture file as an array."""
    return np.asarray(opened(name))
