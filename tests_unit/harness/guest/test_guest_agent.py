"""Contract: commands reach the guest agent, and no answer of a guest is trusted in size, time or form."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.attach.virsh import Domain
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import MachineryMissing, SetupBroken
from harness.guest import guest_agent
from harness.guest.guest_agent import (
    AgentRefused,
    GuestAgent,
    GuestAgentShell,
    SocketChannel,
    VirshChannel,
    parse_answer,
    read_bounded,
)
from harness.guest.shell import GuestUnreachable


class FakeGuest:
    """A guest whose agent runs commands on this machine, in a folder."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.files: dict[int, Any] = {}
        self.done: dict[int, subprocess.CompletedProcess[bytes]] = {}
        self.answers: dict[str, Any] = {}

    def exchange(self, message: str, _deadline: Deadline) -> dict[str, Any]:
        """Answer a command."""
        command = json.loads(message)
        name, given = command["execute"], command.get("arguments", {})
        self.commands.append(name)
        if name in self.answers:
            return dict(self.answers[name])
        return {
            "return": getattr(self, name.replace("-", "_"))(
                **{k.replace("-", "_"): v for k, v in given.items()}
            )
        }

    def guest_exec(self, path: str, arg: list[str], capture_output: bool, input_data: str = "") -> Any:
        """Run a program to its end."""
        assert capture_output
        number = len(self.done) + 40
        data = base64.b64decode(input_data)
        self.done[number] = subprocess.run([path, *arg], input=data, capture_output=True, check=False)
        return {"pid": number}

    def guest_exec_status(self, pid: int) -> Any:
        """Say how a program has ended."""
        done = self.done[pid]
        ended: dict[str, Any] = {"exited": True}
        ended |= {"signal": -done.returncode} if done.returncode < 0 else {"exitcode": done.returncode}
        for key, data in (("out-data", done.stdout), ("err-data", done.stderr)):
            if data:
                ended[key] = base64.b64encode(data).decode()
        return ended

    def guest_file_open(self, path: str, mode: str) -> int:
        """Open a file."""
        self.files[7] = Path(path).open(mode + "b")  # noqa: SIM115  # closed by another command
        return 7

    def guest_file_write(self, handle: int, buf_b64: str) -> Any:
        """Write to it."""
        return {"count": self.files[handle].write(base64.b64decode(buf_b64)), "eof": False}

    def guest_file_close(self, handle: int) -> Any:
        """Close it."""
        self.files[handle].close()
        return {}


def test_command_with_its_exit_code_and_output() -> None:
    """Output, errors, exit code and standard input are those of the command; a signal is as in a shell."""
    shell = GuestAgentShell(GuestAgent(FakeGuest()))
    done = shell.run("cat; echo two >&2; exit 3", stdin=b"one")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "one", "two\n")
    assert shell.run("kill -9 $$").exit_code == 137
    assert shell.run("echo $PATH").stdout.strip().endswith("/usr/sbin:/usr/bin:/sbin:/bin")
    with pytest.raises(SetupBroken, match="exit code 3"):
        shell.check("exit 3")


def test_large_input_goes_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than fits into one message is written in pieces, all of it, and nothing of it is left."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    guest = FakeGuest()
    content = os.urandom(3 * (48 << 10) + 5)
    done = GuestAgentShell(GuestAgent(guest)).run(f"cat > {tmp_path}/copy", stdin=content)
    assert done.exit_code == 0
    assert (tmp_path / "copy").read_bytes() == content
    assert guest.commands.count("guest-file-write") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_file_that_is_not_written_whole() -> None:
    """A full disk in the guest is told; the file is closed all the same."""
    guest = FakeGuest()
    guest.answers = {"guest-file-open": {"return": 7}, "guest-file-write": {"return": {"count": 2}}}
    guest.answers["guest-file-close"] = {"return": {}}
    with pytest.raises(SetupBroken, match="did not write all of '/x'"):
        GuestAgent(guest).put_file("/x", b"four")
    assert guest.commands[-1] == "guest-file-close"


