import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps, features

from imgalign.errors import ImageReadError, WriteError
from imgalign.files import images, png, tiff

RNG = np.random.default_rng(0)
AT_FIRST = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_noise_in_any_order():
    RNG.bit_generator.state = AT_FIRST


def noise(dtype, *shape):
    if np.dtype(dtype).kind == "f":
        return (RNG.normal(size=shape) * 100).astype(dtype)
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("compression", ["fast", "small", "none"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_written_pictures_read_back_bit_by_bit(tmp_path, dtype, channels, suffix, compression):
    pixels = noise(dtype, 37, 53, *channels)
    images.write(tmp_path / f"a{suffix}", pixels, compression=compression)
    picture = images.read(tmp_path / f"a{suffix}")
    assert picture.pixels.dtype == pixels.dtype
    assert np.array_equal(picture.pixels, pixels)
    assert picture.has_alpha == (channels in ((2,), (4,)))


@pytest.mark.parametrize("dtype", ["i1", "i2", "u4", "i4", "f2", "f4", "f8", ">u2", ">f4"])
@pytest.mark.parametrize("channels", [(), (2,), (3,), (5,)])
def test_tiff_holds_every_number(tmp_path, dtype, channels):
    pixels = noise(dtype.lstrip(">"), 20, 30, *channels).astype(dtype)
    if pixels.dtype.kind == "f":
        pixels[3, 4] = np.nan
    images.write(tmp_path / "a.tif", pixels, has_alpha=False)
    picture = images.read(tmp_path / "a.tif")
    assert np.array_equal(picture.pixels, pixels, equal_nan=pixels.dtype.kind == "f")
    assert picture.pixels.dtype == pixels.dtype.newbyteorder("=")


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_pngs_are_what_opencv_reads(tmp_path, dtype):
    cv2 = pytest.importorskip("cv2")
    pixels = noise(dtype, 70, 50, 3)
    images.write(tmp_path / "a.png", pixels)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)[..., ::-1], pixels)


def test_pngs_of_drawings_and_of_photographs_are_each_packed_their_own_way(tmp_path):
    """In several blocks, and hardly larger than Pillow's at its fastest."""
    y, x = np.mgrid[:700, :900]
    drawing = np.where((x // 16 * 7 + y // 16 * 3) % 5 < 2, 255, x // 16 % 9).astype(np.uint8)
    photograph = 128 + 90 * np.sin(x / 31) * np.cos(y / 23) + np.random.default_rng(0).normal(0, 4, x.shape)
    for pixels in (drawing, photograph.astype(np.uint8)):
        images.write(tmp_path / "ours.png", pixels, overwrite=True)
        saved(tmp_path / "pillows.png", pixels, compress_level=1)
        assert np.array_equal(images.read(tmp_path / "ours.png").pixels, pixels)
        assert (tmp_path / "ours.png").stat().st_size < 1.15 * (tmp_path / "pillows.png").stat().st_size


@pytest.mark.parametrize("lzw", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_deep_colour_from_opencv_keeps_sixteen_bits(tmp_path, suffix, lzw):
    cv2 = pytest.importorskip("cv2")
    pixels = noise("u2", 40, 30, 3)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5 if lzw else 1] if suffix == ".tif" else []
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels[..., ::-1], options)
    assert np.array_equal(images.read(tmp_path / f"a{suffix}").pixels, pixels)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize(
    ("mode", "shape", "words"),
    [("1", (9, 7), ""), ("P", (9, 7, 3), "palette"), ("CMYK", (9, 7, 3), "CMYK"), ("LA", (9, 7, 2), "")],
)
def test_other_modes_become_plain_pixels(tmp_path, mode, shape, words, compression):
    Image.fromarray(noise("u1", 9, 7, 3)).convert(mode).save(tmp_path / "a.tif", compression=compression)
    picture = images.read(tmp_path / "a.tif")
    assert picture.pixels.shape == shape
    assert picture.pixels.dtype == np.uint8
    assert words in " ".join(picture.notes)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".bmp"])
