"""`snapproof bench faults`: how long writes to protected pages wait, as the host's kernel sees it."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ci.host_plan import HOST_HELP, Sources, add_host_arguments, opened_host, prepared
from ci.json_file import write_json_file
from ci.results import make_results_folder, now
from ci.stack import cache_of, prepare_stack
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken, SnapproofError, UsageError
from harness.hosts.host import Host
from harness.hosts.spec import HostSpecText, parse_host
from harness.machine_config import qemu_quoted
from harness.status import EXIT_ALL_SKIPPED, EXIT_NOTHING_RAN, EXIT_PASS
from tests_functional.scenarios.bench.faults import (
    FaultReport,
    ThreadFaults,
    watch_on_host,
    watched,
)
from tests_functional.scenarios.bench.figures import STALL_QUANTILES
from tests_functional.scenarios.bench.warm_guest import sized, started, warm_guest
from tests_functional.scenarios.bench.ways import UNLIMITED, Way, prepare, save
from tests_functional.scenarios.bench.writers import Writer
from tests_functional.scenarios.hosts.plan import Plan
from tests_functional.scenarios.hosts.snapshots import save_on_host

_GUEST_SECONDS, _SAVE_SECONDS, _HOST_SECONDS = 1800.0, 300.0, 400.0
_HEADS = ("thread", "tid", "faults", *STALL_QUANTILES, "max us")
_OWN_GUEST = ("disk", "kernel", "initrd", "cmdline", "ssh_user", "guest_needs")

# Linux virt/kvm/async_pf.c: a vCPU asks with FOLL_NOWAIT, for which handle_userfault() returns at once.
_ASYNC = (
    "Under KVM on x86 a vCPU mostly does not wait for a page itself: a worker of the kernel does, which is "
    "not of this process and not seen. So times of threads 'CPU n/KVM' may be no waits; the guest's own view "
    "is that of 'bench downtime'."
)

Log = Callable[[str], None]


def add_parser(benchmarks: Any) -> None:
    """Add the benchmark's arguments."""
    parser = benchmarks.add_parser(
        "faults",
        help="how long writes to protected pages wait, seen from the host",
        description="Times the userfaultfd faults of each thread of a QEMU by the host kernel's tracefs, in "
        "microseconds: of a running one (--pid), or of one of its own that saves a guest in the background. "
        "Needs root on the host, and a kernel with kprobes.",
        epilog="Examples: snapproof bench faults --pid 4711 --seconds 60; snapproof bench faults --host "
        "ssh://root@lab --pid 4711; snapproof bench faults --host vm:debian-12. "
        "Exit codes: 0 measured, 2 error, 3 no fault was seen, 4 this host cannot be traced.",
    )
    parser.add_argument("--pid", type=int, metavar="N", help="a QEMU that runs here, or on --host")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="watch --pid for so long (default: 30)"
    )
    parser.add_argument(
        "--host", metavar="SPEC", help=f"where that is, or a guest is to be saved: {HOST_HELP}"
    )
    parser.add_argument("--ram", type=int, default=512, metavar="MIB", help="guest here (default: 512)")
    parser.add_argument(
        "--writer",
        choices=[one.value for one in Writer],
        default="all",
        help="of the guest here (default: all)",
    )
    parser.add_argument(
        "--qemu", metavar="PATH|NAME", help="QEMU for the guest; on a host one of the catalogue"
    )
    parser.add_argument("--host-qemu", metavar="PATH", help="QEMU that is on a lab machine")
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="of the guest here")
    parser.add_argument("--guest", default="default", metavar="NAME", help="guest here, from the catalogue")
    parser.add_argument("--results", type=Path, metavar="DIR", help="new folder for logs")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the histograms there")
    add_host_arguments(parser)
    parser.set_defaults(
        run=bench, no_tests=True, no_snapshots=False, filter=[], trackers=False, **dict.fromkeys(_OWN_GUEST)
    )


def bench(arguments: argparse.Namespace) -> int:
    """Run the command; see `snapproof bench faults --help`."""
    if not 0 < arguments.seconds <= 86400:
        raise UsageError("--seconds wants a number above 0 and up to 86400.")
    if arguments.pid is not None and arguments.pid < 1:
        raise UsageError("--pid wants the number of a process.")
    if arguments.pid is not None and not arguments.host and not Path(f"/proc/{arguments.pid}/task").exists():
        raise UsageError(f"There is no process {arguments.pid} for --pid.")
    host = parse_host(arguments.host) if arguments.host else None
    if arguments.pid is not None and host is not None and host.vm is not None:
        raise UsageError("--pid is a QEMU that runs already; in a VM that is booted for this none does.")
    started_at, begun = now(), time.monotonic()
    log = _logger(begun)
    try:
        if arguments.pid is not None:
            report = _of_process(arguments, host, log)
        else:
            report = _of_host(arguments, host, log) if host else _of_guest(arguments, log)
    except NotApplicable as refusal:
        print(f"SKIP: {refusal.sentence}")
        return EXIT_ALL_SKIPPED
    print("\n".join(table_lines(report)))
    if arguments.json:
        content = {
            "schema": 1,
            "bench": "faults",
            "started": started_at,
            "command": [str(Path(sys.argv[0]).absolute()), *sys.argv[1:]],
            **report.to_json(),
        }
        write_json_file(arguments.json, json.dumps(content, indent=1))
    return EXIT_PASS if report.threads else EXIT_NOTHING_RAN


