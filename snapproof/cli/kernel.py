"""Runs `snapproof kernel`: tests the kernel's userfaultfd write protection without QEMU, on any host."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.errors import SnapproofError, UsageError
from harness.hosts.spec import LOCAL, HostSpecText, parse_host
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_PASS
from snapproof.cli.archive_bisect import bisect_archive
from snapproof.cli.list_feature_tests import chosen_tests
from snapproof.cli.options import host_options
from snapproof.runs.archive_history import changes
from snapproof.runs.feature_runner import events_here, events_there
from snapproof.runs.host_plan import (
    Sources,
    expanded_hosts,
    lent_to_vm,
    opened_host,
    tracker_library,
)
from snapproof.runs.outputs import write_json_file
from tests_functional.hosts.feature_tests import carry_tests
from tests_functional.kernel.ktap import KtapWriter
from tests_functional.kernel.matrix import reproducer
from tests_functional.kernel.run import exit_code

_RUNNER = "tests_functional.kernel"
_SCHEMA = 1
_HOST_SECONDS = 3600.0


def kernel(arguments: argparse.Namespace) -> int:
    """Run the tests in a process of their own, print its events as KTAP, and return the exit code."""
    if arguments.reproducer:
        if reason := reproducer.write_reproducer(arguments.reproducer):
            raise UsageError(reason)
        return EXIT_PASS
    tests = chosen_tests(arguments)
    if arguments.bisect and not tests:
        raise UsageError(f"No test matches the filter {', '.join(arguments.filter)}; --list shows all tests.")
    with TemporaryDirectory(prefix="snapproof-kernel-") as folder:
        sources = Sources(host_options(arguments), Path(folder), _log)
        if arguments.bisect_archive:
            return _bisect_archive(arguments, sources)
        hosts = expanded_hosts([parse_host(arguments.host)], sources.provisioning)
        if len(hosts) > 1:
            return _history(arguments, hosts, sources)
        seen: list[dict[str, Any]] = []
        try:
            return _shown(_events(arguments, hosts[0], sources, arguments.filter), seen)
        finally:
            # After an interruption too: what has been found so far is not lost.
            if arguments.json and seen:
                write_json_file(arguments.json, json.dumps(document(seen), indent=2) + "\n")


def _shown(events: Iterator[dict[str, Any]], seen: list[dict[str, Any]]) -> int:
    """Print events as KTAP while they come, add them to `seen`, and return the exit code."""
    writer = KtapWriter(sys.stdout.write)
    for event in events:
        seen.append(event)
        writer.event(event)
        sys.stdout.flush()
    sys.stdout.write(writer.summary() + reproducer.comments(writer.failed))
    return exit_code(writer.statuses)


def _bisect_archive(arguments: argparse.Namespace, sources: Sources) -> int:
    if arguments.bisect or arguments.filter or arguments.json:
        raise UsageError(
            "--bisect-archive names its test, so --bisect, --filter and --json do not go with it."
        )

    def runs(host: str, test: str) -> Iterator[dict[str, Any]]:
        return _events(arguments, parse_host(host), sources, [test])

    return bisect_archive(arguments, sources, runs)


def _history(arguments: argparse.Namespace, hosts: Sequence[HostSpecText], sources: Sources) -> int:
    """Run the tests on several kernels of the archive, and print which results are not the same on all."""
    if arguments.bisect:
        raise UsageError(f"'{arguments.host}' is {len(hosts)} kernels, and --bisect tests one.")
    documents: list[dict[str, Any]] = []
    statuses: dict[str, dict[str, str]] = {}
    codes = []
    for host in hosts:
        seen: list[dict[str, Any]] = []
        try:
            code = _shown(_events(arguments, host, sources, arguments.filter), seen)
        except SnapproofError as error:
            _log(f"{host.text} was not tested: {error.sentence}")
            codes.append(EXIT_ERROR)
            continue
        codes.append(code)
        documents.append(document(seen))
        statuses[host.short.rpartition("@")[2]] = {
            f"{event['suite']}.{event['memory']}.{event['test']}": event["status"]
            for event in documents[-1]["results"]
        }
    print(f"# {len(statuses)} of {len(hosts)} kernels were tested: {', '.join(statuses)}")
    for line in changes(statuses):
        print(f"# {line}")
    if arguments.json:
        write_json_file(arguments.json, json.dumps({"schema": _SCHEMA, "runs": documents}, indent=2) + "\n")
    return next((code for code in (EXIT_FAIL, EXIT_ERROR, EXIT_PASS) if code in codes), codes[0])


def document(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the events of one run as one document: ``schema``, ``complete``, ``host``, ``results``.

    It is complete if the runner came to its end, and was not interrupted.
    """
    return {
        "schema": _SCHEMA,
        "complete": events[-1]["event"] == "end",
        "host": next(event for event in events if event["event"] == "host"),
        "results": [event for event in events if event["event"] == "result"],
    }


def _log(text: str) -> None:
    print(f"# {text}", file=sys.stderr)


def _events(
    arguments: argparse.Namespace, wanted: HostSpecText, sources: Sources, patterns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the events of the runner of the tests until it ends.

    Raises:
        SetupBroken: the runner or the host ended before the tests were done.
    """
    words = ["--repeat", str(arguments.repeat)]
    for pattern in patterns:
        words += ["--filter", pattern]
    words += [f"--{name}" for name in ("prepare", "ksm", "poison") if getattr(arguments, name)]
    if wanted.text == LOCAL:
        helper = tracker_library(sources.provisioning)
        yield from events_here(_RUNNER, [*words, "--helper", str(helper or "")])
        return
    with opened_host(wanted, sources) as host:
        carry_tests(host)
        more = lent_to_vm() if wanted.vm else []
        for event in events_there(host, _RUNNER, [*words, *more], _HOST_SECONDS):
            yield {"event": "host", "host": host.name, **event} if event["event"] == "host" else event
