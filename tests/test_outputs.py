"""Names of outputs, and the mistakes in them that are found before anything runs."""

import os
from pathlib import Path

import pytest

from imgalign.errors import OptionError, WriteError
from imgalign.files.outputs import check, check_folders, check_new, job_outputs, output_name, plan, stem


def names(jobs):
    return [path.name for job in jobs for path in job.outputs]


def test_default_names_lie_in_the_working_folder():
    (job,) = plan("a/fixed.png", ["b/moving.tif"])
    assert job.image == Path("moving.aligned.tif")
    assert job.params == Path("moving.params.json")


def test_output_dir_holds_what_has_no_name():
    (job,) = plan("fixed.png", ["moving.tif"], output_dir=Path("out"), params=Path("p.json"))
    assert (job.image, job.params) == (Path("out/moving.aligned.tif"), Path("p.json"))


def test_gradmap_of_the_fixed_picture_is_written_once():
    jobs = plan("f.png", ["a.png", "b.png"], gradmap=True, image=False, params_file=False)
    assert names(jobs) == ["f.gradmap.tif", "a.aligned.gradmap.tif", "b.aligned.gradmap.tif"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.png", "x.aligned.png"),
        ("x.JPG", "x.aligned.JPG"),
        ("x.ome.tif", "x.ome.aligned.tif"),
        ("x.gif", "x.aligned.png"),
        ("x.PFM", "x.aligned.tif"),
        ("x", "x.aligned.png"),
        (".hidden", ".hidden.aligned.png"),
        ("-v.png", "-v.aligned.png"),
        ("a b\nc.png", "a b\nc.aligned.png"),
        ("stack.tif[3]", "stack.3.aligned.tif"),
    ],
)
def test_output_name(name, expected):
    assert output_name(f"folder/{name}", "aligned") == expected


def test_file_that_is_really_called_with_brackets(tmp_path):
    path = tmp_path / "a.tif[3]"
    path.touch()
    assert stem(str(path)) == "a"


@pytest.mark.parametrize("option", ["output", "params"])
def test_one_name_for_several_pictures_is_refused(option):
    with pytest.raises(OptionError, match=f"--{option} names one file, but 2"):
        plan("f.png", ["a.png", "b.png"], **{option: Path("x")})


def test_collision_names_both_pictures():
    jobs = plan("f.png", ["one/a.png", "two/a.png"])
    with pytest.raises(OptionError, match="one/a.png and two/a.png"):
        check(job_outputs(jobs), [])


def test_collision_of_parameter_files_only():
    jobs = plan("f.png", ["a.png", "a.tif"])
    with pytest.raises(OptionError, match="a.params.json"):
        check(job_outputs(jobs), [])


def test_picture_given_twice_is_a_collision():
    with pytest.raises(OptionError, match="written twice"):
        check(job_outputs(plan("f.png", ["a.png", "a.png"])), [])


@pytest.mark.parametrize("spelling", ["a.png", "./a.png", "sub/../a.png", "link.png", "hard.png"])
def test_output_equal_to_an_input_is_refused(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("a.png").touch()
    Path("link.png").symlink_to("a.png")
    os.link("a.png", "hard.png")
    with pytest.raises(OptionError, match="never overwritten"):
        check([("m.png", Path(spelling))], ["a.png"])


def test_an_input_without_a_name_is_refused():
    with pytest.raises(OptionError, match="has an empty name"):
        check([("m.png", Path("m.aligned.png"))], ["f.png", ""])


def test_page_of_the_output_file_is_an_input_too(tmp_path):
    path = tmp_path / "stack.tif"
    path.touch()
    with pytest.raises(OptionError, match="never overwritten"):
        check([("m", path)], [f"{path}[2]"])


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(WriteError, match="missing: the output folder does not exist"):
        check_folders([tmp_path / "missing" / "a.png"])


def test_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="is not a folder"):
        check_folders([tmp_path / "file" / "a.png"])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="no permission"):
        check_folders([tmp_path / "a.png"])
    tmp_path.chmod(0o700)


def test_existing_file_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(WriteError, match="a.png: exists; use --overwrite"):
        check_new([tmp_path / "a.png"])
