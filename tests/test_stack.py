"""Stacks: what frames are laid over, and what is made of all of them. Truth comes from a formula, never from a warp."""

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import pixels, render, shift
from PIL import Image

from imgalign.errors import DeviceError, OptionError, WriteError
from imgalign.jobs import stack
from imgalign.jobs.averages import Sum, median

SIZE_HW = (72, 96)
# --trust 0 where the road is tested and not the verdict; shifts are small, so that identity is a start
QUICK = ("--model", "translate", "--init", "identity", "--trust", "0", "--threads", "1")
TOLERANCE_PX = 0.1  # tiny noiseless 8-bit pictures; a drifting chain or a wrong direction is far off


def moved(x, y, dtype=np.uint8):
    """The scene as a frame shows it whose contents lie (x, y) further right and down."""
    return render(SIZE_HW, shift(-x, -y), dtype)


@pytest.fixture
def frames(workdir):
    """Five frames of a slow pan; gives the names and where each lies."""
    places = [(0.75 * k, -0.5 * k) for k in range(5)]
    names = [f"f{k}.png" for k in range(5)]
    for name, place in zip(names, places, strict=True):
        Image.fromarray(moved(*place)).save(name)
    return names, np.array(places)


def found_shifts(names, folder="."):
    records = [json.loads(Path(folder, f"{Path(name).stem}.params.json").read_text("utf-8")) for name in names]
    return np.array([np.array(record["moving_from_fixed"])[:2, 2] for record in records])


@pytest.mark.parametrize("reference", ["first", "previous", "mean"])
def test_frames_are_laid_over_the_first_grid(reference, frames, invoke):
    names, places = frames
    result = invoke("stack", *names, *QUICK, "--reference", reference)
    assert result.exit_code == 0, result.stderr
    assert np.abs(found_shifts(names) - places).max() < TOLERANCE_PX
    assert all(Path(f"{Path(name).stem}.aligned.png").is_file() for name in names)


def test_any_frame_can_be_the_reference(frames, invoke):
    names, places = frames
    assert invoke("stack", *names, *QUICK, "--reference", "3").exit_code == 0
    assert np.abs(found_shifts(names) - (places - places[3])).max() < TOLERANCE_PX


def test_pages_in_and_out_with_mean_and_median(workdir, invoke):
    places = [(0, 0), (1, 0), (0, 2), (-1, 1)]  # whole pixels: aligned frames are copies, up to the border
    tifffile.imwrite("movie.tif", np.stack([moved(*place, np.uint16) for place in places]), photometric="minisblack")
    made = ("--output", "aligned.tif", "--mean", "mean.tif", "--median", "median.png")
    result = invoke("stack", "movie.tif", *QUICK, *made)
    assert result.exit_code == 0, result.stderr
    first = moved(0, 0, np.uint16).astype(float)
    aligned = tifffile.imread("aligned.tif")
    assert aligned.shape == (4, *SIZE_HW)
    assert aligned.dtype == np.uint16
    inside = (slice(4, -4), slice(4, -4))
    near = 400  # of 65535: what 0.1 px makes of the steepest slope here
    assert np.abs(aligned[(slice(None), *inside)] - first[inside]).max() < near
    mean = tifffile.imread("mean.tif")
    assert mean.dtype == np.float32
    assert np.abs(mean - first)[inside].max() < near
    assert pixels("median.png").dtype == np.uint16
    assert np.abs(pixels("median.png") - first)[inside].max() < near
    assert len(list(Path().glob("movie.*.params.json"))) == 4
    assert not list(Path().glob("*.png.*")) + list(Path().glob(".imgalign*"))


def piped(name):
    """A pipe that gives a file once, as <(cat FILE) does."""
    pipe = Path(f"pipe_{name}")
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(Path(name).read_bytes()), daemon=True).start()
    return str(pipe)


@pytest.mark.parametrize("reference", ["first", "previous", "1"])
def test_frames_may_come_through_pipes(reference, frames, invoke):
    names, places = frames
    names = [piped(names[0]), names[1], piped(names[2])]
    result = invoke("stack", *names, *QUICK, "--reference", reference, "--no-image")
    assert result.exit_code == 0, result.stderr
    at = places[1] if reference == "1" else places[0]
    assert np.abs(found_shifts(names) - (places[:3] - at)).max() < TOLERANCE_PX


def test_mean_of_what_can_be_read_only_once_is_refused(frames, invoke):
    os.mkfifo("pipe")
    result = invoke("stack", frames[0][0], "pipe", "--reference", "mean")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: pipe: the mean reads its frames more than once")


