"""Contract: progress shows each event once and in order, live on a terminal, as plain lines in a log."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from harness.deadline import Deadline
from snapproof.runs.events import EventTail, Progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _event(text: str) -> str:
    return json.dumps({"time": 1.0, "type": "step", "test": "t", "text": text}) + "\n"


def _append(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


def _shown(log: io.StringIO) -> list[str]:
    return [line.partition(" ")[2] for line in log.getvalue().splitlines()]


def test_each_event_is_shown_once(tmp_path: Path) -> None:
    """Each event is shown once, also those written just before the end, after the last poll."""
    log, path = io.StringIO(), tmp_path / "events.jsonl"
    with EventTail(path, Progress(log)):
        _append(path, _event("first"))
        Deadline(30).wait_for(lambda: "first" in log.getvalue(), "The first event")
        _append(path, _event("second") + _event("last"))
    assert _shown(log) == ["t: first", "t: second", "t: last"]


def test_partial_line_waits_for_its_rest(tmp_path: Path) -> None:
    """A line that is only half there yet is shown when it is whole."""
    log, path = io.StringIO(), tmp_path / "events.jsonl"
    line = _event("whole")
    with EventTail(path, Progress(log)):
        _append(path, _event("before") + line[:20])
        Deadline(30).wait_for(lambda: "before" in log.getvalue(), "The first event")
        assert "whole" not in log.getvalue()
        _append(path, line[20:])
    assert _shown(log) == ["t: before", "t: whole"]


def test_line_cut_short_does_not_end_the_show(tmp_path: Path) -> None:
    """A line that a full disk cut short is skipped."""
    log, path = io.StringIO(), tmp_path / "events.jsonl"
    with EventTail(path, Progress(log)):
        _append(path, _event("lost")[:25] + _event("lost too") + _event("next"))
    assert _shown(log) == ["t: next"]


def test_nothing_happened(tmp_path: Path) -> None:
    """A run whose tests say nothing shows nothing and ends."""
    log = io.StringIO()
    with EventTail(tmp_path / "events.jsonl", Progress(log)):
        pass
    assert log.getvalue() == ""


def test_log_gets_timestamped_lines() -> None:
    """A log that is no terminal gets lines with a time, and no control characters."""
    log = io.StringIO()
    progress = Progress(log)
    progress.step("Booting.")
    progress.line("Verdict.")
    progress.done()
    assert re.fullmatch(r"\d\d:\d\d:\d\d Booting\.\nVerdict\.\n", log.getvalue())


def test_terminal_gets_one_live_line() -> None:
    """A step replaces the step before, a line stays, and in the end the live line is gone."""
    terminal = _Terminal()
    progress = Progress(terminal)
    progress.step("One.")
    progress.step("x" * 500)
    progress.line("Verdict.")
    progress.step("Two.")
    progress.done()
    written = terminal.getvalue()
    assert written.count("\n") == 1
    assert [part[:9] for part in written.split("\r\033[K")] == [
        "", "[    0 s]", "[    0 s]", "Verdict.\n", "[    0 s]", "",
    ]  # fmt: skip
    assert "x" * 111 not in written
