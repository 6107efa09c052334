"""Parameter files: an alignment as JSON, written whole or not at all, read with distrust.

The format is `imgalign/params/1`, described in docs/formats.md and by the JSON Schema in imgalign/schema/.
"""

import json
import math
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from imgalign.alignment import Alignment
from imgalign.decompose import Float, centre_of, corners_of, is_affine, jacobians, mapped
from imgalign.errors import ParamsError
from imgalign.files.paths import replacing, shown
from imgalign.wanted import MODELS

SCHEMA = "imgalign/params/1"
CONVENTION = (
    "moving_from_fixed takes a pixel (x, y) of the fixed image to the pixel (x, y) of the moving image that shows"
    " the same thing: p = moving_from_fixed @ [x, y, 1], divided by its last entry. x points right, y down, (0, 0)"
    " is the centre of the top-left pixel. shift_px, rotation_deg, scale, shear and perspective say what"
    " moving_from_fixed does about the middle of the fixed image: c + d goes to c + shift_px + R(rotation_deg)"
    " [[1, shear], [0, 1]] diag(scale) d, divided by 1 + perspective . d; positive angles turn from +x to +y,"
    " clockwise on the screen. inverse says the same of fixed_from_moving about the middle of the moving image:"
    " the motion that lays it over the fixed one. theta is for torch.nn.functional.affine_grid(theta, size,"
    " align_corners=False). Corners come in the order top left, top right, bottom right, bottom left, each x then"
    " y; their covariance is in moving pixels squared. Sizes are [height, width]."
)
_MAX_BYTES = 16 * 2**20  # a parameter file has a few kilobytes: anything this large is something else


def json_schema() -> dict[str, Any]:
    """The JSON Schema of parameter files, as shipped in the package."""
    return dict(json.loads((files("imgalign") / "schema" / "params-1.json").read_text("utf-8")))


def to_dict(alignment: Alignment) -> dict[str, Any]:
    """An alignment as a JSON object; what is not finite becomes null."""
    from imgalign import __version__

    theta = alignment.theta
    covariance = alignment.corner_covariance
    record = {
        "schema": SCHEMA,
        "imgalign": __version__,
        "convention": CONVENTION,
        "model": alignment.model,
        "moving_from_fixed": alignment.moving_from_fixed.tolist(),
        "fixed_from_moving": alignment.fixed_from_moving.tolist(),
        **alignment.numbers.to_dict(),
        "inverse": alignment.inverse_numbers.to_dict(),
        "theta": None if theta is None else theta.tolist(),
        "status": alignment.status,
        "trusted": bool(alignment.trusted),
        "probability": alignment.probability,
        "reasons": list(alignment.reasons),
        "uncertainty": {
            "parameters": dict(alignment.parameter_sigma),
            "corner_sigma_px": alignment.corner_sigma_px,
            "corner_covariance_px2": None if covariance is None else covariance.tolist(),
        },
        "quality": dict(alignment.quality),
        "history": list(alignment.history),
        "fixed": _file_entry(alignment, "fixed", alignment.fixed_size_hw),
        "moving": _file_entry(alignment, "moving", alignment.moving_size_hw),
        "options": dict(alignment.options),
        "seconds": dict(alignment.seconds),
    }
    return {key: _plain(value) for key, value in record.items()}


def from_dict(record: Any) -> Alignment:
    """The alignment of a parameter record; the exact inverse of `to_dict` up to what is derived from the matrix.

    Needed are `schema`, `model`, `moving_from_fixed` and the two sizes, so that a file can be written by hand; what
    else is there must have its type, and unknown keys are ignored.

    Raises:
        ParamsError: If it is no such record or says something impossible.
    """
    record = _object(record, "the file")
    _check_schema(record)
    fixed, moving = (_object(record.get(role), role) for role in ("fixed", "moving"))
    uncertainty = _object(record.get("uncertainty", {}), "uncertainty")
    fixed_hw, moving_hw = _size(fixed, "fixed"), _size(moving, "moving")
    model = _choice(record, "model", MODELS)
    return Alignment(
        model=model,
        moving_from_fixed=_transform(record, model, fixed_hw),
        fixed_size_hw=fixed_hw,
        moving_size_hw=moving_hw,
        status=_text(record, "status", "given"),
        trusted=_flag(record, "trusted", True),
        probability=_number(record.get("probability", 1.0), "probability", low=0, high=1),
        reasons=tuple(_texts(record.get("reasons", []), "reasons")),
        corner_covariance=_covariance(uncertainty),
        parameter_sigma=_numbers(uncertainty.get("parameters", {}), "uncertainty.parameters"),
        quality=_numbers(record.get("quality", {}), "quality"),
        history=tuple(_nullable(v, "history") for v in _list(record.get("history", []), "history")),
        seconds=_numbers(record.get("seconds", {}), "seconds"),
        options=_object(record.get("options", {}), "options"),
        files={"fixed": _known(fixed), "moving": _known(moving)},
    )


