"""Runs `snapproof bench faults`: times the page faults of writes to protected pages, in the host's kernel."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken, SnapproofError, UsageError
from harness.hosts.host import Host
from harness.hosts.spec import HostSpecText, parse_host
from harness.qemu.configuration import qemu_quoted
from harness.qemu.machine import known_pid
from harness.status import EXIT_ALL_SKIPPED, EXIT_NOTHING_RAN, EXIT_PASS
from snapproof.bench.options import FaultsOptions
from snapproof.bench.page_fault_watch import FaultReport, ThreadFaults, watch_on_host, watched
from snapproof.report.text_table import table_rows
from snapproof.runs.events import timed_log
from snapproof.runs.host_plan import Sources, opened_host, prepared
from snapproof.runs.outputs import write_json_file
from snapproof.runs.own_command import own_command
from snapproof.runs.results_folder import now, own_results_folder
from snapproof.runs.stack import prepare_stack
from tests_functional.hosts.examination import HostPlan
from tests_functional.hosts.snapshots import HostSaves, save_on_host
from tests_functional.lib.measure.cases import UNLIMITED, Way, Writer
from tests_functional.lib.measure.figures import STALL_QUANTILES
from tests_functional.lib.measure.saves import prepare, save
from tests_functional.lib.measure.warm_guest import sized, started, warm_guest

_GUEST_SECONDS, _SAVE_SECONDS, _HOST_SECONDS = 1800.0, 300.0, 400.0
_HEADS = ("thread", "tid", "faults", *STALL_QUANTILES, "max us")

# Linux virt/kvm/async_pf.c: a vCPU asks with FOLL_NOWAIT, for which handle_userfault() returns at once.
_ASYNC = (
    "Under KVM on x86 a vCPU mostly does not wait for a page itself. A kernel worker does, which does not "
    "belong to this process and is not seen. So the times of threads 'CPU n/KVM' need not be waits; 'bench "
    "downtime' measures the waits in the guest."
)

Log = Callable[[str], None]


def bench(options: FaultsOptions) -> int:
    """Run the benchmark and return the exit code that `snapproof bench faults --help` explains."""
    if not 0 < options.seconds <= 86400:
        raise UsageError("--seconds takes a number above 0 and up to 86400.")
    if options.pid is not None and options.pid < 1:
        raise UsageError("--pid takes the number of a process.")
    if options.pid is not None and not options.host and not Path(f"/proc/{options.pid}/task").exists():
        raise UsageError(f"There is no process {options.pid} for --pid.")
    host = parse_host(options.host) if options.host else None
    if options.pid is not None and host is not None and host.vm is not None:
        raise UsageError(
            "--pid names a QEMU that is running, and the VM that --host names is booted only now; leave "
            "--pid out."
        )
    started_at, begun = now(), time.monotonic()
    log = timed_log(begun)
    try:
        if options.pid is not None:
            report = _watch_process(options, options.pid, host, log)
        else:
            report = _save_on_host(options, host, log) if host else _save_here(options, log)
    except NotApplicable as refusal:
        print(f"SKIP: {refusal.sentence}")
        return EXIT_ALL_SKIPPED
    print("\n".join(table_lines(report)))
    if options.json:
        content = {
            "schema": 1,
            "bench": "faults",
            "started": started_at,
            "command": own_command(),
            **report.to_json(),
        }
        write_json_file(options.json, json.dumps(content, indent=1))
    return EXIT_PASS if report.threads else EXIT_NOTHING_RAN


def _watch_process(options: FaultsOptions, pid: int, wanted: HostSpecText | None, log: Log) -> FaultReport:
    if wanted is not None:
        sources = Sources(options.hosts, Path(), log)
        with opened_host(wanted, sources) as host:
            log(f"Watching process {pid} on {wanted.short} for {options.seconds:g} s.")
            return watch_on_host(host, options.seconds, pid=pid)
    with watched(pid, options.seconds) as watcher:
        log(f"Watching process {pid} for {options.seconds:g} s.")
        return watcher.report(options.seconds)


def _save_here(options: FaultsOptions, log: Log) -> FaultReport:
    """Watch a QEMU of this host while it takes a background snapshot."""
    # Find out before anything slow whether this host can be traced at all.
    with watched(os.getpid(), 1.0):
        log("This host can be traced.")
    folder = _folder(options)
    stack, _ = prepare_stack(options.stack, folder, log)
    if options.ram < 2 * stack.image.own_mib:
        raise UsageError(
            f"A guest of {options.ram} MiB is too small: it needs {stack.image.own_mib} MiB itself."
        )
    log(f"Making a guest of {options.ram} MiB ready.")
    limit = Deadline(_GUEST_SECONDS)
    writer = Writer(options.writer)
    seed = random.randrange(1 << 31)
    way, path = Way.BACKGROUND_EXEC, folder / "vmstate"
    with (
        warm_guest(sized(stack, options.ram), writer, folder / "guest", limit, seed) as warm,
        started(warm, folder / "saved", way, limit) as running,
    ):
        prepare(running.machine, way)
        with watched(known_pid(running.machine), _SAVE_SECONDS) as watcher:
            log("Saving it.")
            try:
                save(way, running.machine, path, UNLIMITED, Deadline(_SAVE_SECONDS))
            finally:
                path.unlink(missing_ok=True)
            return watcher.report()


def _save_on_host(options: FaultsOptions, wanted: HostSpecText, log: Log) -> FaultReport:
    """Watch a QEMU on another host while it restores and saves the guest that was copied there."""
    plan, opened = prepared(wanted, Sources(options.hosts, _folder(options), log))
    try:
        with opened as host:
            log(f"{plan.name}: Linux {host.facts().kernel}.")
            return _watch_save(plan, host, log)
    finally:
        plan.remove_sinks()


def _watch_save(plan: HostPlan, host: Host, log: Log) -> FaultReport:
    if plan.warm is None:
        raise SetupBroken("There is no saved guest for this host.")
    places, seen = plan.places(host), _Seen()
    # An argument of that QEMU, and of no other (harness/qemu/configuration.py, qemu_argv()).
    marker = f"file,id=console,path={qemu_quoted(Path(host.folder) / 'console.log')},append=on"

    def watch() -> None:
        try:
            seen.report = watch_on_host(host, _HOST_SECONDS, marker=marker)
        except SnapproofError as error:
            seen.error = error

    thread = threading.Thread(target=watch, name="watcher", daemon=True)
    thread.start()
    save_on_host(host, plan.warm, places, HostSaves(("background",)), Deadline(_HOST_SECONDS), log)
    thread.join(_HOST_SECONDS)
    if seen.error:
        raise seen.error
    if seen.report is None:
        raise SetupBroken("The watcher on the host did not end in time.")
    return seen.report


class _Seen:
    """The result of the watcher's thread."""

    report: FaultReport | None = None
    error: SnapproofError | None = None