def test_pages_are_packed_in_lzw(frames, invoke):
    names, _ = frames
    assert invoke("stack", *names[:2], *QUICK, "--output", "a.tif", "--compression", "lzw").exit_code == 0
    with Image.open("a.tif") as image:
        assert (image.n_frames, image.info["compression"]) == (2, "tiff_lzw")
        image.seek(1)
        assert np.abs(np.asarray(image)[8:-8, 8:-8].astype(int) - pixels(names[0])[8:-8, 8:-8]).max() < 6


def test_pages_that_are_no_frames_are_said(frames, invoke):
    names, _ = frames
    tifffile.imwrite("two.tif", np.stack([pixels(names[0]), pixels(names[1])]), photometric="minisblack")
    said = "two.tif: only the first page is a frame; a file's pages are a stack by themselves"
    assert said in invoke("stack", "two.tif", names[1], *QUICK).stderr.splitlines()[0]
    assert "frame;" not in invoke("stack", "two.tif[1]", names[2], *QUICK).stderr
    assert "frame;" not in invoke("stack", "two.tif", *QUICK).stderr


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_mean_and_median_keep_a_small_range_far_from_0(dtype, workdir, invoke):
    names = [f"f{k}.tif" for k in range(3)]
    for k, name in enumerate(names):
        tifffile.imwrite(name, (1e9 + moved(k, 0)).astype(dtype))
    made = ("--no-image", "--mean", "mean.tif", "--median", "median.tif")
    result = invoke("stack", *names, "--model", "translate", *made)
    assert result.exit_code == 0, result.stderr
    for name in ("mean.tif", "median.tif"):
        assert np.abs(tifffile.imread(name) - 1e9 - moved(0, 0))[4:-4, 4:-4].max() < 2


def test_frames_of_several_types_have_a_median(workdir, invoke):
    names = [f"f{k}.tif" for k in range(3)]
    for name, dtype in zip(names, (np.float32, np.float64, np.uint8), strict=True):
        tifffile.imwrite(name, moved(0, 0).astype(dtype))
    assert invoke("stack", *names, *QUICK, "--no-image", "--median", "median.tif").exit_code == 0
    np.testing.assert_allclose(tifffile.imread("median.tif"), moved(0, 0), atol=1)


def test_median_alone_has_the_type_of_the_frames(frames, invoke):
    result = invoke("stack", *frames[0], *QUICK, "--no-image", "--median", "median.png")
    assert result.exit_code == 0, result.stderr
    assert pixels("median.png").dtype == np.uint8


def test_init_takes_a_parameter_file(frames, invoke):
    names, places = frames
    assert invoke("stack", *names[:2], *QUICK).exit_code == 0
    Path("again").mkdir()
    result = invoke("stack", *names, *QUICK, "--init", "f1.params.json", "--output-dir", "again")
    assert result.exit_code == 0, result.stderr
    assert np.abs(found_shifts(names, "again") - places).max() < TOLERANCE_PX
    missing = invoke("stack", *names, *QUICK, "--init", "nowhere", "--output-dir", "again", "--overwrite")
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
    assert "nowhere: no such file" in missing.stderr


def test_bad_frame_costs_itself_only(frames, invoke):
    names, places = frames
    Path("f2.png").write_bytes(b"no picture")
    result = invoke("stack", *names, *QUICK, "--reference", "previous", "--mean", "mean.tif")
    assert result.exit_code == 1
    assert "f2.png" in result.stderr
    good = [0, 1, 3, 4]
    assert np.abs(found_shifts([names[k] for k in good]) - places[good]).max() < TOLERANCE_PX
    assert Path("mean.tif").is_file()


def test_missing_pages_are_said_and_no_page_is_no_file(frames, invoke):
    names, _ = frames
    Path("f2.png").write_bytes(b"no picture")
    result = invoke("stack", *names, *QUICK, "--output", "part.tif")
    assert (result.exit_code, len(tifffile.imread("part.tif"))) == (1, 4)
    assert "part.tif holds 4 of 5 frames" in result.stderr
    result = invoke("stack", *names, *QUICK, "--output", "none.tif")  # the parameter files are in the way
    assert (result.exit_code, Path("none.tif").exists()) == (1, False)
    assert "none.tif: not a single frame could be aligned" in result.stderr


