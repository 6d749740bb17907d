"""Contract: what was not compared is no PASS, and what the disks of now do is no FAIL."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.guest.shell import CommandResult
from harness.qemu.qmp import Event
from harness.qemu.ram import GoldenImage, RamBlock
from harness.status import Status
from tests_functional.attach import restore
from validators.checks import judged
from validators.verdict import CheckResult

_LINE = "{name}    4 KiB  0x0000000000000000 0x{used:016x} 0x{total:016x} 0x00007f0000000000  rw\n"


class _Clone:
    """A restored guest."""

    def __init__(self, overlays: int, state: str, *events: str) -> None:
        self.overlays, self.state, self.qmp = overlays, state, self
        self.events = [Event(name, {}, 0.0) for name in events]

    def mark(self) -> int:
        return 0

    def events_since(self, _mark: int) -> list[Event]:
        return self.events

    def execute(self, _command: str) -> Any:
        return {"status": self.state}

    def alive(self) -> bool:
        return False


class _Snapshot:
    """A snapshot with a golden image."""

    def __init__(self, *blocks: RamBlock) -> None:
        self.golden = GoldenImage(Path("/golden"), blocks)


_RAM, _ROM = RamBlock("pc.ram", 8192, 4096), RamBlock("vga.rom", 4096, 8192)


@pytest.mark.parametrize(
    ("then", "now", "differing", "status", "named"),
    [
        ((_RAM, _ROM), (_RAM, _ROM), [], Status.PASS, ""),
        ((_RAM, _ROM), (_RAM,), [], Status.SKIP, "vga.rom"),
        ((_RAM, _ROM), (_RAM, RamBlock("vga.rom", 4096, 0)), [], Status.SKIP, "vga.rom"),
        ((_RAM, _ROM), (_RAM,), [4096], Status.FAIL, ""),
        ((), (_RAM,), [], Status.SKIP, "none has a page"),
    ],
)
def test_what_is_not_compared_is_no_pass(
    monkeypatch: pytest.MonkeyPatch, then: Any, now: Any, differing: list[int], status: Status, named: str
) -> None:
    """A block that is missing or has no address is named; a page that differs is a FAIL all the same."""
    monkeypatch.setattr(restore, "ramblocks", lambda _clone: now)
    monkeypatch.setattr(restore, "differing_pages", lambda *_arguments: iter(differing))
    snapshot: Any = _Snapshot(*then)
    check = restore.compare_ram(_Clone(0, "running"), snapshot)  # type: ignore[arg-type]
    assert check.status is status
    assert named in check.reason


@pytest.mark.parametrize(
    ("overlays", "state", "events", "status"),
    [
        (0, "running", (), Status.PASS),
        (1, "running", (), Status.PASS),
        (0, "running", ("RESET",), Status.FAIL),
        (0, "paused", (), Status.FAIL),
        (1, "running", ("BLOCK_IO_ERROR",), Status.SKIP),
        (1, "io-error", ("STOP",), Status.SKIP),
    ],
)
def test_disks_of_now(overlays: int, state: str, events: tuple[str, ...], status: Status) -> None:
    """With a disk, a guest that does not go on says nothing about the snapshot."""
    clone: Any = _Clone(overlays, state, *events)
    check = restore._go_on(clone, "running", Deadline(5.0))
    assert check.status is status
    assert ("content of now" in check.reason) is (status is Status.SKIP)


def test_devices_that_are_not_in_the_command_line() -> None:
    """Names and full sizes are compared; the used length comes with the stream."""
    one, longer = (
        _LINE.format(name="pc.ram", used=4096, total=8192),
        _LINE.format(name="rom", used=1, total=4),
    )
    assert restore.differing_blocks(one + longer, _LINE.format(name="rom", used=2, total=4) + one) == ""
    assert "since: rom." in restore.differing_blocks(one + longer, one)
    assert "since: rom." in restore.differing_blocks(one, one + longer)
    assert "since: rom." in restore.differing_blocks(longer, longer.replace("04 0x", "05 0x"))


_WRITERS: Any = SimpleNamespace(command="/run/agent", status=None)
_T0: Any = SimpleNamespace(monotonic_ns=50_000_000_000)


class _Asked:
    """A restored guest with a guest agent."""

    def __init__(self, overlays: int = 0, said: str = "", used: int = 0, agent: Any = "socket") -> None:
        self.overlays, self.said, self.used, self.agent = overlays, said, used, agent

    def run(self, command: str, _deadline: Any = None) -> CommandResult:
        if command.startswith("dmesg"):
            return CommandResult(0, self.said, "")
        return CommandResult(self.used, "", "sync: it failed" if self.used else "")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Whether the guest agent of a restored guest answers, and what its agent says."""
    found: dict[str, Any] = {"answers": True, "checks": []}
    agent = SimpleNamespace(answers=lambda _seconds: found["answers"])
    monkeypatch.setattr(restore, "SocketChannel", lambda _socket: None)
    monkeypatch.setattr(restore, "GuestAgent", lambda _channel: agent)
    monkeypatch.setattr(restore, "AgentClient", lambda _shell, command: command)
    monkeypatch.setattr(restore, "check_restored_guest", lambda *given: [*found["checks"], *_named(given)])
    monkeypatch.setattr(restore, "GuestAgentShell", lambda _agent: found["shell"])
    return found


