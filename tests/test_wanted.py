"""One place for what can be asked; the parts that do it have the same names."""

import inspect
import math

import numpy as np
import pytest

from imgalign.align import align
from imgalign.errors import OptionError
from imgalign.losses import LOSSES as OF_IMAGES
from imgalign.refine.descent import OPTIMIZERS as DESCENTS
from imgalign.sampling import KERNELS
from imgalign.transforms import MODELS as GROUPS
from imgalign.wanted import LOSSES, MODELS, OPTIMIZERS, SAMPLERS, AlignOptions, Wanted, options_of


def test_names_are_those_of_the_parts():
    assert tuple(GROUPS) == MODELS
    assert ("auto", *OF_IMAGES) == LOSSES
    assert ("lm", *DESCENTS) == OPTIMIZERS
    assert KERNELS == SAMPLERS


@pytest.mark.parametrize("name", ["levels", "iterations", "lr", "max_shift", "max_rotation", "max_scale", "precision"])
@pytest.mark.parametrize("kind", [Wanted, AlignOptions])
def test_what_cannot_work_cannot_be_asked(kind, name):
    for value in (-1, math.nan):
        with pytest.raises(OptionError, match=name):
            kind(**{name: value})


@pytest.mark.parametrize(
    "name", ["levels", "iterations", "lr", "max_shift", "max_rotation", "max_scale", "precision", "trust", "seed"]
)
def test_what_is_no_number_cannot_be_asked(name):
    for value in ("1", [1], True, *([1.5] if name in {"levels", "iterations", "seed"} else [])):
        with pytest.raises(OptionError, match=f"{name} must be a .*number, got"):
            Wanted(**{name: value})
    Wanted(**{name: np.float32(1) if name not in {"levels", "iterations", "seed"} else np.int64(1)})


def test_a_scale_is_bounded_to_what_can_be_found():
    assert Wanted(max_scale=20).is_bounded
    assert not Wanted().is_bounded
    for value in (20.1, math.inf, 0.5):
        with pytest.raises(OptionError, match="max_scale is a factor from 1 to 20"):
            Wanted(max_scale=value)


def test_options_are_taken_from_what_a_command_was_given():
    assert options_of(AlignOptions, {"seed": 4, "quiet": True}, model="rigid") == AlignOptions(model="rigid", seed=4)


def test_align_options_are_those_of_align():
    defaults = {n: p.default for n, p in inspect.signature(align).parameters.items() if n not in {"fixed", "moving"}}
    assert defaults == vars(AlignOptions())
