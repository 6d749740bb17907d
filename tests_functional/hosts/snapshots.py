"""Starts a saved guest on a host and saves it there; judges and restores the snapshot on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from guest_images.agent.format import FINE_BUCKETS, WORD_BYTES, ThreadWord
from harness.codes import Code
from harness.deadline import Deadline, patient
from harness.errors import Evidence, SetupBroken, SnapproofError, SubjectFailed
from harness.hosts.host import Host
from harness.hosts.link import script_of
from harness.linux.run_queue import LEAST_GRANTED, ProcessorTime
from harness.qemu.configuration import qemu_argv
from harness.qemu.migration import SaveFigures
from tests_functional.hosts import on_host, on_host_balance, on_host_memory, on_host_qemu
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.lib.offline_checks import judge_oracles
from tests_functional.lib.restored_checks import judge_restored
from tests_functional.lib.save import Flow, Snapshot
from tests_functional.lib.source_checks import judge_overlap
from tests_functional.lib.time_limits import RESTORE_SECONDS
from validators.checks import Problem, judged, skipped
from validators.judge import check_file
from validators.verdict import CheckResult

REFUSAL = "Background-snapshot is not supported by host kernel"
"""QEMU's text where the kernel has no UFFD-WP (6.0 to 11.1, migration/options.c)."""

# As it was when we were started, whatever becomes of the file meanwhile.
_SCRIPT = script_of(on_host, on_host_balance, on_host_memory, on_host_qemu)
_REFUSES = "QEMU refuses a background snapshot where the kernel has no UFFD-WP, says so, and nowhere else."
_STEP_SECONDS = 120.0
_STALLS_FROM_STEPS = (ThreadWord.FINE_HISTOGRAM - ThreadWord.STEPS) * WORD_BYTES
# A flow of another name is of a guest that the host's kernel disturbs; it is stopped at T0.
_FLOWS = {"background": Flow.LIVE, "balanced": Flow.LIVE, "stopped": Flow.STOP_AND_SAVE}


@dataclass(frozen=True)
class HostPaths:
    """Paths on a host.

    Attributes:
        qemu: the QEMU executable.
        vmstate: the saved guest.
        kernel: the guest's kernel.
        initrd: the guest's initramfs, if it has one.
        firmware: the guest's firmware, if it is not QEMU's own.
        sinks: the file or disk that each flow saves to.
        sparse: another saved guest, with pages of zeros; only a VM host has it.
    """

    qemu: PurePosixPath
    vmstate: PurePosixPath
    kernel: PurePosixPath
    initrd: PurePosixPath
    firmware: PurePosixPath
    sinks: Mapping[str, PurePosixPath]
    sparse: PurePosixPath | None = None


@dataclass(frozen=True)
class Report:
    """The events that a host reported; the last one is "done"."""

    events: tuple[Mapping[str, Any], ...]

    def find(self, event: str, flow: str) -> Mapping[str, Any] | None:
        """Return the first event of that name and flow, None if there is none."""
        return next((e for e in self.events if e["event"] == event and e.get("flow") == flow), None)

    @property
    def version(self) -> str:
        """Version of the host's QEMU."""
        started = next(event for event in self.events if event["event"] == "started")
        numbers = started["version"]["qemu"]
        return f"{numbers['major']}.{numbers['minor']}.{numbers['micro']}"


@dataclass(frozen=True)
class HostSaves:
    """What one QEMU on a host does with the saved guest.

    Attributes:
        flows: how to save it, one after the other: "background", "stopped" and "balanced", which follows
            "background".
        environment: variables for QEMU.
        disturb: what saves of a guest that the host's kernel disturbs need (see on_host).
        goldens: the file or disk that receives RAM at T0, for the flows of such a guest.
        kinds: command lines of QEMUs to ask first about kinds of memory (see memory_kinds).
        steps: steps of each writer after T0 that the sink of a background snapshot is slow for; 0 for a sink
            that takes all at once.
    """

    flows: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    disturb: Mapping[str, Any] = field(default_factory=dict)
    goldens: Mapping[str, PurePosixPath] = field(default_factory=dict)
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    steps: int = 0


