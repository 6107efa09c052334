"""TIFFs that tifffile does not unpack by itself, written here by the letter of the specification."""

import math
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from imgalign.errors import ImageReadError
from imgalign.files import images

NONE, LZW, PACKBITS = 1, 5, 32773
GREY, RGB, CMYK, YCBCR = 1, 2, 5, 6


def lzw(data):
    """Literals only, the table cleared before codes need a tenth bit."""
    codes = "".join(f"{256:09b}" * (i % 200 == 0) + f"{byte:09b}" for i, byte in enumerate(data)) + f"{257:09b}"
    return int(codes.ljust(math.ceil(len(codes) / 8) * 8, "0"), 2).to_bytes(math.ceil(len(codes) / 8), "big")


def packbits(data):
    """Runs of one byte, then copies of up to 128."""
    runs, rest = b"", data
    while len(rest) > 1 and rest[0] == rest[1]:
        count = min(128, len(rest) - len(rest.lstrip(rest[:1])))
        runs, rest = runs + bytes([(1 - count) % 256, rest[0]]), rest[count:]
    return runs + b"".join(
        bytes([len(part) - 1]) + part for part in (rest[i : i + 128] for i in range(0, len(rest), 128))
    )


PACK = {NONE: bytes, LZW: lzw, PACKBITS: packbits}


def tiff(path, parts, size_hw, *, bits, samples=1, order="<", tile=None, rows=None, pack=NONE, **tags):
    """A TIFF of parts that are bytes already; further tags by their number, as `t338=[0]`."""
    parts = [PACK[pack](part) for part in parts]
    starts = np.cumsum([8, *map(len, parts)]).tolist()
    offsets = [start if part else 0 for start, part in zip(starts, parts, strict=False)]
    values = {
        256: [size_hw[1]], 257: [size_hw[0]], 258: [bits] * samples, 259: [pack], 262: [GREY], 277: [samples],
        **({322: [tile[1]], 323: [tile[0]], 324: offsets, 325: [*map(len, parts)]} if tile else
           {273: offsets, 278: [rows or size_hw[0]], 279: [*map(len, parts)]}),
        **{int(name[1:]): value for name, value in tags.items()},
    }  # fmt: skip
    beyond, entries = starts[-1] + 2 + 12 * len(values) + 4, b""
    lists = b""
    for tag, numbers in sorted(values.items()):
        entry = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            lists, entry = lists + entry, struct.pack(f"{order}I", beyond + len(lists))
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + entry
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, starts[-1])
    path.write_bytes(head + b"".join(parts) + struct.pack(f"{order}H", len(values)) + entries + bytes(4) + lists)
    return path


def noise(dtype, *shape):
    rng = np.random.default_rng(1)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def parts_of(pixels, order, *, apart, tile=None, rows=None):
    """Strips or tiles of `(H, W, C)`, planes one after another where they are apart."""
    (h, w, _), (th, tw) = pixels.shape, tile or (rows or pixels.shape[0], pixels.shape[1])
    padded = np.pad(pixels, ((0, -h % th if tile else 0), (0, -w % tw if tile else 0), (0, 0)))
    padded = padded.astype(pixels.dtype.newbyteorder(order))
    planes = np.split(padded, pixels.shape[2], axis=2) if apart else [padded]
    return [p[y : y + th, x : x + tw].tobytes() for p in planes for y in range(0, h, th) for x in range(0, w, tw)]


@pytest.mark.parametrize("pack", [LZW, PACKBITS])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", [{"rows": 5}, {"tile": (16, 16)}], ids=["strips", "tiles"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("photometric", [GREY, RGB])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "f4", "f8"])
def test_every_layout_is_read_as_it_lies(tmp_path, dtype, photometric, apart, layout, order, pack):
    for channels in (1, 2, 3, 5) if photometric == GREY else (3, 4, 5):
        pixels = noise(dtype, 21, 19, channels)
        beyond = channels - (1 if photometric == GREY else 3)
        parts = parts_of(pixels, order, apart=apart, **layout)
        tags = {"t262": [photometric], "t284": [1 + apart], "t339": [{"u": 1, "i": 2, "f": 3}[dtype[0]]] * channels}
        tags |= {"t338": [0] * beyond} if beyond else {}
        bits = 8 * pixels.itemsize
        path = tiff(
            tmp_path / "a.tif", parts, (21, 19), bits=bits, samples=channels, order=order, pack=pack, **layout, **tags
        )
        picture = images.read(path)
        np.testing.assert_array_equal(picture.pixels, pixels[..., 0] if channels == 1 else pixels)
        assert (picture.pixels.dtype, picture.has_alpha) == (np.dtype(dtype), False)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4"])