def table_lines(report: FaultReport) -> list[str]:
    """Return the table of threads, and notes on what may be missing in it."""
    lines = [
        f"Faults of process {report.pid} in {report.seconds:.1f} s, in microseconds, "
        f"on Linux {report.kernel}:",
        *table_rows([_HEADS, *(_row(thread) for thread in report.threads)], right=range(1, len(_HEADS))),
    ]
    if not report.threads and not report.unpaired:
        lines = ["No fault was seen: nothing was write-protected meanwhile, or nothing wrote to it."]
    if report.lost or report.missed:
        lines.append(
            f"{report.lost} events were lost and {report.missed} returns missed: there were more faults."
        )
    if report.unpaired:
        lines.append(
            f"{report.unpaired} halves of faults are not in the table: these faults began before the watch "
            "or did not end during it, such as one that waits for ever."
        )
    if report.unread:
        lines.append(f"{report.unread} lines of the trace could not be read.")
    if any(thread.name.endswith("/KVM") for thread in report.threads):
        lines.append(_ASYNC)
    return lines


def _row(thread: ThreadFaults) -> Sequence[str]:
    # QEMU chooses the names of its threads; they may hold control sequences of a terminal.
    name = thread.name if thread.name.isprintable() else ascii(thread.name)
    found = thread.quantiles()
    figures = [f"{found[share]:,.0f}" for share in STALL_QUANTILES]
    return name, str(thread.tid), f"{thread.count:,}", *figures, f"{thread.max_us:,}"


def _folder(options: FaultsOptions) -> Path:
    return own_results_folder(options.results, "bench-faults-")
