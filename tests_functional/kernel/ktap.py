"""Write the events of a run as KTAP (Linux Documentation/dev-tools/ktap.rst), one by one as they come."""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable

_DIRECTIVES = {"SKIP": "SKIP", "XFAIL": "XFAIL", "ERROR": "ERROR", "TIMEOUT": "TIMEOUT"}
_OK = {"PASS", "SKIP", "XFAIL"}
_MOST_LETTERS = 400


class KtapWriter:
    """A KTAP writer: takes events and writes lines. The ``plan`` event must come before the first result.

    Attributes:
        statuses: the statuses of all results so far, in order.
        failed: full names of the tests that failed, expectedly or not.
    """

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write
        self._left: Counter[tuple[str, ...]] = Counter()
        self._members: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        self._numbers: Counter[tuple[str, ...]] = Counter()
        self._results: dict[tuple[str, ...], list[str]] = {}
        self._open: tuple[str, ...] = ()
        self.statuses: list[str] = []
        self.failed: list[str] = []

    def event(self, event: dict[str, Any]) -> None:
        """Write the lines of one event."""
        if event["event"] == "host":
            self._write("KTAP version 1\n")
            for name, value in event.items():
                text = " ".join(value) if isinstance(value, list) else value
                if name != "event" and text != "":
                    self._write(f"# {name}: {_clean(str(text))}\n")
        elif event["event"] == "plan":
            self._plan(event["tests"])
        elif event["event"] == "result":
            self._result(event)

    def summary(self) -> str:
        """Return comment lines with the number of results of each status.

        The second one is as ksft_print_cnts() of Linux tools/testing/selftests/kselftest.h prints it.
        """
        counts = Counter(self.statuses)
        if not counts:
            return "# nothing ran: no test matches; --list names all\n"
        text = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        totals = (
            f"pass:{counts['PASS']} fail:{counts['FAIL']} xfail:{counts['XFAIL']} xpass:0 "
            f"skip:{counts['SKIP']} error:{counts['ERROR'] + counts['TIMEOUT']}"
        )
        return f"# {text}\n# Totals: {totals}\n"

    def _plan(self, tests: list[dict[str, Any]]) -> None:
        for test in tests:
            path = (test["suite"], test["memory"])
            self._left[path] += 1
            for depth in (0, 1):
                children = self._members.setdefault(path[:depth], [])
                if path[: depth + 1] not in children:
                    children.append(path[: depth + 1])
        self._write(f"1..{len(self._members.get((), []))}\n" if tests else "1..0 # SKIP no test matches\n")

    def _result(self, event: dict[str, Any]) -> None:
        path = (event["suite"], event["memory"])
        if path != self._open:
            if path[:1] != self._open[:1]:
                self._write(f"  KTAP version 1\n  1..{len(self._members[path[:1]])}\n")
            self._write(f"    KTAP version 1\n    1..{self._left[path]}\n")
            self._open = path
        status = event["status"]
        self.statuses.append(status)
        if status in {"FAIL", "XFAIL"}:
            self.failed.append(f"{path[0]}.{path[1]}.{event['test']}")
        self._results.setdefault(path, []).append(status)
        for note in event["notes"]:
            self._write(f"    # {_clean(note)}\n")
        if status not in _OK:
            self._write(f"    # {_clean(event['contract'])}\n    # {_clean(event['reason'])}\n")
        self._line(4, path, event["test"], status, event["reason"])
        self._left[path] -= 1
        if not self._left[path]:
            self._close(path)

    def _close(self, path: tuple[str, ...]) -> None:
        status, reason = _group_result(self._results[path])
        self._results.setdefault(path[:1], []).append(status)
        self._line(2, path[:1], path[1], status, reason)
        if len(self._results[path[:1]]) == len(self._members[path[:1]]):
            status, reason = _group_result(self._results[path[:1]])
            self._line(0, (), path[0], status, reason)

    def _line(self, indent: int, parent: tuple[str, ...], name: str, status: str, reason: str) -> None:
        self._numbers[parent] += 1
        head = f"{' ' * indent}{'ok' if status in _OK else 'not ok'} {self._numbers[parent]} {name}"
        directive = _DIRECTIVES.get(status)
        self._write(f"{head} # {directive} {_clean(reason)}\n" if directive else f"{head}\n")


def _group_result(statuses: list[str]) -> tuple[str, str]:
    """Return status and reason of a group: it passes if a test of it passed and none failed."""
    for status in ("FAIL", "TIMEOUT", "ERROR"):
        if status in statuses:
            return status, f"{statuses.count(status)} of {len(statuses)}"
    if "PASS" in statuses or "XFAIL" in statuses:
        return "PASS", ""
    return "SKIP", "all of its tests were skipped"


def _clean(text: str) -> str:
    """Return the text as one line without control characters and without '#', which starts a directive."""
    line = " ".join(text.split()).replace("#", "_")
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:_MOST_LETTERS]