def test_differences_are_summed_in_the_dtype(tmp_path, dtype):
    pixels = noise(dtype, 6, 9, 3)
    steps = pixels.astype(f"u{pixels.itemsize}")
    steps[:, 1:] -= steps[:, :-1].copy()
    sample_format = [2 if dtype[0] == "i" else 1] * 3
    path = tiff(
        tmp_path / "a.tif", [steps.astype(steps.dtype.newbyteorder(">")).tobytes()], (6, 9), bits=8 * pixels.itemsize,
        samples=3, order=">", pack=LZW, t262=[RGB], t317=[2], t339=sample_format,
    )  # fmt: skip
    np.testing.assert_array_equal(images.read(path).pixels, pixels)


@pytest.mark.parametrize("pack", [NONE, LZW])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_differences_of_floats_go_by_bytes(tmp_path, dtype, order, pack):
    pixels = noise(dtype, 6, 9, 3)
    size = pixels.itemsize
    by_byte = pixels.astype(f">{dtype}").view("u1").reshape(6, 27, size).swapaxes(1, 2).reshape(6, -1, 3)
    steps = by_byte.copy()
    steps[:, 1:] -= by_byte[:, :-1]
    path = tiff(
        tmp_path / "a.tif", [steps.tobytes()], (6, 9), bits=8 * size, samples=3, order=order, pack=pack,
        t262=[RGB], t317=[3], t339=[3] * 3,
    )  # fmt: skip
    np.testing.assert_array_equal(images.read(path).pixels, pixels)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_opencvs_lzw_and_its_float_differences_are_read(tmp_path, dtype, channels):
    cv2 = pytest.importorskip("cv2")
    pixels = noise(dtype, 40, 30, channels)
    for scheme in (5, 8):
        cv2.imwrite(str(tmp_path / "a.tif"), pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, scheme])
        assert np.array_equal(images.read(tmp_path / "a.tif").pixels, pixels[..., 0] if channels == 1 else pixels)


@pytest.mark.parametrize("scheme", [1, 5, 8])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_opencvs_fourth_channel_is_alpha_though_it_does_not_say_so(tmp_path, dtype, scheme):
    cv2 = pytest.importorskip("cv2")
    pixels = noise(dtype, 40, 30, 4)
    cv2.imwrite(str(tmp_path / "a.tif"), pixels[..., [2, 1, 0, 3]], [cv2.IMWRITE_TIFF_COMPRESSION, scheme])
    picture = images.read(tmp_path / "a.tif")
    assert picture.has_alpha
    np.testing.assert_array_equal(picture.pixels, pixels)


@pytest.mark.parametrize("pack", [NONE, LZW])
@pytest.mark.parametrize(("bits", "factor"), [(1, 255), (2, 85), (4, 17), (12, 1)])
def test_samples_of_a_few_bits_are_read(tmp_path, bits, factor, pack):
    """Up to 4 bits on the scale of 0 to 255, as in PNG; every row begins on a byte."""
    numbers = noise("u2", 5, 7) % 2**bits
    rows = ["".join(f"{n:0{bits}b}" for n in row) for row in numbers.tolist()]
    size = math.ceil(7 * bits / 8)
    part = b"".join(int(row.ljust(8 * size, "0"), 2).to_bytes(size, "big") for row in rows)
    pixels = images.read(tiff(tmp_path / "a.tif", [part], (5, 7), bits=bits, pack=pack)).pixels
    np.testing.assert_array_equal(pixels, numbers * factor)
    assert pixels.dtype == (np.uint16 if bits > 8 else np.uint8)


