"""Contract: our agent writes in a Linux guest with memory to spare, and is taken out of it again."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.guest.shell import CommandResult, GuestShell
from tests_functional.attach import guest_writers
from tests_functional.attach.guest_writers import GuestWay, writers_in

_LOOKS = "0\nLinux x86_64\n2\n102400\n"
_AGENT = """\
#!/bin/sh
[ "$1 $2" != "ctl quit" ] || echo quit >> "$0.log"
"""


class _Shell(GuestShell):
    """A shell on this machine, whose answer to the first look is given."""

    def __init__(self, looks: str = _LOOKS) -> None:
        self.looks = looks

    def run(
        self,
        command: str,
        deadline: Deadline | None = None,  # noqa: ARG002  # the names belong to GuestShell
        stdin: bytes = b"",
    ) -> CommandResult:
        if command.startswith("id -u"):
            return CommandResult(0, self.looks, "")
        done = subprocess.run(["/bin/sh", "-c", command], input=stdin, capture_output=True, check=False)
        return CommandResult(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An agent in a guest whose two settings are files, one of them missing, and which starts at once."""
    file = tmp_path / "agent"

    def install(_program: Path, _shell: GuestShell, _deadline: Deadline) -> str:
        file.write_text(_AGENT)
        file.chmod(0o755)
        return str(file)

    (tmp_path / "setting").write_text("1\n")
    settings = (str(tmp_path / "setting"), str(tmp_path / "missing"))
    monkeypatch.setattr(guest_writers, "_MOVERS", settings)
    monkeypatch.setattr(guest_writers, "install_agent", install)
    monkeypatch.setattr(guest_writers, "_started", lambda *arguments: arguments)
    return file


def _way(shell: GuestShell, asked: list[str] | None = None) -> GuestWay:
    def program(machine: str) -> Path:
        (asked if asked is not None else []).append(machine)
        return Path("/agent")

    return GuestWay(shell, program, "a shell")


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_setting_and_files_are_as_before(tmp_path: Path, agent: Path) -> None:
    """Within the `with` pages stay where they are; afterwards the agent has quit, and nothing is left."""
    asked: list[str] = []
    with writers_in(_way(_Shell(), asked), 60.0) as started:
        assert started[1:] == (str(agent), 2, 100)  # type: ignore[index]
        assert (tmp_path / "setting").read_text() == "0\n"
        assert agent.exists() and not (tmp_path / "missing").exists()
    assert asked == ["x86_64"]
    assert (tmp_path / "setting").read_text() == "1\n"
    assert _files(tmp_path) == ["agent.log", "setting"]
    assert (tmp_path / "agent.log").read_text() == "quit\n"


def test_error_within(tmp_path: Path, agent: Path) -> None:
    """The error is that of the block; the agent is taken out."""
    with pytest.raises(KeyError), writers_in(_way(_Shell()), 60.0):
        raise KeyError
    assert _files(tmp_path) == ["agent.log", "setting"]
    assert not agent.exists()


def test_guest_takes_it_out_by_itself(tmp_path: Path, agent: Path) -> None:
    """Where we are gone, the guest does it after the seconds that it was given."""
    with pytest.raises(SetupBroken, match="is left in the guest"), writers_in(_way(_Shell()), 1.0):
        end = time.monotonic() + 30
        while (tmp_path / "agent.before").exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert (tmp_path / "setting").read_text() == "1\n"
        assert not agent.exists()


def test_process_that_stays(agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that still runs is told, and so is a setting that does not take its value again."""
    monkeypatch.setattr(guest_writers, "_ENTER", guest_writers._ENTER.replace("-lt 50", "-lt 2"))
    with pytest.raises(SetupBroken) as raised, writers_in(_way(_Shell()), 60.0):
        agent.write_bytes(Path("/bin/sleep").read_bytes())
        setting = agent.parent / "setting"
        setting.unlink()
        setting.mkdir()
        running = subprocess.Popen([str(agent), "60"])
    running.kill()
    running.wait()
    assert "its process still runs" in raised.value.sentence
    assert "setting is not 1 again" in raised.value.sentence


@pytest.mark.parametrize(
    ("looks", "words"),
    [
        ("", "nothing"),
        ("0\nFreeBSD amd64\n2\n", "FreeBSD"),
        ("0\nLinux x86_64\n2\n", "Linux"),
        ("0\nLinux x86_64\n\n2 x\n", "answered"),
        ("1000\nLinux x86_64\n2\n102400\n", "user 1000"),
    ],
)
def test_guest_that_is_not_fit(agent: Path, looks: str, words: str) -> None:
    """It is said before anything is brought there."""
    with pytest.raises(NotApplicable, match=words), writers_in(_way(_Shell(looks)), 60.0):
        pass
    assert not agent.exists()


def test_guest_without_memory() -> None:
    """Half of what is free must be worth it."""
    with pytest.raises(NotApplicable, match="15 MiB"):
        guest_writers._started(_Shell(), "/agent", 1, 15)


class _Agent:
    """An agent that answers."""

    plan: Any = None

    def __init__(self, _shell: Any, command: str) -> None:
        self.command, self.asked = command, 0

    def serve(self, plan: Any, *_: Any) -> None:
        _Agent.plan = plan

    def start(self) -> None:
        pass

    def status(self) -> Any:
        self.asked += 1
        steps = (9999999, 10 * self.asked)
        return type("Status", (), {"data_pages": 40, "steps": steps})


def test_writers_fill_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pages for each thread, and no sooner ready than each thread has written each of its pages."""
    monkeypatch.setattr(guest_writers, "AgentClient", _Agent)
    monkeypatch.setattr(guest_writers, "median_write_bucket", lambda _agent: 3)
    found = guest_writers._started(_Shell(), "/a b", 2, 101)
    plan: Any = _Agent.plan
    assert plan.threads == 2
    assert plan.bytes % 8192 == 0
    assert 0 <= 101 * (1 << 19) - plan.bytes < 8192
    assert plan.rate == guest_writers.RATE
    assert (found.command, found.median_bucket) == ("'/a b'", 3)
    assert found.status.steps[1] >= 20
