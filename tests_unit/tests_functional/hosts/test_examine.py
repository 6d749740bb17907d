"""Verdicts about hosts: refusals, features that are not as expected, snapshots that come out, the table."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from harness.errors import SetupBroken
from harness.hosts.host import Host
from harness.hosts.local import HostFacts
from harness.hosts.spec import HostSpecText
from harness.linux.run_queue import ProcessorTime
from harness.qemu.configuration import MIB
from harness.status import EXIT_ERROR, Status
from snapproof.cli.command import main
from snapproof.cli.hosts import table
from tests_functional.hosts import examine as examine_module
from tests_functional.hosts.examination import Examination
from tests_functional.hosts.examine import examine
from tests_functional.hosts.feature_tests import HostFeatures
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.hosts.snapshots import (
    REFUSAL,
    Report,
    judge_refusal,
    snapshot_of,
)
from tests_functional.hosts.vm_places import sink_file, vm_disks, vm_places
from tests_functional.lib.outcome import Outcome
from tests_unit.support.host_values import STARTED, host_plan, refused, saved
from tests_unit.support.scenario_values import SOURCE, stack

_WP = HostFeatures("system call", "", 0x1FF, ("PAGEFAULT_FLAG_WP", "SIGBUS"), "", "")
_NO_WP = HostFeatures("system call", "", 0x1FE, ("SIGBUS",), "EINVAL", "EINVAL")


@pytest.mark.parametrize(
    ("report", "write_protect", "sentence"),
    [
        (refused(), False, ""),
        (Report((STARTED, saved())), True, ""),
        (refused(), True, "has UFFD-WP, and QEMU refuses"),
        (Report((STARTED, saved())), False, "no UFFD-WP, and QEMU accepts"),
        (refused("Out of memory"), False, "QEMU does not name the kernel as reason: Out of memory"),
        (refused(state="paused"), False, "After the refusal the guest is 'paused'"),
    ],
)
def test_refusal(report: Report, write_protect: bool, sentence: str) -> None:
    """Exactly where the kernel lacks it, for that reason, and without harm to the guest."""
    check = judge_refusal(report, write_protect)
    assert check.status is (Status.FAIL if sentence else Status.PASS)
    assert all(sentence in violation.sentence for violation in check.violations)


def test_qemu_without_the_capability_is_skipped() -> None:
    """It neither refuses nor accepts."""
    report = Report((STARTED, {"event": "unknown", "flow": "background"}))
    check = judge_refusal(report, write_protect=True)
    assert (check.status, check.reason) == (Status.SKIP, "QEMU 10.0.13 has no background-snapshot.")


def test_snapshot_is_cut_to_its_length(tmp_path: Path) -> None:
    """A disk is longer than the stream on it; stun is by QEMU's own stamps."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    snapshot = snapshot_of(Report((STARTED, saved())), "background", path)
    assert snapshot is not None
    assert path.stat().st_size == snapshot.size_bytes == 1000
    assert snapshot.stun_ms == pytest.approx(62.0)
    assert (snapshot.state, snapshot.steps_completed) == ("running", (9,))
    assert snapshot_of(refused(), "background", path) is None


def test_disks_and_places_agree(tmp_path: Path) -> None:
    """Everything that a script looks for on a VM is a disk of it, and there is room for the snapshots."""
    warm = PortableWarmGuest(stack(tmp_path), tmp_path / "vmstate", 1000, tmp_path / "boot", (64,), 0, SOURCE)
    flows = ("background", "stopped")
    disks = vm_disks(warm, tmp_path / "qemu", tmp_path, flows)
    places = vm_places(flows)
    wanted = [places.qemu, places.kernel, places.initrd, places.vmstate, *places.sinks.values()]
    used = {path.parts[2].removeprefix("disk-") for path in wanted}
    assert used == set(disks)
    mounted = {path.parts[2] for path in (places.qemu, places.kernel, places.initrd, places.firmware)}
    assert {name for name, disk in disks.items() if disk.mounted} == mounted
    assert [name for name, disk in disks.items() if disk.writable] == list(flows)
    for flow in flows:
        assert sink_file(tmp_path, flow).stat().st_size > warm.stack.ram_mib * MIB


def test_deviation_names_bits() -> None:
    """More and fewer than expected."""
    assert _WP.deviation(0x1FF) == ""
    assert _WP.deviation(0x3FE) == "0x1ff instead of 0x3fe (+bit 0, -bit 9)"


def test_host_that_does_not_come_up_is_an_error_of_its_own(tmp_path: Path) -> None:
    """The other hosts follow; nothing is said about its kernel."""

    @contextmanager
    def broken() -> Iterator[Host]:
        raise SetupBroken("It does not boot.")
        yield

    found = examine(host_plan(tmp_path), broken(), print)
    (outcome,) = found.outcomes
    assert (outcome.name, outcome.status) == ("hosts.made.boot", Status.ERROR)
    assert "It does not boot." in table([found])


