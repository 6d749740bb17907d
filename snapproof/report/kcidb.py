"""Writes results as KCIDB v5.3 JSON, for the database of Linux kernel CI systems.

Source: kcidb-io 141, kcidb_io/schema/v05_03.py. The subject of a test is a stack: a QEMU on a host's kernel.
Each stack of the run is a build of a checkout of its own, unless the id of a build is given that its CI
system has submitted already. KCIDB has no XFAIL: a test that failed as a known issue says is FAIL there, with
an incident that names the issue. A test that passed although a known issue says that it fails has an incident
that says that the issue is absent.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from harness.errors import UsageError
from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.run_result import OutcomeRecord, RunResult, label_of, parts_of
from snapproof.report.text import log_tail, one_line, printable
from tests_functional.lib.known_issues import load_known_issues

_VERSION = {"major": 5, "minor": 3}
_STATUSES = {Status.XFAIL: "FAIL", Status.XPASS: "PASS"}
_STACK = ("qemu", "host_kernel", "host_architecture")
_ORIGIN = re.compile("[a-z0-9_]+")
_BUILD_ID = re.compile("[a-z0-9_]+:[!-~]+")
_URL = re.compile(r"https?://[^\s<>\"]+")
_NOT_IN_A_PATH = re.compile("[^A-Za-z0-9_-]+")
_NOT_AN_ARCHITECTURE = re.compile("[^a-z0-9_]+")
_ISSUE_VERSION = 1
# The schema's limit for a log excerpt is 16,384.
_MOST_LETTERS = 16_000


def kcidb_json(result: RunResult, context: Context) -> str:
    """Return the document. The same results give the same ids, so that it can be submitted again.

    Raises:
        UsageError: KCIDB does not accept the origin or the build's id, or the results are of several stacks.
    """
    if not _ORIGIN.fullmatch(context.origin):
        raise UsageError(f"--origin '{context.origin}' is not one that KCIDB takes: only a-z, 0-9 and '_'.")
    if context.build_id and not _BUILD_ID.fullmatch(context.build_id):
        raise UsageError(
            f"--build-id '{context.build_id}' is not an id of KCIDB, which is ORIGIN:REST without blanks."
        )
    stacks = {_stack(outcome) for outcome in result.outcomes} - {()}
    if context.build_id and len(stacks) > 1:
        raise UsageError(
            f"These results are of {len(stacks)} stacks of QEMU and kernel, which cannot all be the build "
            f"'{context.build_id}'. Use --build-id with the results of one stack only."
        )
    document = _Document(result, context)
    for outcome in result.outcomes:
        document.add(outcome)
    return json.dumps(document.content(), indent=1) + "\n"


class _Document:
    """Collects the objects of a document, each once."""

    def __init__(self, result: RunResult, context: Context) -> None:
        self._result = result
        self._context = context
        self._labels = list(result.environments())
        # The command is left out: a merge's says where it was written, and those of its shards differ.
        names = [outcome.name for outcome in result.outcomes]
        self._run = _digest([result.started, round(result.seconds, 3), names, dict(result.environment)])
        self._known = {issue.id: issue for issue in load_known_issues()}
        self._objects: dict[str, dict[str, dict[str, Any]]] = {
            kind: {} for kind in ("checkouts", "builds", "tests", "issues", "incidents")
        }

    def content(self) -> dict[str, Any]:
        """Return the whole document."""
        lists = {kind: list(found.values()) for kind, found in self._objects.items() if found}
        return {"version": _VERSION, **lists}

    def add(self, outcome: OutcomeRecord) -> None:
        """Add a test, its build, and the incidents of its known issues."""
        label = label_of(outcome.name, self._labels)
        build = self._context.build_id or self._build(outcome)
        test = self._id(self._run, outcome.name)
        path = parts_of(outcome.name.removeprefix(f"{label}/").replace("/", "."))
        names = [_NOT_IN_A_PATH.sub("_", part) or "_" for part in path]
        failed = [check for check in outcome.checks if check["status"] == Status.FAIL.value]
        entry = {
            "id": test,
            "origin": self._context.origin,
            "build_id": build,
            "path": ".".join(["snapproof", *names]),
            "comment": one_line(outcome.sentence, _MOST_LETTERS),
            "status": _status(outcome),
            "duration": round(outcome.seconds, 3),
            "environment": {
                "comment": one_line(label or str(outcome.environment.get("host", ""))),
                "misc": _clean(outcome.environment),
            },
            "misc": {
                "snapproof_status": outcome.status.value,
                "name": one_line(outcome.name),
                "figures": _clean(outcome.figures),
                "failed_checks": [_failed(check) for check in failed[:20]],
            },
            **self._logs(outcome),
        }
        self._objects["tests"][test] = entry
        shown, absent = (outcome.known_issues(status) for status in (Status.XFAIL, Status.XPASS))
        for name in sorted(shown | absent):
            self._incident(name, test, present=name in shown)

    def _build(self, outcome: OutcomeRecord) -> str:
        """Add the build of a test's stack and return its id."""
        stack = {name: outcome.environment[name] for name in _STACK if name in outcome.environment}
        origin = self._context.origin
        checkout, build = self._id("checkout", self._run, stack), self._id("build", self._run, stack)
        said = f"QEMU {stack.get('qemu', 'unknown')} on Linux {stack.get('host_kernel', 'unknown')}"
        common = {"origin": origin, "comment": one_line(said), "misc": _clean(stack)}
        self._objects["checkouts"][checkout] = {"id": checkout, **common, "valid": True, **self._start()}
        architecture = _NOT_AN_ARCHITECTURE.sub("_", str(stack.get("host_architecture", "unknown")).lower())
        self._objects["builds"][build] = {
            "id": build, "checkout_id": checkout, **common, "architecture": architecture, "status": "PASS",
        }  # fmt: skip
        return build

    def _incident(self, name: str, test: str, present: bool) -> None:
        issue, origin = self._id("issue", name), self._context.origin
        known = self._known.get(name)
        upstream = known.upstream if known else ""
        self._objects["issues"][issue] = {
            "id": issue,
            "origin": origin,
            "version": _ISSUE_VERSION,
            "culprit": {"code": True, "tool": False, "harness": False},
            "comment": one_line(f"{name}: {known.title}" if known else name),
            # In the baseline this may also be the version that fixed it.
            **({"report_url": upstream} if _URL.fullmatch(upstream) else {}),
            "misc": {"snapproof_issue": one_line(name), "upstream": upstream},
        }
        incident = self._id("incident", test, name)
        self._objects["incidents"][incident] = {
            "id": incident,
            "origin": origin,
            "issue_id": issue,
            "issue_version": _ISSUE_VERSION,
            "test_id": test,
            "present": present,
        }

    def _logs(self, outcome: OutcomeRecord) -> dict[str, Any]:
        """Return a tail of the test's log, and the URLs of its files."""
        files = self._context.files(outcome)
        found: dict[str, Any] = {}
        tail = "\n".join(log_tail(self._context.folder / outcome.folder / "test.log"))
        if tail:
            found["log_excerpt"] = tail[-_MOST_LETTERS:]
        if files and self._context.url:
            found["log_url"] = self._context.link(files[0])
            found["output_files"] = [
                {"name": path.name, "url": self._context.link(path)} for path in files[1:]
            ]
        return found

    def _start(self) -> dict[str, str]:
        return {"start_time": datetime.fromisoformat(self._result.started).isoformat()}

    def _id(self, *parts: Any) -> str:
        return f"{self._context.origin}:{_digest(parts)}"


