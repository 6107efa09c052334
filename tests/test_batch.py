"""What a batch does again and what it does not, with an engine that works in this process."""

import json
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import render, shift
from PIL import Image

from imgalign.errors import OptionError, WriteError
from imgalign.jobs import batch
from imgalign.jobs.batch import Settings, run
from imgalign.jobs.laying import WriteOptions
from imgalign.jobs.layout import Layout
from imgalign.jobs.manifest import Entry
from imgalign.jobs.work import Bench
from imgalign.wanted import AlignOptions


class Pairs(list):
    note, inputs = "", ()


class HereAndNow:
    """An engine that does one task at a time, in this process."""

    lost_workers, stalled = False, ""

    def __init__(self):
        self._tasks, self._bench = deque(), Bench()

    working = property(lambda self: len(self._tasks))

    def has_room(self):
        return len(self._tasks) < 2

    def submit(self, task):
        self._bench.expect(task)
        self._tasks.append(task)

    def wait(self, seconds):
        task = self._tasks.popleft()
        return [(task, self._bench.do(task))]

    def close(self):
        pass


class Watch:
    """Notes what it is told; asks to stop after some pairs."""

    def __init__(self, stop_after=None):
        self.ids, self.verdicts, self.notes, self.before = [], [], (), 0
        self._stop_after = stop_after

    def planned(self, total, notes):
        self.notes = notes

    def ended(self, line):
        self.ids.append(line["id"])
        self.verdicts.append(line["verdict"])

    def skipped(self, verdict):
        self.before += 1

    def waiting(self, why):
        self.waited_for, self._stop_after = why, 0

    def stopping(self):
        return self._stop_after is not None and len(self.ids) >= self._stop_after


@pytest.fixture
def pairs(workdir, fake_align):
    """Four pairs of files; the stand-in for `align` tells the truth about them."""
    Path("in").mkdir()
    for name in ("f", "a", "b", "c", "d"):
        Image.fromarray(render((24, 32), shift(ord(name), 0))).save(f"in/{name}.png")
    return Pairs(Entry(line, "in/f.png", f"in/{name}.png") for line, name in enumerate("abcd", 2))


def settings(retry="failed", finding=None, writing=None, **layout):
    return Settings(
        Layout(Path("out"), **layout), finding or AlignOptions(), writing or WriteOptions(), 10**6, retry=retry
    )


def go(pairs, watch=None, **options):
    watch = watch or Watch()
    tally = run(pairs, settings(**options), HereAndNow, watch)
    return watch, tally


def records():
    return [json.loads(text) for text in Path("out/results.jsonl").read_text("utf-8").splitlines()]


def test_every_pair_is_done_once(pairs):
    watch, tally = go(pairs)
    assert watch.ids == ["a", "b", "c", "d"]
    assert tally.verdicts == {"trusted": 4}
    assert tally.left == 0
    assert [line["id"] for line in records()] == watch.ids


def test_line_holds_what_is_needed(pairs):
    go(pairs)
    line = records()[0]
    assert line["output"] == "a.aligned.png"
    assert line["shift_px"] == [3.25, -2.5]
    assert np.allclose(line["moving_from_fixed"], shift(3.25, -2.5))
    assert set(line["inputs"]) == {"fixed", "moving"}
    assert set(line["seconds"]) == {"read", "warp", "write"}
    assert json.loads(Path("out/a.params.json").read_text("utf-8"))["moving"]["sha256"] == line["inputs"]["moving"]


def test_second_run_does_nothing(pairs):
    go(pairs)
    watch, tally = go(pairs)
    assert watch.ids == []
    assert tally.before == {"trusted": 4}


def test_stopped_run_goes_on(pairs):
    first, tally = go(pairs, Watch(stop_after=1))
    assert tally.left == 4 - len(first.ids) > 0
    second, _ = go(pairs)
    assert first.ids + second.ids == ["a", "b", "c", "d"]


def test_stopped_while_nobody_works_remembers_what_was_begun(pairs, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(HereAndNow, "stalled", "no workers")
        patched.setattr(HereAndNow, "wait", lambda self, seconds: [])
        watch, tally = go(pairs)
    assert (watch.waited_for, watch.ids, tally.left) == ("no workers", [], 4)
    Path("out/a.aligned.png").touch()  # by a worker that came too late
    watch, tally = go(pairs)
    assert "cut off" in watch.notes[0]
    assert tally.verdicts == {"trusted": 4}


def test_changed_content_is_done_again_and_a_new_date_is_not(pairs):
    go(pairs)
    Path("in/a.png").touch()
    Path("in/b.png").write_bytes(Path("in/c.png").read_bytes())
    assert go(pairs)[0].ids == ["b"]
    assert len(records()) == 4  # one line a pair


def test_changed_fixed_changes_every_pair(pairs):
    go(pairs)
    Path("in/f.png").write_bytes(Path("in/c.png").read_bytes())
    assert len(go(pairs)[0].ids) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"finding": AlignOptions(precision=0.1)},
        {"writing": WriteOptions(interpolation="nearest")},
        {"model": "rigid"},
        {"output_template": "new-{id}.png"},
    ],
)
def test_changed_options_are_done_again(change, pairs):
    go(pairs)
    assert len(go(pairs, **change)[0].ids) == 4


