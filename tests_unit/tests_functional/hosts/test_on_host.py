"""The script that runs on hosts, against a QEMU that is a few lines of Python."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests_functional.hosts import on_host, on_host_qemu
from tests_functional.hosts.on_host_balance import CannotBalance

# Speaks QMP on the socket that is its first argument, and behaves as the words after it say.
_FAKE = """
import json, socket, sys, time
monitor = socket.socket(fileno=int(sys.argv[1]))
manner = sys.argv[2:]
steps, status, told = 0, "inmigrate", 0
print("uffd_detect_open_mode 2", flush=True)
if "dies" in manner:
    sys.exit("out of memory")
file = monitor.makefile("rwb")
def say(message):
    file.write(json.dumps(message).encode() + b"\\n")
    file.flush()
say({"QMP": {}})
if "dies-unread" in manner:
    time.sleep(0.3)
    sys.exit("out of luck")
for line in file:
    order = json.loads(line)
    command, arguments = order["execute"], order.get("arguments", {})
    answer = {}
    if command == "query-version":
        answer = {"qemu": {"major": 10, "minor": 0, "micro": 13}}
    elif command == "query-status":
        answer = {"status": status}
    elif command == "migrate-incoming":
        status = "paused"
    elif command == "cont":
        status = "running"
        say({"event": "RESUME", "timestamp": {"seconds": 2, "microseconds": 0}})
    elif command == "stop":
        status = "paused"
        say({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 0}})
    elif command == "human-monitor-command":
        number = int(arguments["command-line"].split("/")[1].split("gx")[0])
        steps += 0 if "stuck" in manner else 50
        answer = f"{0x40:#x}:" + f" {steps:#018x}" * number + "\\r\\n"
    elif command == "query-migrate-capabilities":
        name = "xbzrle" if "old" in manner else "background-snapshot"
        answer = [{"capability": name, "state": False}]
    elif command == "migrate-set-capabilities" and "refuses" in manner:
        say({"error": {"desc": "Background-snapshot is not supported by host kernel"}})
        continue
    elif command == "migrate":
        say({"event": "RESUME", "timestamp": {"seconds": 2, "microseconds": 0}})
        sink = socket.socket(socket.AF_UNIX)
        sink.connect(arguments["uri"].partition(":")[2])
        sink.sendall(bytes(100_000))
        sink.close()
    elif command == "query-migrate":
        told += 1
        answer = {"status": "active" if "saves" in manner and told < 20 else "completed"}
        if "fails" in manner:
            answer = {"status": "failed", "error-desc": "no room"}
    say({"return": answer})
    if command == "quit":
        break
"""


_BUCKETS = 3


def _events(
    folder: Path, *manner: str, flows: tuple[str, ...] = ("background",), steps: int = 0
) -> list[dict[str, Any]]:
    return _told(folder, [sys.executable, "-c", _FAKE, "@QMP", *manner], flows, steps)


def _told(folder: Path, argv: list[str], flows: tuple[str, ...], steps: int = 0) -> list[dict[str, Any]]:
    (folder / "disk").write_bytes(bytes(1 << 20))
    order = {
        "argv": argv,
        "environment": {},
        "kinds": {},
        "move": False,
        "vmstate": "vmstate",
        "stalls": [256],
        "buckets": _BUCKETS,
        "counters": [0x40],
        "saves": [{"flow": flow, "sink": "disk", "steps": steps} for flow in flows],
        "seconds": 3.0,
    }
    done = subprocess.run(
        [sys.executable, on_host.__file__],
        input=json.dumps(order).encode(),
        cwd=folder,
        capture_output=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_saves_are_reported(tmp_path: Path) -> None:
    """A save is reported with its bytes, its events, the steps before and after, and the trace points."""
    started, loaded, background, stopped, done = _events(tmp_path, flows=("background", "stopped"))
    assert (started["event"], loaded["event"], done["event"]) == ("started", "loaded", "done")
    for saved in (background, stopped):
        assert (saved["event"], saved["bytes"]) == ("saved", 100_000)
        assert saved["steps_completed"][0] > saved["steps_before"][0]
        assert saved["trace"] == ["uffd_detect_open_mode 2"]
        assert len(saved["stalls"]) == _BUCKETS
        assert min(saved["stalls"]) > 0
    assert [event["event"] for event in stopped["events"]][:2] == ["STOP", "RESUME"]
    assert done["exit_code"] == 0


def test_a_save_waits_for_steps_after_t0(tmp_path: Path) -> None:
    """Steps count while the save is active: enough of them let it go on, a save that is over has too few."""
    during = _events(tmp_path, "saves", steps=100)[2]
    assert (during["event"], during["steps_meanwhile"]) == ("saved", 100)
    assert _events(tmp_path, "saves", steps=5000)[2]["steps_meanwhile"] == 18 * 50
    assert _events(tmp_path, steps=100)[2]["steps_meanwhile"] == 0
    assert _events(tmp_path)[2]["steps_meanwhile"] == 0


def test_refusal_is_an_answer(tmp_path: Path) -> None:
    """QEMU's own words, after which the guest went on; other flows follow."""
    refused = _events(tmp_path, "refuses", flows=("background", "stopped"))[2]
    assert refused["text"] == "Background-snapshot is not supported by host kernel"
    assert refused["state"] == "running"