def test_a_resolution_is_kept_and_none_made_up(tmp_path, suffix, compression):
    image = Image.fromarray(noise("u1", 8, 8, 3))
    for dpi in (None, (300, 200)):
        image.save(tmp_path / "a.tif", compression=compression, **({"dpi": dpi} if dpi else {}))
        picture = images.read(tmp_path / "a.tif")
        images.write(tmp_path / f"b{suffix}", picture.pixels, like=picture, overwrite=True)
        again = images.read(tmp_path / f"b{suffix}").metadata.resolution
        said = None if again is None else again.dpi
        assert said == (None if dpi is None else pytest.approx(dpi, abs=0.1))


def test_micrometres_of_imagej_are_kept_as_it_writes_them(tmp_path):
    """A lone byte of Latin-1, as some versions wrote it, and the escape of the others."""
    tifffile.imwrite(tmp_path / "a.tif", noise("u1", 8, 8), imagej=True, resolution=(2.5, 2.5), metadata={"unit": "um"})
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data.replace(b"unit=um\n", b"unit=\xb5m\n"))
    picture = images.read(tmp_path / "a.tif")
    images.write(tmp_path / "b.tif", picture.pixels, like=picture)
    assert b"unit=\\u00B5m\n" in (tmp_path / "b.tif").read_bytes()
    again = images.read(tmp_path / "b.tif").metadata.resolution
    assert (again.x, again.y, again.unit, again.length) == (2.5, 2.5, "none", "\\u00B5m")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".lzw.tif"])
def test_orientation_is_applied_and_reset(tmp_path, orientation, suffix):
    pixels = np.kron(noise("u1", 2, 3), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    options = {".jpg": {"quality": 100}, ".lzw.tif": {"compression": "tiff_lzw"}}.get(suffix, {})
    path = saved(tmp_path / f"a{suffix}", pixels, exif=exif.tobytes(), **options)
    same = path if suffix == ".jpg" else saved(tmp_path / "same.png", pixels, exif=exif.tobytes())
    with Image.open(same) as image:  # Pillow turns TIFF on its own, so that a PNG says what is expected
        expected = np.asarray(ImageOps.exif_transpose(image))
    picture = images.read(path)
    assert np.array_equal(picture.pixels, expected)
    if "tif" not in suffix:
        images.write(tmp_path / "b.png", picture.pixels, like=picture)
        with Image.open(tmp_path / "b.png") as image:
            assert (image.getexif()[0x0112], image.getexif()[0x010F]) == (1, "Maker")


@pytest.mark.parametrize("source", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".tif"])
def test_profile_and_resolution_travel(tmp_path, source, target):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    saved(tmp_path / f"a{source}", noise("u1", 8, 8, 3), icc_profile=profile, dpi=(300, 150))
    picture = images.read(tmp_path / f"a{source}")
    images.write(tmp_path / f"b{target}", picture.pixels, like=picture)
    with Image.open(tmp_path / f"b{target}") as image:
        assert image.info["icc_profile"] == profile
        assert [float(v) for v in image.info["dpi"]] == pytest.approx([300, 150], abs=0.1)


def test_a_palette_comes_back_where_its_colours_do(tmp_path):
    labels = noise("u1", 20, 20) % 7
    image = Image.fromarray(labels).convert("P")
    image.putpalette([v for i in range(7) for v in (i * 30, 255 - i, i)])
    image.save(tmp_path / "labels.png")
    picture = images.read(tmp_path / "labels.png")
    images.write(tmp_path / "same.png", picture.pixels, like=picture)
    with Image.open(tmp_path / "same.png") as again:
        assert again.mode == "P"
        assert np.array_equal(np.asarray(again), labels)
    other = picture.pixels.copy()
    other[0, 0] = (1, 2, 3)
    images.write(tmp_path / "other.png", other, like=picture)
    assert np.array_equal(images.read(tmp_path / "other.png").pixels, other)


