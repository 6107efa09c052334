"""Everything that people hand to a program by mistake: one line on stderr, the right status, no half a file."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import json_lines, opened, render, shift
from PIL import Image

from imgalign.alignment import Alignment
from imgalign.files.record import to_dict


def png_header(width, height):
    """A PNG that claims a size and has no data for it."""

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def truncated(suffix):
    opened("moving.png").convert("RGB").save(f"whole{suffix}")
    whole = Path(f"whole{suffix}").read_bytes()
    Path(f"bad{suffix}").write_bytes(whole[: len(whole) // 2])


def tiff(name, pixels):
    tifffile.imwrite(name, pixels)


# what it is: (name, how it is made, what is said)
UNREADABLE = {
    "missing": ("nowhere.png", lambda: None, "no such file"),
    "standard input": ("-", lambda: None, "-: no such file; for standard input say /dev/stdin"),
    "folder": ("folder.png", lambda: Path("folder.png").mkdir(), "is a folder"),
    "empty": ("empty.png", lambda: Path("empty.png").touch(), "is empty"),
    "text": ("text.png", lambda: Path("text.png").write_text("Dear diary,\n"), "is text, no picture"),
    "cut PNG": ("bad.png", lambda: truncated(".png"), "truncated"),
    "cut JPEG": ("bad.jpg", lambda: truncated(".jpg"), "truncated"),
    "cut TIFF": ("bad.tif", lambda: truncated(".tif"), "bad.tif: is "),
    "bomb": ("bomb.png", lambda: Path("bomb.png").write_bytes(png_header(60_000, 60_000)), "--max-pixels"),
    "page": ("moving.png[4]", lambda: None, "page"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.usefixtures("fake_align")
def test_unreadable_moving_is_one_line(kind, pair, invoke):
    name, make, said = UNREADABLE[kind]
    make()
    before = set(Path().iterdir())
    result = invoke("affine", pair.fixed, name, pair.moving)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert line.startswith(f"Error: {name}: ")
    assert said in line
    assert {path.name for path in set(Path().iterdir()) - before} == {"moving.aligned.png", "moving.params.json"}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.usefixtures("fake_align")
def test_unreadable_fixed_is_one_line_and_ends_the_run(kind, pair, invoke):
    name, make, said = UNREADABLE[kind]
    make()
    before = set(Path().iterdir())
    result = invoke("affine", name, pair.fixed, "other.png")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {name}: ")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert set(Path().iterdir()) == before


@pytest.mark.usefixtures("fake_align")
def test_limit_of_pixels_can_be_raised_and_lowered(pair, invoke):
    assert invoke("affine", pair.fixed, pair.moving, "--max-pixels", "17K").exit_code == 1
    assert invoke("affine", pair.fixed, pair.moving, "--max-pixels", "18K").exit_code == 0


@pytest.mark.usefixtures("fake_align")
@pytest.mark.parametrize("option", ["--mask", "--moving-mask", "--init"])
def test_unreadable_mask_or_start_is_one_line(option, pair, invoke):
    result = invoke("affine", pair.fixed, pair.moving, option, "nowhere.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: nowhere.png: no such file")


def params(**changes):
    return json.dumps({**to_dict(Alignment("affine", shift(1, 2), (120, 144), (120, 144))), **changes})


@pytest.mark.usefixtures("fake_align")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ('{"schema": "somebody/else"}', "is no parameter file"),
        (lambda: params(moving_from_fixed=[[1, 0, float("nan")], [0, 1, 0], [0, 0, 1]]), "NaN"),
        (lambda: params(moving_from_fixed=[[0, 0, 1], [0, 0, 2], [0, 0, 1]]), "singular"),
        (lambda: params(moving_from_fixed=[[1, 0], [0, 1]]), "3 rows of 3"),
    ],
    ids=["no JSON", "schema", "NaN", "singular", "shape"],
)
@pytest.mark.parametrize("command", ["apply", "info", "init"])
def test_what_is_no_parameter_file(command, content, said, pair, invoke):
    Path("p.json").write_text(content if isinstance(content, str) else content())
    arguments = {
        "apply": ["apply", "p.json", "moving.png"],
        "info": ["info", "p.json"],
        "init": ["affine", "fixed.png", "moving.png", "--init", "p.json"],
    }
    result = invoke(*arguments[command])
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith("Error: p.json: ")
    assert said in result.stderr


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("1 x 1", lambda: Image.new("L", (1, 1), 9).save("odd.png")),
        ("1 x N", lambda: Image.new("L", (1, 40), 9).save("odd.png")),
        ("all NaN", lambda: tiff("odd.tif", np.full((40, 50), np.nan, np.float32))),
        ("transparent", lambda: Image.new("RGBA", (50, 40), (9, 9, 9, 0)).save("odd.png")),
        ("constant", lambda: Image.new("L", (50, 40), 9).save("odd.png")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_picture_without_content_is_an_error_or_not_trusted(kind, make, role, pair, invoke):
    make()
    (odd,) = Path().glob("odd.*")
    result = invoke("rigid", *((odd, pair.moving) if role == "fixed" else (pair.fixed, odd)))
    assert result.exit_code in {1, 3}, result.stderr
    assert "Traceback" not in result.stderr
    if result.exit_code == 1:
        assert result.stderr.startswith("Error: ")
        assert len(result.stderr.splitlines()) == 1
        assert [path.name for path in Path().glob("*.json")] == []


def quarter_nan():
    values = render((120, 144), dtype=np.float32)
    values[:60, :72] = np.nan
    values[100, 100] = np.inf
    return values


@pytest.mark.parametrize(
    "make",
    [
        lambda: opened("fixed.png").convert("CMYK").save("odd.tif"),
        lambda: opened("fixed.png").convert("1", dither=Image.Dither.NONE).save("odd.png"),
        lambda: opened("fixed.png").convert("P").save("odd.gif"),
        lambda: opened("fixed.png").convert("RGB").save("odd.jpg", quality=95),
        lambda: opened("fixed.png").convert("RGBA").save("odd.png"),
        lambda: Image.fromarray(render((120, 144), dtype=np.uint16)).save("odd.png"),
        lambda: tiff("odd.tif", render((120, 144), dtype=np.float64)),
        lambda: tiff("odd.tif", quarter_nan()),
        lambda: opened("fixed.png").crop((0, 0, 130, 100)).save("odd.png"),
    ],
    ids=["CMYK", "1 bit", "palette GIF", "JPEG", "RGBA", "16 bit", "float64", "NaN and inf", "other size"],
)
def test_unusual_but_usable_picture_is_aligned(make, pair, invoke):
    make()
    (odd,) = Path().glob("odd.*")
    result = invoke("translate", odd, pair.moving, "--json", "--no-image")
    assert result.exit_code in {0, 3}, result.stderr  # how far to trust two grey levels is another question

    found = np.array(json_lines(result.stdout)[0]["moving_from_fixed"])
    assert np.abs(found - pair.moving_from_fixed).max() < 0.25  # two grey levels are the worst of them


@pytest.mark.parametrize(
    "arguments",
    [
        ("LONG", "moving.png"),
        ("fixed.png", "moving.png", "--output", "LONG"),
        ("fixed.png", "moving.png", "--params", "LONG"),
        ("fixed.png", "moving.png", "--output-dir", "LONG"),
        ("fixed.png", "moving.png", "--mask", "LONG"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("pair", "fake_align")
def test_name_that_no_disk_takes_is_one_line(arguments, invoke):
    long = "x" * 300 + ".png"
    result = invoke("affine", *(long if argument == "LONG" else argument for argument in arguments))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "too long" in result.stderr


def test_long_name_of_an_output_stops_only_its_own_picture(pair, invoke, fake_align):
    long = "x" * 248 + ".png"
    Path(long).write_bytes(pair.moving.read_bytes())
    result = invoke("affine", pair.fixed, long, pair.moving)
    assert result.exit_code == 1
    assert ".aligned.png: the name is too long for this disk" in result.stderr
    assert Path("moving.aligned.png").is_file()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_picture_that_may_not_be_read_stops_only_itself(pair, invoke, fake_align):
    Path("secret.png").write_bytes(pair.moving.read_bytes())
    Path("secret.png").chmod(0)
    result = invoke("affine", pair.fixed, "secret.png", pair.moving)
    assert (result.exit_code, Path("moving.aligned.png").is_file()) == (1, True)
    assert "secret.png: no permission to read it" in result.stderr


def test_absent_device_is_one_line(pair, invoke):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    result = invoke("translate", pair.fixed, pair.moving, "--device", "cuda")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "cuda" in result.stderr


def test_read_only_folder_is_one_line(pair, invoke):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = Path("closed")
    folder.mkdir(mode=0o500)
    result = invoke("translate", pair.fixed, pair.moving, "--output-dir", folder)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: closed: no permission")