def test_bytes_with_their_lowest_bit_first_are_turned(tmp_path):
    pixels = noise("u1", 5, 7)
    turned = np.packbits(np.unpackbits(pixels).reshape(-1, 8)[:, ::-1]).tobytes()
    assert np.array_equal(images.read(tiff(tmp_path / "a.tif", [turned], (5, 7), bits=8, t266=[2])).pixels, pixels)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_is_read(tmp_path, compression):
    drawing = np.add.outer(np.arange(40), np.arange(51) // 3) % 9 < 4
    Image.fromarray(drawing).save(tmp_path / "a.tif", compression=compression)
    picture = images.read(tmp_path / "a.tif")
    assert np.array_equal(picture.pixels, drawing * np.uint8(255))
    images.write(tmp_path / "b.png", picture.pixels, like=picture)
    with Image.open(tmp_path / "b.png") as again:
        assert again.mode == "1"


def test_white_as_zero_is_turned_in_sixteen_bits(tmp_path):
    pixels = noise("u2", 5, 7, 1)
    path = tiff(tmp_path / "a.tif", parts_of(pixels, "<", apart=False), (5, 7), bits=16, pack=LZW, t262=[0])
    assert np.array_equal(images.read(path).pixels, 65535 - pixels[..., 0])


def test_alpha_that_was_multiplied_in_is_divided_out_of_planes(tmp_path):
    pixels = np.full((4, 4, 4), (50, 100, 0, 128), np.uint8)
    path = tiff(
        tmp_path / "a.tif", parts_of(pixels, "<", apart=True), (4, 4), bits=8, samples=4, pack=LZW,
        t262=[RGB], t284=[2], t338=[1],
    )  # fmt: skip
    assert images.read(path).pixels[0, 0].tolist() == [100, 199, 0, 128]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("dtype", "full"), [("u1", 255), ("u2", 65535)])
