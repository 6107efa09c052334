"""Which files a run will write, decided and checked before anything is read.

Nothing here opens a picture or needs PyTorch, so that a mistake in the names costs no time.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgalign.errors import OptionError, WriteError
from imgalign.files.paths import advice, shown

_KEPT = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp", ".pgm", ".ppm", ".pnm"})
_OF_FLOATS = frozenset({".pfm", ".fits", ".fit"})


@dataclass(frozen=True)
class Job:
    """One moving picture and the files that come of it; what is None is not written.

    Pictures are text and not paths because of `FILE[page]`.
    """

    fixed: str | None  # None where a picture is its own reference (center)
    moving: str
    image: Path | None = None
    params: Path | None = None
    fixed_gradmap: Path | None = None
    aligned_gradmap: Path | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Every file this job writes."""
        files = (self.image, self.params, self.fixed_gradmap, self.aligned_gradmap)
        return tuple(file for file in files if file is not None)


def plan(
    fixed: str | None,
    moving: Sequence[str],
    *,
    word: str = "aligned",
    suffix: str | None = None,
    output: Path | None = None,
    params: Path | None = None,
    output_dir: Path | None = None,
    image: bool = True,
    params_file: bool = True,
    gradmap: bool = False,
) -> tuple[Job, ...]:
    """Name the outputs: `<moving stem>.<word>.<ext>` and `<moving stem>.params.json` in `output_dir`.

    Args:
        fixed: The picture that stays, or None.
        moving: The pictures brought to it.
        word: What the picture is called after its stem.
        suffix: Its extension; the moving picture's own without it.
        output: The picture's file instead; taken as it is, `output_dir` does not apply.
        params: The parameter file instead; likewise.
        output_dir: An existing folder; the working folder without it.
        image: Write pictures.
        params_file: Write parameter files.
        gradmap: Write gradient-magnitude maps of the fixed and of each aligned picture too.

    Raises:
        OptionError: If one name is given for several pictures.
    """
    for option, value in (("--output", output), ("--params", params)):
        if value is not None and len(moving) > 1:
            raise OptionError(
                f"{option} names one file, but {len(moving)} pictures came; "
                "use --output-dir, which names each after its picture"
            )
    folder = output_dir or Path()
    jobs = []
    for index, name in enumerate(moving):
        picture = (output or folder / output_name(name, word, suffix)) if image else None
        jobs.append(
            Job(
                fixed=fixed,
                moving=name,
                image=picture,
                params=(params or folder / f"{stem(name)}.params.json") if params_file else None,
                fixed_gradmap=folder / f"{stem(fixed)}.gradmap.tif" if gradmap and fixed and index == 0 else None,
                aligned_gradmap=folder / f"{stem(name)}.{word}.gradmap.tif" if gradmap else None,
            )
        )
    return tuple(jobs)


def output_name(picture: str, word: str, suffix: str | None = None) -> str:
    """`<stem>.<word>.<ext>`, with the picture's own extension where that format is written."""
    return f"{stem(picture)}.{word}{suffix or kept_suffix(picture)}"


def kept_suffix(picture: str) -> str:
    """The extension that what comes of a picture gets: its own where that format is written.

    Else that of PNG, or of TIFF where floats are usual.
    """
    own = file_of(picture).suffix
    return own if own.lower() in _KEPT else ".tif" if own.lower() in _OF_FLOATS else ".png"


def file_of(picture: str) -> Path:
    """The file of a picture that may be `FILE[page]`."""
    return _file_and_page(picture)[0]


def stem(picture: str) -> str:
    """The name without folder and extension; the page of `FILE[page]` is kept, so that pages do not collide."""
    file, page = _file_and_page(picture)
    return file.stem if page is None else f"{file.stem}.{page}"


def _file_and_page(picture: str) -> tuple[Path, int | None]:
    if not picture.endswith("]"):
        return Path(picture), None
    from imgalign.files.images import file_and_page  # NumPy and Pillow, for the rare name only

    return file_and_page(picture)


def check(outputs: Iterable[tuple[str, Path]], inputs: Iterable[str]) -> None:
    """Refuse a run in which a file would be written twice, an input written over, or an input has no name.

    Args:
        outputs: Pairs of the picture that a file comes from, and the file.
        inputs: Everything that is read, as `FILE` or `FILE[page]`.

    Raises:
        OptionError: Naming the files.
    """
    sources: dict[str, str] = {}
    names = [*inputs]
    if "" in names:
        raise OptionError("a file to read has an empty name; is a variable of the script not set?")
    read = {_identity(file_of(name)): name for name in names}
    for picture, path in outputs:
        identity = _identity(path)
        if identity in read:
            raise OptionError(
                f"{shown(path)} would be written but is also an input, and inputs are never overwritten; "
                "choose another --output or --output-dir"
            )
        if identity in sources:
            both = "twice" if sources[identity] == picture else f"for {shown(sources[identity])} and {shown(picture)}"
            raise OptionError(f"{shown(path)} would be written {both}; run them apart, each with its own --output-dir")
        sources[identity] = picture


def check_folders(paths: Iterable[Path]) -> None:
    """Refuse folders that do not exist or take no files, before any work is done for them.

    Raises:
        WriteError: Naming the folder.
    """
    for folder in sorted({path.parent for path in paths}):
        if not _looked_for(folder.exists):
            raise WriteError(f"{shown(folder)}: the output folder does not exist; create it with mkdir -p")
        if not folder.is_dir():
            raise WriteError(f"{shown(folder)}: is not a folder; name one that is")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise WriteError(f"{shown(folder)}: no permission to write into this folder; choose another --output-dir")


def check_new(paths: Iterable[Path]) -> None:
    """Refuse files that exist already, before any work is done for them.

    Raises:
        WriteError: Naming the file.
    """
    for path in paths:
        if _looked_for(path.is_file):
            raise WriteError(f"{shown(path)}: exists; use --overwrite to replace it, or another name")


def _looked_for(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except OSError as error:  # a name that no disk takes
        raise WriteError(f"{shown(error.filename)}: {advice(error)}") from None


def job_outputs(jobs: Iterable[Job]) -> Iterator[tuple[str, Path]]:
    """What `check` wants to know of jobs."""
    for job in jobs:
        for path in job.outputs:
            yield job.moving, path


def _identity(path: str | os.PathLike[str]) -> str:
    """One text for every spelling of a file: links followed, hard links and letter case by what the disk says."""
    try:
        found = Path(path).stat()
    except OSError:
        return os.path.realpath(path)
    return f"{found.st_dev}:{found.st_ino}"
