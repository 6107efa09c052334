"""What comes before any work: help, version, wrong usage, and that they load nothing heavy."""

import importlib.util
import re
import subprocess
import sys

import click
import pytest
from conftest import ROOT

from imgalign import __version__
from imgalign.cli import COMMANDS, cli

NAMES = [name for section in COMMANDS.values() for name in section]
HEAVY = ("torch", "numpy", "PIL", "tifffile", "tqdm", "scipy")
PROBE = """
import sys
from imgalign.cli import cli
try:
    cli(sys.argv[1:], prog_name="imgalign")
except SystemExit as end:
    status = end.code
print("|", status, *[name for name in {heavy!r} if name in sys.modules])
"""


def loaded_by(*arguments, heavy=HEAVY):
    """The exit status, and which heavy packages a command line has loaded."""
    code = PROBE.format(heavy=heavy)
    out = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout
    status, *names = out.rpartition("|")[2].split()
    return int(status), names


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-h"], *([name, "--help"] for name in NAMES)])
def test_help_loads_nothing_heavy(arguments):
    assert loaded_by(*arguments) == (0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["afine"],
        ["affine"],
        ["affine", "only-one.png"],
        ["affine", "a.png", "b.png", "--loss", "best"],
        ["affine", "a.png", "b.png", "--device", "tpu"],
        ["affine", "a.png", "b.png", "--levels", "0"],
        ["affine", "a.png", "b.png", "--no-such-option"],
        ["affine", "a.png", "b.png", "--fill", "red"],
        ["affine", "a.png", "b.png", "--max-pixels", "many"],
        ["affine", "a.png", "b.png", "c.png", "--output", "x.png"],
        ["affine", "a.png", "b.png", "c.png", "--params", "x.json"],
        ["affine", "a.png", "b.png", "--output", "a.png"],
        ["affine", "a.png", "x/b.png", "y/b.png"],
        ["affine", "a.png", "b.png", "--output", "x.png", "--no-image"],
        ["gradmap", "a.png", "--sigma", "2"],
        ["gradmap", "a.png", "--bits", "12"],
        ["gradmap", "a.png", "--bits", "16", "--colormap", "heat"],
        ["apply", "p.json"],
        ["info"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_loads_nothing_heavy(arguments):
    assert loaded_by(*arguments) == (2, [])


def test_value_that_cannot_work_needs_no_torch():
    arguments = ["affine", "a.png", "b.png", "--precision", "nan"]  # a range of click's lets it through
    assert loaded_by(*arguments, heavy=("torch",)) == (2, [])


def test_info_needs_no_torch():
    assert loaded_by("info", "missing.json", heavy=("torch",)) == (1, [])


@pytest.mark.parametrize("name", NAMES)
def test_help_has_an_example(name, invoke):
    help_text = invoke(name, "--help").stdout
    assert re.search(rf"Examples:\n\s+imgalign {name} ", help_text)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained(name):
    command = cli.get_command(click.Context(cli), name)
    assert not [p.name for p in command.params if isinstance(p, click.Option) and not p.help]


def test_group_help_lists_every_command(invoke):
    help_text = invoke("--help").stdout
    assert [name for name in NAMES if not re.search(rf"^  {name}  +\S", help_text, re.MULTILINE)] == []


def test_alone_it_shows_its_help_as_wrong_usage(invoke):
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: imgalign" in result.output


def test_unknown_command_gets_a_suggestion(invoke):
    result = invoke("afine")
    assert "did you mean 'affine'?" in result.stderr
    assert result.stdout == ""


def test_version(invoke):
    assert invoke("--version").stdout == f"imgalign {__version__}\n"


def test_reference_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == module.page(), "run: python docs/make_cli.py"


def test_module_is_the_command(process):
    result = process("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"imgalign {__version__}\n", "")