def test_options_that_do_not_shape_the_result_are_not(pairs):
    go(pairs)
    assert go(pairs, finding=AlignOptions(threads=1))[0].ids == []


def test_changed_mask_is_done_again(pairs):
    masked = Pairs([Entry(2, "in/f.png", "in/a.png", mask="in/c.png")])
    go(masked)
    assert go(masked)[0].ids == []
    Path("in/c.png").write_bytes(Path("in/d.png").read_bytes())
    assert go(masked)[0].ids == ["a"]


def test_missing_output_is_done_again(pairs):
    go(pairs)
    Path("out/c.aligned.png").unlink()
    Path("out/d.params.json").unlink()
    assert go(pairs)[0].ids == ["c", "d"]


@pytest.mark.parametrize(("retry", "again"), [("none", []), ("failed", ["a"]), ("untrusted", ["a", "b"])])
def test_retry(retry, again, pairs, fake_align):
    Path("in/a.png").write_bytes(b"no picture")
    fake_align.outcomes[1] = {"trusted": False}  # the first that can be read: b
    first, tally = go(pairs)
    assert first.verdicts == ["failed", "untrusted", "trusted", "trusted"]
    watch, tally = go(pairs, retry=retry)
    assert watch.ids == again
    assert tally.verdicts.total() == 4
    assert tally.verdicts["failed"] == 1


def test_skipped_picture_is_not_missing(pairs, fake_align):
    fake_align.outcomes[1] = {"trusted": False}
    writing = WriteOptions(on_untrusted="skip")
    go(pairs, writing=writing)
    assert not Path("out/a.aligned.png").exists()
    assert go(pairs, writing=writing)[0].ids == []


def test_earlier_picture_does_not_lie_beside_a_result_that_has_none(pairs, fake_align):
    go(pairs)
    fake_align.outcomes[5] = {"trusted": False}
    go(pairs, writing=WriteOptions(on_untrusted="skip"))
    assert sorted(path.name for path in Path("out").glob("*.png")) == [f"{name}.aligned.png" for name in "bcd"]
    assert "a.aligned.png from before was taken away" in records()[0]["notes"][-1]
    assert go(pairs, writing=WriteOptions(on_untrusted="skip"))[0].ids == []


