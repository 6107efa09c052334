"""The names that users may rely on, and what it costs to import them."""

import subprocess
import sys

import pytest

import imgalign

NAMES = [
    "Alignment",
    "DeviceError",
    "ImageReadError",
    "ImgalignError",
    "OptionError",
    "ParamsError",
    "ShapeError",
    "WriteError",
    "__version__",
    "align",
    "center",
    "gradmap",
    "load",
    "prepare",
]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_exported_names_are_pinned():
    assert sorted(imgalign.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_name_exists(name):
    assert getattr(imgalign, name) is not None


@pytest.mark.parametrize("name", ["align", "center", "gradmap"])
def test_function_is_not_hidden_by_its_module(name):
    code = f"import imgalign.{name}, imgalign; print(callable(imgalign.{name}), imgalign.{name}.__name__)"
    assert run_python(code) == f"True {name}"


def test_dir_lists_every_name():
    assert set(NAMES) <= set(dir(imgalign))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_such"):
        imgalign.nothing_such  # noqa: B018


def test_import_loads_neither_torch_nor_numpy():
    code = "import sys, imgalign; print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    assert run_python(code) == "[]"


def test_load_needs_no_torch():
    assert run_python("import sys, imgalign; imgalign.load; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("name", imgalign._SUBMODULES)
def test_submodules_are_reached_without_importing_them(name):
    assert run_python(f"import imgalign; print(imgalign.{name}.__name__)") == f"imgalign.{name}"


def test_every_listed_name_can_be_looked_at():
    assert [name for name in dir(imgalign) if not hasattr(imgalign, name)] == []


def test_version_is_that_of_the_distribution():
    metadata = pytest.importorskip("importlib.metadata")
    try:
        assert metadata.version("imgalign") == imgalign.__version__
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
