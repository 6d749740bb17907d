"""Contract: a guest goes on in a new QEMU only if that can be as the old; starved saves open few files."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests_functional.explore import continuing, saving
from tests_functional.explore.model import PAUSED, RUNNING, Model, Writers
from tests_unit.support.explored_session import StandInSession, stand_in_session

_SAVING = Model().begun(RUNNING)
_WRONG = [_SAVING, Model(run_state=PAUSED), Model(writers=Writers.GONE)]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands in for QEMU."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # While a program starts, it has files open for a moment, such as its libraries.
        process.stdin.write(b"started\n")
        process.stdin.flush()
        process.stdout.readline()
        yield process
        process.kill()


def _with_pid(model: Model, pid: int) -> StandInSession:
    session = stand_in_session(model)
    cast(Any, session.machine).pid = pid
    return session


@pytest.mark.parametrize("model", _WRONG)
def test_where_neither_applies(model: Model) -> None:
    """A guest that is being saved, stands still or does not write is no such guest."""
    session = stand_in_session(model)
    assert not continuing.continue_restored(session, {})
    assert not continuing.begin_starved(session, {"left": 1, "transport": "exec"})


def test_a_guest_with_other_settings_or_an_image_does_not_go_on_elsewhere() -> None:
    """A new QEMU has the settings of the beginning, and no image."""
    tampered, imaged = stand_in_session(Model()), stand_in_session(Model())
    tampered.tampered.add("max-bandwidth")
    imaged.image = True
    assert not continuing.continue_restored(tampered, {})
    assert not continuing.continue_restored(imaged, {})


def test_a_guest_whose_save_is_refused_stays_in_its_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU is not told to quit then."""
    monkeypatch.setattr(saving, "taken", lambda *_: None)
    session = stand_in_session(Model())
    assert continuing.continue_restored(session, {})
    assert session.qmp.given == []


@pytest.mark.parametrize(("left", "allowed"), [(0, 0), (2, 2), (9, 3)])
def test_a_starved_qemu_can_open_so_many_files(
    left: int, allowed: int, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit holds while the save begins, and is as before afterwards: later steps are not starved."""
    before = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
    seen = []

    def begin(session: StandInSession, golden: bool, transport: str) -> bool:
        limits = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir(f"/proc/{child.pid}/fd"))  # noqa: PTH208
        seen.append((limits[0] - highest - 1, limits[1], session.starved, golden, transport))
        return True

    monkeypatch.setattr(saving, "begin", begin)
    session = _with_pid(Model(), child.pid)
    assert continuing.begin_starved(session, {"left": left, "transport": "unix"})
    assert seen == [(allowed, before[1], True, False, "unix")]
    assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE) == before
    assert not session.starved
