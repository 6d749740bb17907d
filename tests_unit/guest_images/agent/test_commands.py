"""The agent's commands: what each does, when it is refused, and that bad input harms nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from guest_images.agent.format import PAGE_BYTES
from guest_images.agent.pages import PATTERNS
from harness.deadline import Deadline
from tests_unit.guest_images.agent.agent_host import HostAgent, serve_command

pytest_plugins = ["tests_unit.guest_images.agent.agent_fixtures"]

SIZE = 64 * PAGE_BYTES
NAMES = f"{', '.join(PATTERNS[:-1])} or {PATTERNS[-1]}"

Serve = Callable[..., HostAgent]


def connect(agent: HostAgent) -> socket.socket:
    """A raw connection to the agent's socket."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    client.connect(str(agent.socket))
    return client


def test_states_follow_the_commands(serve: Serve) -> None:
    """Idle, running, paused, running: each command is refused where it makes no sense."""
    agent = serve(bytes=SIZE, threads=2)
    assert agent.ctl("status")["state"] == "idle"
    assert agent.refused("pause") == agent.refused("resume") == "The writers have not been started yet."
    assert agent.ctl("start")["state"] == "running"
    assert "already" in agent.refused("start")
    assert "must be paused" in agent.refused("verify")
    assert "must be paused" in agent.refused("corrupt", 0, 0)
    agent.run_until(1)
    paused = agent.ctl("pause")
    assert paused["state"] == "paused"
    assert {thread["state"] for thread in agent.ctl("status")["threads"]} == {"parked"}
    assert agent.ctl("pause")["steps"] == paused["steps"]
    assert agent.ctl("resume")["state"] == "running"
    agent.run_until(max(paused["steps"]) + 1)
    agent.ctl("quit")
    Deadline(10).wait_for(lambda: not agent.alive(), "The end of the agent")
    assert not agent.socket.exists()