def test_full_disk_ends_the_stack_in_clear_words(frames, invoke, monkeypatch):
    names, _ = frames
    add_page, taken = stack._add_page, []

    def full(*page):
        taken.append(page)
        if len(taken) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        add_page(*page)

    monkeypatch.setattr(stack, "_add_page", full)
    result = invoke("stack", *names, *QUICK, "--output", "full.tif", "--mean", "mean.tif")
    assert (result.exit_code, len(taken)) == (1, 2)
    assert result.stderr.count("full.tif: the disk is full") == 5  # four frames and the stack
    assert not Path("full.tif").exists()
    assert not Path("mean.tif").exists()
    assert not list(Path().glob(".imgalign*"))


def test_one_file_that_cannot_be_written_costs_no_other(frames, invoke, monkeypatch):
    from imgalign.files import images

    write = images.write

    def guarded(path, *arguments, **options):
        if Path(path).name in failing:
            raise WriteError(f"{path}: no")
        return write(path, *arguments, **options)

    monkeypatch.setattr(images, "write", guarded)
    made = ("--output", "pages.tif", "--mean", "mean.tif", "--median", "median.tif", "--overwrite")
    failing = {"mean.tif"}
    result = invoke("stack", *frames[0], *QUICK, *made)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "Error: mean.tif: no")
    assert len(tifffile.imread("pages.tif")) == 5
    assert tifffile.imread("median.tif").shape == SIZE_HW
    failing = {"mean.tif", "median.tif"}
    result = invoke("stack", *frames[0], *QUICK, *made)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "Error: mean.tif: no; median.tif: no")


def test_frame_of_other_channels_is_named_and_leaves_no_page(frames, invoke):
    names, _ = frames
    Image.fromarray(np.stack([moved(0.75, -0.5)] * 3, -1)).save("f1.png")
    result = invoke("stack", *names[:3], *QUICK, "--output", "a.tif", "--mean", "m.tif")
    assert "f1.png: has the shape (72, 96, 3), the frames before it (72, 96)" in result.stderr
    assert tifffile.imread("a.tif").shape == (2, 72, 96)


def test_chain_begins_at_the_reference_though_its_own_outputs_are_in_the_way(frames, invoke):
    names, places = frames
    Path("f0.params.json").write_text("mine", "utf-8")
    result = invoke("stack", *names, *QUICK, "--reference", "previous")
    assert result.exit_code == 1
    assert "5 pictures: 4 done, 1 failed" in result.stderr
    assert np.abs(found_shifts(names[1:]) - places[1:]).max() < TOLERANCE_PX


def test_chain_is_refined_against_the_reference(frames, monkeypatch):
    """Steps that are each 0.2 px off would be 0.8 px off at the end; refinement puts them right."""
    from imgalign.alignment import Alignment
    from imgalign.files.outputs import plan
    from imgalign.jobs.laying import WriteOptions
    from imgalign.wanted import AlignOptions

    names, places = frames
    truth = dict(zip(names, places, strict=True))
    started = []

    def align(fixed, moving, finding, *, start, mask=None, moving_mask=None):
        step = truth[str(moving.path)] - truth[str(fixed.path)]
        error = 0.0 if str(fixed.path) == "f0.png" else 0.2
        if isinstance(start, Alignment):
            started.append(np.abs(start.moving_from_fixed[:2, 2] - step).max())
        return Alignment("translate", shift(*(step + error)), fixed.size_hw, moving.size_hw)

    monkeypatch.setattr(stack, "align_pictures", align)
    jobs = plan(None, names, image=False, params_file=False)
    stacker = stack.Stacker(jobs, AlignOptions(model="translate"), WriteOptions(), reference="previous")
    with stacker.collecting():
        ends = [stacker.run(job).alignment.moving_from_fixed[:2, 2] for job in jobs]
    assert np.abs(np.array(ends) - places).max() < 1e-9
    assert max(started) < 0.21  # each refinement starts one step from the truth, however long the chain


def test_what_leaves_the_reference_keeps_the_composition(frames, monkeypatch):
    from imgalign.alignment import Alignment
    from imgalign.files.outputs import plan
    from imgalign.jobs.laying import WriteOptions
    from imgalign.wanted import AlignOptions

    names, _ = frames

    def align(fixed, moving, finding, *, start, mask=None, moving_mask=None):
        lost = isinstance(start, Alignment)
        matrix = shift(99, 99) if lost else shift(1, 2)
        return Alignment("translate", matrix, fixed.size_hw, moving.size_hw, trusted=not lost)

    monkeypatch.setattr(stack, "align_pictures", align)
    jobs = plan(None, names, image=False, params_file=False)
    stacker = stack.Stacker(jobs, AlignOptions(model="translate"), WriteOptions(), reference="previous")
    with stacker.collecting():
        last = [stacker.run(job).alignment for job in jobs][-1]
    np.testing.assert_allclose(last.moving_from_fixed, shift(4, 8))
    assert last.trusted
    assert "could not be found again" in last.reasons[-1]


