"""Which pairs a batch works on: CSV, JSON Lines, lists of paths, or two folders, read as a stream.

A manifest can be gone through several times and is never held in memory: first to check every name, then to work.
"""

import csv
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, Literal

from imgalign.errors import OptionError
from imgalign.files.outputs import file_of, stem
from imgalign.files.paths import shown
from imgalign.wanted import MODELS

_SNIFF_BYTES = 1 << 16
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # how PowerShell's > and "Unicode text" of spreadsheets begin
_TABLES = {".csv", ".tsv"}
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # half a character: JSON can say it, a disk cannot take it
_WORD = re.compile(r"\{([^{}]*)\}")
Kind = Literal["csv", "jsonl", "nul", "lines"]


@dataclass(frozen=True)
class Entry:
    """One pair of a manifest; what is None comes from the options of the run."""

    line: int
    fixed: str
    moving: str
    id: str | None = None
    model: str | None = None
    output: str | None = None
    params: str | None = None
    mask: str | None = None
    moving_mask: str | None = None
    init: str | None = None


_TEXTS = tuple(entry.name for entry in fields(Entry) if entry.name != "line")


_WORDS: dict[str, Callable[[Entry], str]] = {
    "id": lambda entry: entry.id or "",
    "moving": lambda entry: stem(entry.moving),
    "fixed": lambda entry: stem(entry.fixed),
    "parent": lambda entry: Path(entry.moving).parent.name,
    "fixed_parent": lambda entry: Path(entry.fixed).parent.name,
    "line": lambda entry: str(entry.line),
    "model": lambda entry: entry.model or "",
    "ext": lambda _: "",  # comes apart, for it follows from more than the entry
}


