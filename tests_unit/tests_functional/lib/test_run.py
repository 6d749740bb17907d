"""Contract: a run looks for room first, and deletes heavy files only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import SetupBroken
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
    """Nothing is deleted with --keep."""
    folder = _cycle_folder(tmp_path / "01-live")
    make_run(tmp_path, keep=True).discard(folder)
    assert (folder / "vmstate").exists()
    make_run(tmp_path).discard(folder)
    assert not (folder / "vmstate").exists()


def test_say_reaches_log_and_events(tmp_path: Path) -> None:
    """Each message is one whole line in log and events; in events also if it has line breaks."""
    run = make_run(tmp_path)
    run.say("Booting.")
    run.say("two\nlines")
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    assert [(event["test"], event["text"]) for event in events] == [
        ("snapshot.made", "Booting."),
        ("snapshot.made", "two\nlines"),
    ]
    assert "Booting." in (tmp_path / "test.log").read_text()
