"""Runs all tests of the validators twice: with numpy alone, and with the native core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests_unit.support.native_core import NUMPY, built_core, use_core


@pytest.fixture(autouse=True, scope="module", params=["numpy", "native"])
def _core(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have pages and records read in one of the two ways, in child processes too."""
    if request.param == "numpy":
        chosen = NUMPY
    else:
        core = built_core()
        if core is None:
            pytest.skip("There is no C compiler here.")
        chosen = str(core)
    with use_core(chosen):
        yield


@pytest.fixture
def numpy_alone() -> Iterator[None]:
    """Have a file read by numpy, for what only numpy's way does."""
    with use_core(NUMPY):
        yield