def save_on_host(
    host: Host,
    warm: PortableWarmGuest,
    places: HostPaths,
    saves: HostSaves,
    deadline: Deadline,
    log: Callable[[str], None],
) -> Report:
    """Start the saved guest on a host and save it by each flow in turn.

    Args:
        host: the host.
        warm: the guest to start.
        places: the paths on the host.
        saves: how to save it, and under which conditions.
        deadline: for all saves together.
        log: called with a line for each event.

    Raises:
        SubjectFailed: QEMU failed, hung, or the guest did not go on.
        SetupBroken: the program on the host failed.
    """
    order = {
        **_order(host, warm, places, saves),
        "disturb": dict(saves.disturb),
        "environment": dict(saves.environment),
        "kinds": dict(saves.kinds),
    }
    lines: list[Mapping[str, Any]] = []
    buffer = bytearray()

    def told(data: bytes) -> None:
        buffer.extend(data)
        while b"\n" in buffer:
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer[:] = rest
            lines.append(json.loads(line))
            if lines[-1]["event"] != "kind":
                log(f"{host.name}: {lines[-1]['event']} after {lines[-1]['seconds']} s.")

    argv = [host.python, "-c", _SCRIPT]
    before = host.processor_time()
    done = host.run(argv, deadline, stdin=json.dumps(order).encode(), on_output=told)
    last = lines[-1] if lines else {}
    if last.get("event") == "failed":
        raise failure(host.name, last, order["argv"], host.processor_time().since(before))
    if last.get("event") != "done" or done.exit_code:
        tail = done.stderr.decode(errors="replace")[-2000:]
        raise SetupBroken(
            f"The program on_host.py ended early on the host '{host.name}'; its standard error says why.",
            Evidence(argv[:2], log_tail=tail),
        )
    return Report(tuple(lines))


def failure(name: str, event: Mapping[str, Any], argv: Sequence[str], got: ProcessorTime) -> SnapproofError:
    """Return the error for a failure that on_host.py has reported, with QEMU's log.

    Args:
        name: the host's.
        event: the report.
        argv: the command line of QEMU there.
        got: what the host got of this machine's processors meanwhile. A time limit that a starved VM does not
            keep is no evidence against the QEMU in it.
    """
    evidence = Evidence(argv, log_tail="\n".join(event["log"]))
    sentence = f"On the host '{name}': {event['sentence']}"
    if event["expired"] and got.granted < LEAST_GRANTED:
        return SetupBroken(
            f"{sentence} This machine is too busy to blame QEMU: the host is a VM that got "
            f"{got.granted:.0%} of the processor time that it wanted. Run it with less beside it.",
            evidence,
            code=Code.SETUP_LIMIT,
        )
    return (SubjectFailed if event["blames_qemu"] else SetupBroken)(sentence, evidence)


def _order(host: Host, warm: PortableWarmGuest, places: HostPaths, saves: HostSaves) -> dict[str, Any]:
    """Return the order for on_host.py."""
    config = warm.stack.machine_config()
    config = replace(
        config,
        executable=Path(places.qemu),
        kernel=Path(places.kernel),
        initrd=Path(places.initrd) if config.initrd else None,
        firmware=Path(places.firmware) if config.firmware else None,
    )
    return {
        "argv": qemu_argv(config, Path(host.folder), "@QMP", "127.0.0.1", incoming=True),
        "vmstate": str(places.vmstate),
        "counters": warm.counters,
        "stalls": [address + _STALLS_FROM_STEPS for address in warm.counters],
        "buckets": FINE_BUCKETS,
        "saves": [
            {
                "flow": flow,
                "sink": str(places.sinks[flow]),
                **({"golden": str(saves.goldens[flow])} if flow in saves.goldens else {}),
                **({"steps": saves.steps} if flow == "background" and saves.steps else {}),
            }
            for flow in saves.flows
        ],
        "seconds": patient(_STEP_SECONDS),
    }


