"""What a command does around the import of PyTorch."""

import gc
import subprocess
import sys

import pytest
from conftest import ROOT

from imgalign.cli.loading import loading

PROBE = """
import gc, sys
from imgalign.cli import cli
seen = []
def look(phase, info):
    torch = sys.modules.get("torch")
    seen.append(torch is not None and not hasattr(torch, "compile"))
gc.callbacks.append(look)
try:
    cli(sys.argv[1:], prog_name="imgalign")
except SystemExit as end:
    status = end.code
print(status, gc.isenabled(), gc.get_freeze_count() > 100_000, any(seen), "PIL.PdfImagePlugin" in sys.modules)
"""


@pytest.mark.parametrize(
    "command", [("affine", "fixed.png"), ("center",), ("gradmap", "--bits", "8")], ids=lambda command: command[0]
)
def test_garbage_is_looked_for_after_the_import_only(command, pair):
    arguments = [sys.executable, "-c", PROBE, *command, "moving.png"]
    environment = {"PYTHONPATH": str(ROOT)}
    out = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
    assert out.split() == ["0", "True", "True", "False", "False"]


def test_collection_comes_back_after_an_error(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    seen = []

    def fail():
        with loading():
            seen.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    gc.unfreeze()
    assert (seen, gc.isenabled()) == ([False], True)


def test_collection_stays_as_it_is_where_torch_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", gc)
    with loading():
        assert gc.isenabled()


def test_collection_that_was_off_stays_off(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
