"""Feature tests that are made from the matrix of ways, contents and memory types."""

from __future__ import annotations

from ..matrix.cells import tests
from ..registry import add

add(tests())