def _named(given: tuple[Any, ...]) -> list[CheckResult]:
    assert given[0] == "/run/agent" and given[2] is _T0 and given[3] == 1.5
    return [judged("restored-memory", "It is so.", [])]


def _ask(found: dict[str, Any], clone: _Asked, writers: Any = _WRITERS, further: Any = None) -> Any:
    found["shell"] = clone
    given: Any = clone
    checks = restore._ask(given, restore.Asked(writers, _T0, further), 1.5, Deadline(5.0))
    return {check.name: check for check in checks}


def test_restored_guest_is_asked(answers: dict[str, Any]) -> None:
    """Our agent, the kernel's log and further checks, each by the guest agent's shell."""
    found = _ask(answers, _Asked(), further=lambda _shell: [judged("disk-loop", "It is so.", [])])
    assert {name: check.status for name, check in found.items()} == {
        "agent/restored-memory": Status.PASS, "restored-disks": Status.PASS, "disk-loop": Status.PASS,
    }  # fmt: skip
    assert list(_ask(answers, _Asked(), writers=None)) == ["restored-disks"]


def test_guest_agent_that_does_not_answer(answers: dict[str, Any]) -> None:
    """It is a FAIL where it has answered before on the same disk; else it says nothing."""
    answers["answers"] = False
    assert _ask(answers, _Asked())["restored-asked"].status is Status.FAIL
    assert _ask(answers, _Asked(overlays=1))["restored-asked"].status is Status.SKIP
    assert _ask(answers, _Asked(), writers=None)["restored-asked"].status is Status.SKIP


def test_vm_without_a_guest_agent(answers: dict[str, Any]) -> None:
    """It is said where our agent came in another way, and nothing else is to be said."""
    found = _ask(answers, _Asked(agent=None))
    assert "by its memory alone" in found["restored-asked"].reason
    assert _ask(answers, _Asked(agent=None), writers=None) == {}


@pytest.mark.parametrize(
    ("clone", "status", "words"),
    [
        (_Asked(said="[   49.999999] EXT4-fs error (device vda): old\n"), Status.PASS, ""),
        (_Asked(said="[   50.000001] EXT4-fs error (device vda): new\n"), Status.FAIL, "new"),
        (_Asked(used=1), Status.FAIL, "it failed"),
        (_Asked(1, "[   60.0] EXT4-fs error: x"), Status.SKIP, "content of now"),
        (_Asked(1), Status.SKIP, "content of now"),
    ],
)
def test_disks_of_a_restored_guest(
    answers: dict[str, Any], clone: _Asked, status: Status, words: str
) -> None:
    """Errors since T0 count, on disks that are those of T0."""
    check = _ask(answers, clone)["restored-disks"]
    assert check.status is status
    assert words in check.reason + "".join(one.sentence for one in check.violations)


def test_time_of_a_line() -> None:
    """In seconds since the guest's boot, as T0 is."""
    assert restore.said_at("[    5.250000] x") == 5.25
    assert restore.said_at("[12345.5] x") == 12345.5
    assert restore.said_at("x [5.0]") == 0.0