class Manifest:
    """Pairs out of a file, as a stream that can be read again and again.

    Args:
        path: CSV with a header, JSON Lines, or paths separated by NULs or line ends; `-` is stdin. What cannot be read
            twice (stdin, pipes) is copied into a temporary file first.
        fixed: The picture that stays in every pair; then a list of paths names moving pictures only, and the columns
            of a table need no `fixed`. Without it, paths come in turns: FIXED, MOVING, FIXED, MOVING.

    Raises:
        OptionError: If it cannot be read.
    """

    def __init__(self, path: str, *, fixed: str | None = None) -> None:
        self.name = "stdin" if path == "-" else shown(path)
        self.inputs = () if path == "-" else (path,)
        """The file itself."""
        self._fixed = fixed
        self._unused: dict[str, None] = {}  # in their order
        self._file = _opened_twice(path, self.name)
        head = self._file.read(_SNIFF_BYTES)
        self._encoding = "utf-16" if head.startswith(_UTF16) else "utf-8-sig"
        first = head.decode(self._encoding, "replace")
        self._kind = _kind_of(first)
        header = first.strip().partition("\n")[0].strip()
        if self._kind == "lines" and Path(path).suffix.lower() in _TABLES and len(_cells(header)) > 1:
            self._file.close()
            raise OptionError(
                f"{self.name} has no column moving: a table begins with a header such as fixed,moving, not {header!r}"
            )

    @property
    def note(self) -> str:
        """Which columns nothing was made of: `modle` may have been meant for `model`."""
        return f"{self.name}: not used: {', '.join(map(shown, self._unused))}" if self._unused else ""

    def __iter__(self) -> Iterator[Entry]:
        """Every pair from the beginning; one pass at a time.

        Raises:
            OptionError: With the line that makes no pair.
        """
        self._file.seek(0)
        text = TextIOWrapper(self._file, encoding=self._encoding, errors="surrogateescape", newline="")
        try:
            for number, record in self._records(text):
                yield self._entry(number, record)
        except (csv.Error, ValueError) as error:
            raise error if isinstance(error, OptionError) else OptionError(f"{self.name}: {error}") from error
        finally:
            # A pass that was broken off ends when it is collected, perhaps after `close`.
            if not self._file.closed:
                text.detach()

    def close(self) -> None:
        """Close the file; the temporary copy goes with it."""
        self._file.close()

    def _records(self, text: TextIOWrapper) -> Iterator[tuple[int, Mapping[str, Any]]]:
        if self._kind == "csv":
            return self._from_csv(text)
        if self._kind == "jsonl":
            return self._from_json(text)
        return self._from_paths(_split(text, "\0") if self._kind == "nul" else _split(text, "\n"))

    def _from_csv(self, text: TextIOWrapper) -> Iterator[tuple[int, Mapping[str, Any]]]:
        delimiter = _delimiter(text)
        reader = csv.reader(_quotes_first(text, delimiter), delimiter=delimiter)
        rows = (row for row in reader if any(cell.strip() for cell in row))
        header = [name.strip().lower() for name in next(rows)]
        for name in _TEXTS:
            if header.count(name) > 1:
                raise OptionError(f"{self._at(reader.line_num)} names the column {name} twice; rename or remove one")
        for row in rows:
            if len(row) > len(header):
                raise OptionError(f"{self._at(reader.line_num)} has {len(row)} fields, the header {len(header)}")
            yield reader.line_num, dict(zip(header, map(_tidied, row), strict=False))

    def _from_json(self, text: TextIOWrapper) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise OptionError(f"{self._at(number)} is no JSON: {error}") from None
            if not isinstance(record, dict):
                raise OptionError(f'{self._at(number)}: wanted an object like {{"fixed": "a.png", "moving": "b.png"}}')
            yield number, record

    def _from_paths(self, names: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        fixed: str | None = None
        number = 0
        for number, name in enumerate((name for name in names if name), 1):
            if self._fixed is not None:
                yield number, {"moving": name}
            elif fixed is None:
                fixed = name
            else:
                yield number // 2, {"fixed": fixed, "moving": name}
                fixed = None
        if fixed is not None:
            raise OptionError(
                f"{self.name}: {number} paths make no pairs: they come in turns, FIXED, MOVING, FIXED, MOVING; "
                "or give one --fixed for all"
            )

    def _entry(self, number: int, record: Mapping[str, Any]) -> Entry:
        given: dict[str, str] = {} if self._fixed is None else {"fixed": self._fixed}
        self._unused |= dict.fromkeys(name for name in record if name and name not in _TEXTS)
        for name in _TEXTS:
            value = record.get(name)
            if value is None or value == "":
                continue
            if name == "id" and isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str) or "\0" in value or _HALF.search(value):
                raise OptionError(f"{self._at(number)}: {name} must be text, got {value!r}")
            given[name] = value
        for name in ("fixed", "moving"):
            if name not in given:
                raise OptionError(f"{self._at(number)} names no {name} picture; the columns are fixed,moving,...")
        if given.get("model", "affine") not in MODELS:
            raise OptionError(f"{self._at(number)}: no model {given['model']!r}; choose one of {', '.join(MODELS)}")
        return Entry(line=number, **given)

    def _at(self, number: int) -> str:
        return f"{self.name}, line {number}"


class FolderPairs:
    """Pictures of two folders that have the same stem.

    Raises:
        OptionError: If a folder cannot be read, a stem is there twice, or none matches.
    """

    def __init__(self, fixed_dir: Path, moving_dir: Path) -> None:
        self.name = f"{shown(fixed_dir)} and {shown(moving_dir)}"
        self.inputs: tuple[str, ...] = ()
        """None beside the pictures."""
        fixed, moving = _by_stem(fixed_dir), _by_stem(moving_dir)
        both = sorted(fixed.keys() & moving.keys())
        if not both:
            raise OptionError(f"no picture of {shown(fixed_dir)} has the stem of one of {shown(moving_dir)}")
        alone = len(fixed) + len(moving) - 2 * len(both)
        self.note = f"{alone} pictures of {self.name} have no partner" if alone else ""
        self._pairs = [(str(fixed[name]), str(moving[name])) for name in both]

    def __iter__(self) -> Iterator[Entry]:
        """Every pair, by name."""
        return (Entry(number, fixed, moving) for number, (fixed, moving) in enumerate(self._pairs, 1))

    def close(self) -> None:
        """Nothing is open."""


