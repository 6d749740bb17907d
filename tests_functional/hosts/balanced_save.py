"""Takes a background snapshot on a host while its kernel moves huge pages of the guest between NUMA nodes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from harness.deadline import Deadline
from harness.hosts.host import Host
from harness.status import Status
from tests_functional.hosts.examination import BALANCED, Examination, HostPlan
from tests_functional.hosts.snapshots import HostPaths, HostSaves, Report, save_on_host, snapshot_of
from tests_functional.lib.known_issues import known_on_host
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.time_limits import HOST_SAVES_SECONDS
from validators.judge import check_file
from validators.verdict import CheckResult

_SETTING_SECONDS = 30.0
# Scans for memory on the wrong node begin at once and follow quickly (the settings are in debugfs from Linux
# 5.13 on). Prints how many pages balancing has moved so far.
_SETTINGS = """\
cd /proc/sys/kernel
[ -e numa_balancing ] && [ -e /sys/devices/system/node/node1 ] || exit 3
for place in numa_balancing_ /sys/kernel/debug/sched/numa_balancing/; do
    [ -e "${place}scan_delay_ms" ] || continue
    echo 100 > "${place}scan_delay_ms"
    echo 100 > "${place}scan_period_min_ms"
    echo 200 > "${place}scan_period_max_ms"
done
echo $1 > numa_balancing
grep numa_pages_migrated /proc/vmstat
"""


def save_balanced(
    plan: HostPlan, host: Host, report: Report, places: HostPaths, log: Callable[[str], None]
) -> tuple[Report, int] | None:
    """Take a background snapshot under NUMA balancing; return it and the number of pages moved meanwhile.

    Returns None if the host took no background snapshot without balancing, is not ours alone, or has only
    one node.
    """
    if plan.warm is None or not plan.own or not report.find("saved", "background"):
        return None
    before = _balancing(host, True)
    if before is None:
        return None
    log(f"{plan.name}: saving in the background while memory moves between NUMA nodes.")
    there = replace(places, sinks={"background": places.sinks[BALANCED]})
    saves = HostSaves(("background",), move=True)
    saved = save_on_host(host, plan.warm, there, saves, Deadline(HOST_SAVES_SECONDS), log)
    after = _balancing(host, False)
    return saved, (after or 0) - before


def _balancing(host: Host, on: bool) -> int | None:
    """Switch balancing on or off; return the pages moved so far, None on a host with one node."""
    done = host.run(["sh", "-c", _SETTINGS, "sh", "1" if on else "0"], Deadline(_SETTING_SECONDS))
    found = re.search(rb"numa_pages_migrated (\d+)", done.stdout)
    return int(found[1]) if found and not done.exit_code else None


def judge_balanced(plan: HostPlan, found: Examination, report: Report, moved: int) -> Outcome:
    """Judge the snapshot by its write order; skip the test if the kernel moved no page during the save."""
    snapshot = snapshot_of(report, "background", plan.sink(BALANCED))
    assert snapshot is not None, "QEMU accepted the capability a minute ago"
    order = check_file(snapshot.path).check("write-order")
    checks: list[CheckResult] = []
    status, sentence = (
        Status.PASS,
        f"The snapshot is the guest at T0 while {moved} pages moved between nodes.",
    )
    if order is None or order.status is not Status.PASS:
        first = order.violations[0] if order and order.violations else None
        wrong = first.sentence if first else "no agent page was found"
        status, sentence = Status.FAIL, f"While {moved} pages moved between nodes: {wrong}"
        known = known_on_host(plan.name, f"hosts/{BALANCED}/write-order", first) if first else None
        if known:
            status, sentence = Status.XFAIL, f"{sentence} Known issue {known.id}: {known.title}."
        if order is not None:
            checks = [replace(order, status=status, known_issue=known.id if known else "")]
    elif not moved:
        status, sentence = Status.SKIP, "The kernel moved no page between its nodes meanwhile."
    snapshot.path.unlink()
    return Outcome(
        f"hosts.{plan.name}.{BALANCED}",
        status,
        sentence,
        checks=checks,
        figures={"pages_moved": moved, "wrong_pages": order.total if order else 0},
        environment=found.environment(),
    )
