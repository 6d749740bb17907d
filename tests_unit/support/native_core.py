"""Builds the native core for tests, and chooses between it and numpy."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guest_images.cache import Cache, default_cache_folder
from guest_images.provisioning import Provisioning
from harness.errors import MachineryMissing
from validators.native.build import build_core
from validators.native.library import native_core
from validators.native.place import CHOICE, NUMPY

__all__ = ["NUMPY", "built_core", "use_core"]


@functools.cache
def built_core() -> Path | None:
    """The native core of these sources, compiled once for all tests; None without a compiler."""
    try:
        return build_core(Provisioning(Cache(default_cache_folder()), lambda _line: None))
    except MachineryMissing:
        return None


@contextmanager
def use_core(choice: str) -> Iterator[None]:
    """Have files read by the core at that path, or by NUMPY, here and in child processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHOICE, choice)
        native_core.cache_clear()
        yield
    native_core.cache_clear()
