"""Reads the saves from a test's qmp.jsonl: when each began, when the guest was stopped, and when it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.qemu.ram import parse_ramblocks
from snapproof.report.charts.samples import is_number
from snapproof.report.charts.times import SaveTimes
from snapproof.report.html.checked import clean

_FILE_BYTES = 48 << 20
_LINE_BYTES = 1 << 20
_SAVE_LIMIT = 200
_POINT_LIMIT = 400
# Only lines with one of these are about a save.
_TELLING = re.compile(
    r'"(?:STOP|RESUME)"|"execute": "migrate"|"transferred"|"status": "(?:completed|failed|cancelled)"|PSize'
)
# Of a URI; a longer one is no path of ours.
_MOST_LETTERS = 4 << 10
_FOLDER = re.compile(r"/([0-9A-Za-z][0-9A-Za-z_.+-]{0,60})/vmstate")
_ENDS = ("completed", "failed", "cancelled")


@dataclass
class QmpLog:
    """The content of a log.

    Attributes:
        saves: the saves, in order.
        lengths: bytes of each RAMBlock, empty if QEMU was not asked for them.
    """

    saves: list[SaveTimes] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)


def read_qmp_log(path: Path) -> QmpLog:
    """Read a log as far as it can be read; lines that are cut off or cannot be parsed are left out.

    At most 48 MiB, lines of 1 MiB and 200 saves are read.
    """
    reader = _Reader()
    for entry in _entries(path):
        message = entry["msg"]
        if entry.get("dir") == "out" and message.get("execute") == "migrate":
            reader.begin(entry["time"], message)
        elif message.get("event") in ("STOP", "RESUME"):
            reader.event(message)
        elif isinstance(message.get("return"), dict):
            reader.progress(entry["time"], message["return"])
        elif isinstance(message.get("return"), str):
            reader.log.lengths |= {
                one.idstr: one.used_bytes for one in parse_ramblocks(message["return"][:65536])
            }
    reader.finish()
    return reader.log


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            left = _FILE_BYTES
            while left > 0 and (line := file.readline(_LINE_BYTES)):
                left -= len(line)
                entry = _parsed(line)
                if entry is not None:
                    yield entry
    except OSError:
        return


def _parsed(line: bytes) -> dict[str, Any] | None:
    text = line.decode("utf-8", "replace")
    if not _TELLING.search(text):
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    good = isinstance(entry, dict) and isinstance(entry.get("msg"), dict) and is_number(entry.get("time"))
    return entry if good else None


class _Reader:
    """Collects the events of one save until the next one begins."""

    def __init__(self) -> None:
        self.log = QmpLog()
        self._begun: float | None = None
        self._label = ""
        self._stops: list[float] = []
        self._resumes: list[float] = []
        self._points: list[tuple[float, float]] = []
        self._ended: float | None = None
        self._result = ""

    def begin(self, time: float, message: dict[str, Any]) -> None:
        """Begin a save. If the guest is stopped already, that STOP belongs to this save."""
        still = self._stops[-1:] if len(self._stops) > len(self._resumes) else []
        self.finish()
        arguments = message.get("arguments")
        uri = arguments.get("uri") if isinstance(arguments, dict) else None
        found = _FOLDER.search(uri[:_MOST_LETTERS]) if isinstance(uri, str) else None
        self._label = found[1] if found else ""
        self._begun, self._stops, self._resumes = time, still, []

    def event(self, message: dict[str, Any]) -> None:
        """Add a STOP or RESUME event."""
        stamp = message.get("timestamp")
        if not isinstance(stamp, dict) or not all(
            is_number(stamp.get(k)) for k in ("seconds", "microseconds")
        ):
            return
        time = stamp["seconds"] + stamp["microseconds"] / 1e6
        if message["event"] == "RESUME":
            # A RESUME after the end of a save belongs to it if the guest is still stopped.
            if len(self._stops) > len(self._resumes):
                self._resumes.append(time)
        elif self._ended is not None:
            # A STOP after the end of a save belongs to the next one.
            self.finish()
            self._stops = [time]
        else:
            self._stops = [*self._stops, time][-1000:] if self._begun is not None else [time]
            self._resumes = self._resumes if self._begun is not None else []

    def progress(self, time: float, answer: dict[str, Any]) -> None:
        """Add an answer of QEMU about the progress of a save."""
        if self._begun is None or self._ended is not None:
            return
        ram = answer.get("ram")
        if isinstance(ram, dict) and is_number(ram.get("transferred")):
            self._points.append((time, float(ram["transferred"])))
        if answer.get("status") in _ENDS:
            self._ended, self._result = time, clean(answer["status"], 40)

    def finish(self) -> None:
        """Add the save, if one has begun, and start over."""
        if self._begun is not None and len(self.log.saves) < _SAVE_LIMIT:
            step = max(1, len(self._points) // _POINT_LIMIT)
            points = self._points[::step] + (self._points[-1:] if step > 1 else [])
            label = self._label or f"save {len(self.log.saves) + 1}"
            stops, resumes = tuple(self._stops), tuple(self._resumes)
            self.log.saves.append(
                SaveTimes(
                    label,
                    self._begun,
                    stops,
                    resumes,
                    self._ended,
                    self._result,
                    tuple(points),
                    bool(self._label),
                )
            )
        self._begun, self._ended, self._result, self._label = None, None, "", ""
        self._stops, self._resumes, self._points = [], [], []
