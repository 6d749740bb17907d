"""Runs `snapproof hosts`: feature tests and snapshots on each host in turn, and a table of the results."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from guest_images.catalogue import HOSTS
from guest_images.hosts.kernel_config import KERNELS
from harness.errors import SnapproofError, UsageError
from harness.hosts.local import local_facts
from harness.hosts.spec import HostSpecText, parse_host
from harness.status import Status
from snapproof.cli.list_feature_tests import require_matches
from snapproof.cli.options import host_options
from snapproof.cli.verdict_text import result_line
from snapproof.report.run_result import OutcomeRecord, RunResult
from snapproof.report.text_table import table_rows
from snapproof.runs.events import timed_log
from snapproof.runs.forked_work import side_by_side
from snapproof.runs.host_plan import Sources, expanded_hosts, hosts_at_once, prepared
from snapproof.runs.results_folder import now, own_results_folder, write_results
from snapproof.runs.stack import provisioning_for
from tests_functional.hosts.examination import BALANCED, DISTURBED, FLOWS, PLANTED, Examination
from tests_functional.hosts.examine import examine
from tests_functional.lib.outcome import from_error

_HEADINGS = ("host", "kernel", "features", "tests pass/fail/skip", "snapshot", "QEMU", "time", "CPU")
_KEPT = 60
_STEPS = (*FLOWS, PLANTED, BALANCED, *DISTURBED)


def hosts(arguments: argparse.Namespace) -> int:
    """Examine each host in turn, print the table, and return the exit code of all results."""
    if arguments.list:
        for spec in HOSTS:
            print(f"vm:{spec.name:22} {spec.reason}")
        for kernel in KERNELS:
            print(f"vm:kernel-{kernel.name:15} {kernel.reason}")
        return 0
    given = [parse_host(text) for text in arguments.host or [f"vm:{spec.name}" for spec in HOSTS]]
    started, begun = now(), time.monotonic()
    log = timed_log(begun)
    options = replace(
        host_options(arguments),
        tests=not arguments.no_tests,
        trackers=arguments.trackers,
        filter=tuple(arguments.filter),
        snapshots=not arguments.no_snapshots,
        guest=arguments.guest,
    )
    require_matches(options.filter)
    wanted = expanded_hosts(given, provisioning_for(options, log))
    _require_different(wanted)
    folder = own_results_folder(arguments.results, "hosts-")
    sources = Sources(options, folder, log)
    works = [partial(_examined, host, sources) for host in wanted]
    found = side_by_side(works, hosts_at_once(local_facts(), arguments.jobs))
    result = RunResult(
        [
            OutcomeRecord.from_json(outcome.to_json()).placed(f"tests/{one.folder}")
            for one in found
            for outcome in one.outcomes
        ],
        started,
        time.monotonic() - begun,
        ("snapproof", *sys.argv[1:]),
        {"hosts": [host.text for host in wanted]},
    )
    write_results(folder, result)
    print(table(found))
    print(f"Results: {folder}")
    print(f"{result_line(result)} in {result.seconds:.0f} s")
    return result.exit_code


def _require_different(wanted: Sequence[HostSpecText]) -> None:
    """Check that no two hosts have the same name in the results.

    Raises:
        UsageError: two hosts have.
    """
    names = [host.short for host in wanted]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"Two hosts are called '{twice}' in the results; give a kernel another file name.")


def _examined(host: HostSpecText, sources: Sources) -> Examination:
    """Examine a host and log its outcomes. If it cannot be opened, that error is its outcome."""
    found = _opened_and_examined(host, sources)
    # This process was forked for this host. The VM and all other processes of the host have ended.
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found.processor_seconds = sum(one.ru_utime + one.ru_stime for one in used)
    for outcome in found.outcomes:
        sources.log(f"{outcome.status.value:5} {outcome.name}: {outcome.sentence}")
    return found


def _opened_and_examined(host: HostSpecText, sources: Sources) -> Examination:
    begun = time.monotonic()
    try:
        plan, opened = prepared(host, sources)
    except UsageError:
        raise
    except SnapproofError as error:
        lost = Examination(host.text)
        lost.seconds = time.monotonic() - begun
        lost.outcomes.append(from_error(f"hosts.{host.text}.boot", error, lost.seconds, lost.environment()))
        return lost
    return examine(plan, opened, sources.log)


def table(found: list[Examination]) -> str:
    """Return the table of hosts as plain text, a row for each, and notes below it."""
    lines = table_rows([_HEADINGS, *(_row(one) for one in found)])
    notes = [
        f"{one.name}: {text}" for one in found for text in (one.deviation, one.refusal, _costs(one)) if text
    ]
    return "\n".join(line.rstrip() for line in [*lines, *notes])


def _row(one: Examination) -> tuple[str, ...]:
    features, tests = one.features, one.tests
    wp = ("WP" if features.write_protect else "no WP") if features else "-"
    many = f"{len(features.names)} ({features.mask:#x}), {wp}" if features else "-"
    bad = tests["FAIL"] + tests["ERROR"] + tests["TIMEOUT"]
    known = f" +{tests['XFAIL']} known" if tests["XFAIL"] else ""
    counts = f"{tests['PASS']}/{bad}/{tests['SKIP']}{known}" if tests else "-"
    kernel = one.facts.kernel.split()[0] if one.facts else "-"
    times = f"{one.seconds:.0f} s", f"{one.processor_seconds:.0f} s"
    return one.name, kernel, many, counts, _snapshot(one), one.qemu or "-", *times


def _costs(one: Examination) -> str:
    """Return what each step used of processors as a phrase, empty if it is not known."""
    steps = [f"{name} {seconds:.0f} s" for name, seconds in one.costs.items() if seconds >= 0.5]
    rest = one.processor_seconds - sum(one.costs.values())
    return f"CPU: {', '.join(steps)}, on this machine {rest:.0f} s" if steps else ""


def _snapshot(one: Examination) -> str:
    by_step = {outcome.name.rpartition(".")[2]: outcome for outcome in one.outcomes}
    worst = max(by_step.values(), key=lambda outcome: outcome.status is Status.ERROR, default=None)
    if "boot" in by_step and worst:
        return f"{by_step['boot'].status.value}: {by_step['boot'].sentence}"[:_KEPT]
    if "snapshot" in by_step:
        return f"{by_step['snapshot'].status.value}: {by_step['snapshot'].sentence}"[:_KEPT]
    said = []
    if one.refusal:
        said.append("refused" if by_step["refusal"].status is Status.PASS else "refused, wrongly")
    said += [f"{step} {by_step[step].status.value}" for step in _STEPS if step in by_step]
    return ", ".join(said) or "-"
