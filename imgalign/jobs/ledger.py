"""What a batch has done so far: `results.jsonl`, one line a pair, none of which is ever lost.

Every line is appended by one write and synced. A line that was cut off (kill -9, power cut, full disk) is taken away
when the file is next opened; what no batch has written stays. A hidden file beside it keeps a second batch out of the
folder, and remembers which pairs were begun: whatever lies under their names may be replaced, everything else may not.
"""

import csv
import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import IO, Any, Literal

from imgalign.errors import WriteError
from imgalign.files.paths import advice, replacing, settle, shown

RESULTS, SUMMARY, LOCK = "results.jsonl", "summary.csv", ".imgalign-batch"
Verdict = Literal["trusted", "untrusted", "failed"]
_VERDICTS: tuple[Verdict, ...] = ("trusted", "untrusted", "failed")
_DIGEST = 16
_BEGINNING = b'{"id": "'  # of every line that a batch writes
_KEY = re.compile(rb"[0-9a-f]{%d}" % (2 * _DIGEST))
SUMMARY_COLUMNS = (
    "id", "fixed", "moving", "model", "verdict", "probability", "shift_x_px", "shift_y_px", "rotation_deg", "scale_x",
    "scale_y", "corner_sigma_px", "seconds", "output", "params", "reasons", "error",
)  # fmt: skip


def digest(*parts: str) -> bytes:
    """A short fingerprint of some texts."""
    text = "\0".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=_DIGEST).digest()


def work_digest(options_hash: str, inputs: Mapping[str, str | None]) -> bytes:
    """A fingerprint of what shapes a result: the options and the content of every input."""
    return digest(options_hash, *(f"{role}={inputs[role]}" for role in sorted(inputs) if inputs[role] is not None))


def names_digest(names: Mapping[str, Any]) -> bytes:
    """A fingerprint of where a result goes, by the keys `output`, `params` and `gradmaps` of its line."""
    return digest(names.get("output") or "", names.get("params") or "", *(names.get("gradmaps") or ()))


@dataclass(frozen=True)
class Known:
    """What the last line of a pair says, as fingerprints."""

    verdict: Verdict
    work: bytes
    names: bytes
    written: frozenset[bytes]
    """Its files that lay there when it ended."""


