"""results.jsonl: no line is lost, none is half, none is there twice."""

import csv
import errno
import json
import os
from pathlib import Path

import pytest

from imgalign.errors import WriteError
from imgalign.jobs.ledger import LOCK, RESULTS, SUMMARY, Ledger, names_digest, work_digest

NAMES = names_digest({"output": "a.png", "params": "a.json"})


def line(pair_id, verdict="trusted", **fields):
    return {
        "id": pair_id,
        "verdict": verdict,
        "output": "a.png",
        "params": "a.json",
        "options_hash": "o",
        "inputs": {"fixed": "1", "moving": "2"},
        **fields,
    }


@pytest.fixture
def ledger(tmp_path):
    """Open the ledger of a folder; every one is let go of at the end."""
    opened = []

    def call():
        opened.append(Ledger(tmp_path))
        return opened[-1]

    yield call
    for one in opened:
        one.release()


def ids(tmp_path):
    return [json.loads(text)["id"] for text in (tmp_path / RESULTS).read_text("utf-8").splitlines()]


def test_line_is_known_again(ledger):
    first = ledger()
    first.append(line("a", "untrusted", written=["a.png", "a.json"]))
    first.close()
    known = ledger().known("a")
    assert known.verdict == "untrusted"
    assert known.work == work_digest("o", {"moving": "2", "fixed": "1"})
    assert known.names == NAMES
    assert len(known.written) == 2


@pytest.mark.parametrize("changed", [{"options_hash": "p"}, {"inputs": {"fixed": "1", "moving": "3"}}])
def test_change_changes_the_fingerprint(changed, ledger):
    one = ledger()
    one.append(line("a"))
    before = one.known("a").work
    one.append(line("a", **changed))
    assert one.known("a").work != before


def left_with(tail, ledger, folder):
    """What a batch leaves that was cut off after one pair."""
    one = ledger()
    one.append(line("a"))
    one.release()
    with (folder / RESULTS).open("ab") as file:
        file.write(tail)


@pytest.mark.parametrize("tail", [b'{"id": "b", "verd', b'{"i', b"\0\0\0\0", b'{"id": "' + b"x" * 200_000])
def test_torn_last_line_is_cut_off(tail, ledger, tmp_path):
    left_with(tail, ledger, tmp_path)
    second = ledger()
    second.append(line("c"))
    assert ids(tmp_path) == ["a", "c"]


@pytest.mark.parametrize("tail", [b"a note", b'{"id": "a", "score": 1}', json.dumps(line("b")).encode()])
def test_last_line_that_only_lacks_its_end_stays(tail, ledger, tmp_path):
    left_with(tail, ledger, tmp_path)
    second = ledger()
    for _ in range(2):
        second.append(line("c"))
    second.close()
    raw = (tmp_path / RESULTS).read_bytes().splitlines()
    assert raw[1] == tail
    assert len(raw) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (RESULTS, b'{"query": 1}\n{"query": 2}'),
        (RESULTS, b'{"id": "a", "score": 1}'),
        (RESULTS, b"\x89PNG\n"),
        (SUMMARY, b"id,score\na,1\n"),
    ],
)
def test_file_of_somebody_else_is_kept_unless_told_otherwise(name, content, ledger, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WriteError, match=f"{name}: exists and does not come from a batch; .*--overwrite"):
        ledger()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, content)]
    one = Ledger(tmp_path, overwrite=True)
    one.append(line("a"))
    one.close()
    assert ids(tmp_path) == ["a"]
    with (tmp_path / SUMMARY).open(encoding="utf-8-sig", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["a"]
    ledger()


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0", b'{"id": "b", "verd', b"garbage\n" + json.dumps(line("a")).encode()]
)
def test_what_a_batch_may_have_left_is_its_own(content, ledger, tmp_path):
    (tmp_path / RESULTS).write_bytes(content)
    ledger().append(line("c"))
    assert json.loads((tmp_path / RESULTS).read_bytes().splitlines()[-1])["id"] == "c"


def test_summary_that_a_spreadsheet_saved_is_still_the_batch_s_own(ledger, tmp_path):
    ledger().close()
    text = (tmp_path / SUMMARY).read_text("utf-8-sig")
    (tmp_path / SUMMARY).write_text(text.replace(",", ";").replace("id;", '"id";'), "utf-8")
    ledger().append(line("c"))
    assert ids(tmp_path) == ["c"]


def test_damaged_line_in_the_middle_is_counted_and_left(ledger, tmp_path):
    first = ledger()
    first.append(line("a"))
    first.release()
    with (tmp_path / RESULTS).open("ab") as file:
        file.write(b"garbage\n")
    second = ledger()
    assert second.unreadable == 1
    assert second.known("a") is not None