def test_file_of_somebody_else_is_kept_however_often(pairs):
    Path("out").mkdir()
    Path("out/b.aligned.png").write_text("mine", "utf-8")
    for _ in range(3):
        _watch, tally = go(pairs)
        assert tally.verdicts == {"trusted": 3, "failed": 1}
        assert Path("out/b.aligned.png").read_text("utf-8") == "mine"
    assert "use --overwrite" in next(line["error"] for line in records() if line["id"] == "b")
    assert go(pairs, writing=WriteOptions(overwrite=True))[1].verdicts == {"trusted": 4}
    assert Path("out/b.aligned.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["b.aligned.gradmap.tif", "b.aligned.fixed.gradmap.tif"])
def test_map_of_somebody_else_is_kept_and_does_not_count_as_done(name, pairs):
    go(pairs)
    Path("out", name).write_text("mine", "utf-8")
    for _ in range(2):
        _watch, tally = go(pairs, gradmap=True)
        assert tally.verdicts == {"trusted": 3, "failed": 1}
        assert Path("out", name).read_text("utf-8") == "mine"
    Path("out", name).unlink()
    assert go(pairs, gradmap=True)[0].ids == ["b"]
    assert go(pairs, gradmap=True)[0].ids == []


def test_missing_map_is_done_again(pairs):
    go(pairs, gradmap=True)
    Path("out/c.aligned.gradmap.tif").unlink()
    assert go(pairs, gradmap=True)[0].ids == ["c"]


def test_file_made_by_hand_where_a_pair_failed_is_kept(pairs):
    Path("in/b.png").write_bytes(b"no picture")
    go(pairs)
    Path("out/b.aligned.png").write_text("mine", "utf-8")
    Path("in/b.png").write_bytes(Path("in/c.png").read_bytes())
    go(pairs)
    assert Path("out/b.aligned.png").read_text("utf-8") == "mine"


def test_picture_made_by_hand_where_none_was_written_is_kept(pairs, fake_align):
    fake_align.outcomes[1] = {"trusted": False}
    go(pairs, writing=WriteOptions(on_untrusted="skip"))
    Path("out/a.aligned.png").write_text("mine", "utf-8")
    go(pairs)
    assert Path("out/a.aligned.png").read_text("utf-8") == "mine"


def test_failed_pair_keeps_its_earlier_files_and_may_replace_them(pairs):
    go(pairs)
    whole = Path("in/b.png").read_bytes()
    Path("in/b.png").write_bytes(b"no picture")
    go(pairs)
    go(pairs)
    assert records()[-1]["written"] == ["b.aligned.png", "b.params.json"]
    Path("in/b.png").write_bytes(whole)
    assert go(pairs)[1].verdicts == {"trusted": 4}


def test_pair_that_failed_half_way_may_replace_what_it_has_written(pairs, monkeypatch):
    from imgalign.alignment import Alignment

    def full(*arguments, **options):
        raise WriteError("out/a.params.json: could not be written")

    with monkeypatch.context() as patched:
        patched.setattr(Alignment, "save", full)
        assert go(pairs)[1].verdicts == {"failed": 4}
    assert Path("out/a.aligned.png").is_file()
    assert go(pairs)[1].verdicts == {"trusted": 4}


def test_full_disk_stops_the_rest(pairs, monkeypatch):
    from imgalign.files import images

    def full(*arguments, **options):
        raise WriteError("out/a.aligned.png: the disk is full") from OSError(28, "No space left on device")

    monkeypatch.setattr(images, "write", full)
    _watch, tally = go(pairs)
    assert "the disk is full" in tally.stopped
    assert tally.left > 0
    monkeypatch.undo()


def test_option_that_cannot_work_ends_the_batch(pairs, fake_align):
    fake_align.outcomes[1] = OptionError("levels must be above 0")
    with pytest.raises(OptionError, match="levels"):
        go(pairs)


def test_bug_is_one_failed_pair_with_its_trace(pairs, fake_align):
    fake_align.outcomes[2] = ZeroDivisionError("oops")
    watch, _ = go(pairs)
    assert watch.verdicts == ["trusted", "failed", "trusted", "trusted"]
    line = next(line for line in records() if line["id"] == "b")
    assert "internal error" in line["error"]
    assert "ZeroDivisionError" in line["trace"]


def test_litter_of_a_killed_batch_is_swept_away(pairs):
    from imgalign.jobs.ledger import Ledger, names_digest

    go(Pairs(pairs[:1]))
    killed = Ledger(Path("out"))
    killed.begin("b", names_digest({"output": "b.aligned.png", "params": "b.params.json"}))
    killed.release()
    Path("out/.imgalign-0.tmp").touch()
    Path("out/b.aligned.png").write_text("of the killed batch", "utf-8")
    watch, tally = go(pairs)
    assert "was cut off" in watch.notes[0]
    assert tally.verdicts == {"trusted": 4}
    assert not Path("out/.imgalign-0.tmp").exists()


def test_shared_fixed_is_read_once(pairs, monkeypatch):
    from imgalign.files import images

    names, read = [], images.read
    monkeypatch.setattr(images, "read", lambda name, **options: (names.append(str(name)), read(name, **options))[1])
    go(pairs)
    assert names.count("in/f.png") == 1
    assert len(names) == 5


def test_folder_that_cannot_be_made_is_one_failed_pair(pairs):
    Path("out").mkdir()
    Path("out/sub").write_text("a file", "utf-8")
    _, tally = go(Pairs([replace(pairs[0], output="sub/a.png"), pairs[1]]))
    assert tally.verdicts == {"failed": 1, "trusted": 1}
    assert records()[0]["error"].startswith("out/sub: the folder cannot be made: ")
    assert "trace" not in records()[0]


def test_names_are_checked_before_anything_is_made(pairs):
    with pytest.raises(OptionError, match="same id"):
        go(Pairs([*pairs, pairs[0]]))
    assert not Path("out").exists()


def test_long_manifest_needs_a_short_queue(pairs, monkeypatch):
    """Entries are taken from the manifest no further ahead than the hashes need."""
    taken = []

    class Many(Pairs):
        def __iter__(self):
            for number in range(300):
                taken.append(number)
                yield Entry(number, "in/f.png", "in/a.png", id=str(number))

    many = Many()
    watch = Watch(stop_after=3)
    monkeypatch.setattr(batch.names, "check", lambda entries, layout, read_by_all: 300)
    go(many, watch)
    assert max(taken) < 50