class Ledger:
    """The results of one output folder, open for one batch.

    Args:
        folder: The output folder; it exists.
        overwrite: Files in it that are called like those of a batch and are not may be replaced.

    Raises:
        WriteError: If there are such files, another batch works there, or the folder takes no files.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.path, self._folder = folder / RESULTS, folder
        foreign = _foreign(folder)
        if foreign and not overwrite:
            raise WriteError(
                f"{shown(foreign[0])}: exists and does not come from a batch; rename it, choose another --output-dir, "
                "or use --overwrite to replace it"
            )
        self._lock = _locked(folder / LOCK)
        self._known: dict[bytes, bytes] = {}
        self._begun = _begun(self._lock)
        _append(self._lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode(), folder / LOCK)
        self.interrupted = bool(self._begun)
        """The batch before this one did not come to its end."""
        self.unreadable = 0
        """Lines that are none; they stay where they are."""
        self._superseded = 0
        try:
            anew = os.O_TRUNC if self.path in foreign else 0
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | anew, 0o666)
            _repair(self._file)
            settle([folder])
        except OSError as error:
            self._lock.close()
            raise _explained(self.path, error) from error
        self._load()

    def __contains__(self, pair_id: str) -> bool:
        return digest(pair_id) in self._known

    def known(self, pair_id: str) -> Known | None:
        """What the last line of a pair says."""
        packed = self._known.get(digest(pair_id))
        if packed is None:
            return None
        verdict = _VERDICTS[packed[0]]
        work, names, *written = (packed[at : at + _DIGEST] for at in range(1, len(packed), _DIGEST))
        return Known(verdict, work, names, frozenset(written))

    def owns(self, pair_id: str, names: bytes, name: str) -> bool:
        """True where a file comes from this pair, which goes by these names, so that it may be replaced."""
        known = self.known(pair_id)
        if known is not None and digest(name) in known.written:
            return True
        return digest(pair_id, names.hex()) in self._begun

    def begin(self, pair_id: str, names: bytes) -> None:
        """Remember, whatever happens next, that a pair is in work.

        Raises:
            WriteError: If the disk does not take it.
        """
        key = digest(pair_id, names.hex())
        if key in self._begun:
            return
        self._begun.add(key)
        _append(self._lock.fileno(), f"{key.hex()}\n".encode(), self._folder / LOCK)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a pair's line; when this returns, it is on the disk.

        Raises:
            WriteError: If the disk does not take it; the file is as it was before.
        """
        text = json.dumps(line, allow_nan=False)  # ASCII: undecodable names stay valid JSON
        _append(self._file, f"{text}\n".encode(), self.path)
        self._note(line)
        self._begun.discard(digest(line["id"], names_digest(line).hex()))

    def lines(self) -> Iterator[dict[str, Any]]:
        """The last line of every pair, in the order of the file."""
        return (line for _, line in self._kept() if line is not None)

    def close(self, *, unfinished: bool = False) -> None:
        """Leave one line a pair, write the summary, and let the next batch in.

        Args:
            unfinished: Pairs were begun that have no line: their names stay remembered.

        Raises:
            WriteError: If the disk does not take it; the results stay as they are.
        """
        try:
            if self._superseded:
                self._compact()
            self.write_summary()
            if not unfinished:
                os.ftruncate(self._lock.fileno(), 0)
        finally:
            self.release()

    def release(self) -> None:
        """Let the next batch in, and do nothing else. Twice is as good as once."""
        if not self._lock.closed:
            os.close(self._file)
            self._lock.close()

    def write_summary(self) -> None:
        """Write `summary.csv`, for spreadsheets.

        Raises:
            WriteError: If the disk does not take it.
        """
        with replacing(self._folder / SUMMARY, overwrite=True) as file:
            text = TextIOWrapper(file, encoding="utf-8-sig", errors="backslashreplace", newline="")
            writer = csv.writer(text)
            writer.writerow(SUMMARY_COLUMNS)
            writer.writerows(_row(line) for line in self.lines())
            text.flush()
            text.detach()

    def _load(self) -> None:
        for _, line in _lines(self.path):
            if line is None:
                self.unreadable += 1
            else:
                self._note(line)

    def _note(self, line: Mapping[str, Any]) -> None:
        key = digest(line["id"])
        self._superseded += key in self._known
        work = work_digest(str(line.get("options_hash")), line.get("inputs") or {})
        written = map(digest, line.get("written") or ())
        self._known[key] = b"".join([bytes([_VERDICTS.index(line["verdict"])]), work, names_digest(line), *written])

    def _kept(self) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        """Every line but those that a later one of the same pair supersedes, and what it says."""
        last: dict[bytes, int] = {}
        if self._superseded:
            last = {digest(line["id"]): number for number, (_, line) in enumerate(_lines(self.path)) if line}
        for number, (raw, line) in enumerate(_lines(self.path)):
            if not last or line is None or last[digest(line["id"])] == number:
                yield raw, line

    def _compact(self) -> None:
        with replacing(self.path, overwrite=True, sync=True) as file:
            file.writelines(raw for raw, _ in self._kept())
        settle([self._folder])
        self._superseded = 0


def _foreign(folder: Path) -> list[Path]:
    """Files under the names of a batch that do not come from one."""
    own = {RESULTS: _is_results, SUMMARY: _is_summary}
    return [folder / name for name, is_own in own.items() if not _missing_or(folder / name, is_own)]


def _missing_or(path: Path, is_own: Callable[[IO[bytes]], bool]) -> bool:
    try:
        with path.open("rb") as file:
            return is_own(file)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise _explained(path, error) from error


def _is_results(file: IO[bytes]) -> bool:
    """True where a line is a result, or the first one was on its way to be; what is damaged beside them may be ours."""
    first = file.readline()
    return not first or _is_torn(first) or any(_parsed(raw) is not None for raw in chain([first], file))


def _is_summary(file: IO[bytes]) -> bool:
    """True for the header that we write, whatever a spreadsheet has made of its commas."""
    cells = re.split("[,;\t]", file.readline().decode("utf-8-sig", "replace").strip())
    return cells == [""] or tuple(cell.strip('"') for cell in cells[:5]) == SUMMARY_COLUMNS[:5]