def test_status_names_the_run(serve: Serve) -> None:
    """The status repeats the options and identifies the boot."""
    agent = serve(bytes=SIZE, threads=3, pattern="random", seed=9, rate=50)
    status = agent.ctl("status")
    assert (status["pattern"], status["seed"], status["rate"]) == ("random", 9, 50)
    assert (status["bytes"], status["data_pages"]) == (SIZE, 64)
    assert [thread["pages"] for thread in status["threads"]] == [22, 21, 21]
    assert [thread["first_error"] for thread in status["threads"]] == [None] * 3
    assert status["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_one_flipped_bit_is_found_by_verify_and_by_the_writer(serve: Serve, pattern: str) -> None:
    """A page changed behind the writers' back is named by `verify`, and again before its overwrite."""
    agent = serve(bytes=SIZE, threads=2, pattern=pattern)
    agent.ctl("start")
    agent.run_until(1000)
    agent.ctl("pause")
    assert agent.ctl("verify")["ok"]
    agent.ctl("corrupt", 1, 5)
    verdict = agent.ctl("verify")
    assert (verdict["ok"], verdict["mismatch_count"]) == (False, 1)
    wrong = verdict["mismatches"][0]
    assert (wrong["kind"], wrong["thread"], wrong["index"], wrong["word"]) == ("data", 1, 5, 300)
    agent.ctl("resume")
    errors = Deadline(10)
    errors.wait_for(lambda: agent.ctl("status")["threads"][1]["errors"] > 0, "The writer's own check")
    status = agent.ctl("status")
    assert [thread["errors"] for thread in status["threads"]] == [0, 1]
    assert status["threads"][1]["first_error"] == 5
    assert status["mismatches"] == verdict["mismatches"]
    agent.ctl("pause")
    assert agent.ctl("verify")["ok"], "the overwrite has healed the page"


def test_a_touched_hole_is_found(serve: Serve) -> None:
    """A bit in a page that must never be touched is a mismatch of kind hole."""
    agent = serve(bytes=SIZE, threads=1, pattern="sparse")
    agent.ctl("corrupt", 0, 7, "hole")
    verdict = agent.ctl("verify")
    assert [(m["kind"], m["index"], m["word"]) for m in verdict["mismatches"]] == [("hole", 7, 300)]


def test_many_mismatches_are_counted_and_the_first_64_named(serve: Serve) -> None:
    """The reply stays bounded however much is wrong."""
    agent = serve(bytes=200 * PAGE_BYTES, threads=2)
    for index in range(70):
        agent.ctl("corrupt", index % 2, index // 2)
    verdict = agent.ctl("verify")
    assert (verdict["mismatch_count"], len(verdict["mismatches"])) == (70, 64)


def test_reset_clears_the_statistics_while_writing(serve: Serve) -> None:
    """`reset-stats` starts a new window: fewer writes are timed than steps were done."""
    agent = serve(bytes=SIZE, threads=2, rate=2000)
    agent.ctl("start")
    agent.run_until(400)
    agent.ctl("reset-stats")
    # Figures of a writer that goes on are read one after the other.
    agent.ctl("pause")
    for thread in agent.ctl("status")["threads"]:
        assert sum(thread["hist"]) == thread["timed"] < thread["steps"] - 300
    agent.ctl("reset-stats")
    for thread in agent.ctl("status")["threads"]:
        assert thread["timed"] == thread["max_stall_us"] == thread["max_gap_us"] == 0


def test_a_rate_bounds_the_steps(serve: Serve) -> None:
    """A writer does about as many steps per second as --rate says, and `pause` does not wait for one."""
    agent = serve(bytes=SIZE, threads=1, rate=200)
    start = agent.ctl("start")
    agent.run_until(100)
    end = agent.ctl("pause")
    seconds = (end["monotonic_ns"] - start["monotonic_ns"]) / 1e9
    # A writer that was kept waiting may catch up with 0.1 s of steps.
    assert end["steps"][0] <= 200 * (seconds + 0.1) + 1


def test_bad_commands_are_answered_by_a_sentence(serve: Serve) -> None:
    """Unknown commands and wrong words are errors, and the agent serves on."""
    agent = serve(bytes=SIZE, threads=2)
    assert "not known" in agent.refused("frobnicate")
    assert "too many words" in agent.refused("status", "now")
    assert agent.refused("corrupt", 2, 0) == "The thread must be a number from 0 to 1."
    assert agent.refused("corrupt", 0, 32) == "The page must be a number from 0 to 31."
    assert agent.refused("corrupt", 0, 0, "hole") == "Only pattern sparse has holes."
    assert "corrupt THREAD INDEX" in agent.refused("corrupt", 0)
    assert "dump THREAD|meta" in agent.refused("dump", 0, "x", 1)
    for first, count in ((0, 0), (0, 9), (31, 2), (0, 2**64 - 1)):
        assert "A dump is 1 to 8 pages" in agent.refused("dump", 0, first, count)
    assert "must be a number" in agent.refused("dump", 0, 2**64 - 1, 1)
    assert agent.ctl("status")["state"] == "idle"


def test_odd_clients_do_not_disturb_the_next_one(serve: Serve) -> None:
    """Clients that vanish, send nothing, send too much or do not read are survived."""
    agent = serve(bytes=SIZE, threads=2)
    connect(agent).close()
    with connect(agent) as client:
        client.sendall(b"status\n")
    with connect(agent) as client:
        client.sendall(b"x" * 5000)
        assert b"shorter than 256 bytes" in client.recv(4096)
    with connect(agent) as client:
        client.sendall(b"\n")
        assert b"not known" in client.recv(4096)
    with connect(agent) as client:
        client.sendall(b"sta")
        client.sendall(b"tus\r\n")
        assert client.recv(9) == b'{"state":'
    assert agent.ctl("status")["state"] == "idle"


def test_a_silent_client_is_dropped(serve: Serve) -> None:
    """A client that says nothing keeps the others waiting for 5 s at most."""
    agent = serve(bytes=SIZE, threads=1)
    with connect(agent):
        assert agent.ctl("status")["state"] == "idle"


def test_a_socket_file_left_behind_is_replaced(serve: Serve) -> None:
    """After a killed agent the next one starts at the same place; beside a live one it does not."""
    agent = serve(bytes=SIZE, threads=1)
    agent.close()
    assert agent.socket.exists()
    second = serve(bytes=SIZE, threads=1)
    assert second.pid != agent.pid
    command = serve_command(agent.program, socket=agent.socket, bytes=SIZE)
    third = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (third.returncode, third.stdout) == (1, "")
    assert third.stderr == f"Another agent serves commands at '{agent.socket}' already.\n"
    assert second.ctl("status")["pid"] == second.pid


def test_termination_removes_the_socket(serve: Serve) -> None:
    """SIGTERM ends the agent without leaving its socket file."""
    agent = serve(bytes=SIZE, threads=2)
    agent.ctl("start")
    os.kill(agent.pid, signal.SIGTERM)
    Deadline(10).wait_for(lambda: not agent.alive(), "The end of the agent")
    assert not agent.socket.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "The option '--bytes' is missing."),
        ({"bytes": "many"}, "The option '--bytes' takes a number from 4096 to 17592186044416, not 'many'."),
        ({"bytes": "-4096"}, "The option '--bytes' takes a number"),
        ({"bytes": 8193}, "The option '--bytes' must be a multiple of 4096"),
        ({"bytes": 8192, "threads": 2}, "at least 2 pages for each thread."),
        ({"bytes": 8192, "threads": 65}, "The option '--threads' takes a number from 1 to 64"),
        ({"bytes": 8192, "seed": 2**64}, "The option '--seed' takes a number"),
        (
            {"bytes": 8192, "pattern": "wild"},
            f"The pattern must be {NAMES}, not 'wild'",
        ),
        ({"bytes": 8192, "pattern": "sparse", "huge": True}, "Pattern sparse cannot have huge pages"),
        ({"bytes": 8192, "colour": "red"}, "The option '--colour' is not known; 'serve' takes --bytes"),
        ({"bytes": 8192, "colour": True}, "The option '--colour' is not known or lacks its value."),
        ({"bytes": 8192, "socket": "x" * 200}, "The socket path must have 1 to 107 characters."),
    ],
)
def test_bad_options_end_with_a_sentence(
    agent_program: Path, tmp_path: Path, options: dict[str, object], sentence: str
) -> None:
    """Each mistake on the command line is named in one sentence, with exit code 2."""
    command = serve_command(agent_program, **{"socket": tmp_path / "s", **options})
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert done.stderr.endswith(".\n") and done.stderr.count("\n") == 1


