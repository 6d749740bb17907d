"""Small hand-made values for tests of ci/ and the scenarios: a status, a snapshot, a verdict, a stack."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from guest_images.agent.client import AgentStatus
from guest_images.cache import Cache
from guest_images.guests.image import GuestImage
from guest_images.packages.unpacked import InputRecord
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SnapproofError
from harness.linux.kernel_log import Ours, Splat
from harness.qemu.architectures import X86_64
from harness.qemu.migration import SaveFigures
from harness.qemu.ram import GoldenImage, RamBlock
from harness.status import Status
from snapproof.report.run_result import OutcomeRecord
from tests_functional.lib.guest import Guest, Stack
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot
from validators.oracles.o6_host.host_state import HostState, Started
from validators.verdict import T0, CheckResult, Facts, Verdict, Violation

T0_NS = 40_000_000_000
"""The guest's CLOCK_MONOTONIC at T0 of `snapshot()`, in ns."""

AT_T0 = T0((710, 905), T0_NS)
"""T0 of `snapshot()`, as the write-order oracle finds it."""

HOST = HostState(
    tainted=0,
    splats=(Splat(5, "WARNING: old", 61, "qemu-system-x86"),),
    descriptors=((0, "/dev/null"), (3, "/dev/kvm"), (4, "pipe:[7]")),
    processes=(Started(70, "helper"),),
    ours=Ours(frozenset((60, 61, 70)), frozenset(("qemu-system-x86",))),
)
"""A host's state before a snapshot."""

SINK = Started(71, "cat", reads_from_qemu=True)
"""A process that a snapshot may leave behind."""

PAGES = 1000
"""Data pages of the agent in these values; it has two threads with half of them each."""

GOLDEN_PAGES = 64

SOURCE = AgentStatus(
    boot_id="5f0c",
    monotonic_ns=50_000_000_000,
    realtime_ns=1_700_000_050_000_000_000,
    steps=(700, 900),
    errors=0,
    data_pages=PAGES,
    max_stall_us=900,
    max_gap_us=1900,
    histogram=(10, 3000, 40),
    nonce=77,
    state="running",
)
"""A healthy agent that has been writing."""


def snapshot(flow: Flow = Flow.LIVE, **changes: Any) -> Snapshot:
    """A snapshot whose T0 lies at steps (710, 905); with a golden image where the flow has one."""
    path = Path("vmstate")
    golden = GoldenImage(path, (RamBlock("pc.ram", GOLDEN_PAGES * 4096, 1),)) if flow.golden else None
    figures = SaveFigures(downtime_ms=4, total_ms=2000, ram_normal_pages=60, ram_zero_pages=4)
    made = Snapshot(
        flow=flow,
        path=path,
        golden=golden,
        stun_ms=3.0,
        figures=figures,
        size_bytes=262_144,
        largest_stall_us=5000,
        largest_gap_us=9000,
        state=flow.state_at_t0,
        steps_before=(700, 900),
        steps_completed=(800, 1000),
    )
    return replace(made, **changes)


def check(
    name: str, *problems: str, facts: Facts | None = None, code: Code = Code.SNAPSHOT_WRONG
) -> CheckResult:
    """A check that passed, or failed with these sentences and this code."""
    violations = tuple(Violation(name, code, sentence) for sentence in problems)
    status = Status.FAIL if problems else Status.PASS
    return CheckResult(name, "It demands.", status, violations, len(violations), facts or {})


def write_order(**facts: int | float | str) -> CheckResult:
    """Return the result of the write-order oracle on `snapshot()`."""
    found: Facts = {
        "pages verified": PAGES,
        "threads": 2,
        "steps of thread 0": 710,
        "steps of thread 1": 905,
        "monotonic_ns at T0": T0_NS,
    }
    return replace(check("write-order", facts=found | facts), t0=AT_T0)


def offline(*checks: CheckResult) -> Verdict:
    """Return the result of `check_file` for a small file."""
    return Verdict(checks, {"data pages": 60, "zero pages": 4})


def stack(folder: Path) -> Stack:
    """Return a stack of an x86_64 guest, on any host, of files that are not there."""
    image = GuestImage(
        name="default",
        architecture=X86_64,
        kernel=folder / "bzImage",
        initrd=folder / "initrd",
        cmdline="quiet",
        ssh_user="root",
        ssh_private_key=folder / "key",
        ssh_host_key_line="ssh-ed25519 AAAA",
        digest="d1",
        manifest=(InputRecord("linux", "6.12", "ab"),),
    )
    return Stack(folder / "qemu", image, accel="tcg", machine=X86_64.machine)


def make_run(folder: Path, **changes: Any) -> Run:
    """A test's run in a folder that exists."""
    made = Run(
        name="snapshot.made",
        stack=stack(folder),
        host_environment={"host_kernel": "6.18"},
        folder=folder,
        events=folder / "events.jsonl",
        cache=Cache(folder / "cache"),
        mirror=None,
        pattern="random",
        seed=5,
        repeat=1,
        keep=False,
        deadline=Deadline(60),
    )
    return replace(made, **changes)


def outcome(name: str, status: Status, sentence: str = "It is so.", **changes: Any) -> OutcomeRecord:
    """An outcome as a results file has it."""
    return replace(OutcomeRecord(name, status, sentence, 1.25, folder=f"tests/{name}"), **changes)


class StandInAgent:
    """Answers with the given statuses in turn, the last one for ever; raises where one is an error."""

    def __init__(self, *answers: AgentStatus | SnapproofError) -> None:
        self.answers = list(answers)
        self.resets = 0

    def reset_stats(self) -> None:
        """Count how often the statistics were reset."""
        self.resets += 1

    def status(self) -> AgentStatus:
        """The next answer."""
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, SnapproofError):
            raise answer
        return answer


def stand_in_guest(*answers: AgentStatus | SnapproofError) -> Guest:
    """A guest whose agent answers so, and whose QEMU is this process."""
    machine = SimpleNamespace(pid=os.getpid())
    return cast(Guest, SimpleNamespace(agent=StandInAgent(*answers), machine=machine))


def codes(result: CheckResult) -> list[Code]:
    """The codes of a check's violations; its status must agree with them."""
    assert result.status is (Status.FAIL if result.violations else Status.PASS)
    return [violation.code for violation in result.violations]


def sentences(result: CheckResult) -> list[str]:
    """The sentences of a check's violations; its status must agree with them."""
    assert result.status is (Status.FAIL if result.violations else Status.PASS)
    return [violation.sentence for violation in result.violations]
