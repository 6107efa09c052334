"""Where results go: names inside the output folder, collisions found before anything runs."""

from pathlib import Path

import pytest

from imgalign.errors import OptionError
from imgalign.jobs import layout
from imgalign.jobs.layout import Layout, check
from imgalign.jobs.manifest import Entry


@pytest.fixture(autouse=True)
def out(workdir):
    Path("out").mkdir()


def job(template="{id}.aligned{ext}", **fields):
    where = Layout(Path("out"), output_template=template)
    return where.job(where.named(Entry(**{"line": 4, "fixed": "a.png", "moving": "m/b.tif", **fields})))


def test_names_are_those_of_the_other_commands():
    made = job()
    assert (made.image, made.params) == (Path("out/b.aligned.tif"), Path("out/b.params.json"))


def test_format_that_is_not_written_becomes_png():
    assert job(moving="m/b.jp2").image == Path("out/b.aligned.png")


@pytest.mark.parametrize("moving", ["run[3]/b.tif[1]", "run[3]/b.tif", "m/b.tif[1]"])
def test_format_is_that_of_the_file_whatever_its_folder_is_called(moving):
    assert job(moving=moving).image.suffix == ".tif"


def test_manifest_names_its_own():
    made = job(output="sub/x.png", params="y.json")
    assert (made.image, made.params) == (Path("out/sub/x.png"), Path("out/y.json"))


@pytest.mark.parametrize(
    "fields",
    [{"output": "../x.png"}, {"output": "/tmp/x.png"}, {"params": "a/../../x.json"}, {"id": "../b"}, {"id": "/b"}],
)
def test_names_that_lead_out_are_refused(fields):
    with pytest.raises(OptionError, match="line 4: the output .* leads out of the output folder"):
        job(**fields)


def test_links_that_lead_out_are_refused(tmp_path):
    Path("elsewhere").mkdir()
    Path("out/link").symlink_to(tmp_path / "elsewhere")
    layout._real_folder.cache_clear()
    with pytest.raises(OptionError, match="goes through a link"):
        job(output="link/x.png")
    Path("out/x.png").symlink_to(tmp_path / "y.png")
    with pytest.raises(OptionError, match="is a link"):
        job(output="x.png")


def test_option_allows_them():
    where = Layout(Path("out"), allow_outside=True)
    assert where.job(Entry(1, "a", "b", "i", output="../x.png")).image == Path("out/../x.png")


@pytest.mark.parametrize("name", ["results.jsonl", "summary.csv", ".imgalign-batch"])
def test_files_of_the_batch_are_not_outputs(name):
    with pytest.raises(OptionError, match="a file of the batch itself"):
        job(output=name)


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 124, "y/" + "x" * 256 + "/z"])
def test_names_that_no_disk_takes(name):
    with pytest.raises(OptionError, match="line 4: the output .* disks take 255"):
        job(id=name)
    assert job(id="ü" * 118)


@pytest.mark.parametrize("name", ["", "sub/"])
def test_names_of_no_file(name):
    with pytest.raises(OptionError, match="is no name of a file"):
        job(template=name)


class TestCheck:
    def pairs(self, *moving, **fields):
        return [Entry(line, "a.png", name, **fields) for line, name in enumerate(moving, 2)]

    def test_counts(self):
        assert check(self.pairs("x/1.png", "x/2.png"), Layout(Path("out"))) == 2
        assert check([], Layout(Path("out"))) == 0

    def test_same_id_names_both_lines(self):
        with pytest.raises(OptionError, match=r"lines 2 and 4 have the same id '1'; .*--id-template"):
            check(self.pairs("x/1.png", "x/2.png", "y/1.png"), Layout(Path("out")))

    def test_same_output_names_both_lines(self):
        with pytest.raises(OptionError, match=r"lines 2 and 3 have the same output .*same\.png"):
            check(self.pairs("1.png", "2.png"), Layout(Path("out"), output_template="same.png"))

    def test_folders_tell_them_apart(self):
        assert check(self.pairs("x/1.png", "y/1.png"), Layout(Path("out"), id_template="{parent}-{moving}")) == 2

    def test_input_is_never_an_output(self):
        entries = self.pairs("out/1.png", "out/1.aligned.png")
        with pytest.raises(OptionError, match=r"line 2: out/1\.aligned\.png would be written but is also an input"):
            check(entries, Layout(Path("out")))

    @pytest.mark.parametrize("name", ["out/1.params.json", "out/1.aligned.png[2]"])
    def test_what_all_pairs_read_is_never_an_output(self, name):
        with pytest.raises(OptionError, match=r"line 2: out/1\..* would be written but is also an input"):
            check(self.pairs("1.png"), Layout(Path("out")), [name])

    @pytest.mark.parametrize("name", ["results.jsonl", "summary.csv"])
    def test_files_of_the_batch_are_never_inputs(self, name):
        with pytest.raises(OptionError, match=f"^out/{name} is an input, and the batch would write its own"):
            check(self.pairs("1.png"), Layout(Path("out")), [f"out/../out/{name}"])
        with pytest.raises(OptionError, match="rename the input"):
            check(self.pairs("1.png", mask=f"out/{name}"), Layout(Path("out")))

    def test_fingerprints_that_collide_by_chance_are_no_collision(self, monkeypatch):
        monkeypatch.setattr(layout, "_number", len)
        assert check(self.pairs("x/11.png", "x/22.png"), Layout(Path("out"))) == 2
