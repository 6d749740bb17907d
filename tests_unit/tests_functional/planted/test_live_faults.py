"""Contract: a planted fault passes only where the run went red by the right name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import harness
from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from harness.codes import Code
from harness.errors import SubjectFailed, UsageError
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_PASS, Status
from harness.userfaultfd import probe_userfaultfd
from snapproof.runs.selftest_live import LiveRow, summarise
from tests_functional.foreign_writers.kinds import WRITER_KINDS
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.symptoms import Symptom
from tests_functional.planted.foreign_faults import LIVE_FOREIGN_FAULTS, live_fault
from tests_functional.planted.live_faults import LIVE_FAULTS, LiveFault, judge_planted
from tests_functional.planted.ram_faults import RAM_FAULTS
from tests_unit.support.scenario_values import make_run
from validators.faults.live.wrapper import fault_names, faulty_qemu
from validators.verdict import CheckResult, Violation

_PAGES = frozenset({0x1000, 0x2000})


@pytest.mark.parametrize(
    ("name", "check", "found", "caught"),
    [
        ("lost-protection", "foreign-writer", (Code.FOREIGN_WRITER_NEWER, {"offset": 0x2000}), True),
        ("lost-protection", "foreign-writer", (Code.FOREIGN_WRITER_NEWER, {"offset": 0x3000}), False),
        (
            "lost-protection",
            "restored-foreign-writer",
            (Code.FOREIGN_WRITER_NEWER, {"offset": 0x2000}),
            False,
        ),
        ("lost-protection", "foreign-writer", (Code.FOREIGN_WRITER_LOST, {"offset": 0x2000}), False),
        ("lost-protection-pvscsi", "foreign-writer", (Code.FOREIGN_WRITER_NEWER, {"offset": 0x1000}), True),
        ("lost-protection-pvscsi", "golden", (Code.GOLDEN_DIFFERS, {}), False),
        ("lost-protection-golden", "golden", (Code.GOLDEN_DIFFERS, {}), True),
        ("lost-protection-golden", "golden", (Code.FOREIGN_WRITER_NEWER, {"offset": 0x2000}), False),
    ],
)
def test_page_without_protection_is_named(
    run: Run, name: str, check: str, found: tuple[Code, dict[str, int]], caught: bool
) -> None:
    """The check of the fault must name one of its pages."""
    check = f"virtio-blk/02-seeds/{check}"
    violation = Violation(check, found[0], "It is newer.", fields=found[1])
    checks = [CheckResult(check, "It holds.", Status.FAIL, (violation,), 1)]
    outcome = Outcome("planted.x", Status.FAIL, violation.sentence, checks=checks)
    judged = judge_planted(run, name, live_fault(name, _PAGES), outcome, acts=2)
    assert (judged.status is Status.PASS) == caught


def test_lost_protection_has_a_device() -> None:
    """Each such fault is planted in a test that there is, whose name the row has."""
    writers = [planted.writer for planted in LIVE_FOREIGN_FAULTS.values()]
    assert set(writers) <= WRITER_KINDS.keys()
    assert {"virtio-blk", "pvscsi", "rtl8139"} <= set(writers)


_FAULT = LiveFault("it breaks", "*write-order", (Symptom(Code.WRITE_ORDER_NEWER),))


def _provisioning(folder: Path) -> Provisioning:
    return Provisioning(Cache(folder / "cache"), lambda _: None)


def _outcome(
    status: Status, check: str = "01-live/write-order", code: Code = Code.WRITE_ORDER_NEWER
) -> Outcome:
    violation = Violation(check, code, "It is newer.")
    checks = [CheckResult(check, "It holds.", status, (violation,), 1)]
    return Outcome("planted.x", status, violation.sentence, checks=checks)


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Run:
    return make_run(tmp_path)


def test_caught_by_its_name(run: Run) -> None:
    """The right check failed with the right code."""
    found = judge_planted(run, "x", _FAULT, _outcome(Status.FAIL), acts=3)
    assert found.status is Status.PASS
    assert "It is newer." in found.sentence
    assert found.figures == {"acts": 3}


@pytest.mark.parametrize(
    "outcome",
    [
        _outcome(Status.PASS),
        _outcome(Status.ERROR),
        _outcome(Status.FAIL, check="01-live/host"),
        _outcome(Status.FAIL, code=Code.WRITE_ORDER_OLDER),
    ],
)
def test_unseen_or_misnamed_is_a_failure(run: Run, outcome: Outcome) -> None:
    """A green run, a broken one, another check, and another cause."""
    found = judge_planted(run, "x", _FAULT, outcome, acts=3)
    assert found.status is Status.FAIL
    assert "was not detected" in found.sentence


@pytest.mark.parametrize(
    ("code", "fields", "status"),
    [
        (Code.SAVE_GUEST_SILENT, {"error": "guest.command-unfinished"}, Status.PASS),
        (Code.QMP_NO_ANSWER, {"command": "query-migrate", "waiting_threads": "CPU 0"}, Status.PASS),
        (Code.QMP_NO_ANSWER, {"command": "query-migrate"}, Status.FAIL),
        (Code.QEMU_ENDED, {}, Status.FAIL),
    ],
)
def test_guest_that_is_lost_before_any_check(
    run: Run, code: Code, fields: dict[str, str], status: Status
) -> None:
    """Pages that stay protected are named by a guest that hangs, not by any end of QEMU."""
    lost = SubjectFailed("It is gone.", code=code, fields=fields)
    outcome = Outcome(run.name, Status.FAIL, lost.sentence)
    fault = LIVE_FAULTS["keep_protected"]
    assert judge_planted(run, "keep_protected", fault, outcome, 3, lost).status is status
    assert judge_planted(run, "drop_protection", LIVE_FAULTS["drop_protection"], outcome, 3, lost).status is (
        Status.FAIL
    )


def test_each_fault_has_a_library_and_an_expectation() -> None:
    """Each fault has a library, and each library an expectation."""
    assert set(fault_names()) == set(LIVE_FAULTS) | (set(RAM_FAULTS) - {"unknown_kind"})


@pytest.mark.parametrize("name", fault_names())
def test_library_loads_and_has_not_acted(name: str, tmp_path: Path) -> None:
    """It compiles, a program runs with it, and without userfaultfd it does nothing."""
    qemu = faulty_qemu(name, Path("/bin/true"), tmp_path, _provisioning(tmp_path))
    subprocess.run([qemu.executable], check=True, timeout=60, capture_output=True)
    assert qemu.acts == 0


_COUNT_UNPROTECTED = f"""
import os, sys
sys.path.insert(0, {str(Path(harness.__file__).parent.parent)!r})
from harness.userfaultfd import PAGE_BYTES, Feature, Mode, Region, Userfaultfd, protected_pages
with Region.anonymous(64 << 20, align=2 << 20) as region, Userfaultfd(Feature.PAGEFAULT_FLAG_WP) as uffd:
    region.fill(1)
    uffd.register(region.address, region.length, Mode.WP)
    uffd.write_protect(region.address, region.length)
    found = {{page * PAGE_BYTES >> 20 for page in protected_pages(region.address, region.length)}}
    print(*(mib for mib in range(64) if mib not in found))
