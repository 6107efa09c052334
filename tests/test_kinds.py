import numpy as np
import pytest
import torch
from PIL import Image

from imgalign.alignment import Alignment
from imgalign.errors import ShapeError

HALF = Alignment("translate", np.array([[1, 0, 5], [0, 1, 0.5], [0, 0, 1]]), (20, 30), (20, 30))
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_come_back_as_arrays(shape, dtype):
    out = HALF.warp((RNG.random(shape) * 200).astype(dtype))
    assert (out.shape, out.dtype) == (shape, dtype)


@pytest.mark.parametrize("shape", [(20, 30), (3, 20, 30), (2, 3, 20, 30)])
def test_tensors_come_back_as_tensors_equal_to_arrays(shape):
    image = torch.rand(shape, requires_grad=True)
    out = HALF.warp(image)
    assert (out.shape, out.dtype, out.requires_grad) == (image.shape, image.dtype, False)
    first = image.detach().reshape(-1, 20, 30)[0].numpy()
    assert np.allclose(out.reshape(-1, 20, 30)[0].numpy(), HALF.warp(first), equal_nan=True)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize(("dtype", "opaque"), [(np.uint8, 255), (np.float32, 1)])
def test_alpha_of_arrays_and_tensors_is_no_colour(channels, dtype, opaque):
    """What is transparent does not shine through, and nothing lies outside: as in PIL images."""
    picture = np.full((20, 30, channels), 100, dtype)
    picture[..., -1] = opaque
    picture[:, :10] = 0  # transparent: its black must not darken the rim
    picture[:, :10, 0] = 7
    out = HALF.warp(picture)
    shown = out[..., -1] > 0.3 * opaque
    assert np.abs(out[shown][:, :-1] - 100.0).max() < 1.5
    assert not out[:, 25:, -1].any()  # where the picture does not reach
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(picture, -1, 0)))
    assert np.array_equal(np.moveaxis(HALF.warp(tensor).numpy(), 0, -1), out)
    assert np.array_equal(HALF.warp(torch.stack([tensor, tensor]))[1].numpy(), HALF.warp(tensor).numpy())
    filled = HALF.warp(picture, fill=(9,) * (channels - 1))
    assert (filled[:, 26] == [*(9,) * (channels - 1), opaque]).all()


def test_the_alpha_of_an_array_is_that_of_the_pil_image():
    picture = (RNG.random((20, 30, 4)) * 255).astype(np.uint8)
    assert np.array_equal(HALF.warp(picture), np.asarray(HALF.warp(Image.fromarray(picture))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_keep_their_dtype(dtype):
    image = (torch.rand(3, 20, 30) * 200).to(dtype)
    out = HALF.warp(image)
    assert out.dtype == dtype
    expected = HALF.warp(image.double())[:, :, :24]
    assert np.allclose(out[:, :, :24].double(), expected, rtol=2**-7)  # of bfloat16


@pytest.mark.parametrize(
    ("mode", "becomes"),
    [("L", "LA"), ("RGB", "RGBA"), ("RGBA", "RGBA"), ("1", "LA"), ("P", "RGBA"), ("F", "F"), ("I;16", "I;16")],
)
def test_pil_images_come_back_as_pil_images(mode, becomes):
    image = Image.fromarray((RNG.random((20, 30)) * 200).astype(np.uint16 if mode == "I;16" else np.uint8))
    out = HALF.warp(image if mode == "I;16" else image.convert(mode))
    assert (out.size, out.mode) == ((30, 20), becomes)


def test_a_fill_keeps_the_mode():
    assert HALF.warp(Image.new("RGB", (30, 20)), fill=0).mode == "RGB"


def test_canvas_changes_the_size():
    assert HALF.warp(np.zeros((20, 30)), canvas="union").shape == (21, 35)
    assert HALF.warp(np.zeros((20, 30)), canvas="intersection").shape == (20, 25)


def test_another_size_is_refused():
    with pytest.raises(ShapeError, match="the picture is 30 x 10, the alignment is for a moving picture of 30 x 20"):
        HALF.warp(np.zeros((10, 30)))
    with pytest.raises(ShapeError, match="got str"):
        HALF.warp("picture.png")