def _stack(outcome: OutcomeRecord) -> tuple[tuple[str, str], ...]:
    """Return QEMU, kernel and architecture that a test ran on, as far as it says."""
    return tuple((name, str(outcome.environment[name])) for name in _STACK if name in outcome.environment)


def _status(outcome: OutcomeRecord) -> str:
    """Return a test's status; FAIL if one known issue is absent and another one showed."""
    if outcome.status is Status.XPASS and outcome.known_issues(Status.XFAIL):
        return Status.FAIL.value
    return _STATUSES.get(outcome.status, outcome.status.value)


def _failed(check: Mapping[str, Any]) -> dict[str, Any]:
    """Return a failed check without its pages and hexdumps, which can be megabytes."""
    violations = check.get("violations", [])
    first = [violation["sentence"] for violation in violations[:3]]
    return {
        "name": one_line(check["name"]),
        "total": check.get("total", len(first)),
        # Results of older versions have none.
        "codes": _clean(sorted({violation["code"] for violation in violations if "code" in violation})),
        "first": _clean(first),
    }


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _clean(value: Any) -> Any:
    """Return the value with all its text printable; line breaks stay."""
    if isinstance(value, str):
        return "\n".join(printable(line) for line in value.splitlines())
    if isinstance(value, Mapping):
        return {printable(str(name)): _clean(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(entry) for entry in value]
    return value
