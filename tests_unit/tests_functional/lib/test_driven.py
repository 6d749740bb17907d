"""Contract: a test whose guest's devices nobody can drive is skipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import NotApplicable
from tests_functional.lib.driven import require_driven
from tests_unit.support.scenario_values import make_run


def test_guest_whose_devices_nobody_can_drive(tmp_path: Path) -> None:
    """A guest with an operating system, and a machine without the ports, are skipped."""
    run = make_run(tmp_path)
    with pytest.raises(NotApplicable, match="is not bare"):
        require_driven(run)
    bare = replace(run, stack=replace(run.stack, image=replace(run.stack.image, bare=True)))
    require_driven(bare)
    with pytest.raises(NotApplicable, match="'microvm'"):
        require_driven(replace(bare, stack=replace(bare.stack, machine="microvm")))
