"""Bringing PyTorch into the process of a command."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """Around all that a command does with PyTorch: so many threads for it; None leaves them as they are."""
    if threads is None:
        yield
        return
    with loading():
        from imgalign.cores import limited
    with limited(threads):
        yield


@contextmanager
def loading() -> Iterator[None]:
    """Around what imports PyTorch: no search for garbage meanwhile, and none later in what came with it.

    The import makes some hundred thousand objects that stay. Python looks through all of them again and again as their
    number grows, which is a tenth of the import's time.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # else the next search goes through all of them at once
        gc.enable()
