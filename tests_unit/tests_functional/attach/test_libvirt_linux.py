"""Contract: a disk of a later time has to be seen by the checks of the disk, and by these alone."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import SetupBroken
from harness.guest.shell import CommandResult
from harness.status import Status
from tests_functional.attach import libvirt_linux
from tests_functional.attach.libvirt_linux import judge_unpinned
from tests_functional.lib.outcome import Outcome
from validators.verdict import CheckResult

_ALL = ("agent/restored-memory", "restored-disks", "disk-loop", "disk-files")


def _outcome(**statuses: Status) -> Outcome:
    checks = [CheckResult(name.replace("_", "-"), "", status, (), 0) for name, status in statuses.items()]
    return Outcome("x", Status.FAIL, "It is so.", checks=checks)


def test_disk_of_a_later_time_is_seen() -> None:
    """No FAIL shows that nobody looked, and another one that something else is wrong."""
    seen = _outcome(disk_loop=Status.FAIL, disk_files=Status.PASS, golden=Status.PASS)
    assert judge_unpinned(seen).status is Status.PASS
    assert judge_unpinned(_outcome(disk_loop=Status.PASS)).status is Status.FAIL
    assert judge_unpinned(_outcome(disk_loop=Status.FAIL, golden=Status.FAIL)).status is Status.FAIL


def test_restored_guest_has_to_be_asked() -> None:
    """A check that is missing or skipped is named."""
    checks = [CheckResult(name, "", Status.PASS, (), 0) for name in _ALL]
    libvirt_linux._require_asked(Outcome("x", Status.PASS, "", checks=checks))
    checks[1] = CheckResult(_ALL[1], "", Status.SKIP, (), 0)
    outcome = Outcome("x", Status.PASS, "", checks=checks)
    with pytest.raises(SetupBroken, match="restored-disks"):
        libvirt_linux._require_asked(outcome)


@pytest.mark.parametrize(
    ("found", "setting", "left"),
    [
        ("... /proc/1/exe -> /usr/bin/x\n", "1\n", 0),
        ("... /proc/9/exe -> /run/snapproof-agent\n", "1\n", 1),
        ("/run/snapproof-agent\n", "0\n", 2),
    ],
)
def test_what_is_left_of_the_agent(found: str, setting: str, left: int) -> None:
    """Files, processes and settings."""

    class Shell:
        def run(self, command: str) -> CommandResult:
            return CommandResult(0, setting if command.startswith("cat") else found, "")

    shell: Any = Shell()
    check = libvirt_linux._judge_gone(shell)
    assert len(check.violations) == left
    assert check.status is (Status.FAIL if left else Status.PASS)