def with_defaults(entry: Entry, *, model: str, id_template: str) -> Entry:
    """The entry with its model and its id, which by default is made from the names.

    Raises:
        OptionError: If the template names something unknown.
    """
    entry = replace(entry, model=entry.model or model)
    return entry if entry.id is not None else replace(entry, id=filled(id_template, entry))


def filled(template: str, entry: Entry, extension: str = "") -> str:
    """A template with its `{words}` filled in.

    Words: `id`, `moving` and `fixed` (stems), `parent` and `fixed_parent` (names of their folders), `line`, `model`,
    `ext` (with its dot).

    Raises:
        OptionError: If it names something else.
    """

    def word(found: re.Match[str]) -> str:
        if found[1] not in _WORDS:
            known = ", ".join(f"{{{name}}}" for name in _WORDS)
            raise OptionError(f"the template {template!r} holds {found[0]}; it may hold {known}")
        return extension if found[1] == "ext" else _WORDS[found[1]](entry)

    return _WORD.sub(word, template)


def _opened_twice(path: str, name: str) -> IO[bytes]:
    try:
        if path == "-":
            return _copied(sys.stdin.buffer)
        file = Path(path).open("rb")  # noqa: SIM115  (kept open for the whole run)
        if stat.S_ISREG(Path(path).stat().st_mode):
            return file
        with file:
            return _copied(file)
    except OSError as error:
        raise OptionError(f"{name}: the list of pairs cannot be read: {error.strerror or error}") from None


def _copied(stream: IO[bytes]) -> IO[bytes]:
    copy = tempfile.TemporaryFile(prefix="imgalign-pairs-")  # noqa: SIM115  (kept open for the whole run)
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return copy


def _kind_of(head: str) -> Kind:
    if "\0" in head:
        return "nul"
    text = head.lstrip()
    if text.startswith("{"):
        return "jsonl"
    cells = {cell.strip().strip('"').lower() for cell in _cells(text.partition("\n")[0])}
    return "csv" if "moving" in cells else "lines"


def _cells(line: str) -> list[str]:
    return line.replace(";", ",").replace("\t", ",").split(",")


def _delimiter(text: TextIOWrapper) -> str:
    """Comma, or what spreadsheets of other countries write instead: whichever the header has most of."""
    header = next(line for line in text if line.strip())
    text.seek(0)
    return max(",;\t", key=header.count)


def _quotes_first(lines: Iterable[str], delimiter: str) -> Iterator[str]:
    """Lines without the blanks before quotes, for `csv` takes quotes behind a blank for a part of the name.

    Its own `skipinitialspace` would take the blanks off other names too, which a file may have (`_tidied`).
    """
    blanks = " \t".replace(delimiter, "")
    quoted = re.compile(rf'(\A|{delimiter})[{blanks}]*("(?:[^"]|"")*("|\Z))')
    is_open = False  # in the middle of a name with a line break

    def moved_up(found: re.Match[str]) -> str:
        nonlocal is_open
        is_open = not found[3]
        return found[1] + found[2]

    for line in lines:
        if '"' not in line:
            yield line
        elif is_open:
            yield quoted.sub(moved_up, f'"{line}')[1:]
        else:
            yield quoted.sub(moved_up, line)


def _tidied(cell: str) -> str:
    """A cell without the blanks around it, which people write for the eye; a file that has them keeps its name."""
    tidy = cell.strip()
    return cell if cell != tidy and os.path.lexists(file_of(cell)) else tidy


def _split(text: TextIOWrapper, end: str) -> Iterator[str]:
    """The parts between separators, without holding more than one block."""
    rest = ""
    while block := text.read(_SNIFF_BYTES):
        *parts, rest = (rest + block).split(end)
        yield from (part.removesuffix("\r") if end == "\n" else part for part in parts)
    yield rest.removesuffix("\r") if end == "\n" else rest


def _by_stem(folder: Path) -> dict[str, Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise OptionError(f"{shown(folder)}: cannot be read: {error.strerror or error}") from None
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise OptionError(f"{shown(folder)} holds both {found[path.stem].name} and {path.name}; which is meant?")
        found[path.stem] = path
    return found
