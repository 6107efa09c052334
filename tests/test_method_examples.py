"""The examples of docs/method.md run, each by itself, and hold what they claim."""

import re
from pathlib import Path

import pytest

METHOD = Path(__file__).parents[1] / "docs" / "method.md"
SECTION = re.compile(r"^#+ (?P<title>[^\n]+)$|^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """Title of the section and code of each example."""
    found, title = [], ""
    for match in SECTION.finditer(METHOD.read_text("utf-8")):
        if match["title"]:
            title = match["title"]
        else:
            found.append((title, match["code"]))
    return found


@pytest.mark.parametrize(("title", "code"), examples(), ids=[title for title, _ in examples()])
def test_example_runs_and_its_assertions_hold(title: str, code: str) -> None:
    exec(compile(code, f"docs/method.md, {title}", "exec"), {"__name__": "example"})  # the example is ours


def test_every_building_block_has_an_example() -> None:
    titles = [title for title, _ in examples()]
    assert len(titles) >= 7
    assert {"Spatial transformers", "Centering a picture", "Translation with a gradient of its own"} <= set(titles)


def test_pictures_of_the_page_exist() -> None:
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", METHOD.read_text("utf-8")):
        assert (METHOD.parent / name).is_file()
