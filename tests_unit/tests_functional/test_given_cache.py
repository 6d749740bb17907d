"""Contract: what a test compiles or fetches for itself goes into the cache of its run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from tests_functional.failures import broken_saves as failures
from tests_functional.lib.run import Run
from tests_functional.planted import live_faults
from tests_functional.refusals import uffd_restrictions
from tests_functional.repetition import with_disk
from tests_unit.support.scenario_values import make_run


class _Reached(Exception):
    """Carries the cache that a function was given, and ends the scenario there."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self.cache = cache


def _raise_cache(*arguments: Any, **named: Any) -> None:
    (given,) = [one for one in (*arguments, *named.values()) if isinstance(one, Provisioning)]
    raise _Reached(given.cache)


def _restricted(run: Run) -> None:
    denied = next(one for one in uffd_restrictions.UFFD_RESTRICTIONS.values() if one.denial)
    with uffd_restrictions.restricted(run, denied):
        pass


@pytest.mark.parametrize(
    ("module", "maker", "scenario"),
    [
        (with_disk, "make_ext4", with_disk.with_disk),
        (uffd_restrictions, "controlled_qemu", _restricted),
        (failures, "controlled_qemu", failures.call_failures),
        (live_faults, "faulty_qemu", live_faults.planted("drop_protection")),
    ],
    ids=["with-disk", "restricted", "call-failures", "planted"],
)
def test_a_test_uses_the_cache_of_its_run(
    module: Any,
    maker: str,
    scenario: Callable[[Run], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of them makes something before its guest boots, and used the default cache for it once."""
    monkeypatch.setattr(module, maker, _raise_cache)
    run = make_run(tmp_path)
    with pytest.raises(_Reached) as reached:
        scenario(run)
    assert reached.value.cache == run.cache


def test_file_system_is_checked_with_tools_of_the_given_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """e2fsck may have to be fetched too."""
    monkeypatch.setattr(with_disk, "ext4_errors", _raise_cache)
    run = make_run(tmp_path)
    with pytest.raises(_Reached) as reached:
        with_disk._judge_file_system(tmp_path / "disk", run)
    assert reached.value.cache == run.cache
