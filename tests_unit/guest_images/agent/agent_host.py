"""Runs the guest's agent natively on this host, so that it is tested without a VM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from guest_images.agent.format import PAGE_WORDS
from guest_images.agent.pages import Words
from harness.deadline import Deadline

DUMP_PAGES = 8
"""Most pages that one `dump` may ask for (guest_images/agent/linux/commands.c)."""


@dataclass
class HostAgent:
    """A serving agent on this host.

    Attributes:
        program: the executable.
        socket: where it takes commands.
        pid: its process, not a child of ours, since it goes into the background.
    """

    program: Path
    socket: Path
    pid: int

    @classmethod
    def serve(cls, program: Path, socket: Path, **options: object) -> Self:
        """Start an agent; options are those of its command line, `huge=True` for a bare one."""
        done = subprocess.run(
            serve_command(program, socket=socket, **options), capture_output=True, text=True, timeout=30
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        agent = cls(program, socket, 0)
        agent.pid = agent.ctl("status")["pid"]
        return agent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ctl_process(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run `ctl` with a command and return how it ended."""
        command = [str(self.program), "ctl", "--socket", str(self.socket), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def ctl(self, *words: object) -> dict[str, Any]:
        """Run a command that must be carried out; returns its reply."""
        done = self.ctl_process(*words)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        reply = json.loads(done.stdout)
        assert isinstance(reply, dict)
        return reply

    def refused(self, *words: object) -> str:
        """Run a command that must be refused; returns the sentence."""
        done = self.ctl_process(*words)
        assert done.returncode == 1, done.stdout
        return str(json.loads(done.stdout)["error"])

    def run_until(self, steps: int) -> None:
        """Wait until every writer has done that many steps."""
        deadline = Deadline(20)
        deadline.wait_for(
            lambda: all(thread["steps"] >= steps for thread in self.ctl("status")["threads"]),
            f"step {steps} of every writer",
        )

    def dump(self, what: object, count: int) -> Words:
        """The first `count` pages of a thread (by number) or of "meta": uint64[count, 512]."""
        pages: list[str] = []
        while len(pages) < count:
            wanted = min(DUMP_PAGES, count - len(pages))
            pages += self.ctl("dump", what, len(pages), wanted)["pages"]
        return (
            np.frombuffer(bytes.fromhex("".join(pages)), "<u8").reshape(count, PAGE_WORDS).astype(np.uint64)
        )

    def alive(self) -> bool:
        """Return whether any of its threads still runs; a zombie does not.

        The first thread can be a zombie while others still end and hold the socket open. A thread that ends
        between the listing and the read says nothing about the others.
        """
        try:
            tasks = list(Path(f"/proc/{self.pid}/task").iterdir())
        except FileNotFoundError:
            return False
        return any(thread_runs(task) for task in tasks)

    def close(self) -> None:
        """End the agent if it still runs, and prove that it is gone."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
        Deadline(10).wait_for(lambda: not self.alive(), "The end of the agent")


def serve_command(program: Path, **options: object) -> list[str]:
    """The command line of `serve`; True stands for an option without a value."""
    command = [str(program), "serve"]
    for name, value in options.items():
        command.append(f"--{name.replace('_', '-')}")
        if value is not True:
            command.append(str(value))
    return command


def process_state(stat: Path) -> str:
    """The state letter in a /proc stat file."""
    return stat.read_text().rpartition(")")[2].split()[0]


def thread_runs(task: Path) -> bool:
    """Return whether the thread of a folder in /proc/PID/task still runs."""
    try:
        return process_state(task / "stat") != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Stopped:
    """An agent stopped by SIGSTOP between any two instructions, as a guest is at T0."""

    def __init__(self, agent: HostAgent) -> None:
        self.agent = agent

    def __enter__(self) -> Self:
        os.kill(self.agent.pid, signal.SIGSTOP)
        tasks = list(Path(f"/proc/{self.agent.pid}/task").iterdir())
        deadline = Deadline(10)
        deadline.wait_for(
            lambda: all(process_state(task / "stat") == "T" for task in tasks),
            "The stop of all threads",
            0.001,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(self.agent.pid, signal.SIGCONT)

    def pages(self) -> Words:
        """Every page of its anonymous writable mappings: uint64[k, 512].

        Raises:
            PermissionError: this user may not read another process's memory.
        """
        parts: list[Words] = []
        with Path(f"/proc/{self.agent.pid}/mem").open("rb", buffering=0) as memory:
            for line in Path(f"/proc/{self.agent.pid}/maps").read_text().splitlines():
                fields = line.split()
                if len(fields) > 5 or fields[1] != "rw-p":
                    continue
                start, end = (int(part, 16) for part in fields[0].split("-"))
                memory.seek(start)
                content = memory.read(end - start)
                parts.append(np.frombuffer(content, "<u8").reshape(-1, PAGE_WORDS).astype(np.uint64))
        return np.concatenate(parts)


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process that is backed by pages, in bytes.

    By its page tables: RssAnon in its status lags by some pages per CPU before Linux 6.16
    (Documentation/filesystems/proc.rst).
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("The kernel does not report the anonymous memory of a process.")