def _of_process(arguments: argparse.Namespace, wanted: HostSpecText | None, log: Log) -> FaultReport:
    if wanted is not None:
        sources = Sources(arguments, cache_of(arguments), Path(), log)
        with opened_host(wanted, sources) as host:
            log(f"Watching process {arguments.pid} on {wanted.short} for {arguments.seconds:g} s.")
            return watch_on_host(host, arguments.seconds, pid=arguments.pid)
    with watched(arguments.pid, arguments.seconds) as watcher:
        log(f"Watching process {arguments.pid} for {arguments.seconds:g} s.")
        return watcher.report(arguments.seconds)


def _of_guest(arguments: argparse.Namespace, log: Log) -> FaultReport:
    """Watch a QEMU of our own while it saves its guest in the background."""
    # Known before anything slow: whether this host can be traced at all.
    with watched(os.getpid(), 1.0):
        log("This host can be traced.")
    folder = _folder(arguments)
    stack, _ = prepare_stack(arguments, folder, log)
    if arguments.ram < 2 * stack.image.own_mib:
        raise UsageError(
            f"A guest of {arguments.ram} MiB is too small: it needs {stack.image.own_mib} itself."
        )
    log(f"Making a guest of {arguments.ram} MiB ready.")
    limit = Deadline(_GUEST_SECONDS)
    writer = Writer(arguments.writer)
    seed = random.randrange(1 << 31)
    way, path = Way.BACKGROUND_EXEC, folder / "vmstate"
    with (
        warm_guest(sized(stack, arguments.ram), writer, folder / "guest", limit, seed) as warm,
        started(warm, folder / "saved", way, limit) as running,
    ):
        prepare(running.machine, way)
        with watched(running.machine.process.pid, _SAVE_SECONDS) as watcher:
            log("Saving it.")
            try:
                save(way, running.machine, path, UNLIMITED, Deadline(_SAVE_SECONDS))
            finally:
                path.unlink(missing_ok=True)
            return watcher.report()


def _of_host(arguments: argparse.Namespace, wanted: HostSpecText, log: Log) -> FaultReport:
    """Watch a QEMU on another host while it saves the saved guest that was carried there."""
    plan, opened = prepared(wanted, Sources(arguments, cache_of(arguments), _folder(arguments), log))
    try:
        with opened as host:
            log(f"{plan.name}: Linux {host.facts().kernel}.")
            return _watch_save(plan, host, log)
    finally:
        plan.remove_sinks()


def _watch_save(plan: Plan, host: Host, log: Log) -> FaultReport:
    if plan.seed is None:
        raise SetupBroken("There is no saved guest for this host.")
    places, seen = plan.places(host), _Seen()
    # Among the arguments of that QEMU, and of no other (harness/machine_config.py, qemu_argv()).
    marker = f"file,id=console,path={qemu_quoted(Path(host.folder) / 'console.log')},append=on"

    def watch() -> None:
        try:
            seen.report = watch_on_host(host, _HOST_SECONDS, marker=marker)
        except SnapproofError as error:
            seen.error = error

    thread = threading.Thread(target=watch, name="watcher", daemon=True)
    thread.start()
    save_on_host(host, plan.seed, places, ["background"], Deadline(_HOST_SECONDS), log)
    thread.join(_HOST_SECONDS)
    if seen.error:
        raise seen.error
    if seen.report is None:
        raise SetupBroken("The watcher on the host did not end in time.")
    return seen.report


class _Seen:
    """What the watcher's thread has got."""

    report: FaultReport | None = None
    error: SnapproofError | None = None


def table_lines(report: FaultReport) -> list[str]:
    """The table of threads, and what may be wrong with it."""
    rows = [_HEADS, *(_row(thread) for thread in report.threads)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = [
        f"Faults of process {report.pid} in {report.seconds:.1f} s, in microseconds, "
        f"on Linux {report.kernel}:",
        *(
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ),
    ]
    if not report.threads and not report.unpaired:
        lines = ["No fault was seen: nothing was write-protected meanwhile, or nothing wrote to it."]
    if report.lost or report.missed:
        lines.append(
            f"{report.lost} events were lost and {report.missed} returns missed: there were more faults."
        )
    if report.unpaired:
        lines.append(
            f"{report.unpaired} halves of faults are not in the table: those had begun before the watch, or "
            "had not ended with it, as one that waits for ever has not."
        )
    if report.unread:
        lines.append(f"{report.unread} lines of the trace could not be read.")
    if any(thread.name.endswith("/KVM") for thread in report.threads):
        lines.append(_ASYNC)
    return lines


def _row(thread: ThreadFaults) -> Sequence[str]:
    # QEMU chooses the names of its threads; a terminal must not take orders from them.
    name = thread.name if thread.name.isprintable() else ascii(thread.name)
    found = thread.quantiles()
    figures = [f"{found[share]:,.0f}" for share in STALL_QUANTILES]
    return name, str(thread.tid), f"{thread.count:,}", *figures, f"{thread.max_us:,}"


def _folder(arguments: argparse.Namespace) -> Path:
    return make_results_folder(
        arguments.results or Path("results") / f"bench-faults-{datetime.now():%Y%m%d-%H%M%S}"
    )


def _logger(begun: float) -> Log:
    def log(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {text}", file=sys.stderr, flush=True)

    return log
