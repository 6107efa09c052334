import json
from functools import cache

import numpy as np
import pytest
import torch
from other_device import FarTensor, OtherDevice
from scenes import Blobs, about_centre, corner_error
from scenes import pair as scene_pair

from imgalign.align import align, prepare
from imgalign.errors import DeviceError, OptionError
from imgalign.losses import LOSSES
from imgalign.numerics.devices import gathered
from imgalign.planes.intake import plane
from imgalign.refine.descent import descend
from imgalign.transforms import MODELS

SIZE = (104, 128)
SCENE = Blobs(41, 144, count=300, sigma=(2, 6))
NEAR = about_centre(SIZE, shift=(2.5, -1.2), angle_deg=2)
TURNED = about_centre(SIZE, shift=(6, -5), angle_deg=118)
TILTED = about_centre(SIZE, shift=(3, 2), angle_deg=-4, tilt=(4e-4, -3e-4))
HALF = np.linspace(0, 1, SIZE[1]) > 0.3
DISC = np.hypot(*(np.indices(SIZE) - np.array([50, 60])[:, None, None])) < 48

CASES = {
    "translate": (about_centre(SIZE, shift=(4.3, -2.6)), {"model": "translate"}),
    "rigid, turned": (TURNED, {"model": "rigid"}),
    "similarity, masked": (NEAR, {"model": "similarity", "mask": np.tile(HALF, (SIZE[0], 1)), "moving_mask": DISC}),
    "affine": (NEAR, {"model": "affine"}),
    "homography": (TILTED, {"model": "homography"}),
    "nothing in common": (None, {"model": "translate"}),
    "mi, Adam": (NEAR, {"model": "rigid", "loss": "mi", "optimizer": "adam", "levels": 1, "iterations": 4}),
}  # fmt: skip


def pictures(truth, noise=0.02):
    """The scene and its moved self, under a light that changes over the moving one, with noise of half a per cent."""
    rng = np.random.default_rng(3)
    fixed, moving = scene_pair(SCENE, SIZE, np.eye(3) if truth is None else truth)
    if truth is None:
        moving = scene_pair(Blobs(5, 144, count=300, sigma=(2, 6)), SIZE, np.eye(3))[0]
    light = 1 + 0.6 * np.linspace(-1, 1, SIZE[1]) ** 2
    return fixed + rng.normal(0, noise, SIZE), light * moving + 0.3 + rng.normal(0, noise, SIZE)


@cache
def on_the_cpu(case):
    truth, options = CASES[case]
    return align(*pictures(truth), **options)


