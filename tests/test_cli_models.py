"""The five alignment commands around `align`: names, options, what is written and said, exit status."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import json_lines, opened, pixels, render
from PIL import Image

from imgalign import load
from imgalign.errors import DeviceError, OptionError, ShapeError

MODELS = ("translate", "rigid", "similarity", "affine", "homography")

pytestmark = pytest.mark.usefixtures("fake_align")


def written(folder="."):
    return sorted(path.name for path in Path(folder).iterdir() if path.name not in {"fixed.png", "moving.png"})


@pytest.mark.parametrize("model", MODELS)
def test_command_asks_for_its_model(model, pair, invoke, fake_align):
    result = invoke(model, pair.fixed, pair.moving)
    assert (result.exit_code, result.stdout) == (0, "")
    assert fake_align.calls[0]["model"] == model
    assert load("moving.params.json").model == model


def test_default_outputs(pair, invoke):
    invoke("affine", pair.fixed, pair.moving)
    assert written() == ["moving.aligned.png", "moving.params.json"]


def test_aligned_picture_shows_the_fixed_one(pair, invoke):
    invoke("affine", pair.fixed, pair.moving, "--output", "out.png")
    out, fixed = (pixels(name).astype(float) for name in ("out.png", "fixed.png"))
    assert out.shape == (120, 144, 2)  # grey and transparency
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(out[..., 0] - fixed)[inside].max() <= 2  # two roundings
    assert (out[:2, :, 1] == 0).all()


def test_defaults_are_those_of_align(pair, invoke, fake_align):
    invoke("affine", pair.fixed, pair.moving)
    given = fake_align.calls[0]
    assert given.pop("model") == "affine"
    assert given == {
        "loss": "auto", "optimizer": "lm", "sampler": "cubic", "levels": None, "iterations": None, "lr": None,
        "init": "auto", "mask": None, "moving_mask": None, "max_shift": None, "max_rotation": None, "max_scale": None,
        "allow_mirror": False, "precision": 0.01, "trust": 0.5, "device": "auto", "threads": None, "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("loss", "mi"), ("optimizer", "adam"), ("sampler", "nearest"), ("levels", 3), ("iterations", 7), ("lr", 0.5),
        ("init", "phase"), ("max_shift", 9.0), ("max_rotation", 4.0), ("max_scale", 1.5), ("precision", 0.1),
        ("trust", 0.9), ("device", "cpu"), ("threads", 1), ("seed", 5),
    ],
)  # fmt: skip
def test_option_reaches_align(option, value, pair, invoke, fake_align):
    assert invoke("rigid", pair.fixed, pair.moving, f"--{option.replace('_', '-')}", value).exit_code == 0
    assert fake_align.calls[0][option] == value


def test_masks_reach_align_as_weights(pair, invoke, fake_align):
    half = np.zeros((120, 144), np.uint8)
    half[:, :72] = 255
    Image.fromarray(half).save("mask.png")
    invoke("rigid", pair.fixed, pair.moving, "--mask", "mask.png", "--moving-mask", "mask.png", "--allow-mirror")
    given = fake_align.calls[0]
    np.testing.assert_array_equal(fake_align.prepared[0]["mask"], half / 255)
    np.testing.assert_array_equal(given["moving_mask"], half / 255)
    assert given["allow_mirror"] is True


def test_init_takes_a_parameter_file(pair, invoke, fake_align):
    invoke("translate", pair.fixed, pair.moving)
    assert invoke("affine", pair.fixed, pair.moving, "--init", "moving.params.json", "--overwrite").exit_code == 2
    assert (
        invoke(
            "affine", pair.fixed, pair.moving, "--init", "moving.params.json", "-p", "b.json", "-o", "b.png"
        ).exit_code
        == 0
    )
    assert fake_align.calls[-1]["init"].model == "translate"


def test_record_knows_files_options_and_seconds(pair, invoke):
    invoke("affine", pair.fixed, pair.moving, "--seed", "3", "--interpolation", "lanczos")
    record = json.loads(Path("moving.params.json").read_text("utf-8"))
    assert (record["fixed"]["name"], record["moving"]["name"]) == ("fixed.png", "moving.png")
    assert len(record["fixed"]["sha256"]) == 64
    assert record["options"]["seed"] == 3
    assert record["options"]["interpolation"] == "lanczos"
    assert {"read", "warp", "write"} <= record["seconds"].keys()


def test_several_moving_share_fixed(pair, invoke, fake_align):
    for name in ("b.png", "c.png"):
        opened(pair.moving).save(name)
    result = invoke("rigid", pair.fixed, pair.moving, "b.png", "c.png")
    assert result.exit_code == 0
    assert len(fake_align.calls) == 3
    assert len(fake_align.prepared) == 1
    assert "3 pictures: 3 done" in result.stderr
    assert len(written()) == 6 + 2


def test_one_failure_never_stops_the_rest(pair, invoke):
    Path("text.png").write_text("this is no picture")
    result = invoke("rigid", pair.fixed, "missing.png", "text.png", pair.moving)
    assert result.exit_code == 1
    assert Path("moving.aligned.png").exists()
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert [line.split(": ")[1] for line in errors] == ["missing.png", "text.png"]


def test_failure_of_alignment_names_the_file(pair, invoke, fake_align):
    fake_align.outcomes[1] = ShapeError("moving is constant; nothing to align")
    result = invoke("rigid", pair.fixed, pair.moving)
    assert (result.exit_code, result.stderr) == (1, "Error: moving.png: moving is constant; nothing to align\n")
    assert written() == []


def test_bug_keeps_its_traceback_and_the_rest_is_done(pair, invoke, fake_align):
    opened(pair.moving).save("b.png")
    fake_align.outcomes[1] = ZeroDivisionError("oops")
    result = invoke("rigid", pair.fixed, pair.moving, "b.png")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert Path("b.aligned.png").exists()


@pytest.mark.parametrize(("error", "status"), [(OptionError("--lr belongs to sgd"), 2), (DeviceError("no cuda"), 1)])
def test_what_fails_every_pair_ends_the_run(error, status, pair, invoke, fake_align):
    opened(pair.moving).save("b.png")
    fake_align.outcomes[1] = error
    result = invoke("rigid", pair.fixed, pair.moving, "b.png")
    assert (result.exit_code, result.stderr) == (status, f"Error: {error}\n")


class TestUntrusted:
    @pytest.fixture(autouse=True)
    def doubt(self, fake_align):
        fake_align.outcomes[1] = {"trusted": False, "probability": 0.1, "reasons": ("overlap 12 %",)}

    def test_is_exit_status_3_and_said_even_when_quiet(self, pair, invoke):
        result = invoke("rigid", pair.fixed, pair.moving, "--quiet")
        assert result.exit_code == 3
        assert "overlap 12 %" in result.stderr

    def test_keep_writes_it(self, pair, invoke):
        invoke("rigid", pair.fixed, pair.moving)
        assert written() == ["moving.aligned.png", "moving.params.json"]

    def test_skip_writes_no_picture(self, pair, invoke):
        assert invoke("rigid", pair.fixed, pair.moving, "--on-untrusted", "skip").exit_code == 3
        assert written() == ["moving.params.json"]
        assert not load("moving.params.json").trusted

    def test_skip_leaves_no_picture_from_before_where_it_may_be_replaced(self, pair, invoke):
        Path("moving.aligned.png").write_text("from before", "utf-8")
        assert invoke("rigid", pair.fixed, pair.moving, "--on-untrusted", "skip").exit_code == 1
        assert written() == ["moving.aligned.png"]
        result = invoke("rigid", pair.fixed, pair.moving, "--on-untrusted", "skip", "--overwrite")
        assert written() == ["moving.params.json"]
        assert "moving.aligned.png from before was taken away" in result.stderr

    def test_identity_leaves_the_picture_where_it_is(self, pair, invoke):
        invoke("rigid", pair.fixed, pair.moving, "--on-untrusted", "identity")
        np.testing.assert_array_equal(load("moving.params.json").moving_from_fixed, np.eye(3))
        np.testing.assert_array_equal(pixels("moving.aligned.png"), pixels(pair.moving))

    def test_error_outranks_it(self, pair, invoke):
        assert invoke("rigid", pair.fixed, pair.moving, "missing.png").exit_code == 1


class TestStdout:
    def test_json_is_one_line_a_pair(self, pair, invoke):
        result = invoke("rigid", pair.fixed, pair.moving, "missing.png", "--json")
        good, bad = json_lines(result.stdout)
        assert (good["output"], good["params"]) == ("moving.aligned.png", "moving.params.json")
        assert good["schema"] == "imgalign/params/1"
        assert bad["moving"] == "missing.png"
        assert "no such file" in bad["error"]

    def test_params_dash_prints_and_writes_no_file(self, pair, invoke):
        result = invoke("rigid", pair.fixed, pair.moving, "--params", "-", "--no-image")
        assert json_lines(result.stdout)[0]["trusted"] is True
        assert written() == []

    def test_params_dash_takes_several(self, pair, invoke):
        opened(pair.moving).save("b.png")
        result = invoke("rigid", pair.fixed, pair.moving, "b.png", "--params", "-")
        assert len(json_lines(result.stdout)) == 2

    def test_quiet_says_nothing(self, pair, invoke):
        assert invoke("rigid", pair.fixed, pair.moving, "-q").output == ""

    def test_verbose_says_seconds(self, pair, invoke):
        assert "seconds: " in invoke("rigid", pair.fixed, pair.moving, "-v").stderr

    def test_single_pair_says_what_was_found_and_written(self, pair, invoke):
        stderr = invoke("translate", pair.fixed, pair.moving).stderr
        assert "can be trusted" in stderr
        assert "moves 3.25 px left and 2.50 px down" in stderr
        assert "wrote moving.aligned.png, moving.params.json" in stderr


class TestFiles:
    def test_nothing_is_overwritten(self, pair, invoke):
        Path("moving.aligned.png").write_bytes(b"precious")
        result = invoke("rigid", pair.fixed, pair.moving)
        assert result.exit_code == 1
        assert "moving.aligned.png: exists; use --overwrite" in result.stderr
        assert Path("moving.aligned.png").read_bytes() == b"precious"
        assert not Path("moving.params.json").exists()

    @pytest.mark.parametrize("name", ["out.xyz", "out"])
    def test_unknown_format_is_found_before_the_work(self, name, pair, invoke, fake_align):
        result = invoke("rigid", pair.fixed, pair.moving, "--output", name)
        assert (result.exit_code, fake_align.calls) == (1, [])
        assert result.stderr.startswith(f"Error: {name}: ")

    def test_overwrite_replaces(self, pair, invoke):
        Path("moving.aligned.png").write_bytes(b"old")
        assert invoke("rigid", pair.fixed, pair.moving, "--overwrite").exit_code == 0
        assert opened("moving.aligned.png").size == (144, 120)

    def test_existing_output_of_one_pair_stops_only_that(self, pair, invoke):
        opened(pair.moving).save("b.png")
        Path("moving.params.json").touch()
        assert invoke("rigid", pair.fixed, pair.moving, "b.png").exit_code == 1
        assert written() == ["b.aligned.png", "b.params.json", "b.png", "moving.params.json"]

    def test_output_dir(self, pair, invoke):
        Path("out").mkdir()
        assert invoke("rigid", pair.fixed, pair.moving, "--output-dir", "out", "--gradmap").exit_code == 0
        assert written("out") == [
            "fixed.gradmap.tif", "moving.aligned.gradmap.tif", "moving.aligned.png", "moving.params.json",
        ]  # fmt: skip

    def test_missing_output_dir_is_an_error_before_any_work(self, pair, invoke, fake_align):
        result = invoke("rigid", pair.fixed, pair.moving, "--output-dir", "missing")
        assert (result.exit_code, fake_align.calls) == (1, [])
        assert result.stderr == "Error: missing: the output folder does not exist; create it with mkdir -p\n"

    @pytest.mark.parametrize("option", ["--mask", "--moving-mask", "--init"])
    def test_output_never_replaces_a_mask_or_start(self, option, pair, invoke):
        result = invoke("rigid", pair.fixed, pair.moving, option, "x.png", "--output", "x.png", "--overwrite")
        assert result.exit_code == 2
        assert "inputs are never overwritten" in result.stderr

    def test_no_half_written_file_stays(self, pair, invoke, monkeypatch):
        monkeypatch.setattr("imgalign.files.encoding.encode", fail_on_full_disk)
        result = invoke("rigid", pair.fixed, pair.moving)
        assert result.exit_code == 1
        assert "the disk is full" in result.stderr
        assert written() == []

    @pytest.mark.parametrize("name", ["a b.png", "line\nbreak.png", "ünï→.png", "-dash.png", "'quote\".png", "[7].png"])
    def test_any_name_works(self, name, pair, invoke):
        pair.moving.rename(name)
        result = invoke("rigid", "--json", "--", "fixed.png", name)
        assert result.exit_code == 0
        assert Path(f"{Path(name).stem}.aligned.png").exists()
        assert len(result.stdout.splitlines()) == 1


def fail_on_full_disk(file, plan, **options):
    file.write(b"half")
    raise OSError(28, "No space left on device")


class TestPixels:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_dtype_is_kept(self, dtype, pair, invoke):
        Image.fromarray(render((120, 144), dtype=dtype)).save("deep.png")
        invoke("rigid", pair.fixed, "deep.png", "--fill", "0")
        assert pixels("deep.aligned.png").dtype == dtype

    def test_fill(self, pair, invoke):
        invoke("rigid", pair.fixed, pair.moving, "--fill", "77")
        out = pixels("moving.aligned.png")
        assert out.shape == (120, 144)
        assert out[0, 0] == 77

    @pytest.mark.parametrize(
        ("canvas", "size"), [("fixed", (144, 120)), ("union", (147, 123)), ("intersection", (141, 118))]
    )
    def test_canvas(self, canvas, size, pair, invoke):
        assert invoke("rigid", pair.fixed, pair.moving, "--canvas", canvas).exit_code == 0
        assert opened("moving.aligned.png").size == size

    def test_multipage_input_is_noted(self, pair, invoke):
        frame = opened(pair.moving)
        frame.save("stack.tif", save_all=True, append_images=[frame, frame])
        result = invoke("rigid", pair.fixed, "stack.tif")
        assert "has 3 pages: the first is used" in result.stderr

    def test_page_of_a_stack(self, pair, invoke):
        frame = opened(pair.moving)
        frame.save("stack.tif", save_all=True, append_images=[frame])
        assert invoke("rigid", pair.fixed, "stack.tif[1]").exit_code == 0
        assert json.loads(Path("stack.1.params.json").read_text("utf-8"))["moving"]["page"] == 1