def test_filter_that_matches_no_feature_test_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the filter, and the command that lists what it can match."""

    class Reached:
        def facts(self) -> HostFacts:
            return HostFacts("6.1.0-56 #1 SMP", "x86_64", 2, 1900, 0)

        def processor_time(self) -> ProcessorTime:
            return ProcessorTime(0, 0)

    @contextmanager
    def reached() -> Iterator[Host]:
        yield cast("Host", Reached())

    monkeypatch.setattr(examine_module, "carry_tests", lambda *_: None)
    monkeypatch.setattr(examine_module, "probe_features", lambda _: _WP)
    monkeypatch.setattr(examine_module, "run_feature_tests", lambda *_, **__: ({"event": "end", "tests": 0},))
    plan = host_plan(tmp_path, tests=["--slow", "2", "--filter", "api.*.typo", "--filter", "R99"])
    outcome = examine(plan, reached(), print).outcomes[-1]
    assert (outcome.name, outcome.status) == ("hosts.made.kernel", Status.ERROR)
    assert outcome.sentence == (
        "No feature test matches the filter 'api.*.typo', 'R99', so none ran on this host; choose a name or "
        "shell pattern for '--filter' from the list of 'snapproof kernel --list'."
    )


def test_table_has_a_row_per_host_and_says_what_deviates() -> None:
    """Features, counts, refusals and times, then the words behind them."""
    facts = HostFacts("6.1.0-56 #1 SMP", "aarch64", 2, 1900, 0)
    passed = [Outcome(f"hosts.made.{step}", Status.PASS, "Fine.") for step in ("refusal", "stopped")]
    counts = Counter(PASS=12, FAIL=1, ERROR=1, SKIP=30, XFAIL=2)
    made = Examination("made", facts, _NO_WP, "0x1fe instead of 0x1ff (-bit 0)", "7.2.22",
                       counts, REFUSAL, passed, 90.4, 31.6)  # fmt: skip
    heading, row, *notes = table([made]).splitlines()
    assert heading.split()[:3] == ["host", "kernel", "features"]
    for text in (
        "6.1.0-56",
        "2 (0x1fe), no WP"[2:],
        "12/2/30 +2 known",
        "refused, stopped PASS",
        "7.2.22",
        "90 s  32 s",
    ):
        assert text in row
    assert heading.split()[-2:] == ["time", "CPU"]
    assert notes == ["made: 0x1fe instead of 0x1ff (-bit 0)", f"made: {REFUSAL}"]
    assert made.status is Status.PASS


def test_table_says_what_each_step_cost() -> None:
    """The VM's time by steps, and the rest, spent beside it; nothing for a host that is no VM."""
    made = Examination("made", processor_seconds=100.0)
    made.count("boot", 8.0)
    made.count("tests", 68.25)
    made.count("planted", 68.5)
    made.count("tests", 78.5)
    assert made.costs == {"boot": 8.0, "tests": 70.25, "planted": 0.25}
    *_, note = table([made]).splitlines()
    assert note == "made: CPU: boot 8 s, tests 70 s, on this machine 22 s"
    other = Examination("other", processor_seconds=9.0)
    other.count("boot", 0.0)
    assert other.costs == {}
    assert "CPU:" not in table([other])


def test_host_that_cannot_be_had_does_not_end_the_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an ERROR with its sentence in the table, and the results are written."""

    def broken(*_: object) -> None:
        raise SetupBroken("The kernel has no driver.")

    monkeypatch.setattr("snapproof.cli.hosts.prepared", broken)
    words = ["hosts", "--host", "vm:debian-11", "--host", "vm:debian-12", "--results", str(tmp_path / "r")]
    assert main(words) == EXIT_ERROR
    assert capsys.readouterr().out.count("ERROR: The kernel has no driver.") == 2
    assert (tmp_path / "r/results.json").exists()


def test_processor_time_of_a_host_is_that_of_its_own_process_and_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each host is examined in a process of its own; one that works for a second shows it, the other not."""

    def working(host: HostSpecText, _sources: object) -> None:
        if host.text == "vm:debian-11":
            work = "import time\nwhile time.process_time() < 1.5: pass"
            subprocess.run([sys.executable, "-S", "-c", work], check=True)
        raise SetupBroken("The kernel has no driver.")

    monkeypatch.setattr("snapproof.cli.hosts.prepared", working)
    main(["hosts", "--host", "vm:debian-11", "--host", "vm:debian-12", "--results", str(tmp_path / "r")])
    first, second = capsys.readouterr().out.splitlines()[1:3]
    used = [int(line.split()[-2]) for line in (first, second)]
    assert 1 <= used[0] <= 4
    assert used[1] <= 1