def _locked(path: Path) -> IO[bytes]:
    """The lock file, locked by this process until it ends, however it ends."""
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise _explained(path, error) from error
    try:
        _take(file)
    except OSError:
        file.close()
        owners = [line for line in path.read_text("utf-8", "replace").splitlines() if line.startswith("process")]
        raise WriteError(
            f"{shown(path.parent)}: another batch works in this folder ({owners[-1] if owners else 'starting'}); "
            "wait for it, or choose another --output-dir"
        ) from None
    return file


if sys.platform == "win32":

    def _take(file: IO[bytes]) -> None:
        import msvcrt

        file.seek(1 << 40)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:

    def _take(file: IO[bytes]) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _begun(lock: IO[bytes]) -> set[bytes]:
    lock.seek(0)
    return {bytes.fromhex(line.decode()) for line in lock.read().splitlines() if _KEY.fullmatch(line)}


def _append(descriptor: int, data: bytes, path: Path) -> None:
    """One write, synced; what a full disk took of it is taken back."""
    before = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, data) < len(data):
            os.write(descriptor, data[os.fstat(descriptor).st_size - before :])  # says why it was cut short
        os.fsync(descriptor)
    except OSError as error:
        os.ftruncate(descriptor, before)
        raise _explained(path, error) from error


def _repair(descriptor: int) -> None:
    """Cut off a line that was never finished; end one that only lacks its line end, or that we did not write."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        begin = max(0, end - (1 << 16))
        block = _read_at(descriptor, begin, end)
        found = block.rfind(b"\n")
        if found >= 0:
            end = begin + found + 1
            break
        end = begin
    if end < size and _is_torn(_read_at(descriptor, end, size)):
        os.ftruncate(descriptor, end)
    elif end < size:
        os.write(descriptor, b"\n")


def _is_torn(tail: bytes) -> bool:
    """True for the first bytes of a line of ours, and for zeros, which a power cut leaves of what was not yet there."""
    text = tail.strip(b"\0")
    if not (text.startswith(_BEGINNING) or _BEGINNING.startswith(text)):
        return False
    try:
        json.loads(tail)
    except (ValueError, RecursionError):
        return not tail.endswith(b"\n")
    return False


def _read_at(descriptor: int, begin: int, end: int) -> bytes:
    os.lseek(descriptor, begin, os.SEEK_SET)
    return os.read(descriptor, end - begin)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Every line, and what it says; None where that is no result."""
    with path.open("rb") as file:
        for raw in file:
            yield raw, _parsed(raw)


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and _is_result(line) else None


def _is_result(line: Mapping[str, Any]) -> bool:
    """True for what `append` may have written; of other kinds of value nothing could be made."""
    inputs, seconds = line.get("inputs") or {}, line.get("seconds") or {}
    pairs = [line.get(name) or (0, 0) for name in ("shift_px", "scale")]
    lists = [line.get(name) or [] for name in ("gradmaps", "written", "reasons")]
    if not (_kinds([inputs, seconds]) <= {dict} and _kinds(lists) <= {list} and _kinds(pairs) <= {list, tuple}):
        return False
    texts = [line.get("output"), line.get("params"), line.get("options_hash"), *inputs.values()]
    return (
        _kinds([line.get("id"), *chain(*lists)]) == {str}
        and _kinds(texts) <= {str, NoneType}
        and _kinds(seconds.values()) <= {int, float}
        and all(len(pair) == 2 for pair in pairs)
        and line.get("verdict") in _VERDICTS
    )


def _kinds(values: Iterable[Any]) -> set[type]:
    return set(map(type, values))


def _row(line: Mapping[str, Any]) -> list[Any]:
    shift = line.get("shift_px") or (None, None)
    scale = line.get("scale") or (None, None)
    seconds = line.get("seconds") or {}
    special = {
        "shift_x_px": shift[0],
        "shift_y_px": shift[1],
        "scale_x": scale[0],
        "scale_y": scale[1],
        "seconds": round(sum(seconds.values()), 3) if seconds else None,
        "reasons": "; ".join(line.get("reasons") or ()),
    }
    return [_cell(special[name] if name in special else line.get(name)) for name in SUMMARY_COLUMNS]


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is shown as text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def _explained(path: Path, error: OSError) -> WriteError:
    return WriteError(f"{shown(path)}: {advice(error)}; the same command goes on from here")
