"""Contract: a run without its disturbance is no run, and says so as a broken set-up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from tests_functional.lib.guest import Stack
from tests_functional.snapshot import disturbances
from tests_functional.snapshot.disturbances import DISTURBANCES
from tests_unit.support.scenario_values import make_run


def test_too_few_passes_prove_nothing() -> None:
    """Too few passes break the test: they neither pass nor blame QEMU."""
    disturbances._require(3)
    with pytest.raises(SetupBroken, match="made 2 passes during the save"):
        disturbances._require(2)


def test_save_waits_for_passes() -> None:
    """The sink is held back until the disturbance has made some, and not for ever."""
    counts = iter([7, 7, 8, 9, 10, 11])
    disturbances.await_passes(lambda: next(counts), Deadline(20))
    assert next(counts) == 11
    disturbances.await_passes(lambda: 7, Deadline(0.1))


def test_each_disturbance_has_one_who_makes_it() -> None:
    """Either the guest or the host repeats something."""
    for name, disturbance in DISTURBANCES.items():
        assert bool(disturbance.guest_loop) != bool(disturbance.host_pass), name
        assert disturbance.reason


def test_disk_of_random_content(tmp_path: Path) -> None:
    """The disk lies in the test's folder, whose commas are doubled for QEMU."""
    folder = tmp_path / "a,b"
    folder.mkdir()
    stack = DISTURBANCES["disk-reads"].stack(Stack(Path("qemu"), cast(Any, None), accel="tcg"), folder)
    assert f"filename={tmp_path}/a,,b/disk.raw," in stack.extra[1]
    content = (folder / "disk.raw").read_bytes()
    assert len(content) == 16 << 20
    assert content[:4096] != content[4096:8192]


def test_pass_that_fails_ends_the_loop() -> None:
    """A pass that fails ends the loop, and the log gets its error."""
    passes = disturbances._Passes()

    def once(number: int) -> None:
        if number == 4:
            raise SetupBroken("The connection is gone.")

    disturbances._repeat(once, passes)
    assert (passes.done, passes.ended) == (4, "The connection is gone.")


def test_bare_guest_gets_packets_or_nothing(tmp_path: Path) -> None:
    """A disturbance that needs a driver or a program in the guest is not called done without it."""
    run = make_run(tmp_path)
    image = replace(run.stack.image, bare=True)
    bare = replace(run, stack=replace(run.stack, image=image, machine="microvm"))
    for name, disturbance in DISTURBANCES.items():
        if not disturbance.packets:
            with pytest.raises(NotApplicable, match="needs an operating system"):
                disturbances.disturbed(name)(bare)
    with (
        pytest.raises(NotApplicable, match="machine type 'microvm'"),
        disturbances._packets(bare, cast(Any, None)),
    ):
        pass
