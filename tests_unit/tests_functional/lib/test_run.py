"""Contract: a run looks for room first, deletes heavy files only, and the host watch sees what QEMU holds."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import SetupBroken
from tests_functional.lib import host_watch
from tests_functional.lib.host_watch import kernel_splats, open_files
from tests_functional.lib.run import remove_heavy
from tests_unit.support.scenario_values import make_run


def _disk(monkeypatch: pytest.MonkeyPatch, free_mib: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free_mib << 20))


def test_room_for_snapshot_and_golden_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both at 512 MiB and some for logs; too little is said before anything is saved."""
    run = make_run(tmp_path)
    _disk(monkeypatch, 1126)
    run.require_room()
    _disk(monkeypatch, 1125)
    with pytest.raises(SetupBroken, match=r"1125 MiB free and this test needs 1126 MiB; .*--results\.$"):
        run.require_room()


def test_full_disk_is_told_from_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that failed on a full disk is no fault of QEMU's; with room left it is."""
    run = make_run(tmp_path)
    _disk(monkeypatch, 15)
    assert run.disk_full()
    _disk(monkeypatch, 16)
    assert not run.disk_full()


def _cycle_folder(folder: Path) -> Path:
    (folder / "golden").mkdir(parents=True)
    for name in ("vmstate", "golden/golden.json", "golden/block-000.ram", "qmp.jsonl", "vmstate.txt"):
        (folder / name).write_text("x")
    return folder


def test_only_heavy_files_go(tmp_path: Path) -> None:
    """Snapshots and golden images of all cycles go, every log stays; a folder never made is no error."""
    for label in ("01-live", "02-seeds"):
        _cycle_folder(tmp_path / label)
    remove_heavy(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["01-live/qmp.jsonl", "01-live/vmstate.txt", "02-seeds/qmp.jsonl", "02-seeds/vmstate.txt"]
    assert not (tmp_path / "01-live" / "golden").exists()
    remove_heavy(tmp_path / "none")


def test_keep_keeps(tmp_path: Path) -> None:
    """With --keep nothing is deleted."""
    folder = _cycle_folder(tmp_path / "01-live")
    make_run(tmp_path, keep=True).discard(folder)
    assert (folder / "vmstate").exists()
    make_run(tmp_path).discard(folder)
    assert not (folder / "vmstate").exists()


def test_say_reaches_log_and_events(tmp_path: Path) -> None:
    """One whole line per saying in both, also for text with line breaks in the events."""
    run = make_run(tmp_path)
    run.say("Booting.")
    run.say("two\nlines")
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    assert [(event["test"], event["text"]) for event in events] == [
        ("snapshot.made", "Booting."),
        ("snapshot.made", "two\nlines"),
    ]
    assert "Booting." in (tmp_path / "test.log").read_text()


def test_open_files_of_a_process(tmp_path: Path) -> None:
    """A file, a pipe's ends and a kernel object are named, sockets are not; closed ones are gone."""
    before = set(open_files(os.getpid()))
    reading, writing = os.pipe()
    event = os.eventfd(0)
    with (tmp_path / "snapshot").open("w") as file, socket.socket():
        added = dict(set(open_files(os.getpid())) - before)
        assert added.pop(reading) == added.pop(writing)
        assert added == {file.fileno(): str(tmp_path / "snapshot"), event: "anon_inode:[eventfd]"}
    for descriptor in (reading, writing, event):
        os.close(descriptor)
    assert set(open_files(os.getpid())) == before


# As /dev/kmsg gives it: one record per read, EPIPE where one was overwritten, then EAGAIN.
_KMSG: tuple[bytes | int, ...] = (
    b"6,100,5000,-;eth0: link up\n",
    b"4,101,5001,-;WARNING: CPU: 1 PID: 9 at mm/memory.c:77 wp_page\n SUBSYSTEM=BUG: not this line\n",
    errno.EPIPE,
    b"3,140,5002,-;INFO: task qemu-system-x86:411 blocked for more than 120 seconds.\n",
    b"1,141,5003,-;BUG: unable to handle page fault for address: ffff\n",
    b"0,142,5004,-;watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [cat:7]\n",
    b"6,143,5005,-;debug: harmless\n",
)


def _kmsg(monkeypatch: pytest.MonkeyPatch, records: tuple[bytes | int, ...], at_open: int = 0) -> list[int]:
    """Let host_watch read these records; returns the descriptors that it has closed."""
    closed: list[int] = []
    left = [*records, errno.EAGAIN]

    def read(_descriptor: int, _size: int) -> bytes:
        record = left.pop(0)
        if isinstance(record, int):
            raise OSError(record, os.strerror(record))
        return record

    def open_(_path: str, _flags: int) -> int:
        if at_open:
            raise OSError(at_open, os.strerror(at_open))
        return 99

    fake = SimpleNamespace(
        open=open_, read=read, close=closed.append, O_RDONLY=os.O_RDONLY, O_NONBLOCK=os.O_NONBLOCK
    )
    monkeypatch.setattr(host_watch, "os", fake)
    return closed


def test_splats_in_the_kernels_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind is found, with the number that tells it from an equal one; a lost record is no end."""
    closed = _kmsg(monkeypatch, _KMSG)
    splats = kernel_splats()
    assert splats is not None
    assert [splat.split(" ")[0] for splat in splats] == ["#101", "#140", "#141", "#142"]
    assert "not this line" not in "".join(splats)
    assert closed == [99]


def test_kernel_log_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a closed log nor one that breaks off counts as one without splats."""
    _kmsg(monkeypatch, (), at_open=errno.EPERM)
    assert kernel_splats() is None
    assert _kmsg(monkeypatch, (*_KMSG, errno.EINVAL)) == []
    assert kernel_splats() is None
