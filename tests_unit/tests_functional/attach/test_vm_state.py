"""Contract: what the snapshot has left behind is blamed, and what the VM's owner has done is only told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.attach.ledger import Before
from harness.codes import Code
from tests_functional.attach.vm_state import Found, judge_files, judge_settings, judge_state

_BEFORE = Before("running", {"background-snapshot": False, "xbzrle": False}, {"max-bandwidth": 1})
_SAVED = ("STOP", "RESUME")
_FOLDER = Path("/results")
_OURS = "/results/vmstate"


def _codes(found: Found) -> list[Code]:
    return [one.code for one in found.problems]


def test_run_state_of_before() -> None:
    """Nothing is told."""
    assert judge_state("running", "running", _SAVED) == Found()


@pytest.mark.parametrize(
    ("before", "now", "events"),
    [
        # It never went on.
        ("running", "paused", ("STOP",)),
        ("running", "paused", ()),
        ("running", "paused", ("MIGRATION", "STOP")),
        # QEMU stops a guest so; nobody else does.
        ("running", "io-error", (*_SAVED, "BLOCK_IO_ERROR", "STOP")),
        ("paused", "running", ("RESUME",)),
        ("paused", "running", ("RESUME", "STOP")),
    ],
)
def test_run_state_that_the_snapshot_has_left(before: str, now: str, events: Sequence[str]) -> None:
    """It is blamed on the snapshot."""
    found = judge_state(before, now, events)
    assert _codes(found) == [Code.RUN_STATE_CHANGED]
    assert found.problems[0].fields == {"before": before, "state": now}
    assert not found.by_others


def test_guest_that_was_paused_after_the_snapshot() -> None:
    """Its owner has done that."""
    found = judge_state("running", "paused", (*_SAVED, "MIGRATION", "STOP"))
    assert found == Found(by_others=("the guest was paused after it had gone on",))


def test_settings_of_before() -> None:
    """Nothing is told."""
    assert judge_settings(_BEFORE, _BEFORE) == Found()


def test_capability_that_we_have_left_on() -> None:
    """It is blamed on the snapshot."""
    now = Before("running", {**_BEFORE.capabilities, "background-snapshot": True}, _BEFORE.parameters)
    found = judge_settings(_BEFORE, now)
    assert _codes(found) == [Code.DURING_SAVE_SETTINGS]
    assert found.problems[0].fields == {"setting": "background-snapshot"}
    assert found.problems[0].sentence == (
        "The migration capability 'background-snapshot' was False and is True after the snapshot."
    )
    assert not found.by_others


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (
            Before("running", {**_BEFORE.capabilities, "xbzrle": True}, _BEFORE.parameters),
            "the migration capability 'xbzrle' was False and is True",
        ),
        (
            Before("running", _BEFORE.capabilities, {"max-bandwidth": 2}),
            "the migration parameter 'max-bandwidth' was 1 and is 2",
        ),
        (
            Before("running", _BEFORE.capabilities, {}),
            "the migration parameter 'max-bandwidth' was 1 and is None",
        ),
    ],
)
def test_settings_of_others(now: Before, told: str) -> None:
    """They are told, and blamed on nobody."""
    assert judge_settings(_BEFORE, now) == Found(by_others=(told,))


def test_files_of_before() -> None:
    """Sockets come and go, and so does the device that QEMU keeps open."""
    before = {1: "/a", 2: "socket:[1]"}
    assert judge_files(before, {1: "/a", 3: "socket:[2]", 4: "/dev/userfaultfd"}, _FOLDER, ()) == Found()
    assert judge_files(None, before, _FOLDER, ()) == judge_files(before, None, _FOLDER, ()) == Found()


@pytest.mark.parametrize("name", [_OURS, "/results/core (deleted)", "anon_inode:[userfaultfd]", "pipe:[7]"])
def test_file_that_is_left_open(name: str) -> None:
    """Our file, and all that has no path, is left by the snapshot."""
    found = judge_files({1: "/a"}, {1: "/a", 9: name}, _FOLDER, ())
    assert _codes(found) == [Code.HOST_FILE_LEFT_OPEN]
    assert found.problems[0].fields == {"name": name}
    assert f"1 more descriptors of '{name}'" in found.problems[0].sentence


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({0: "/dev/null", 1: "/dev/null"}, {1: "/dev/null"}),
        # The number belongs to a pipe now.
        ({0: "/dev/null"}, {0: "socket:[1]"}),
        # A file of ours is none that the owner has renamed.
        ({0: "/dev/null", 5: _OURS}, {0: _OURS}),
    ],
)
def test_file_that_was_closed(before: dict[int, str], now: dict[int, str]) -> None:
    """QEMU closes a wrong descriptor at times (F5)."""
    found = judge_files(before, now, _FOLDER, ())
    assert _codes(found) == [Code.HOST_FILE_CLOSED]
    assert found.problems[0].fields == {"name": "/dev/null"}
    assert "1 fewer descriptors of '/dev/null'" in found.problems[0].sentence


def test_files_of_others() -> None:
    """A disk that was plugged in, one that was unplugged, a log that was rotated, a file that was deleted."""
    plugged = judge_files({1: "/a"}, {1: "/a", 9: "/disk"}, _FOLDER, ())
    assert not plugged.problems
    assert plugged.by_others == ("QEMU has 1 more descriptors of '/disk' after the snapshot than before it",)
    unplugged = judge_files({1: "/a", 9: "/disk"}, {1: "/a"}, _FOLDER, ("DEVICE_DELETED",))
    assert (len(unplugged.problems), len(unplugged.by_others)) == (0, 1)
    rotated = judge_files({1: "/log", 2: "/x"}, {1: "/log.1", 2: "/x (deleted)"}, _FOLDER, ())
    assert rotated == Found(by_others=("'/log' is now '/log.1'", "'/x' is now '/x (deleted)'"))


def test_unplugging_excuses_no_file_that_is_left_open() -> None:
    """Our own file must be closed all the same."""
    found = judge_files({}, {9: _OURS}, _FOLDER, ("DEVICE_DELETED",))
    assert _codes(found) == [Code.HOST_FILE_LEFT_OPEN]