def test_missing_capability_is_an_answer(tmp_path: Path) -> None:
    """A QEMU without the capability gives the event `unknown`."""
    assert [event["event"] for event in _events(tmp_path, "old")][2] == "unknown"


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("dies", "its last words: out of memory"),
        ("dies-unread", "QEMU ended (exit code 1); its last words: out of luck"),
        ("stuck", "20 more steps of each writer after it was loaded did not happen within 3 s"),
        ("fails", "The save failed: no room"),
    ],
)
def test_failures_of_qemu_are_its_own(manner: str, words: str, tmp_path: Path) -> None:
    """A failure of QEMU is reported as its own, in one sentence with its last words."""
    last = _events(tmp_path, manner)[-1]
    assert (last["event"], last["blames_qemu"]) == ("failed", True)
    assert words in last["sentence"]
    assert last["expired"] == (manner == "stuck")


def test_a_slow_sink_takes_small_pieces_until_it_hurries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a save lasts while a test acts, and all of the stream arrives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_host_qemu, "_SLOW_SECONDS", 60.0)
    sink = on_host_qemu.Sink("file", slow=True)
    stream = random.Random(7).randbytes(100_000)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sink.uri.partition(":")[2])
        connection.sendall(stream)
        assert sink.bytes <= 8192
        sink.hurry()
    sink.close(10)
    assert sink.bytes == 100_000
    assert (tmp_path / "file").read_bytes() == stream


def test_missing_qemu_is_ours(tmp_path: Path) -> None:
    """QEMU is not blamed if its program is missing."""
    last = _told(tmp_path, ["no-such-qemu"], ())[-1]
    assert (last["event"], last["blames_qemu"]) == ("failed", False)
    assert "'no-such-qemu' cannot be started there: No such file" in last["sentence"]


class _Balancing:
    """Balancing that notes when it begins and ends, and moves 1,400 pages."""

    def __init__(self, process: int) -> None:
        self.moved = -process

    def __enter__(self) -> _Balancing:
        self.moved = 0
        return self

    def __exit__(self, *_: object) -> None:
        self.moved = 1400


def _balanced(
    monkeypatch: pytest.MonkeyPatch, balancing: Callable[[int], _Balancing], *flows: str
) -> list[tuple[Any, ...]]:
    """Save a guest by these flows and then balanced; return what was done and told, in order."""
    done: list[tuple[Any, ...]] = []
    qemu = SimpleNamespace(
        process=SimpleNamespace(pid=7),
        execute=lambda _: [{"capability": on_host_qemu.CAPABILITY}],
        capability=lambda on: done.append(("capability", on)),
    )
    guest = on_host.SavedGuest(cast("on_host_qemu.Qemu", qemu), [], [], _BUCKETS)
    monkeypatch.setattr(on_host, "Balancing", balancing)
    monkeypatch.setattr(on_host, "tell", lambda event, **facts: done.append((event, facts)))

    def save(flow: str, path: str, _wanted: int) -> dict[str, Any]:
        done.append(("save", flow, path))
        return {"bytes": 5}

    monkeypatch.setattr(guest, "_save", save)
    for flow in flows:
        guest.save(flow, "disk")
    done.clear()
    guest.save_balanced("other")
    return done


def test_a_balanced_save_is_a_background_save_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the capability, and with the pages that were moved until its end."""
    assert _balanced(monkeypatch, _Balancing, "background", "stopped") == [
        ("capability", True),
        ("save", "balanced", "other"),
        ("saved", {"flow": "balanced", "moved": 1400, "bytes": 5}),
    ]


def test_there_is_no_balanced_save_without_a_background_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that has not taken the capability is not asked again."""
    assert _balanced(monkeypatch, _Balancing, "stopped") == []


def test_a_host_that_cannot_balance_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest is not saved."""

    def cannot(_: int) -> _Balancing:
        raise CannotBalance("One node.")

    told = _balanced(monkeypatch, cannot, "background")
    assert told == [("cannot", {"flow": "balanced", "text": "One node."})]