@pytest.mark.parametrize("suffix", [".bmp", ".pcx", ".tga", ".gif", ".png"])
def test_palettes_of_every_format_are_looked_up(tmp_path, suffix):
    image = Image.fromarray(labels := noise("u1", 20, 20) % 7).convert("P")
    image.putpalette(colours := [v for i in range(256) for v in (i, 255 - i, i // 2)])
    image.save(tmp_path / f"a{suffix}")
    assert np.array_equal(images.read(tmp_path / f"a{suffix}").pixels, np.reshape(colours, (256, 3))[labels])


def test_transparency_is_added_to_a_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "p.png")
    picture = images.read(tmp_path / "p.png")
    pixels = np.concatenate([picture.pixels, np.array([[[255], [0]]], np.uint8)], -1)
    images.write(tmp_path / "q.png", pixels, like=picture)
    with Image.open(tmp_path / "q.png") as again:
        assert again.mode == "P"
        assert again.convert("RGBA").getpixel((1, 0))[3] == 0


def test_bits_come_back_where_nothing_is_grey(tmp_path):
    saved(tmp_path / "a.png", noise("u1", 9, 13) > 127)
    picture = images.read(tmp_path / "a.png")
    images.write(tmp_path / "b.png", picture.pixels, like=picture)
    with Image.open(tmp_path / "b.png") as again:
        assert again.mode == "1"
        assert np.array_equal(np.asarray(again) * 255, picture.pixels)


def test_pages_are_named_noted_and_counted_from_zero(tmp_path):
    pages = noise("u2", 3, 8, 9)
    tifffile.imwrite(tmp_path / "s.tif", pages, photometric="minisblack")
    first = images.read(tmp_path / "s.tif")
    assert np.array_equal(first.pixels, pages[0])
    assert "3 pages: the first is used; name another as s.tif[1]" in first.notes[0]
    assert np.array_equal(images.read(f"{tmp_path}/s.tif[2]").pixels, pages[2])
    assert images.read(tmp_path / "s.tif", page=1).notes == ()
    with pytest.raises(ImageReadError, match="has 3 pages, counted from 0; there is no page 3"):
        images.read(f"{tmp_path}/s.tif[3]")


@pytest.mark.parametrize("writer", [{"imagej": True}, {}])
@pytest.mark.parametrize(("dtype", "shape"), [("u2", (4, 8, 9)), ("f4", (2, 2, 8, 9)), ("u1", (4, 8, 9, 3))])
def test_pages_without_directories_are_counted_and_read(tmp_path, writer, dtype, shape):
    """As ImageJ writes stacks beyond 4 GB."""
    pages = noise(dtype, *shape)
    kind = "rgb" if shape[-1] == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "s.tif", pages, photometric=kind, truncate=True, **writer)
    flat = pages.reshape(4, *(shape[1:] if shape[0] == 4 else shape[2:]))
    assert "4 pages: the first is used" in images.read(tmp_path / "s.tif").notes[0]
    assert images.page_count(tmp_path / "s.tif") == 4
    for index in range(4):
        assert np.array_equal(images.read(tmp_path / "s.tif", page=index).pixels, flat[index])
    whole = (tmp_path / "s.tif").read_bytes()
    (tmp_path / "s.tif").write_bytes(whole[: whole.index(flat[3].astype(f"<{dtype}").tobytes()) + 9])
    with pytest.raises(ImageReadError, match="truncated|there is no page 3"):
        images.read(tmp_path / "s.tif", page=3)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.fromarray(noise("u1", 8, 8)) for _ in range(2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert "has 2 pages" in " ".join(images.read(tmp_path / "a.gif").notes)
    assert images.read(f"{tmp_path}/a.gif[1]").size_hw == (8, 8)


@pytest.mark.parametrize("name", ["a[0].png", "a.png[0]", "new\nline.png", "-dash.png", "ü 星.png"])
def test_files_are_found_under_their_literal_names(tmp_path, name):
    pixels = noise("u1", 4, 5)
    with (tmp_path / name).open("wb") as file:
        Image.fromarray(pixels).save(file, "PNG")
    assert np.array_equal(images.read(tmp_path / name).pixels, pixels)


def png_bytes():
    from io import BytesIO

    out = BytesIO()
    Image.fromarray(noise("u1", 64, 64, 3)).save(out, "PNG")
    return out.getvalue()


BAD = {
    "empty.png": (b"", "is empty"),
    "text.png": (b"hello\nworld", "is text, no picture .it begins with 'hello'"),
    "binary.jpg": (bytes(range(128, 255)) * 9, "in no format known here"),
    "cut.png": (png_bytes()[:3000], "is truncated"),
    "head.png": (png_bytes()[:20], "truncated"),
    "junk.tif": (b"II*\0" + b"\xff" * 50, "damaged|truncated"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_named_with_a_reason(tmp_path, name):
    (tmp_path / name).write_bytes(BAD[name][0])
    with pytest.raises(ImageReadError, match=BAD[name][1]) as caught:
        images.read(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "deflated tiff", "lzw tiff"])
def test_truncated_pictures_are_refused(tmp_path, kind, share):
    path = tmp_path / f"a.{kind.split()[-1]}"
    pixels = noise("u1", 90, 90, 3)
    if kind == "deflated tiff":
        tifffile.imwrite(path, pixels, compression="zlib", rowsperstrip=10)
    else:
        saved(path, pixels, **({"compression": "tiff_lzw"} if "lzw" in kind else {}))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageReadError, match=r"truncated|damaged"):
        images.read(path)


def test_an_empty_pipe_is_empty():
    with pytest.raises(ImageReadError, match=r"/dev/null: is empty"):
        images.read("/dev/null")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ImageReadError, match="no such file"):
        images.read(tmp_path / "no.png")
    with pytest.raises(ImageReadError, match="is a folder"):
        images.read(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_too_many_pixels_are_refused_before_decoding(tmp_path, suffix):
    saved(tmp_path / f"a{suffix}", noise("u1", 100, 100))
    with pytest.raises(ImageReadError, match="100 x 100.*--max-pixels"):
        images.read(tmp_path / f"a{suffix}", max_pixels=9_999)
    assert images.read(tmp_path / f"a{suffix}", max_pixels=10_000).size_hw == (100, 100)


def test_pillows_own_limit_does_not_stand_in_the_way(tmp_path, monkeypatch):
    saved(tmp_path / "a.png", noise("u1", 100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert images.read(tmp_path / "a.png").size_hw == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_complex_tiff_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((5, 5), np.complex64))
    with pytest.raises(ImageReadError, match="complex"):
        images.read(tmp_path / "a.tif")


def test_planes_tiles_and_white_as_zero_are_put_right(tmp_path):
    pixels = noise("u1", 64, 48, 3)
    tifffile.imwrite(tmp_path / "p.tif", np.moveaxis(pixels, -1, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(images.read(tmp_path / "p.tif").pixels, pixels)
    tifffile.imwrite(tmp_path / "t.tif", pixels, photometric="rgb", tile=(16, 16))
    assert np.array_equal(images.read(tmp_path / "t.tif").pixels, pixels)
    tifffile.imwrite(tmp_path / "w.tif", pixels[..., 0], photometric="miniswhite")
    assert np.array_equal(images.read(tmp_path / "w.tif").pixels, 255 - pixels[..., 0])


def test_alpha_that_was_multiplied_in_is_divided_out(tmp_path):
    pixels = np.full((4, 4, 4), (50, 100, 0, 128), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    assert images.read(tmp_path / "a.tif").pixels[0, 0].tolist() == [100, 199, 0, 128]


def test_a_jpeg_can_be_decoded_small(tmp_path):
    saved(tmp_path / "a.jpg", noise("u1", 400, 801, 3))
    picture = images.read(tmp_path / "a.jpg", reduce=4)
    assert (picture.size_hw, picture.reduction, picture.full_size_hw) == ((100, 201), 4, (400, 801))


def test_a_pipe_is_read_and_hashed(tmp_path):
    import hashlib

    data = png_bytes()
    (tmp_path / "a.png").write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(f"cat '{tmp_path}/a.png' > '{tmp_path}/pipe'", shell=True):
        picture = images.read(tmp_path / "pipe")
    assert picture.sha256 == images.read(tmp_path / "a.png").sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("name", "dtype", "channels", "words"),
    [
        ("a.jpg", "u2", 3, "use .png or .tif"),
        ("a.png", "f4", 1, "use .tif"),
        ("a.png", "u1", 5, "cannot hold 5 channels; use .tif"),
        ("a", "u1", 1, "no ending"),
        ("a.xyz", "u1", 1, "not written as '.xyz'"),
        ("no/a.png", "u1", 1, "does not exist"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, name, dtype, channels, words):
    with pytest.raises(WriteError, match=words):
        images.write(tmp_path / name, noise(dtype, 4, 4, channels))
    assert list(tmp_path.iterdir()) == []


def test_jpeg_lays_transparent_pictures_on_black_and_says_so(tmp_path):
    pixels = np.full((16, 16, 4), 255, np.uint8)
    pixels[:, 8:, 3] = 0
    assert "no transparency" in images.write(tmp_path / "a.jpg", pixels)[0]
    assert images.read(tmp_path / "a.jpg").pixels[0, [2, 13], 0].tolist() == [255, 0]
    assert images.write(tmp_path / "b.jpg", pixels[:, :8]) == ()


def with_holes(pixels):
    """Fully transparent here and there, where it has alpha."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels[..., -1] = np.where(np.arange(pixels.shape[1]) % 3, 255, 0)  # whatever the noise is
    return pixels


@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".dib", ".pcx", ".tga", ".jp2", ".j2k", ".gif"])
def test_what_is_called_lossless_is(tmp_path, suffix, channels):
    """Noise, of which nothing can be spared; in GIF of seven colours. Grey may come back as RGB."""
    pixels = with_holes(noise("u1", 33, 41, *channels))
    if suffix == ".gif" and channels:
        pixels = pixels[np.zeros((33, 41), int), noise("u1", 33, 41) % 7]
    notes = images.write(tmp_path / f"a{suffix}", pixels)
    again = images.read(tmp_path / f"a{suffix}")
    if channels in ((2,), (4,)) and not again.has_alpha:
        assert "no transparency" in notes[0]
        pixels = pixels[..., :-1] * (pixels[..., -1:] > 0)
    if suffix == ".gif" and again.has_alpha:
        pixels[pixels[..., -1] == 0] = 0
    wanted = np.atleast_3d(pixels)
    came = np.atleast_3d(again.pixels)
    assert np.array_equal(came[..., -1], wanted[..., -1])
    assert (came[..., 0] == wanted[..., 0]).all()
    if wanted.shape[2] > 2:
        assert np.array_equal(came, wanted)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".jpe", ".jfif", ".avif"])
def test_photographs_keep_their_colours(tmp_path, suffix):
    """Edges between saturated colours: subsampled, they would smear by a hundred levels."""
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, ::2, 0], pixels[:, 1::2, 2] = 200, 200
    images.write(tmp_path / f"a{suffix}", pixels)
    assert np.abs(images.read(tmp_path / f"a{suffix}").pixels.astype(int) - pixels).max() < 25
    images.write(tmp_path / f"b{suffix}", pixels[..., 0])
    assert images.read(tmp_path / f"b{suffix}").pixels.shape == (32, 32)


@pytest.mark.parametrize("pixels", [noise("u1", 40, 40, 3), np.full((4, 4, 4), 128, np.uint8)])
def test_gif_refuses_what_it_would_make_coarser(tmp_path, pixels):
    with pytest.raises(WriteError, match=r"a.gif: .gif cannot hold more than 256 colours.*use .png"):
        images.write(tmp_path / "a.gif", pixels)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tga", ".gif"])
@pytest.mark.parametrize("channels", [2, 4])
def test_a_channel_that_is_no_alpha_does_not_become_one(tmp_path, suffix, channels):
    with pytest.raises(WriteError, match=rf"cannot hold {channels} channels without alpha; use .tif"):
        images.write(tmp_path / f"a{suffix}", noise("u1", 9, 9, channels), has_alpha=False)


@pytest.mark.parametrize("suffix", [".ico", ".icns", ".mpo", ".blp", ".qoi", ".pbm", ".pfm", ".pdf"])
def test_endings_that_narrow_pictures_are_refused(tmp_path, suffix):
    with pytest.raises(WriteError, match=rf"pictures are not written as '{suffix}'; use .png, .tif"):
        images.check_name(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".gif", ".ppm", ".tiff"])
def test_other_endings_are_written(tmp_path, suffix):
    pixels = np.kron(noise("u1", 2, 2, 3), np.ones((16, 16, 1), np.uint8))
    images.write(tmp_path / f"a{suffix}", pixels)
    assert np.abs(images.read(tmp_path / f"a{suffix}").pixels.astype(int) - pixels).max() <= (
        0 if suffix != ".jpg" else 4
    )


@pytest.mark.parametrize("dtype", ["u1", "u2", "i1", "i4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,), (6,)])
def test_lzw_holds_every_number_and_channel(tmp_path, dtype, channels):
    """As told by libtiff too, where Pillow reads that layout right."""
    pixels = noise(dtype, 290, 130, *channels)
    images.write(tmp_path / "a.tif", pixels, has_alpha=False, compression="lzw")
    picture = images.read(tmp_path / "a.tif")
    assert np.array_equal(picture.pixels, pixels)
    assert (picture.pixels.dtype, picture.has_alpha) == (pixels.dtype, False)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages[0].compression == 5
    if (dtype, channels) in {("u1", ()), ("u2", ()), ("f4", ()), ("u1", (3,))}:
        with Image.open(tmp_path / "a.tif") as image:
            assert np.array_equal(np.asarray(image), pixels)


def test_lzw_keeps_alpha_profile_and_resolution(tmp_path):
    pixels = noise("u1", 9, 9, 2)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", extrasamples=["unassalpha"], metadata=None,
                     resolution=(120, 60), resolutionunit="CENTIMETER", iccprofile=b"profile")  # fmt: skip
    picture = images.read(tmp_path / "a.tif")
    images.write(tmp_path / "b.tif", pixels, like=picture, has_alpha=True, compression="lzw")
    again = images.read(tmp_path / "b.tif")
    assert (again.has_alpha, again.metadata) == (True, picture.metadata)


def test_inputs_and_existing_files_are_safe(tmp_path):
    path = saved(tmp_path / "a.png", noise("u1", 4, 4))
    before = path.read_bytes()
    with pytest.raises(WriteError, match="exists"):
        images.write(path, noise("u1", 4, 4))
    with pytest.raises(WriteError, match="also an input"):
        images.write(path, noise("u1", 4, 4), overwrite=True, inputs=[path])
    assert path.read_bytes() == before


def test_reading_and_writing_need_no_torch(tmp_path):
    saved(tmp_path / "a.png", noise("u1", 4, 4))
    code = (
        "import sys; from imgalign.files import images\n"
        "p = images.read(sys.argv[1]); images.write(sys.argv[1] + '.tif', p.pixels, like=p); p.sha256\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True)


def test_a_gif_keeps_its_palette(tmp_path):
    image = Image.fromarray(noise("u1", 20, 20) % 5).convert("P")
    image.putpalette([v for i in range(5) for v in (i * 30, 255 - i, i)])
    image.save(tmp_path / "a.gif")
    picture = images.read(tmp_path / "a.gif")
    images.write(tmp_path / "b.gif", picture.pixels, like=picture)
    assert np.array_equal(images.read(tmp_path / "b.gif").pixels, picture.pixels)


def test_transparent_colours_of_deep_pngs_become_alpha(tmp_path):
    from imgalign.files import png

    pixels = noise("u2", 5, 6, 3)
    with (tmp_path / "a.png").open("wb") as file:
        png.write(file, pixels, chunks={b"tRNS": pixels[2, 3].astype(">u2").tobytes()})
    read = images.read(tmp_path / "a.png")
    assert np.array_equal(read.pixels[..., :3], pixels)
    assert read.has_alpha
    assert (read.pixels[2, 3, 3], read.pixels[0, 0, 3]) == (0, 65535)


@pytest.mark.parametrize("most", [1, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_the_largest_number_of_a_pgm_or_ppm_is_white(tmp_path, kind, most):
    """In text and in bytes alike; what is written is on the full scale again."""
    shape = (5, 7) if kind in (2, 5) else (5, 7, 3)
    numbers = np.random.default_rng(2).integers(0, most, shape, endpoint=True)
    numbers.flat[0] = most
    text = b"\n".join(b"%d # a number" % n if n == most else b"%d" % n for n in numbers.flat)
    data = text if kind in (2, 3) else numbers.astype("u1" if most < 256 else ">u2").tobytes()
    (tmp_path / "a.pnm").write_bytes(b"P%d\n# made\n7 5\n%d\n" % (kind, most) + data)
    picture = images.read(tmp_path / "a.pnm")
    white = 255 if most < 256 else 65535
    assert picture.pixels.dtype == (np.uint8 if most < 256 else np.uint16)
    assert np.abs(picture.pixels - numbers * (white / most)).max() < 0.5 + 1e-9
    images.write(tmp_path / "b.ppm", picture.pixels, like=picture)
    assert np.array_equal(images.read(tmp_path / "b.ppm").pixels, picture.pixels)


def test_a_number_beyond_the_largest_is_damage(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P2 2 1 1000 5 123456789")
    with pytest.raises(ImageReadError, match="no number exceeds 1000, and one does"):
        images.read(tmp_path / "a.pgm")


def grey_png(path, numbers, depth, key):
    """By the letter of the specification; the key has 16 bits whatever the depth."""
    rows = ["".join(f"{n:0{depth}b}" for n in row) for row in numbers.tolist()]
    size = -(-numbers.shape[1] * depth // 8)
    data = b"".join(b"\0" + int(row.ljust(8 * size, "0"), 2).to_bytes(size, "big") for row in rows)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", numbers.shape[1], numbers.shape[0], depth, 0, 0, 0, 0),
        b"tRNS": struct.pack(">H", key),
        b"IDAT": zlib.compress(data),
        b"IEND": b"",
    }
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks.items()]
    path.write_bytes(png.SIGNATURE + b"".join(parts))


@pytest.mark.parametrize(("depth", "factor"), [(1, 255), (2, 85), (4, 17), (8, 1), (16, 1)])
def test_a_transparent_grey_value_becomes_alpha(tmp_path, depth, factor):
    numbers = noise("u2", 9, 11).astype(int) % 2**depth
    key = int(numbers[4, 5])
    grey_png(tmp_path / "a.png", numbers, depth, key)
    picture = images.read(tmp_path / "a.png")
    assert picture.has_alpha
    assert picture.pixels.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert np.array_equal(picture.pixels[..., 0], numbers * factor)
    assert np.array_equal(picture.pixels[..., 1], np.where(numbers == key, 0, 65535 if depth == 16 else 255))


@pytest.mark.parametrize("exif", [b"no exif at all", b"II*\0", b"MM\0*\0\0"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_damaged_exif_is_left_out(tmp_path, suffix, exif):
    image = Image.fromarray(pixels := np.full((8, 9, 3), 77, np.uint8))
    options = {".jpg": {"exif": b"Exif\0\0" + exif}, ".webp": {"exif": exif, "lossless": True}, ".png": {}}
    image.save(tmp_path / f"a{suffix}", **options[suffix])
    if suffix == ".png":
        with (tmp_path / "a.png").open("wb") as file:
            png.write(file, pixels, chunks={b"eXIf": exif})
    picture = images.read(tmp_path / f"a{suffix}")
    assert np.array_equal(picture.pixels, pixels)
    assert picture.metadata.exif is None
    assert picture.notes == ("its EXIF is damaged and was left out",)


@pytest.mark.parametrize(("allowed", "threads"), [("1", 1), ("3", 3), ("100", 8), ("", 2), ("many", 2), ("0", 1)])
def test_png_takes_as_many_threads_as_it_may(monkeypatch, allowed, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    asked = []
    monkeypatch.setattr(png, "ThreadPoolExecutor", lambda count: asked.append(count) or ThreadPoolExecutor(count))
    png.write(BytesIO(), noise("u1", 20, 30))
    assert asked == [threads]


def declared(path, pixels, text, **options):
    """A TIFF as GDAL writes it."""
    planes = "contig" if pixels.ndim == 3 else None
    options = {"photometric": "minisblack", "planarconfig": planes, "metadata": None, **options}
    tifffile.imwrite(path, pixels, extratags=[(42113, "s", 0, text, True)], **options)
    return path


def tag_of(path):
    with tifffile.TiffFile(path) as tif:
        return tif.pages[0].tags[42113].value


@pytest.mark.parametrize("compression", ["fast", "none", "lzw"])
@pytest.mark.parametrize(
    ("dtype", "text"), [("u1", "0"), ("u1", "255"), ("u2", "65535"), ("i4", "-9999"), ("f4", "-3.4028234663852886e+38")]
)
def test_no_data_is_a_hole_that_is_filled_again(tmp_path, dtype, text, compression):
    number = np.dtype(dtype).type(float(text))
    pixels = np.clip(noise(dtype, 20, 30), 1, 250)
    pixels[3:9] = number
    picture = images.read(declared(tmp_path / "a.tif", pixels, text))
    if np.dtype(dtype).kind == "f":
        assert np.array_equal(np.isnan(picture.pixels), pixels == number)
    else:
        assert picture.has_alpha
        assert np.array_equal(picture.pixels[..., 1] == 0, pixels == number)
    written = tmp_path / "b.tif"
    images.write(written, picture.pixels, like=picture, has_alpha=picture.has_alpha, compression=compression)
    with Image.open(written) as again:
        assert np.array_equal(np.asarray(again), pixels)
    assert float(tag_of(written)) == float(text)
    assert np.array_equal(images.read(written).pixels, picture.pixels, equal_nan=True)


@pytest.mark.parametrize(("dtype", "text"), [("u1", "-9999"), ("u1", "what"), ("f4", "1e400")])
def test_a_number_that_no_pixel_can_have_stands_for_nothing(tmp_path, dtype, text):
    pixels = noise(dtype, 9, 9)
    picture = images.read(declared(tmp_path / "a.tif", pixels, text))
    assert np.array_equal(picture.pixels, pixels)
    assert picture.metadata.nodata is None


def test_no_data_of_a_palette_is_an_entry_and_becomes_transparent(tmp_path):
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :3] = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]]).T << 8
    labels = np.array([[0, 1, 2, 1]], np.uint8)
    declared(tmp_path / "a.tif", labels, "1", photometric="palette", colormap=colours)
    with Image.open(tmp_path / "a.tif") as image:
        image.save(tmp_path / "lzw.tif", compression="tiff_lzw", tiffinfo={42113: "1"})
    for name in ("a.tif", "lzw.tif"):
        picture = images.read(tmp_path / name)
        assert picture.pixels[..., 3].tolist() == [[255, 0, 255, 0]]
        assert picture.pixels[0, 2, :3].tolist() == [70, 80, 90]
        assert picture.metadata.nodata is None


def test_no_data_where_white_is_zero_is_the_files_number(tmp_path):
    pixels = np.array([[0, 3, 255]], np.uint8)
    picture = images.read(declared(tmp_path / "a.tif", pixels, "0", photometric="miniswhite"))
    assert picture.pixels.tolist() == [[[255, 0], [252, 255], [0, 255]]]
    assert picture.metadata.nodata == 255


def test_no_data_is_transparent_in_other_formats(tmp_path):
    picture = images.read(declared(tmp_path / "a.tif", np.array([[0, 7]], np.uint8), "0"))
    images.write(tmp_path / "a.png", picture.pixels, like=picture, has_alpha=picture.has_alpha)
    assert images.read(tmp_path / "a.png").pixels.tolist() == [[[0, 0], [7, 255]]]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_of_a_tiff_are_found_without_a_walk_along_all_of_them_each_time(big, order, tmp_path, monkeypatch):
    walked, walks = tiff._walked, []
    monkeypatch.setattr(tiff, "_walked", lambda tif: walks.append(tif) or walked(tif))
    path = tmp_path / "a.tif"
    for count in (7, 9):  # another file of the same name
        pages = [np.full((4 + k, 5), 10 * k + count, np.uint16) for k in range(count)]
        with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as out:
            for number, page in enumerate(pages):
                out.write(page, photometric="minisblack", description="x" * number, metadata=None)
        for number in (0, count - 1, 3):
            np.testing.assert_array_equal(images.read(f"{path}[{number}]").pixels, pages[number])
        with pytest.raises(ImageReadError, match=f"has {count} pages, counted from 0; there is no page {count}"):
            images.read(f"{path}[{count}]")
    assert len(walks) == 2