def dumps(alignment: Alignment) -> str:
    """The text of a parameter file."""
    return _laid_out(to_dict(alignment)) + "\n"


def write_params(path: str | os.PathLike[str], alignment: Alignment, *, overwrite: bool = False) -> None:
    """Write a parameter file beside its place, then rename.

    Raises:
        WriteError: If it exists and `overwrite` is not set, or cannot be written.
    """
    data = dumps(alignment).encode("utf-8", "backslashreplace")
    with replacing(path, overwrite=overwrite) as file:
        file.write(data)


def read_params(path: str | os.PathLike[str]) -> Alignment:
    """Read a parameter file.

    Raises:
        ParamsError: If it is missing, no parameter file, or says something impossible.
    """
    try:
        return from_dict(_parsed(_content(Path(path))))
    except ParamsError as error:
        raise ParamsError(f"{shown(path)}: {error}") from None


def _content(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ParamsError("is a folder; name the parameter file (*.params.json) in it")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ParamsError("no such file; wanted a parameter file written by imgalign (*.params.json)") from None
    except (OSError, ValueError) as error:
        raise ParamsError(f"could not be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _MAX_BYTES:
        raise ParamsError(f"is larger than {_MAX_BYTES >> 20} MB, so no parameter file; is it a picture?")
    if not data.strip():
        raise ParamsError("is empty; wanted a parameter file written by imgalign")
    return data


def _parsed(data: bytes) -> Any:
    def refuse(word: str) -> Any:
        raise ParamsError(f"has {word} in it, which JSON does not know; align again, or correct the file")

    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError:
        raise ParamsError("is no text in UTF-8, so no parameter file; is it a picture?") from None
    except RecursionError:
        raise ParamsError("is nested too deeply for a parameter file") from None
    except ValueError as error:
        if isinstance(error, ParamsError):
            raise
        raise ParamsError(f"is not JSON ({error}); wanted a parameter file written by imgalign") from None


def _check_schema(record: Mapping[str, Any]) -> None:
    schema = record.get("schema")
    if schema == SCHEMA:
        return
    if isinstance(schema, str) and schema.startswith("imgalign/params/"):
        raise ParamsError(f"has schema {schema!r}, this version reads {SCHEMA!r}; update imgalign")
    came = "no schema" if schema is None else f"schema {str(schema)[:60]!r}"
    raise ParamsError(f"is no parameter file: wanted schema {SCHEMA!r}, got {came}")


def _transform(record: Mapping[str, Any], model: str, fixed_hw: tuple[int, int]) -> Float:
    """The matrix, checked for what a picture can be laid by, and against its inverse where that stands in the file."""
    matrix = _matrix(record.get("moving_from_fixed"), "moving_from_fixed", 3)
    if model != "homography" and not (is_affine(matrix) and matrix[2, 2] == 1):
        raise ParamsError(
            f"moving_from_fixed must end in the row [0, 0, 1] for model {model!r}, got {matrix[2].tolist()}"
        )
    if _is_singular(matrix, fixed_hw):
        raise ParamsError("moving_from_fixed is singular: it presses the picture onto a line or a point; align again")
    if matrix[2] @ [*centre_of(fixed_hw), 1] < 0:
        matrix = -matrix  # the overall sign of a homography is free; here depth is positive before the horizon
    if record.get("fixed_from_moving") is not None:
        both = matrix @ _matrix(record["fixed_from_moving"], "fixed_from_moving", 3)
        there = mapped(both, landed := mapped(matrix, corners_of(fixed_hw)))
        if np.isfinite(landed).all() and not np.allclose(there, landed, rtol=1e-6, atol=1e-3):
            raise ParamsError("moving_from_fixed and fixed_from_moving contradict each other; delete the wrong one")
    return matrix


def _is_singular(matrix: Float, fixed_hw: tuple[int, int]) -> bool:
    """True where the matrix loses a direction of the fixed picture, or its horizon runs through the middle of it."""
    with np.errstate(all="ignore"):
        jacobian = jacobians(matrix, centre_of(fixed_hw))[0]
    if not np.isfinite(jacobian).all():
        return True
    values = np.linalg.svd(jacobian)[1]
    return bool(values[1] <= 1e-9 * values[0])


def _covariance(uncertainty: Mapping[str, Any]) -> Float | None:
    given = uncertainty.get("corner_covariance_px2")
    if given is None:
        return None
    covariance = _matrix(given, "uncertainty.corner_covariance_px2", 8)
    if (np.diag(covariance) < 0).any() or not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-300):
        raise ParamsError(
            "uncertainty.corner_covariance_px2 is no covariance: not symmetric, or negative on its diagonal"
        )
    return covariance


def _matrix(value: Any, name: str, size: int) -> Float:
    rows = _list(value, name)
    if len(rows) != size or any(not isinstance(row, list) or len(row) != size for row in rows):
        raise ParamsError(f"{name} must be a list of {size} rows of {size} numbers, got {_came(value)}")
    return np.array([[_number(v, name) for v in row] for row in rows])


def _size(entry: Mapping[str, Any], role: str) -> tuple[int, int]:
    value = entry.get("size_hw")
    good = isinstance(value, list) and len(value) == 2 and all(type(v) is int and 1 <= v < 2**31 for v in value)
    if not good:
        raise ParamsError(f"{role}.size_hw must be [height, width] in whole pixels, got {_came(value)}")
    assert isinstance(value, list)
    return value[0], value[1]


def _number(value: Any, name: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ParamsError(f"{name} must be a number, got {_came(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        wanted = "finite" if low == -math.inf else f"between {low} and {high}"
        raise ParamsError(f"{name} must be {wanted}, got {str(value)[:40]}")
    return number


def _nullable(value: Any, name: str) -> float:
    """A number; null stands for what was not finite when it was written."""
    return math.nan if value is None else _number(value, name)


def _numbers(value: Any, name: str) -> dict[str, float]:
    return {key: _nullable(v, f"{name}.{key}") for key, v in _object(value, name).items()}


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ParamsError(f"{name} must be an object {{...}}, got {_came(value)}")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ParamsError(f"{name} must be a list, got {_came(value)}")
    return value


def _texts(value: Any, name: str) -> list[str]:
    if any(not isinstance(v, str) for v in _list(value, name)):
        raise ParamsError(f"{name} must be a list of texts, got {_came(value)}")
    return list(value)


def _text(record: Mapping[str, Any], key: str, default: str) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise ParamsError(f"{key} must be text, got {_came(value)}")
    return value


def _choice(record: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = record.get(key)
    if value not in choices:
        raise ParamsError(f"{key} must be one of {', '.join(choices)}, got {_came(value)}")
    return str(value)


def _flag(record: Mapping[str, Any], key: str, default: bool) -> bool:
    value = record.get(key, default)
    if not isinstance(value, bool):
        raise ParamsError(f"{key} must be true or false, got {_came(value)}")
    return value


def _came(value: Any) -> str:
    """What came, short enough for one line."""
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _known(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("name", "page", "sha256") if entry.get(key) is not None}


def _file_entry(alignment: Alignment, role: str, size_hw: tuple[int, int]) -> dict[str, Any]:
    known = alignment.files.get(role, {})
    name = known.get("name")
    return {
        "name": None if name is None else shown(str(name)),
        "page": known.get("page"),
        "size_hw": [int(v) for v in size_hw],
        "sha256": known.get("sha256"),
    }


def _plain(value: Any) -> Any:
    """JSON's own types all the way down: arrays become lists, NaN and infinity null, all else its text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return shown(value) if isinstance(value, os.PathLike) else str(value)


def _laid_out(value: Any, indent: str = "") -> str:
    """Indented JSON in which a list of plain values stays on one line, so that a matrix reads as its rows."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{json.dumps(key, ensure_ascii=False)}: {_laid_out(v, deeper)}" for key, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        return "[\n" + ",\n".join(deeper + _laid_out(v, deeper) for v in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
