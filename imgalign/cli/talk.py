"""What a command says: answers on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from imgalign.cli import complain, lose_stdout, tell
from imgalign.files.paths import shown

T = TypeVar("T")


class Talk:
    """Speaks for one run of a command.

    Args:
        quiet: Only errors and doubts.
        verbose: More detail.
        progress: Show a bar; None: where stderr is a terminal and there is more than one picture.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, progress: bool | None = None) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._wants_bar = progress
        self._bar: Any = None
        self.lost = False
        """Whether stdout takes no more."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Talk":
        """As a command's options say."""
        return cls(quiet=given["quiet"], verbose=given["verbose"], progress=given["progress"])

    def say(self, text: str) -> None:
        """A line about the ordinary course of things."""
        if not self.quiet:
            self._line(text)

    def detail(self, text: str) -> None:
        """A line only for those who asked for more."""
        if self.verbose and not self.quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """A line that even a quiet run shows."""
        self._line(text)

    def error(self, text: str) -> None:
        """The one line that goes with exit status 1."""
        if self._bar is not None:
            self._bar.clear()
        complain(text)

    def trace(self, lines: Iterable[str]) -> None:
        """The traceback of a bug, whole."""
        tell("".join(lines))

    def answer(self, record: dict[str, Any]) -> None:
        """One JSON line on stdout, flushed so that a reader downstream sees it at once.

        ASCII only: a file name of undecodable bytes still makes valid JSON in any locale.
        """
        self.put(json.dumps(record, allow_nan=False))

    def put(self, text: str) -> None:
        """A line on stdout; where that takes no more, `lost` says so, and the work goes on."""
        try:
            click.echo(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.lost = True
            lose_stdout(error)

    def bar(self, total: int, unit: str) -> Any:
        """A bar that the caller moves and closes, or None where nobody watches."""
        if not self._shows_bar(total):
            return None
        from tqdm import tqdm

        self._bar = tqdm(total=total, file=sys.stderr, leave=False, unit=unit, dynamic_ncols=True)
        return self._bar

    def drop_bar(self) -> None:
        """The bar is closed."""
        self._bar = None

    def progress(self, items: Sequence[T]) -> Iterable[T]:
        """`items`, with a bar on stderr where somebody watches and there is something to wait for."""
        return self._with_bar(items) if self._shows_bar(len(items)) else items

    def _shows_bar(self, total: int) -> bool:
        if sys.stderr is None:  # closed by who started it
            return False
        return total > 1 and not self.quiet and sys.stderr.isatty() if self._wants_bar is None else self._wants_bar

    def _with_bar(self, items: Sequence[T]) -> Iterator[T]:
        from tqdm import tqdm

        self._bar = tqdm(items, file=sys.stderr, leave=False, unit="picture", dynamic_ncols=True)
        try:
            yield from self._bar
        finally:
            self._bar.close()
            self._bar = None

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        tell(f"{shown(text)}\n")
