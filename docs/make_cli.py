"""Write docs/cli.md from the commands' own help: `python docs/make_cli.py`. A test checks that it was done."""

from pathlib import Path

import click

from imgalign.cli import COMMANDS, cli

INTRODUCTION = """\
# The commands

This page is generated from `imgalign COMMAND --help` by `docs/make_cli.py`. Do not edit it.
Loops, pipes and exit statuses are in [shell.md](shell.md).
"""


def page() -> str:
    """The whole page, the same on every machine: the width is fixed."""
    top = click.Context(cli, info_name="imgalign", terminal_width=80, help_option_names=["-h", "--help"])
    parts = [INTRODUCTION, _block("imgalign", cli, top)]
    for name in (name for section in COMMANDS.values() for name in section):
        command = cli.get_command(top, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=top, terminal_width=80)
        parts.append(_block(f"imgalign {name}", command, context))
    return "\n".join(parts)


def _block(title: str, command: click.Command, context: click.Context) -> str:
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return f"## {title}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(page(), encoding="utf-8")
