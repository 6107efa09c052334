"""What README.md shows runs as it stands there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, render, shift
from PIL import Image

from imgalign.cli import COMMANDS

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def shell_lines():
    lines = "".join(blocks("sh")).splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("imgalign ")]


def command_after(marker):
    """The indented line behind a marker, as .ci/run reads it."""
    found = re.search(rf"<!-- {marker} -->\n\n    (.+)\n", README)
    assert found, f"README.md has no line after <!-- {marker} -->"
    return found[1]


@pytest.fixture
def pictures(workdir):
    """Every file that the examples name."""
    (workdir / "aligned").mkdir()
    fixed, moved = render((120, 144)), render((120, 144), shift(-3.25, 2.5))
    for name in ("fixed.png", "first.tif", "before.jpg", "visible.tif", "star.tif"):
        Image.fromarray(fixed).save(name, quality=97)
    for name in ("moving.png", "frame1.tif", "frame2.tif", "after.jpg", "infrared.tif", "channel2.png", "labels.png"):
        Image.fromarray(moved).save(name, quality=97)
    frames = [Image.fromarray(fixed), Image.fromarray(moved)]
    frames[0].save("frames.tif", save_all=True, append_images=frames[1:])
    Path("pairs.csv").write_text("fixed,moving\nfixed.png,moving.png\nfixed.png,channel2.png\n", "utf-8")


def expanded(word):
    """What the shell makes of a word."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


def test_shell_examples_run(pictures, invoke):
    lines = shell_lines()
    assert len(lines) >= 8
    for line in lines:
        words = shlex.split(line)[1:]
        if "--scheduler" in words:  # wants a cluster; test_batch_dask.py has one
            continue
        result = invoke(*(name for word in words for name in expanded(word)))
        # The blobs have no brightest star, and center says so.
        assert result.exit_code in ({0, 3} if words[0] == "center" else {0}), f"{line}\n{result.output}"


def test_python_examples_run(workdir, capsys):
    (workdir / "sample_data").symlink_to(ROOT / "sample_data")
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert "can be trusted" in capsys.readouterr().out
    assert names["aligned"].shape[:2] == names["fixed"].shape[:2]
    np.testing.assert_allclose(names["again"].moving_from_fixed, names["result"].moving_from_fixed)


def test_set_up_lines_use_the_pins():
    for marker in ("try", "test"):
        assert "pip install -c constraints.txt -e " in command_after(marker)
    assert "torch==2.13.0\n" in (ROOT / "constraints.txt").read_text("utf-8")


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_commands_example_in_the_docs_is_a_command():
    known = {name for section in COMMANDS.values() for name in section}
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "shell.md"))
    used = set(re.findall(r"^(?:.*\| )?imgalign ([a-z]+) ", "\n".join(blocks("sh", text)), re.MULTILINE))
    assert used <= known