"""


def test_dropped_protection_is_all_over_ram(tmp_path: Path) -> None:
    """Every 16 MiB have 2 MiB without protection, so that a guest that writes to few of its pages meets one.

    An eighth in one piece was outside the half of RAM that a bare guest wrote to, and the run stayed green.
    """
    support = probe_userfaultfd()
    if not support.write_protect:
        pytest.skip(support.reason)
    qemu = faulty_qemu("drop_protection", Path(sys.executable), tmp_path, _provisioning(tmp_path))
    ran = subprocess.run(
        [qemu.executable, "-c", _COUNT_UNPROTECTED], check=True, timeout=60, capture_output=True, text=True
    )
    unprotected = [int(mib) for mib in ran.stdout.split()]
    assert len(unprotected) == 8
    assert all(any(mib in unprotected for mib in range(first, first + 16)) for first in range(0, 64, 16))
    assert qemu.acts == 4


def test_unknown_fault(tmp_path: Path) -> None:
    """The sentence names those that there are."""
    with pytest.raises(UsageError, match="drop_protection"):
        faulty_qemu("x", Path("/bin/true"), tmp_path, _provisioning(tmp_path))


def test_live_selftest_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """Missed is 1; a fault that could not be planted, or none at all, is an error and no pass."""
    caught, missed, broken = (LiveRow("x", status, 1.0, "So.") for status in ("PASS", "FAIL", "ERROR"))
    assert summarise([caught]) == EXIT_PASS
    assert summarise([caught, broken, missed]) == EXIT_FAIL
    assert summarise([caught, broken]) == EXIT_ERROR
    assert summarise([]) == EXIT_ERROR
    assert "nothing is known about it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "seen"),
    [(Code.WRITE_ORDER_NEWER, True), (Code.WRITE_ORDER_OTHER_MOMENT, True), (Code.WRITE_ORDER_OLDER, False)],
)
def test_what_unprotected_ram_looks_like(code: Code, seen: bool) -> None:
    """A writer's page of after T0 makes all others look old; old pages alone are another defect."""
    found = Violation("write-order", code, "A page is not of T0.")
    assert LIVE_FAULTS["report_success"].causes(found) is seen
    assert LIVE_FAULTS["release_early"].causes(found) is (code is Code.WRITE_ORDER_NEWER)