def test_inks_become_light(tmp_path, dtype, full, apart):
    inks = np.array([[[0, 0, 0, 0], [full, 0, 0, 0], [0, 0, 0, full], [0, full // 5, 0, full // 3]]], dtype)
    path = tiff(
        tmp_path / "a.tif", parts_of(inks, "<", apart=apart), (1, 4), bits=8 * inks.itemsize, samples=4, pack=LZW,
        t262=[CMYK], t284=[1 + apart],
    )  # fmt: skip
    light = [[1, 1, 1], [0, 1, 1], [0, 0, 0], [2 / 3, 2 / 3 * 4 / 5, 2 / 3]]
    np.testing.assert_allclose(images.read(path).pixels[0], np.array(light) * full, atol=0.5)


def test_parts_that_the_file_leaves_out_hold_nothing(tmp_path):
    pixels = noise("u1", 6, 4, 1)
    path = tiff(tmp_path / "a.tif", [lzw(pixels[:3].tobytes()), b""], (6, 4), bits=8, rows=3, t259=[LZW])
    assert images.read(path).pixels.tolist() == [*pixels[:3, :, 0].tolist(), *[[0] * 4] * 3]


@pytest.mark.parametrize("pack", [LZW, PACKBITS])
def test_a_damaged_strip_is_said_to_be_damaged(tmp_path, pack):
    pixels = noise("u1", 30, 40, 3)
    parts = [PACK[pack](part) for part in parts_of(pixels, "<", apart=False, rows=10)]
    parts[1] = parts[1][:200]
    path = tiff(tmp_path / "a.tif", parts, (30, 40), bits=8, samples=3, rows=10, t259=[pack], t262=[RGB])
    with pytest.raises(ImageReadError, match=r"a.tif: is damaged: strip or tile one from 0 to 2 cannot be unpacked"):
        images.read(path)


def test_a_strip_too_few_is_said_to_be_damaged(tmp_path):
    parts = parts_of(noise("u1", 30, 40, 1), "<", apart=False, rows=10)
    path = tiff(tmp_path / "a.tif", parts[:2], (30, 40), bits=8, rows=10, pack=LZW)
    with pytest.raises(ImageReadError, match=r"is damaged: it lists 2 of 3 strips or tiles"):
        images.read(path)


def behind_the_strips(path):
    """The beginnings of a file that has its pixels in front, and what is said of them behind."""
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[0].offset
    return [whole[:size] for size in range(start, len(whole), 5)]


@pytest.mark.parametrize("kind", ["palette", "RGBA", "floats"])
def test_what_is_said_of_pixels_must_be_there_whole(tmp_path, kind):
    """Without its palette, its channels' meaning or their format a picture is another one."""
    path = tmp_path / "a.tif"
    if kind == "floats":
        tiff(path, [noise("f4", 9, 7, 3).tobytes()], (9, 7), bits=32, samples=3, t262=[RGB], t339=[3, 3, 3])
    else:
        image = Image.fromarray(noise("u1", 9, 7, 4))
        (image.convert("RGB").quantize(16) if kind == "palette" else image).save(path, compression="tiff_lzw")
    whole = images.read(path).pixels
    for part in behind_the_strips(path):
        path.write_bytes(part)
        try:
            np.testing.assert_array_equal(images.read(path).pixels, whole)
        except ImageReadError as error:
            assert "truncated" in str(error) or "damaged" in str(error)  # noqa: PT017 - either way is right


def test_tags_of_large_tiffs_are_looked_at_too(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels := noise("u1", 9, 7, 3), bigtiff=True, photometric="rgb")
    assert np.array_equal(images.read(tmp_path / "a.tif").pixels, pixels)


def test_a_palette_picture_needs_its_palette(tmp_path):
    with pytest.raises(ImageReadError, match=r"is damaged: .* a palette that is not in the file"):
        images.read(tiff(tmp_path / "a.tif", [bytes(4)], (2, 2), bits=8, t262=[3]))


def test_numbers_of_no_format_are_not_called_complex(tmp_path):
    with pytest.raises(ImageReadError, match=r"of 1 bits in the format 3, which there are not; copy it again"):
        images.read(tiff(tmp_path / "a.tif", [bytes(4)], (2, 2), bits=1, t339=[3]))


def saved_jpeg(path, mode):
    rows = np.linspace(20, 230, 48)[:, None, None] * np.ones((48, 64, 1))
    pixels = np.concatenate([rows, rows[::-1], rows * 0 + 90, rows * 0 + 30], -1).astype(np.uint8)
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    image = Image.fromarray(
        pixels[..., 0] if channels == 1 else pixels[..., :channels], mode if mode == "CMYK" else None
    )
    image.save(path, compression="jpeg", quality=98)
    return np.asarray(image.convert("RGB") if mode == "CMYK" else image)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_in_a_tiff_are_read(tmp_path, mode):
    expected = saved_jpeg(tmp_path / "a.tif", mode)
    picture = images.read(tmp_path / "a.tif")
    assert picture.pixels.shape == expected.shape
    assert np.abs(picture.pixels.astype(int) - expected).max() < 6
    assert picture.metadata.resolution is None


def test_jpegs_in_planes_are_not_taken_for_others(tmp_path):
    """The tag of a JPEG in one plane changed: what matters is that nothing is guessed."""
    saved_jpeg(tmp_path / "a.tif", "RGB")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tif:
        tif.pages[0].tags["PlanarConfiguration"].overwrite(2)
    with pytest.raises(ImageReadError, match="imagecodecs"):
        images.read(tmp_path / "a.tif")


def test_colour_differences_are_turned_into_colours(tmp_path):
    """Y, Cb and Cr of full range, as in JFIF: grey, and a red whose rounding Cr shows."""
    pixels = np.array([[[50, 128, 128], [200, 128, 128], [76, 85, 255], [76, 85, 255]]], np.uint8)
    ratios = [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="ycbcr", subsampling=(1, 1), metadata=None,
                     extratags=[(532, 5, 6, ratios, True)])  # fmt: skip
    expected = [[50, 50, 50], [200, 200, 200], [254, 0, 0], [254, 0, 0]]
    assert np.abs(images.read(path).pixels[0].astype(int) - expected).max() <= 2


def test_lab_is_refused(tmp_path):
    path = tiff(tmp_path / "a.tif", [bytes(12)], (2, 2), bits=8, samples=3, t262=[8])
    with pytest.raises(ImageReadError, match=r"holds colours as CIELAB.*save it as RGB"):
        images.read(path)
