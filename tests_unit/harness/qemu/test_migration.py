"""Contract: a save's sink loses nothing; a capability is put back; refusals are given in QEMU's words."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any, cast

import pytest

from harness.errors import SubjectFailed
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused

_BYTES = (5 << 20) + 5


def test_slow_sink_takes_all_in_its_time(tmp_path: Path) -> None:
    """Every byte in its order, in pieces with a pause after each, and nothing is left beside the file."""
    path, sign, content = tmp_path / "a file", tmp_path / "a sign", os.urandom(_BYTES)
    sign.touch()
    command = migration.slow_sink(path, sign).removeprefix("exec:")
    begun = time.monotonic()
    subprocess.run(["/bin/sh", "-c", command], input=content, check=True, timeout=60)
    assert time.monotonic() - begun >= 1.0
    assert path.read_bytes() == content
    assert sorted(tmp_path.iterdir()) == [path, sign]


def test_slow_sink_makes_haste_once_the_sign_is_gone(tmp_path: Path) -> None:
    """What is left goes through as fast as it comes, and still whole."""
    path, sign, content = tmp_path / "a file", tmp_path / "a sign", os.urandom(64 << 20)
    sign.touch()
    command = migration.slow_sink(path, sign).removeprefix("exec:")
    with subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(content[: 2 << 20])
        sign.unlink()
        begun = time.monotonic()
        process.stdin.write(content[2 << 20 :])
        process.stdin.close()
        assert process.wait(60) == 0
    assert time.monotonic() - begun < 4
    assert path.read_bytes() == content


class _StubQemu:
    """Answers the QMP commands of a save; `refused` names those that QEMU refuses."""

    def __init__(self, refused: tuple[str, ...] = ()) -> None:
        self.qmp = self
        self.refused = refused
        self.on = False

    def execute(self, command: str, arguments: dict[str, Any] | None = None, **_: object) -> object:
        if command in self.refused:
            raise CommandRefused(command, "There's a migration process in progress")
        if command == "query-migrate-capabilities":
            return [{"capability": "background-snapshot", "state": self.on}]
        if command == "migrate-set-capabilities" and arguments:
            self.on = arguments["capabilities"][0]["state"]
        return {}

    def alive(self) -> bool:
        return True


def _machine(stub: _StubQemu) -> Machine:
    return cast(Machine, stub)


def test_capability_is_on_within_the_block_only() -> None:
    """It is off again after the block."""
    stub = _StubQemu()
    with migration.capability_on(_machine(stub), migration.BACKGROUND_SNAPSHOT):
        assert stub.on
    assert not stub.on


def test_capability_is_off_after_an_error() -> None:
    """An error in the block is passed on, and the capability is off."""
    stub = _StubQemu()
    with (
        pytest.raises(ZeroDivisionError),
        migration.capability_on(_machine(stub), migration.BACKGROUND_SNAPSHOT),
    ):
        raise ZeroDivisionError
    assert not stub.on


def test_error_of_a_save_is_not_hidden_by_a_refusal() -> None:
    """QEMU refuses to switch the capability off while a save hangs; the save's own error counts."""
    stub = _StubQemu()
    with (
        pytest.raises(SubjectFailed, match="hangs"),
        migration.capability_on(_machine(stub), migration.BACKGROUND_SNAPSHOT),
    ):
        stub.refused = ("migrate-set-capabilities",)
        raise SubjectFailed("The save hangs.")


def test_refusal_is_returned_in_the_words_of_qemu() -> None:
    """Trying gives the words of a refusal, and nothing where QEMU obeys."""
    refusing = _StubQemu(("migrate-set-capabilities", "migrate"))
    words = "There's a migration process in progress"
    name = migration.BACKGROUND_SNAPSHOT
    assert migration.try_set_capability(_machine(refusing), name, True) == words
    assert migration.try_start_save(_machine(refusing), "exec:cat") == words
    assert migration.try_set_capability(_machine(_StubQemu()), name, True) == ""
    assert migration.try_start_save(_machine(_StubQemu()), "exec:cat") == ""
