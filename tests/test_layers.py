"""Imports point down: a module may import from layers below its own, never up."""

import ast
from pathlib import Path

import pytest

from imgalign import _HOME

PACKAGE = Path(__file__).parents[1] / "imgalign"
# A package stands for all its modules but those that are listed themselves.
LAYERS = (
    ("errors", "_types"),
    ("coords", "cores", "decompose", "wanted", "numerics.devices", "numerics.masks", "numerics.neighbours",
     "numerics.splines", "numerics.sums", "files.paths", "planes.weights"),
    ("transforms", "sampling", "gradients", "pyramid", "losses", "translation", "upsample", "numerics"),
    ("warp", "files", "alignment", "words"),
    ("planes",),
    ("start",),
    ("refine",),
    ("judge",),
    ("finish",),
    ("curves",),
    ("engine",),
    ("behind", "descended"),
    ("align", "center", "stn", "gradmap"),
    ("jobs", "files.reading"),
    ("cli",),
)  # fmt: skip
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
NO_TORCH = (
    "errors", "decompose", "wanted", "alignment", "words", "files", "jobs", "cli", "warp.canvas", "planes.weights",
)  # fmt: skip


def owner(path):
    """The dotted name of a file within the package, as `start.search`; empty for the package's own `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {owner(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [name for name in PATHS if name not in ("", "__main__")]  # the package hands out names of every layer


def listed(name, names):
    """What a module is listed as: by its own name, or by that of its package; None where it is not."""
    return next((known for known in (name, name.split(".")[0]) if known in names), None)


def layer(name):
    return LAYER[listed(name, LAYER)]


def imports(name, *, at_load):
    """Dotted names that a module imports; with `at_load` only those that run when it is loaded."""
    found = []

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if at_load and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.extend(f"{child.module}.{alias.name}" for alias in child.names)
            visit(child)

    visit(ast.parse(PATHS[name].read_text("utf-8")))
    return found


def own_imports(name, *, at_load):
    """The modules of this package that a module imports, public names at home."""
    found = set()
    for package, *rest in (dotted.split(".") for dotted in imports(name, at_load=at_load)):
        if package == "imgalign" and rest and rest[0] != "__version__":
            rest[0] = _HOME.get(rest[0], rest[0])
            found.add(next(known for known in (".".join(rest[:2]), rest[0]) if known in PATHS))
    return found


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_layer(name):
    assert listed(name, LAYER), f"put {name} into LAYERS"


def test_every_name_is_a_module_or_a_package():
    assert sorted({*LAYER, *NO_TORCH} - {*PATHS}) == []


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    upward = sorted(other for other in own_imports(name, at_load=False) if layer(other) > layer(name))
    assert not upward, f"{name} (layer {layer(name)}) imports {upward}"


@pytest.mark.parametrize("name", [name for name in MODULES if listed(name, NO_TORCH)])
def test_torch_is_not_imported_at_load(name):
    heavy = {other for other in MODULES if layer(other) >= 1 and not listed(other, NO_TORCH)}
    assert not [dotted for dotted in imports(name, at_load=True) if dotted.split(".")[0] == "torch"]
    assert not own_imports(name, at_load=True) & heavy


def test_only_the_command_line_imports_click():
    roots = {name: {dotted.split(".")[0] for dotted in imports(name, at_load=False)} for name in MODULES}
    assert not [name for name, used in roots.items() if "click" in used and name.split(".")[0] != "cli"]
