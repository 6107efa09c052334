"""Files on disk: showing a name in one line, and replacing a file whole or not at all."""

import errno
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO
from uuid import uuid4

from imgalign.errors import WriteError

_POSIX = os.name == "posix"
_COARSEST_TICK_NS = 2_000_000_000  # of FAT


def shown(path: str | os.PathLike[str]) -> str:
    """The path on one line: control characters and undecodable bytes escaped, everything else as it is."""
    text = os.fspath(path)
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return plain.encode("utf-8", "backslashreplace").decode("utf-8")


def is_file(path: str | os.PathLike[str]) -> bool:
    """True for an existing file; false, where pathlib raises, for a name that no disk takes or in a shut folder."""
    return os.path.isfile(path)  # noqa: PTH113


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. A file that has not changed is read once, however many its pages are.

    Raises:
        OSError: If it cannot be read.
    """
    info = Path(path).stat()
    key = (os.fspath(path), info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    # Within a tick of the disk's clock a file may change and keep its date.
    fresh = time.time_ns() - info.st_mtime_ns < _COARSEST_TICK_NS
    return _sha256.__wrapped__(*key) if fresh else _sha256(*key)


@lru_cache(maxsize=1024)
def _sha256(path: str, *_state: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def is_same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """True where both names lead to one file, through links or other spellings too."""
    try:
        return Path(one).samefile(other)
    except OSError:  # at least one does not exist yet: compare what they would be
        return os.path.realpath(one) == os.path.realpath(other)


def refuse_input_as_output(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse to write over a file that is read, whatever `overwrite` says.

    Raises:
        WriteError: If `output` is one of `inputs`.
    """
    for path in inputs:
        if is_same_file(output, path):
            raise WriteError(f"{shown(output)}: is also an input, and inputs are never overwritten; name another file")


def take_away(path: str | os.PathLike[str], *, inputs: Iterable[str | os.PathLike[str]] = ()) -> bool:
    """Remove a file, if there is one, so that it is not taken for what was not written.

    Args:
        path: Which; a device or a pipe stays.
        inputs: Files that were read, never to be removed.

    Returns:
        True where there was one.

    Raises:
        WriteError: If it is an input, or the folder does not let go of it.
    """
    refuse_input_as_output(path, inputs)
    if not is_file(path):
        return False
    with _explained(path):
        Path(path).unlink()
    return True


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = False, sync: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the place of `path` only when the block ends well.

    The bytes go to a hidden file in the same folder, which is then renamed; whatever goes wrong (also a full disk
    or Ctrl-C) removes it and leaves `path` as it was. A link is followed, so that it stays a link. Devices and
    pipes such as /dev/stdout are written to as they are, after the block has ended well.

    Args:
        path: Where the file shall be.
        overwrite: Take the place of an existing file.
        sync: Wait until the bytes are on the disk (fsync), so that they survive a power cut.

    Yields:
        A binary file, open for writing, reading and seeking.

    Raises:
        WriteError: If the file exists, or the folder or disk does not take it.
    """
    target = Path(os.path.realpath(path))
    with _explained(path):
        if is_stream(path):
            buffer = BytesIO()
            yield buffer
            with Path(path).open("wb", buffering=0) as stream:
                _write_all(stream, buffer.getbuffer())
            return
        _refuse(path, target, overwrite)
        temporary, file = _new_beside(target)
        try:
            with file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
                if _POSIX:  # while the lock keeps `sweep` off
                    _put(temporary, target, path, overwrite)
            if not _POSIX:  # where an open file has to keep its name
                _put(temporary, target, path, overwrite)
        finally:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Take away what processes that were killed left unfinished below a folder, and nothing that is still in work."""
    for temporary in folder.rglob(".imgalign-*.tmp"):
        with suppress(OSError):  # that somebody works on it, or it is gone
            _discard(temporary)


def _new_beside(target: Path) -> tuple[Path, IO[bytes]]:
    """A hidden file in the same folder, locked as long as it is open."""
    while True:
        temporary = target.with_name(f".imgalign-{uuid4().hex}.tmp")
        file = temporary.open("x+b")
        _lock(file)
        if temporary.exists():
            return temporary, file
        file.close()  # `sweep` came before the lock


if sys.platform == "win32":

    def _lock(file: IO[bytes]) -> None:
        """Nothing: what is open cannot be removed there."""

    def _discard(temporary: Path) -> None:
        temporary.unlink()

else:

    def _lock(file: IO[bytes]) -> None:
        import fcntl

        with suppress(OSError):  # a file system without locks, where `sweep` gets none either
            fcntl.flock(file, fcntl.LOCK_EX)

    def _discard(temporary: Path) -> None:
        import fcntl

        with temporary.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()


def settle(paths: Iterable[Path]) -> None:
    """Wait until files, and the names in folders, are on the disk, so that they survive a power cut.

    Folders are passed over where the system does not sync them.
    """
    for path in paths:
        if _POSIX or not path.is_dir():
            # Windows syncs only what may be written, and elsewhere a file may be ours without that.
            descriptor = os.open(path, os.O_RDONLY if _POSIX else os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def is_stream(path: str | os.PathLike[str]) -> bool:
    """True for what exists and is neither a file nor a folder: /dev/stdout, a named pipe."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _write_all(stream: IO[bytes], data: memoryview) -> None:
    """Write everything: an unbuffered write to a pipe may take only a part."""
    while data:
        data = data[stream.write(data) or 0 :]


def _refuse(path: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    """Say early, before the work, why `target` cannot be written."""
    if target.is_dir():
        raise WriteError(f"{shown(path)}: is a folder; name a file in it")
    if target.exists() and not overwrite:
        raise WriteError(f"{shown(path)}: exists; use --overwrite (overwrite=True) to replace it, or another name")
    if not target.parent.exists():
        raise WriteError(f"{shown(path)}: the folder {shown(target.parent)} does not exist; create it first")
    if not target.parent.is_dir():
        raise WriteError(f"{shown(path)}: {shown(target.parent)} is not a folder")


def _put(temporary: Path, target: Path, path: str | os.PathLike[str], overwrite: bool) -> None:
    """Give the finished file its name; without `overwrite` a file that came in between stays."""
    if overwrite:
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)  # unlike a rename, this never replaces
    except FileExistsError:
        raise WriteError(f"{shown(path)}: was created by someone else meanwhile; it was left alone") from None
    except (OSError, AttributeError):  # a file system without hard links (FAT, some network shares)
        _refuse(path, target, overwrite)
        temporary.replace(target)


@contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says into a WriteError that says what to do."""
    try:
        yield
    except WriteError:
        raise
    except BrokenPipeError:  # a closed pipe is the reader's decision, no failure to write
        raise
    except OSError as error:
        raise WriteError(f"{shown(path)}: {advice(error)}") from error


def advice(error: OSError) -> str:
    """What a failure to write means, and what to do, in words."""
    said = error.strerror or str(error) or type(error).__name__
    advice = {
        errno.ENOSPC: "the disk is full; free some space, nothing was written",
        errno.EDQUOT: "your disk quota is used up; free some space, nothing was written",
        errno.EFBIG: "the file is larger than allowed here; nothing was written",
        errno.EACCES: "no permission to write into this folder; choose another with --output-dir",
        errno.EPERM: "no permission to write into this folder; choose another with --output-dir",
        errno.EROFS: "the disk is read-only; choose another folder with --output-dir",
        errno.ENAMETOOLONG: "the name is too long for this disk; choose a shorter one",
    }
    return advice.get(error.errno or 0, f"could not be written: {said}")
