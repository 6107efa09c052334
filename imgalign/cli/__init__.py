"""The `imgalign` command: one group, its subcommands loaded when named.

Nothing here, and nothing a command module imports at its top, loads PyTorch, NumPy or Pillow: help and wrong usage
answer at once.
"""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn, TextIO

import click

from imgalign import __version__
from imgalign.errors import ImgalignError, OptionError

OK, ERROR, USAGE, UNTRUSTED = 0, 1, 2, 3
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143  # 128 + the signal: what a shell reports for other programs

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

# section of the help -> command -> where it lives. A new command is a new line.
COMMANDS = {
    "Align": {
        "translate": "imgalign.cli.models:translate",
        "rigid": "imgalign.cli.models:rigid",
        "similarity": "imgalign.cli.models:similarity",
        "affine": "imgalign.cli.models:affine",
        "homography": "imgalign.cli.models:homography",
        "center": "imgalign.cli.center:center",
    },
    "Align many": {
        "batch": "imgalign.cli.batch:batch",
        "stack": "imgalign.cli.stack:stack",
    },
    "Use a result": {
        "apply": "imgalign.cli.apply:apply",
        "info": "imgalign.cli.info:info",
    },
    "Look at pictures": {
        "gradmap": "imgalign.cli.gradmap:gradmap",
    },
}
_HOMES = {name: home for section in COMMANDS.values() for name, home in section.items()}


class ImgalignGroup(click.Group):
    """A group that loads its commands late and shows what went wrong as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Every name, in the order of the help."""
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load the command's module, and only that."""
        if cmd_name not in _HOMES:
            return None
        module, name = _HOMES[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        name = args[0]
        if name not in _HOMES and not name.startswith("-"):
            from imgalign.files.paths import shown

            ctx.fail(f"no command {shown(name)!r}; {_suggestion(name)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands under their sections."""
        for section, commands in COMMANDS.items():
            rows = [(name, _short_help(self.get_command(ctx, name))) for name in commands]
            with formatter.section(section):
                formatter.write_dl(rows)

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Read what comes before the command."""
        with _usage_said():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what was raised on purpose becomes one line and an exit status."""
        try:
            with _usage_said():
                value = super().invoke(ctx)
            if sys.stdout is not None:  # closed by who started it
                sys.stdout.flush()  # a closed pipe must show here, not while the interpreter shuts down
        except OptionError as error:
            complain(str(error))
            ctx.exit(USAGE)
        except ImgalignError as error:
            complain(str(error))
            ctx.exit(ERROR)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            _drop(sys.stdout)
            ctx.exit(PIPE_CLOSED)
        return value


def complain(message: str) -> None:
    """Write one line on stderr, whatever the message holds."""
    from imgalign.files.paths import shown

    tell(f"Error: {shown(message)}\n")


def tell(text: str) -> None:
    """Write on stderr, if it takes anything: what is said to people is no part of the work."""
    try:
        click.echo(text, err=True, nl=False)
    except BrokenPipeError:
        raise
    except OSError:
        _drop(sys.stderr)


@contextmanager
def _usage_said() -> Iterator[None]:
    """Say what click has against the usage as click does, and exit with its status though nobody may hear of it."""
    try:
        yield
    except click.ClickException as error:
        try:
            error.show()
        except OSError:
            _drop(sys.stderr)
        raise click.exceptions.Exit(error.exit_code) from None


def lose_stdout(error: OSError) -> None:
    """Say that stdout takes no more, and write nothing more to it."""
    from imgalign.files.paths import advice

    _drop(sys.stdout)
    complain(f"standard output: {advice(error)}")


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, _HOMES, n=1)
    return f"did you mean {near[0]!r}?" if near else "see imgalign --help"


def _short_help(command: click.Command | None) -> str:
    return command.get_short_help_str(limit=90) if command else ""


def _drop(stream: TextIO | None) -> None:
    """Point stdout or stderr at nothing, so that the interpreter's last flush stays quiet."""
    if stream is not None and any(stream is own for own in (sys.__stdout__, sys.__stderr__)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(cls=ImgalignGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="imgalign", message="%(prog)s %(version)s")
def cli() -> None:
    """Lay one picture over another, and know when not to believe the result.

    \b
    Examples:
      imgalign affine fixed.png moving.png       writes moving.aligned.png and moving.params.json
      imgalign rigid first.tif frame*.tif        lays every frame over the first
      imgalign info moving.params.json           says in words what was found

    \b
    Exit status:
      0  every result can be trusted
      1  an error; everything else was still done
      2  wrong usage; nothing was done
      3  it ran, but at least one result is not to be trusted
    """


def main() -> NoReturn:
    """Run the command line and leave the process with its exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    # OpenMP's threads wait for each other by spinning. Where other programs want the cores too, that made the same
    # alignment 20 times as slow (115 s in place of 6 s); a short spin costs next to nothing where they do not.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        cli(prog_name="imgalign")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else ERROR
    except KeyboardInterrupt:  # before or behind the command itself
        status = INTERRUPTED
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:  # files are closed with errors of their own
            raise
        lose_stdout(error)
        status = ERROR
    if "torch" in sys.modules or status in {INTERRUPTED, TERMINATED}:
        _leave_at_once(status)
    sys.exit(status)


def _terminate(number: int, frame: object) -> NoReturn:  # noqa: ARG001  (a signal handler's signature)
    """Unwind instead of dying on the spot, so that files which are not finished are removed."""
    raise SystemExit(TERMINATED)


def _leave_at_once(status: int) -> NoReturn:
    """Leave without taking PyTorch down first, which takes 0.4 s, and without waiting for threads that still decode.

    By now every file is complete and nothing of ours waits for the end of the interpreter.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or its reader gone
            if stream is not None:
                stream.flush()
    os._exit(status)
