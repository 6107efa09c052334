"""Manifests: every way to name pairs, and names that cannot work."""

import io
import json
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from imgalign.errors import OptionError
from imgalign.jobs.manifest import Entry, FolderPairs, Manifest, filled, with_defaults


def read(data, **options):
    """The pairs of a manifest with these bytes, read twice to show that it can be."""
    Path("list").write_bytes(data if isinstance(data, bytes) else data.encode())
    manifest = Manifest("list", **options)
    with closing(manifest):
        first, second = list(manifest), list(manifest)
    assert first == second
    return first


def named(entries):
    return [(entry.fixed, entry.moving) for entry in entries]


PAIRS = [("a.png", "b.png"), ("c d.png", "e.png")]


@pytest.mark.parametrize(
    "data",
    [
        "fixed,moving\na.png,b.png\nc d.png,e.png\n",
        "\ufefffixed,moving\r\na.png,b.png\r\n\r\nc d.png,e.png\r\n",
        "Fixed;Moving;note\na.png;b.png;x\nc d.png;e.png;\n",
        'moving,fixed\nb.png,"a.png"\n"e.png",c d.png\n',
        "\n \nfixed;moving\na.png;b.png\nc d.png;e.png\n",
        "fixed, moving, id\na.png, b.png, 1\n  ,\t, \nc d.png\t, e.png , 2\n",
        '{"fixed": "a.png", "moving": "b.png"}\n\n{"moving": "e.png", "fixed": "c d.png", "more": 1}\n',
        "a.png\nb.png\nc d.png\ne.png",
        "a.png\r\nb.png\r\nc d.png\r\ne.png\r\n",
        "a.png\0b.png\0c d.png\0e.png\0",
    ],
)
def test_every_kind_of_list(data, workdir):
    assert named(read(data)) == PAIRS


def test_one_fixed_for_all(workdir):
    assert named(read("b.png\0e.png\0", fixed="a.png")) == [("a.png", "b.png"), ("a.png", "e.png")]
    assert named(read("moving\nb.png\n", fixed="a.png")) == [("a.png", "b.png")]


def test_blanks_that_belong_to_a_name_stay(workdir):
    for name in (" b.png", "c.tif "):
        Path(name).touch()
    assert named(read("fixed,moving\na.png, b.png\n a.png,c.tif \na.png, d.png\n")) == [
        ("a.png", " b.png"),
        ("a.png", "c.tif "),
        ("a.png", "d.png"),
    ]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('a.png, "b c.png"', ("a.png", "b c.png")),
        ('  "a, b.png",\t"say ""c"".png" ', ("a, b.png", 'say "c".png')),
        ('"a, ""b.png", "c.png"', ('a, "b.png', "c.png")),
        ('"a, "" , ""b.png", c "d".png', ('a, " , "b.png', 'c "d".png')),
        ('"a\n, ""b.png",  "c\n, "".png"', ('a\n, "b.png', 'c\n, ".png')),
        ('5" lens.png, "b.png"', ('5" lens.png', "b.png")),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_blanks_before_quotes_do_not_count(workdir, line, names, delimiter):
    header = f'fixed{delimiter} "moving"\n'
    expected = [tuple(name.replace(",", delimiter) for name in names), ("e", "f")]
    assert named(read(header + line.replace(",", delimiter) + f"\ne{delimiter}f\n")) == expected


def test_a_name_that_begins_with_a_blank_is_quoted(workdir):
    Path(" b.png").touch()
    assert named(read('fixed,moving\na.png, " b.png"\n')) == [("a.png", " b.png")]


def test_columns_become_options_of_the_pair(workdir):
    (entry,) = read("fixed,moving,id,model,output,params,mask,moving_mask,init\na,b,c,rigid,d,e,f,g,h\n")
    assert entry == Entry(2, "a", "b", "c", "rigid", "d", "e", "f", "g", "h")


def test_bytes_that_are_no_text_survive(workdir):
    (entry,) = read(b"a\xff.png\0b\n.png\0")
    assert (os.fsencode(entry.fixed), entry.moving) == (b"a\xff.png", "b\n.png")