def test_frame_that_is_not_trusted_is_no_link_of_the_chain(frames, invoke):
    """A blank frame in a pan that soon leaves the reference behind: the next ones step over it."""
    names, _ = frames
    places = [(-35.0 * k, 1.0 * k) for k in range(5)]
    for name, place in zip(names, places, strict=True):
        Image.fromarray(moved(*place)).save(name)
    Image.fromarray(np.full(SIZE_HW, 90, np.uint8)).save(names[1])
    result = invoke("stack", *names, "--model", "translate", "--reference", "previous", "--no-image")
    assert result.exit_code == 3, result.stderr
    assert "5 pictures: 4 done, 1 not to be trusted" in result.stderr
    good = [0, 2, 3, 4]
    assert np.abs(found_shifts([names[k] for k in good]) - np.array(places)[good]).max() < TOLERANCE_PX


class TestRefusals:
    def test_one_frame_is_no_stack(self, pair, invoke):
        result = invoke("stack", pair.fixed)
        assert result.exit_code == 2
        assert "two frames or more" in result.stderr

    @pytest.mark.parametrize("reference", ["first", "mean"])
    @pytest.mark.parametrize("error", [DeviceError, OptionError])
    def test_what_no_frame_can_work_with_is_said(self, error, reference, frames, invoke, fake_align):
        fake_align.outcomes[1] = error("there is no such thing")
        result = invoke("stack", *frames[0], "--reference", reference)
        assert result.exit_code in {1, 2}
        assert result.stderr.splitlines()[-1] == "Error: there is no such thing"

    def test_no_such_reference(self, frames, invoke):
        result = invoke("stack", *frames[0], "--reference", "5")
        assert result.exit_code == 2
        assert "nor a frame from 0 to 4" in result.stderr

    def test_pages_are_tiff(self, frames, invoke):
        assert invoke("stack", *frames[0], "--output", "all.png").exit_code == 2

    def test_existing_file_is_kept(self, frames, invoke):
        Path("mean.tif").write_text("mine", "utf-8")
        result = invoke("stack", *frames[0], "--mean", "mean.tif")
        assert result.exit_code == 1
        assert "use --overwrite" in result.stderr
        assert Path("mean.tif").read_text("utf-8") == "mine"

    @pytest.mark.parametrize(
        ("dtype", "option", "said"),
        [
            (np.float32, ("--mean", "mean.png"), "mean.png: .png cannot hold float32 pixels; use .tif instead"),
            (np.int16, ("--median", "median.png"), "median.png: .png cannot hold int16 pixels; use .tif instead"),
            (np.uint16, ("--mean", "mean.jpg"), "mean.jpg: .jpg cannot hold uint16 pixels; use .png or .tif instead"),
        ],
    )
    def test_what_a_name_cannot_hold_is_said_at_once(self, dtype, option, said, workdir, invoke):
        for k in range(2):
            tifffile.imwrite(f"f{k}.tif", moved(k, 0, dtype), photometric="minisblack")
        result = invoke("stack", "f0.tif", "f1.tif", *QUICK, "--output", "pages.tif", *option)
        assert result.exit_code in {1, 2}
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
        assert len(list(Path().iterdir())) == 2

    def test_an_input_is_never_an_output(self, frames, invoke):
        result = invoke("stack", *frames[0], "--mean", "f1.png", "--overwrite")
        assert result.exit_code == 2
        assert "never overwritten" in result.stderr


def test_reference_of_numbers_and_words():
    assert stack.reference_of("mean", 3) == "mean"
    assert stack.reference_of("2", 3) == 2
    with pytest.raises(OptionError, match="none of"):
        stack.reference_of("-1", 3)


def test_averages_leave_out_what_is_not_covered(tmp_path):
    values = np.array([[[1, 5]], [[2, 9]], [[6, 1]]], np.uint8)
    covered = np.array([[[True, True]], [[True, False]], [[True, False]]])
    total = Sum()
    with (tmp_path / "frames").open("w+b") as file:
        for frame, there in zip(values, covered, strict=True):
            total.add(frame, there)
            file.write(np.where(there, frame, np.nan).astype(np.float32).tobytes())
        np.testing.assert_array_equal(total.mean(), [[3, 5]])
        np.testing.assert_array_equal(median(file, (1, 2), np.dtype(np.float32)), [[2, 5]])


