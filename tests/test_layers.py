"""Imports point down: a module may import from layers below its own, never up."""

import ast
from pathlib import Path

import pytest

from imgalign import _HOME

PACKAGE = Path(__file__).parents[1] / "imgalign"
LAYERS = (
    ("errors", "_types"),
    ("coords", "cores", "decompose", "devices", "masks", "neighbours", "paths", "sums", "wanted", "weights"),
    ("transforms", "basis", "shifted", "splines", "sampling", "gradients", "pyramid", "losses", "translation",
     "upsample", "appearance", "histograms", "impulses", "levels", "noise", "occluders", "problem", "residuals",
     "spectral", "plane", "intake", "words", "png", "tiff", "tiff_writing", "strips", "netpbm", "nodata", "picture",
     "canvas", "kernels", "source", "tiles"),
    ("search", "consensus", "spots", "keypoints", "matches", "periods", "refine", "ladder", "light", "tone", "focus",
     "uncertainty", "smooth", "alike", "borders", "sharp", "polish", "descent", "agreement", "verdict", "climb",
     "brightest", "surround", "gaps", "overlays", "standing", "alignment", "decoding", "encoding", "images", "record",
     "resample", "kinds", "outputs", "averages"),
    ("finish", "starts", "aside"),
    ("engine",),
    ("behind", "descended"),
    ("align", "center", "stn", "gradmap", "laying"),
    ("reading", "outcome", "pairs", "manifest", "ledger", "layout", "work", "pool", "dask_engine", "batch", "stack"),
    ("cli",),
)  # fmt: skip
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
NO_TORCH = (
    "errors", "paths", "outputs", "decompose", "words", "png", "tiff", "tiff_writing", "strips", "netpbm", "nodata",
    "picture", "canvas", "decoding", "encoding", "alignment", "images", "record", "laying", "reading", "outcome",
    "pairs", "manifest", "ledger", "layout", "work", "pool", "dask_engine", "batch", "stack", "averages", "wanted",
    "weights", "cli",
)  # fmt: skip
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.stem != "__main__" and path.parent.name != "schema")


def owner(path):
    """The name in LAYERS that a file belongs to; None for the package's own `__init__`."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if first == "__init__" else first


def imports(path, *, at_load):
    """Dotted names that a file imports; with `at_load` only those that run when it is loaded."""
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

    visit(ast.parse(path.read_text("utf-8")))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_has_a_layer(path):
    name = owner(path)
    assert name is None or name in LAYER, f"put {name} into LAYERS"


def test_every_name_is_a_file():
    files = {owner(path) for path in MODULES}
    assert sorted(set(LAYER) - files) == []
    assert sorted(set(NO_TORCH) - files) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    name = owner(path)
    if name is None:
        pytest.skip("the package hands out names of every layer")
    used = {dotted.split(".")[1] for dotted in imports(path, at_load=False) if dotted.startswith("imgalign.")}
    used = {_HOME.get(name, name) for name in used} - {"__version__"}  # which the package has by itself
    upward = sorted(other for other in used if LAYER[other] > LAYER[name])
    assert not upward, f"{name} (layer {LAYER[name]}) imports {upward}"


@pytest.mark.parametrize("path", [path for path in MODULES if owner(path) in NO_TORCH], ids=lambda path: path.stem)
def test_torch_is_not_imported_at_load(path):
    heavy = {name for name, layer in LAYER.items() if layer >= 1} - set(NO_TORCH)
    names = imports(path, at_load=True)
    assert not [dotted for dotted in names if dotted.split(".")[0] == "torch"]
    assert not [dotted for dotted in names if dotted.startswith("imgalign.") and dotted.split(".")[1] in heavy]


def test_only_the_command_line_imports_click():
    roots = {owner(path): {dotted.split(".")[0] for dotted in imports(path, at_load=False)} for path in MODULES}
    assert not [name for name, used in roots.items() if "click" in used and name != "cli"]