def compared(case, device, within_px):
    """The same pair on the CPU and on a device must give the same answer, and the same opinion of it."""
    truth, options = CASES[case]
    here, there = on_the_cpu(case), align(*pictures(truth), device=device, **options)
    assert corner_error(there.moving_from_fixed, here.moving_from_fixed, SIZE) < within_px
    assert there.trusted == here.trusted
    assert there.status == here.status
    assert there.corner_sigma_px == pytest.approx(here.corner_sigma_px, rel=0.01)
    assert there.probability == pytest.approx(here.probability, abs=0.01)
    return here


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("case", list(CASES))
def test_another_device_gives_the_same_answer(case, kind):
    # Every operation is the CPU's own there: what differs is where float32 and float64 are used.
    with OtherDevice(kind) as device:
        here = compared(case, kind, within_px=1e-4)
    assert device.arrived > 0
    assert here.trusted == (CASES[case][0] is not None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("case", list(CASES))
def test_a_cuda_device_gives_the_same_answer(case):
    # Sums run in another order there, and neither FFT nor interpolation is that of the CPU.
    compared(case, "cuda", within_px=0.005)


@pytest.mark.parametrize(
    ("kind", "loss", "sampler"),
    [
        *(("mps", loss, "cubic") for loss in LOSSES),
        *(("mps", "ncc", sampler) for sampler in ("nearest", "bilinear")),
        *(("cuda", loss, "cubic") for loss in ("mi", "robust")),  # which use float64 where there is one
    ],
)
def test_every_loss_descends_alike_on_another_device(kind, loss, sampler):
    images = [torch.as_tensor(p, dtype=torch.float32)[None, None] for p in pictures(NEAR)]
    options = {"loss": loss, "optimizer": "sgd", "sampler": sampler, "lr": 20.0, "levels": 1, "iterations": 2}

    start = about_centre(SIZE, shift=(1.5, -0.6), angle_deg=2)

    def descended():
        pairs = [(image, torch.ones_like(image)) for image in images]
        return descend(*pairs, start, MODELS["affine"], **options)

    here, history, _ = descended()
    with OtherDevice(kind) as device:
        images = [image.to(device.place) for image in images]
        there, same, _ = descended()
    assert corner_error(here, start, SIZE) > 0.01
    assert corner_error(there, here, SIZE) < 1e-4
    assert same == pytest.approx(history, rel=1e-4)


def test_a_prepared_picture_lives_on_its_device():
    fixed, moving = pictures(NEAR)
    with OtherDevice("cuda"):
        ready = prepare(fixed, device="cuda")
        found = [align(x, moving, model="rigid", device="cuda").moving_from_fixed for x in (ready, fixed)]
        with pytest.raises(OptionError, match=r"prepared for cuda:0; give prepare\(\) the device"):
            align(ready, moving, model="rigid")
    assert isinstance(ready.at(1)[0], FarTensor)
    np.testing.assert_array_equal(*found)


def test_batches_on_a_device_stay_there():
    truths = [about_centre(SIZE, shift=(k, 1.5)) for k in (1.2, -2.4)]
    fixed, moving = (np.stack(p)[:, None] for p in zip(*(scene_pair(SCENE, SIZE, t) for t in truths), strict=True))
    with OtherDevice("cuda") as device:
        near, far = (torch.from_numpy(x).float().to(device.place) for x in (fixed, moving))
        found = align(near, far, model="translate", device="cuda")
    assert max(corner_error(a.moving_from_fixed, t, SIZE) for a, t in zip(found, truths, strict=True)) < 0.02


def test_the_command_line_takes_a_device(invoke, pair):
    with OtherDevice("cuda") as device:
        result = invoke("translate", pair.fixed, pair.moving, "--device", "cuda:0", "--json")
    assert result.exit_code == 0, result.stderr
    found = np.array(json.loads(result.stdout)["moving_from_fixed"])
    assert corner_error(found, pair.moving_from_fixed, (120, 144)) < 0.02
    assert device.arrived > 0


@pytest.mark.parametrize("name", ["cuda:1", "mps"])
def test_a_device_that_is_not_there_is_refused(name):
    with OtherDevice("cuda"), pytest.raises(DeviceError, match=f"no {name} device on this machine"):
        align(*pictures(NEAR), device=name)


@pytest.mark.parametrize("name", ["gpu", "cpu:0", "cuda:", "cuda:x", "mps:0"])
def test_a_device_of_unknown_name_is_refused(name):
    with pytest.raises(OptionError, match="choose auto, cpu, cuda, cuda:N or mps"):
        align(*pictures(NEAR), device=name)


def test_float64_pictures_are_made_float32_before_they_go():
    with OtherDevice("mps") as device:
        image, weight = plane(torch.ones(9, 12, dtype=torch.float64), None, device.place, "fixed").at(1)
    assert image.dtype == weight.dtype == torch.float32
    assert image.device == weight.device == device.place


def test_small_tensors_come_together():
    with OtherDevice("mps") as device:
        parts = [torch.full(shape, float(n)).to(device.place) for n, shape in enumerate([(2, 3), (), (4,)])]
        before = device.returned
        home = gathered(*parts)
    assert device.returned == before + 1
    for n, (numbers, shape) in enumerate(zip(home, [(2, 3), (), (4,)], strict=True)):
        assert numbers.dtype == np.float64
        assert np.array_equal(numbers, np.full(shape, float(n)))


class TestOtherDevice:
    """The stand-in refuses what a GPU refuses."""

    @pytest.fixture
    def device(self):
        with OtherDevice("mps") as device:
            yield device

    def test_tensors_say_where_they_live(self, device):
        x = torch.arange(4.0, device=device.place)
        for tensor in (x, x + 1, x[1:], torch.zeros_like(x), x.new_tensor([2.0]), torch.ones(2).to("mps")):
            assert tensor.device == device.place
        assert (x * 2).cpu().numpy().tolist() == [0, 2, 4, 6]
        assert float(x.sum()) == 6

    def test_tensors_of_two_devices_do_not_mix(self, device):
        x, here = torch.arange(4.0, device=device.place), torch.arange(4)
        for mixed in (
            lambda: x + here,
            lambda: x[here],
            lambda: torch.where(here > 1, x, 0.0),
            lambda: x @ here.float(),
        ):
            with pytest.raises(RuntimeError, match="tensor of the CPU"):
                mixed()

    def test_values_must_be_brought_back(self, device):
        with pytest.raises(TypeError, match=r"use Tensor.cpu\(\)"):
            torch.ones(3, device=device.place).numpy()

    def test_float64_is_unknown_to_mps(self, device):
        x = torch.ones(3, device=device.place)
        for made in (x.double, lambda: torch.ones(3).double().to(device.place), lambda: x.new_zeros(2).double()):
            with pytest.raises(TypeError, match="MPS has no"):
                made()

    def test_gradients_find_their_way_back(self, device):
        here = torch.ones(3, dtype=torch.float64, requires_grad=True)
        (here.to(torch.float32).to(device.place) ** 2).sum().backward()
        assert here.grad.tolist() == [2, 2, 2]