def test_median_matches_numpy(tmp_path):
    frames = np.random.default_rng(3).normal(size=(6, 40, 7)).astype(np.float32)
    frames[frames > 1] = np.nan
    frames[frames < -1] = -np.inf
    known = np.where(np.isfinite(frames), frames, np.nan)
    with (tmp_path / "frames").open("w+b") as file:
        file.write(frames.tobytes())
        np.testing.assert_allclose(median(file, (40, 7), np.dtype(np.float32)), np.nanmedian(known, axis=0))


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("ending", ["tif", "png"])
def test_what_frames_show_transparent_is_left_out_of_averages(ending, colours, workdir, invoke):
    """A hole in one frame is filled from the others; one in all of them stays."""
    scene = np.repeat(moved(0, 0)[..., None], colours, 2)
    for k in range(3):
        alpha = np.full((*SIZE_HW, 1), 255, np.uint8)
        alpha[20:30, 20 + 20 * k : 30 + 20 * k] = alpha[50:60, 50:60] = 0
        Image.fromarray(np.where(alpha, np.concatenate([scene, alpha], 2), 0)).save(f"f{k}.png")
    for reference in ("first", "mean"):
        made = ("--mean", f"mean.{ending}", "--median", f"median.{ending}", "--no-image", "--overwrite")
        result = invoke("stack", "f0.png", "f1.png", "f2.png", *QUICK, *made, "--reference", reference)
        assert result.exit_code == 0, result.stderr
        for name in ("mean", "median"):
            found = np.atleast_3d(pixels(f"{name}.png") if ending == "png" else tifffile.imread(f"{name}.tif"))
            known = found[..., -1] == 255 if ending == "png" else np.isfinite(found[..., 0])
            assert found.shape[2] == colours + (ending == "png")
            assert not known[51:59, 51:59].any()
            known[48:62, 48:62] = True
            assert known[4:-4, 4:-4].all()
            known = np.zeros(SIZE_HW, bool)
            known[4:46, 4:-4] = True
            assert np.abs(found[known][:, :colours] - scene[known].astype(float)).max() < 3  # 0.1 px on a slope


def test_frames_with_and_without_holes_are_averaged_where_they_know_something(workdir, invoke):
    frames = [np.clip(moved(*place), 1, 255).astype(np.int16) for place in ((0, 0), (1, 0), (0, 2))]
    frames[1][20:40, 20:40] = -9999
    for number, frame in enumerate(frames):
        tifffile.imwrite(f"f{number}.tif", frame, extratags=[(42113, "s", 0, "-9999", True)], metadata=None)
    made = ("--output", "aligned.tif", "--mean", "mean.tif", "--median", "median.tif")
    for reference in ("first", "mean"):
        result = invoke("stack", "f0.tif", "f1.tif", "f2.tif", *QUICK, *made, "--reference", reference, "--overwrite")
        assert result.exit_code == 0, result.stderr
        inside = (slice(4, -4), slice(4, -4))
        near = 2  # of 255: what 0.1 px makes of the steepest slope here
        for name in ("mean.tif", "median.tif"):
            assert np.abs(tifffile.imread(name) - frames[0])[inside].max() < near
        aligned = tifffile.imread("aligned.tif")
        assert (aligned.shape, aligned.dtype) == ((3, *SIZE_HW), np.int16)
        assert (aligned[1][22:38, 21:37] == -9999).all()


def test_chain_sees_past_what_is_masked(workdir, invoke):
    """A pan behind something that stands still and is masked: unmasked, it would hold every step at zero."""
    places = [(-30.0 * k, 0.5 * k) for k in range(4)]
    still = render((120, 160), shift(5, 30))
    weight = np.full((120, 160), 255, np.uint8)
    weight[48:] = 0
    Image.fromarray(weight).save("mask.png")
    names = [f"f{k}.png" for k in range(4)]
    for name, (x, y) in zip(names, places, strict=True):
        Image.fromarray(np.where(weight, render((120, 160), shift(-x, -y)), still)).save(name)
    masks = ("--mask", "mask.png", "--moving-mask", "mask.png")
    result = invoke("stack", *names, "--model", "translate", "--reference", "previous", "--no-image", *masks)
    assert result.exit_code in {0, 3}, result.stderr
    assert np.abs(found_shifts(names) - places).max() < TOLERANCE_PX