def test_what_cannot_be_had_ends_with_a_sentence(agent_program: Path, tmp_path: Path) -> None:
    """The agent refuses too much memory and an impossible socket before it changes anything."""
    for options, sentence in (
        ({"bytes": 1 << 44}, "The agent cannot take 17179869184 KiB:"),
        ({"bytes": SIZE, "socket": tmp_path / "none" / "s"}, "The agent cannot listen at"),
    ):
        command = serve_command(agent_program, **{"socket": tmp_path / "s", **options})
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(sentence) and done.stderr.endswith(".\n")


def test_ctl_without_an_agent(agent_program: Path, tmp_path: Path) -> None:
    """A missing agent is exit code 1, wrong usage is 2, each with a sentence."""
    nobody = HostAgent(agent_program, tmp_path / "nobody", 0)
    done = nobody.ctl_process("status")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("No agent answers at")
    assert nobody.ctl_process().returncode == 2
    assert "shorter than 256" in nobody.ctl_process("x" * 300).stderr


def test_ctl_notices_a_reply_that_breaks_off(agent_program: Path, tmp_path: Path) -> None:
    """Half a reply is an error, not a short answer."""
    path = tmp_path / "half"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            client, _ = listener.accept()
            client.recv(256)
            client.sendall(b'{"ok":tr')
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        done = HostAgent(agent_program, path, 0).ctl_process("status")
        thread.join()
    assert done.returncode == 1
    assert done.stderr == "The agent broke off before the end of its reply.\n"