def test_names_longer_than_a_block(workdir):
    name = "x" * 70_000
    assert named(read(f"{name}\n{name}y\n")) == [(name, f"{name}y")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("fixed,moving\na.png\n", "line 2 names no moving picture"),
        ("fixed,moving\na,b,c\n", "line 2 has 3 fields, the header 2"),
        ("fixed,moving,model\na,b,bend\n", "line 2: no model 'bend'; choose one of translate"),
        ('{"fixed": "a"\n', "line 1 is no JSON"),
        ('{"fixed": "a", "moving": ["b"]}\n', "moving must be text"),
        ('{"fixed": "a", "moving": "b\\u0000"}\n', "moving must be text"),
        ('{"fixed": "a", "moving": "b\\ud800"}\n', "moving must be text"),
        ("fixed,moving,fixed\na,b,c\n", "line 1 names the column fixed twice"),
        ("a\nb\nc\n", "3 paths make no pairs"),
    ],
)
def test_what_makes_no_pair_is_named(data, said, workdir):
    with pytest.raises(OptionError, match=said):
        read(data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text", ["fixed;moving\r\n\r\nä.png;b.png\r\n ; \r\n", '{"fixed": "ä.png", "moving": "b.png"}', "ä.png\r\nb.png"]
)
def test_what_spreadsheets_and_shells_of_windows_write(text, encoding, workdir):
    assert named(read(text.encode(encoding))) == [("ä.png", "b.png")]


def test_table_without_a_header_is_no_list_of_paths(workdir):
    Path("pairs.csv").write_text("a.png,b.png\nc.png,d.png\n", "utf-8")
    with pytest.raises(OptionError, match=r"no column moving.* not 'a\.png,b\.png'"):
        Manifest("pairs.csv")


@pytest.mark.parametrize("data", ["fixed,moving,modle,\na,b,rigid,\n", '{"fixed": "a", "moving": "b", "modle": 3}'])
def test_columns_that_nothing_is_made_of_are_noted(data, workdir):
    Path("pairs").write_text(data, "utf-8")
    manifest = Manifest("pairs")
    assert (next(iter(manifest)).model, manifest.note) == (None, "pairs: not used: modle")
    manifest.close()


def test_missing_list(workdir):
    with pytest.raises(OptionError, match="no-such: the list of pairs cannot be read: No such file"):
        Manifest("no-such")


def test_stdin_can_be_gone_through_twice(workdir, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\0b\0")))
    manifest = Manifest("-")
    assert named(manifest) == named(manifest) == [("a", "b")]
    manifest.close()


def test_pipe_can_be_gone_through_twice(workdir):
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=("a\nb\n", "utf-8"))
    writer.start()
    manifest = Manifest("pipe")
    writer.join()
    assert named(manifest) == named(manifest) == [("a", "b")]
    manifest.close()


class TestFolders:
    @pytest.fixture(autouse=True)
    def folders(self, workdir):
        for name in ("f/1.png", "f/2.tif", "f/3.png", "m/2.jpg", "m/1.png", "m/.hidden"):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).touch()

    def test_stems_pair(self):
        pairs = FolderPairs(Path("f"), Path("m"))
        assert named(pairs) == [("f/1.png", "m/1.png"), ("f/2.tif", "m/2.jpg")]
        assert pairs.note == "1 pictures of f and m have no partner"

    def test_stem_twice_is_refused(self):
        Path("m/1.tif").touch()
        with pytest.raises(OptionError, match=r"m holds both 1\.png and 1\.tif"):
            FolderPairs(Path("f"), Path("m"))

    def test_no_pair_is_refused(self):
        Path("empty").mkdir()
        with pytest.raises(OptionError, match="no picture of f has the stem"):
            FolderPairs(Path("f"), Path("empty"))


class TestTemplates:
    ENTRY = Entry(7, "x/ref.png", "day1/b.tif[3]", id="i", model="rigid")

    @pytest.mark.parametrize(
        ("template", "name"),
        [
            ("{id}.aligned{ext}", "i.aligned.tif"),
            ("{parent}/{moving}-{fixed}-{line}-{model}.png", "day1/b.3-ref-7-rigid.png"),
            ("{fixed_parent}{id}", "xi"),
            ("plain", "plain"),
        ],
    )
    def test_words_are_filled_in(self, template, name):
        assert filled(template, self.ENTRY, ".tif") == name

    @pytest.mark.parametrize("template", ["{nothing}", "{id.__class__}", "{}", "{id:>9}"])
    def test_other_words_are_refused(self, template):
        with pytest.raises(OptionError, match="it may hold {id}, {moving}"):
            filled(template, self.ENTRY)

    def test_id_is_made_where_none_is_given(self):
        entry = with_defaults(Entry(1, "a.png", "m/b.png"), model="affine", id_template="{parent}-{moving}")
        assert (entry.id, entry.model) == ("m-b", "affine")
        assert with_defaults(self.ENTRY, model="affine", id_template="{moving}") == self.ENTRY

    def test_number_as_id(self, workdir):
        Path("list").write_text(json.dumps({"fixed": "a", "moving": "b", "id": 12}), "utf-8")
        manifest = Manifest("list")
        assert next(iter(manifest)).id == "12"
        manifest.close()