@pytest.mark.parametrize(
    ("command", "answer", "words"),
    [
        ("guest-exec", {"return": {"pid": "4"}}, "no number"),
        ("guest-exec", {"return": {"pid": True}}, "no number"),
        ("guest-exec", {"return": [1]}, "no number"),
        ("guest-exec-status", {"return": "x"}, "something else"),
        ("guest-exec-status", {"return": {"exited": True, "exitcode": "0"}}, "exit code that is no number"),
        ("guest-exec-status", {"return": {"exited": True, "exitcode": 0, "out-data": "%"}}, "no base64"),
        ("guest-exec-status", {"return": {"exited": True, "exitcode": 0, "out-data": 5}}, "no base64"),
    ],
)
def test_answers_of_another_form(command: str, answer: dict[str, Any], words: str) -> None:
    """Each is the guest's, and ends in an error of ours that says so."""
    guest = FakeGuest()
    guest.answers = {command: answer}
    with pytest.raises(SetupBroken, match=words):
        GuestAgent(guest).execute(["/bin/true"], Deadline(5))


def test_refusal_and_time_limit() -> None:
    """A refusal has the agent's words; a program that does not end is given up."""
    guest = FakeGuest()
    guest.answers = {"guest-exec": {"error": {"desc": "Command guest-exec has been disabled."}}}
    with pytest.raises(AgentRefused, match="'guest-exec': Command guest-exec has been disabled\\."):
        GuestAgent(guest).execute(["/bin/true"], Deadline(5))
    guest.answers = {"guest-exec": {"error": "x"}}
    with pytest.raises(AgentRefused):
        GuestAgent(guest).ask("guest-exec")
    guest.answers = {"guest-exec": {"return": {"pid": 1}}, "guest-exec-status": {"return": {"exited": False}}}
    with pytest.raises(GuestUnreachable) as raised:
        GuestAgent(guest).execute(["/bin/true"], Deadline(0.2))
    assert raised.value.code is Code.GUEST_COMMAND_UNFINISHED
    guest.answers = {"guest-ping": {"return": {}}}
    assert GuestAgent(guest).answers()
    guest.answers = {"guest-ping": {"error": {"desc": "no"}}}
    assert not GuestAgent(guest).answers()


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_no_object(text: bytes) -> None:
    """What is no JSON object is no answer."""
    with pytest.raises(SetupBroken, match="no JSON object"):
        parse_answer(text)
    assert parse_answer(b'{"return": 1}') == {"return": 1}


@pytest.fixture
def pair() -> Iterator[tuple[SocketChannel, socket.socket]]:
    """A channel, and the guest's end of it."""
    ours, theirs = socket.socketpair()
    channel = SocketChannel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


def _play(theirs: socket.socket, answer: Callable[[dict[str, Any]], bytes]) -> None:
    """Answer each line that comes, in a thread."""

    def run() -> None:
        with theirs.makefile("rb") as lines:
            for line in lines:
                theirs.sendall(answer(json.loads(line.rpartition(b"\xff")[2])))

    threading.Thread(target=run, daemon=True).start()


def test_gets_in_step_first(pair: tuple[SocketChannel, socket.socket]) -> None:
    """Answers to those who asked before are dropped, and half a line of theirs too."""
    channel, theirs = pair
    asked: list[str] = []

    def answer(command: dict[str, Any]) -> bytes:
        asked.append(command["execute"])
        if command["execute"] != "guest-sync-delimited":
            return b'{"return": "ours"}\n'
        number = command["arguments"]["id"]
        return b'{"return": "stale"}\nhalf\xff' + json.dumps({"return": number}).encode() + b"\n"

    _play(theirs, answer)
    assert GuestAgent(channel).ask("guest-ping") == "ours"
    assert GuestAgent(channel).ask("guest-ping") == "ours"
    assert asked == ["guest-sync-delimited", "guest-ping", "guest-ping"]