def judge_refusal(report: Report, write_protect: bool) -> CheckResult:
    """Check that QEMU refuses a background snapshot exactly where the kernel has no UFFD-WP.

    Args:
        report: the report of a host that was asked for a background snapshot.
        write_protect: whether the probe found UFFD-WP on the host.
    """
    if report.find("unknown", "background"):
        return skipped("refusal", _REFUSES, f"QEMU {report.version} has no background-snapshot.")
    refused = report.find("refused", "background")
    problems = []
    if refused is None and not write_protect:
        problems.append(
            Problem(
                Code.REFUSAL_ABSENT,
                "The host's kernel has no UFFD-WP, and QEMU accepts background-snapshot.",
            )
        )
    if refused is not None and write_protect:
        problems.append(
            Problem(
                Code.REFUSAL_UNNEEDED, f"The host's kernel has UFFD-WP, and QEMU refuses: {refused['text']}"
            )
        )
    if refused is not None and not write_protect and refused["text"].rstrip(".") != REFUSAL:
        problems.append(
            Problem(Code.REFUSAL_OTHER_REASON, f"QEMU does not name the kernel as reason: {refused['text']}")
        )
    if refused is not None and refused["state"] != "running":
        problems.append(
            Problem(
                Code.REFUSAL_GUEST_STATE,
                f"After the refusal the guest is '{refused['state']}'.",
                {"state": refused["state"]},
            )
        )
    facts: dict[str, int | float | str] = {"text": refused["text"] if refused else "accepted"}
    return judged("refusal", _REFUSES, problems, facts)


def snapshot_of(report: Report, flow: str, path: Path) -> Snapshot | None:
    """Return the snapshot that a host saved to `path`, cut to the stream's length; None after a refusal."""
    saved = report.find("saved", flow)
    if saved is None:
        return None
    with path.open("r+b") as file:
        file.truncate(saved["bytes"])
    answer, kind = saved["migrate"], _FLOWS.get(flow, Flow.STOP_MIGRATE_CONT)
    stun = stun_ms(saved["events"])
    if stun is None:
        raise SubjectFailed(
            f"QEMU sent no STOP and RESUME around T0 of the snapshot '{flow}'.", code=Code.SAVE_NO_STUN
        )
    return Snapshot(
        flow=kind,
        path=path,
        golden=None,
        stun_ms=stun,
        figures=SaveFigures(
            int(answer["downtime"]),
            int(answer["total-time"]),
            answer["ram"]["normal"],
            answer["ram"]["duplicate"],
        ),
        size_bytes=int(saved["bytes"]),
        largest_stall_us=0,
        largest_gap_us=0,
        state=kind.state_at_t0 if kind is not Flow.STOP_AND_SAVE else "paused",
        steps_before=tuple(saved["steps_before"]),
        steps_completed=tuple(saved["steps_completed"]),
    )


def judge_snapshot(
    warm: PortableWarmGuest, snapshot: Snapshot, folder: Path, golden: Path | None = None
) -> list[CheckResult]:
    """Judge the file of a snapshot from a host, with its main RAM at T0 if it is known; restore it here."""
    offline = check_file(snapshot.path, golden=golden, agent_ran=True)
    t0 = offline.t0
    checks = [*offline.checks, judge_oracles(offline, snapshot, warm.source)]
    if snapshot.flow.background and t0:
        checks.append(judge_overlap(snapshot, t0.steps))
    limit = Deadline(RESTORE_SECONDS)
    return [*checks, *judge_restored(warm.stack, snapshot, warm.source, t0, folder, limit)]


def stun_ms(events: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the time from STOP to RESUME by the events' timestamps, None if one of them is missing."""
    stopped = 0.0
    for event in events:
        stamp = event["timestamp"]
        now = stamp["seconds"] + stamp["microseconds"] / 1e6
        if event["event"] == "STOP" and not stopped:
            stopped = now
        elif event["event"] == "RESUME" and stopped:
            return float(now - stopped) * 1000
    return None