@pytest.mark.parametrize(
    "odd",
    [
        {"inputs": ["a"]},
        {"inputs": {"fixed": 5}},
        {"output": 5},
        {"params": ["p"]},
        {"shift_px": [1]},
        {"scale": 3},
        {"seconds": 3},
        {"seconds": {"read": "long"}},
        {"reasons": "none"},
        {"reasons": [1]},
        {"written": "a.png"},
        {"gradmaps": [None]},
        {"id": 3},
        {"verdict": ["failed"]},
    ],
)
def test_line_that_no_batch_writes_stops_nothing(odd, ledger, tmp_path):
    raw = json.dumps(line("a")) + "\n" + json.dumps({**line("b"), **odd}) + "\n" + "[" * 100_000 + "\n"
    (tmp_path / RESULTS).write_text(raw, "utf-8")
    one = ledger()
    assert (one.unreadable, one.known("a").verdict, one.known("b")) == (2, "trusted", None)
    one.close()
    with (tmp_path / SUMMARY).open(encoding="utf-8-sig", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["a"]


def test_line_of_the_lock_that_is_no_fingerprint_is_passed_over(ledger, tmp_path):
    (tmp_path / LOCK).write_text("z" * 32 + "\n", "utf-8")
    assert not ledger().interrupted


def test_last_line_of_a_pair_stays_alone(ledger, tmp_path):
    one = ledger()
    for pair_id, verdict in (("a", "failed"), ("b", "trusted"), ("a", "trusted")):
        one.append(line(pair_id, verdict))
        with (tmp_path / RESULTS).open("ab") as file:
            file.write(b'{"id": "not a result"}\n')
    one.close()
    assert ids(tmp_path) == ["not a result", "b", "not a result", "a", "not a result"]
    assert ledger().known("a").verdict == "trusted"


def test_only_one_batch_at_a_time(ledger, tmp_path):
    first = ledger()
    with pytest.raises(WriteError, match=f"another batch works in this folder \\(process {os.getpid()} on "):
        ledger()
    first.close()
    ledger()


def test_begun_pairs_own_their_files_after_a_kill(ledger):
    first = ledger()
    assert not first.interrupted
    assert not first.owns("a", NAMES, "a.png")
    first.begin("a", NAMES)
    first.release()  # as the end of a killed process does
    second = ledger()
    assert second.interrupted
    assert second.owns("a", NAMES, "a.png")
    assert not second.owns("a", names_digest({"output": "other.png"}), "other.png")
    second.append(line("a", written=["a.png"]))
    second.close()
    third = ledger()
    assert not third.interrupted
    assert third.owns("a", NAMES, "a.png")


def test_pair_owns_what_it_has_written_and_nothing_else(ledger):
    one = ledger()
    one.append(line("a", "untrusted", written=["a.json"]))
    assert one.owns("a", NAMES, "a.json")
    assert not one.owns("a", NAMES, "a.png")
    assert not one.owns("b", NAMES, "a.json")


def test_every_file_is_a_name():
    names = {"output": "a.png", "params": "a.json", "gradmaps": []}
    assert names_digest(names) == NAMES
    assert names_digest({**names, "gradmaps": ["a.gradmap.tif"]}) != NAMES


def test_full_disk_leaves_whole_lines(ledger, tmp_path, monkeypatch):
    one = ledger()
    one.append(line("a"))
    write = os.write

    def half(descriptor, data):
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:-30])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(WriteError, match=r"results\.jsonl: the disk is full.*the same command goes on from here"):
        one.append(line("b"))
    assert ids(tmp_path) == ["a"]
    assert one.known("b") is None


def test_every_line_is_synced(ledger, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    ledger().append(line("a"))
    assert synced.count(synced[-1]) == 1
    assert len(synced) >= 2  # the lock's owner, the folder, the line


def test_summary_opens_in_a_spreadsheet(ledger, tmp_path):
    one = ledger()
    one.append(line("=SUM(A1)", shift_px=[-1.5, 2], scale=[1, 1], seconds={"read": 0.25, "write": 0.5}, reasons=["x"]))
    one.append(line("b", "failed", error="no, such\nfile"))
    one.close()
    with (tmp_path / SUMMARY).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["id"] == "'=SUM(A1)"  # text, no formula
    assert (rows[0]["shift_x_px"], rows[0]["seconds"], rows[0]["verdict"]) == ("-1.5", "0.75", "trusted")
    assert rows[1]["error"] == "no, such\nfile"


def test_nothing_but_three_files(ledger, tmp_path):
    ledger().close()
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == sorted([LOCK, RESULTS, SUMMARY])