def test_out_of_step_after_silence(pair: tuple[SocketChannel, socket.socket]) -> None:
    """A late answer is not taken for that of the next command."""
    channel, theirs = pair
    asked: list[str] = []

    def answer(command: dict[str, Any]) -> bytes:
        asked.append(command["execute"])
        if command["execute"] == "guest-sync-delimited":
            return b"\xff" + json.dumps({"return": command["arguments"]["id"]}).encode() + b"\n"
        return b"" if asked.count("guest-ping") == 1 else b'{"return": 2}\n'

    _play(theirs, answer)
    with pytest.raises(GuestUnreachable, match="in time"):
        GuestAgent(channel).ask("guest-ping", Deadline(0.3))
    theirs.sendall(b'{"return": 1}\n')
    assert GuestAgent(channel).ask("guest-ping") == 2


def test_flood_and_end(
    pair: tuple[SocketChannel, socket.socket], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A guest that sends without end fills no memory; a QEMU that has ended is told."""
    monkeypatch.setattr(guest_agent, "_ANSWER_BYTES", 1 << 16)
    channel, theirs = pair
    theirs.setblocking(False)

    def flood() -> None:
        theirs.setblocking(True)
        try:
            while True:
                theirs.sendall(b"x" * 4096)
        except OSError:
            return

    threading.Thread(target=flood, daemon=True).start()
    with pytest.raises(SetupBroken, match="more than"):
        GuestAgent(channel).ask("guest-ping")
    ours, other = socket.socketpair()
    other.close()
    with pytest.raises(GuestUnreachable):
        GuestAgent(SocketChannel(ours)).ask("guest-ping")
    ours.close()
    with pytest.raises(SetupBroken, match="cannot be connected to"):
        SocketChannel.at(tmp_path / "missing")


def test_read_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All up to the end, but not more than an answer may have, nor for longer than it may take."""
    monkeypatch.setattr(guest_agent, "_ANSWER_BYTES", 10)
    for data, wanted in ((b"1234567890", b"1234567890"), (b"12345678901", None)):
        reader, writer = os.pipe()
        os.write(writer, data)
        os.close(writer)
        if wanted is None:
            with pytest.raises(SetupBroken, match="more than"):
                read_bounded(reader, Deadline(5))
        else:
            assert read_bounded(reader, Deadline(5)) == wanted
        os.close(reader)
    reader, writer = os.pipe()
    with pytest.raises(GuestUnreachable):
        read_bounded(reader, Deadline(0.1))
    os.close(reader)
    os.close(writer)


_VIRSH = """\
#!/bin/sh
for word; do last=$word; done
echo "$@" > {folder}/words
case $last in
*guest-ping*) echo '{{"return":{{}}}}' ;;
*guest-exec*) echo 'error: internal error: unable to execute QEMU agent command x: disabled' >&2; exit 1 ;;
*) echo 'error: Guest agent is not responding: QEMU guest agent is not connected' >&2; exit 1 ;;
esac
"""


def test_by_virsh(tmp_path: Path) -> None:
    """The command goes to the domain with a time limit; libvirt's words tell refusal from silence."""
    virsh = tmp_path / "virsh"
    virsh.write_text(_VIRSH.format(folder=tmp_path))
    virsh.chmod(0o755)
    agent = GuestAgent(VirshChannel(Domain("vm", str(virsh), "test:///x")))
    assert agent.answers()
    words = (tmp_path / "words").read_text().split()
    assert words[:6] == ["--quiet", "--connect", "test:///x", "qemu-agent-command", "--timeout", words[5]]
    assert 1 <= int(words[5]) <= 10 and words[6] == "vm"
    with pytest.raises(AgentRefused, match="disabled"):
        agent.ask("guest-exec", path="/bin/true")
    with pytest.raises(GuestUnreachable, match="is not connected"):
        agent.ask("guest-info")
    with pytest.raises(MachineryMissing, match="cannot be run"):
        GuestAgent(VirshChannel(Domain("vm", str(tmp_path / "none")))).ask("guest-ping")
