"""Where the results of a batch go: every name is made, and checked, before anything runs.

Names come from templates or from the manifest. They stay inside the output folder: `..`, absolute paths and links that
lead out are refused, for a manifest may come from somebody else.
"""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from imgalign.errors import OptionError
from imgalign.files.outputs import Job, file_of, kept_suffix
from imgalign.files.paths import shown
from imgalign.jobs.ledger import LOCK, RESULTS, SUMMARY
from imgalign.jobs.manifest import Entry, filled, with_defaults

_OWN = (RESULTS, SUMMARY, LOCK)
_LONGEST = 255  # bytes of a name, on the disks of Linux, macOS and Windows


@dataclass(frozen=True)
class Layout:
    """How pairs and their outputs are named."""

    folder: Path
    """The output folder."""
    model: str = "affine"
    output_template: str = "{id}.aligned{ext}"
    params_template: str = "{id}.params.json"
    id_template: str = "{moving}"
    image: bool = True
    gradmap: bool = False
    allow_outside: bool = False

    def named(self, entry: Entry) -> Entry:
        """The entry with its model and id."""
        return with_defaults(entry, model=self.model, id_template=self.id_template)

    def job(self, entry: Entry) -> Job:
        """What a named entry reads and writes.

        Raises:
            OptionError: If a name would leave the output folder.
        """
        extension = kept_suffix(entry.moving)
        output = self._path(entry, entry.output or filled(self.output_template, entry, extension))
        params = self._path(entry, entry.params or filled(self.params_template, entry, extension))
        maps = (output.with_suffix(f".{word}gradmap.tif") if self.gradmap else None for word in ("fixed.", ""))
        fixed_gradmap, aligned_gradmap = maps
        return Job(
            fixed=entry.fixed,
            moving=entry.moving,
            image=output if self.image else None,
            params=params,
            fixed_gradmap=fixed_gradmap,
            aligned_gradmap=aligned_gradmap,
        )

    def _path(self, entry: Entry, name: str) -> Path:
        path = self.folder / name
        if not name or not path.name or name.endswith(("/", os.sep)):
            raise OptionError(f"line {entry.line}: {shown(name)!r} is no name of a file")
        longest = max(len(os.fsencode(part)) for part in name.split("/"))
        if longest > _LONGEST:
            raise OptionError(
                f"line {entry.line}: the output {shown(name[:40])}... has a name of {longest} bytes, and disks take "
                f"{_LONGEST}; is this a list of pairs?"
            )
        if path.parent == self.folder and path.name.startswith(_OWN):
            raise OptionError(f"line {entry.line}: {path.name} is a file of the batch itself; choose another name")
        if not self.allow_outside:
            self._refuse_outside(entry, name, path)
        return path

    def _refuse_outside(self, entry: Entry, name: str, path: Path) -> None:
        given = Path(name)
        if given.is_absolute() or given.drive or ".." in given.parts:
            why = "leads out of the output folder"
        elif not _is_inside(os.path.split(path)[0], self.folder):
            why = "goes through a link that leads out of the output folder"
        elif os.path.islink(path):  # noqa: PTH114  (pathlib raises where a name is too long)
            why = "is a link"
        else:
            return
        raise OptionError(f"line {entry.line}: the output {shown(name)} {why}; allow it with --allow-outside")


def check(entries: Iterable[Entry], layout: Layout, read_by_all: Sequence[str] = ()) -> int:
    """Go through all pairs, and refuse the batch if any two collide.

    Holds 8 bytes a name, so that the length of a manifest does not matter.

    Args:
        entries: The pairs.
        layout: How they are named.
        read_by_all: Files that are read beside those that the pairs name.

    Returns:
        How many pairs there are.

    Raises:
        OptionError: If an id or a file comes twice, naming both lines, or an input would be written over.
    """
    ids, outputs, inputs = array("Q"), array("Q"), array("Q")
    for entry in map(layout.named, entries):
        ids.append(_number(str(entry.id)))
        outputs.extend(_number(_place(path)) for path in layout.job(entry).outputs)
        inputs.extend(_number(_place(file_of(name))) for name in _read_by(entry))
    for what, repeated in (("id", _repeated(ids)), ("output", _repeated(outputs))):
        if repeated:
            _explain_repeated(what, repeated, entries, layout)
    inputs.extend(_number(_place(file_of(name))) for name in read_by_all)
    outputs.extend(_number(_place(layout.folder / name)) for name in _OWN)
    written_over = _common(outputs, inputs)
    if written_over:
        _explain_written_over(written_over, entries, layout, read_by_all)
    return len(ids)


def _read_by(entry: Entry) -> Iterator[str]:
    for name in (entry.fixed, entry.moving, entry.mask, entry.moving_mask, entry.init):
        if name is not None:
            yield name


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _repeated(numbers: "array[int]") -> set[int]:
    import numpy as np

    found, counts = np.unique(np.frombuffer(numbers, np.uint64), return_counts=True)
    return {int(number) for number in found[counts > 1]}


def _common(some: "array[int]", others: "array[int]") -> set[int]:
    import numpy as np

    found = np.intersect1d(np.frombuffer(some, np.uint64), np.frombuffer(others, np.uint64))
    return {int(number) for number in found}


def _explain_repeated(what: str, numbers: set[int], entries: Iterable[Entry], layout: Layout) -> None:
    """Find the lines; what only looked alike by its fingerprint is no collision."""
    seen: dict[str, int] = {}
    advice = "give each line an id, or use --id-template with {parent} or {fixed}"
    for entry in map(layout.named, entries):
        texts = [str(entry.id)] if what == "id" else [_place(path) for path in layout.job(entry).outputs]
        for text in texts:
            if _number(text) not in numbers:
                continue
            if text in seen:
                raise OptionError(
                    f"lines {seen[text]} and {entry.line} have the same {what} {shown(text)!r}; {advice}"
                    + ("" if what == "id" else ", or --output-template")
                )
            seen[text] = entry.line


def _explain_written_over(
    numbers: set[int], entries: Iterable[Entry], layout: Layout, read_by_all: Sequence[str]
) -> None:
    read = {_place(file_of(name)) for entry in entries for name in _read_by(entry)}
    read |= {_place(file_of(name)) for name in read_by_all}
    for name in _OWN:
        if _place(layout.folder / name) in read:
            raise OptionError(
                f"{shown(layout.folder / name)} is an input, and the batch would write its own {name} over it; "
                "rename the input, or choose another --output-dir"
            )
    for entry in map(layout.named, entries):
        for path in layout.job(entry).outputs:
            if _number(_place(path)) in numbers and _place(path) in read:
                raise OptionError(
                    f"line {entry.line}: {shown(path)} would be written but is also an input, and inputs are never "
                    "overwritten; choose another --output-dir or --output-template"
                )


def _place(path: str | os.PathLike[str]) -> str:
    """Where a name leads, links followed. Called for every name of a manifest, so without `Path`."""
    text = os.fspath(path)
    if os.path.islink(text):  # noqa: PTH114  (as above)
        return os.path.realpath(text)
    folder, name = os.path.split(text)
    return f"{_real_folder(folder, os.getcwd())}{os.sep}{name}"  # noqa: PTH109


@lru_cache(maxsize=4096)
def _real_folder(folder: str, working: str) -> str:
    return os.path.realpath(os.path.join(working, folder))  # noqa: PTH118


def _is_inside(folder: str, outer: Path) -> bool:
    here, there = (_real_folder(os.fspath(each), os.getcwd()) for each in (folder, outer))  # noqa: PTH109
    return here == there or here.startswith(there.rstrip(os.sep) + os.sep)
