"""Contract: only the files that Avocado collects import the class that its tests derive from.

import-linter cannot say so: its contracts name packages, and take no pattern such as `test_*.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import tests_functional

_ROOT = Path(tests_functional.__file__).parents[1]
_ROOMS = ("harness", "guest_images", "validators", "tests_functional", "snapproof")
_IMPORT = re.compile(
    r"^\s*(from|import) tests_functional\.lib(\.avocado_test\b| import .*\bavocado_test\b)", re.MULTILINE
)


def test_only_test_files_import_the_runner() -> None:
    """Scenarios can be run without Avocado."""
    files = [path for room in _ROOMS for path in (_ROOT / room).rglob("*.py")]
    found = [path for path in files if _IMPORT.search(path.read_text(encoding="utf-8"))]
    assert len(found) > 5
    assert [path for path in found if not path.name.startswith("test_")] == []
