"""Brings our agent into the guest of a VM that is attached, has it write there, and takes it out again."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guest_images.agent.client import AgentClient, AgentStatus, WriterPlan
from guest_images.agent.format import PAGE_BYTES
from guest_images.agent.pages import PATTERNS, Schedule
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.guest.shell import GuestShell
from harness.qemu.configuration import MIB
from tests_functional.lib.own_guest import install_agent
from validators.oracles.o5_source_guest.source_guest import median_write_bucket

SHARE = 0.5
"""Share of the memory that is free in the guest which the writers fill."""

RATE = 20_000
"""Page writes per second and thread, at most: the guest has work of its own."""

_COPY_SECONDS = 120.0
_FILL_SECONDS = 300.0
_LEAST_MIB, _MOST_THREADS = 8, 256
_PATTERN, _SEED = "random", 1

# Linux Documentation/admin-guide/sysctl/{vm,kernel}.rst: what moves locked pages, whose addresses the agent
# has noted. It forbids huge pages for its own memory (MADV_NOHUGEPAGE).
_MOVERS = (
    "/proc/sys/vm/compact_unevictable_allowed",
    "/proc/sys/vm/compaction_proactiveness",
    "/proc/sys/kernel/numa_balancing",
)
# Arguments: the agent, seconds, settings. The watcher takes the agent out where nobody else does any more.
_ENTER = """
file=$1
seconds=$2
shift 2
: > "$file.before" || exit 1
for one; do
    [ -w "$one" ] || continue
    echo "$one $(cat "$one")" >> "$file.before"
    echo 0 > "$one"
done
cat > "$file.leave" <<'LEAVE'
file=$1
"$file" ctl quit > /dev/null 2>&1
tries=0
while ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q -- "-> $file\\( (deleted)\\)*\\$"; do
    tries=$((tries + 1))
    [ $tries -lt 50 ] || { echo "its process still runs"; break; }
    sleep 0.2
done
while read -r one value; do
    echo "$value" > "$one"
    [ "$(cat "$one")" = "$value" ] || echo "$one is not $value again"
done < "$file.before"
watcher=$(cat "$file.watcher")
rm -f "$file" "$file.before" "$file.leave" "$file.watcher"
[ ! -e "$file" ] || echo "$file is still there"
[ "$2" = watcher ] || kill "$watcher"
LEAVE
cat > "$file.watch" <<'WATCH'
file=$1 left=$2
while [ -e "$file" ] && [ $left -gt 0 ]; do
    sleep 1
    left=$((left - 1))
done
[ ! -e "$file" ] || sh "$file.leave" "$file" watcher
WATCH
setsid sh "$file.watch" "$file" "$seconds" < /dev/null > /dev/null 2>&1 &
echo $! > "$file.watcher"
# The watcher has it open.
sleep 0.2
rm -f "$file.watch"
"""


@dataclass(frozen=True)
class GuestWay:
    """How our agent gets into the guest of a VM.

    Attributes:
        shell: runs commands in the guest, as root.
        program: returns the agent for a processor, as `uname -m` names it.
        name: what results call the way.
    """

    shell: GuestShell
    program: Callable[[str], Path]
    name: str


@dataclass(frozen=True)
class GuestWriters:
    """Our agent in the guest of a VM, which writes.

    Attributes:
        agent: to command it.
        command: calls it in a shell of the guest.
        status: its account when each page had been written once.
        median_bucket: how long its writes took then, see `median_write_bucket`.
    """

    agent: AgentClient
    command: str
    status: AgentStatus
    median_bucket: int


@contextmanager
def writers_in(way: GuestWay, seconds: float) -> Iterator[GuestWriters]:
    """Have our agent write in a guest within the `with`.

    Args:
        way: into the guest.
        seconds: after which the guest takes the agent out by itself, if we do not.

    Raises:
        NotApplicable: the guest is no Linux, or has no memory to spare.
        SetupBroken: the agent cannot be brought in or does not start, or something of it is left.
        GuestUnreachable: the guest does not answer.
    """
    machine, threads, free_mib = _look(way.shell)
    file = install_agent(way.program(machine), way.shell, Deadline(_COPY_SECONDS))
    left = "something unknown"
    try:
        entered = way.shell.run(
            f"sh -s {shlex.quote(file)} {int(seconds)} {' '.join(_MOVERS)}",
            Deadline(_COPY_SECONDS),
            _ENTER.encode(),
        )
        if entered.exit_code:
            raise SetupBroken(f"The guest cannot be prepared for our agent: {entered.stderr.strip()}")
        yield _started(way.shell, file, threads, free_mib)
    except BaseException:
        # The error says more; the guest's watcher takes the agent out where this cannot.
        with contextlib.suppress(Exception):
            _leave(way.shell, file)
        raise
    left = _leave(way.shell, file)
    if left:
        raise SetupBroken(f"Something of our agent is left in the guest: {left}.")


def _look(shell: GuestShell) -> tuple[str, int, int]:
    """Return the guest's processor, how many it has, and how many MiB are free there."""
    free = "sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"
    found = shell.run(f"id -u; uname -sm; nproc; {free}")
    words = found.stdout.split()
    if len(words) != 5 or words[1] != "Linux" or not (words[3] + words[4]).isdigit():
        raise NotApplicable(
            f"Our agent runs in Linux guests, and this one answered: {' '.join(words)[:200] or 'nothing'}."
        )
    if words[0] != "0":
        raise NotApplicable(
            f"Commands run as user {words[0][:20]} in the guest; our agent must be root, to lock its memory."
        )
    return words[2], max(1, min(int(words[3]), _MOST_THREADS)), int(words[4]) // 1024


def _started(shell: GuestShell, file: str, threads: int, free_mib: int) -> GuestWriters:
    pages = int(free_mib * MIB * SHARE) // PAGE_BYTES // threads
    if pages * threads * PAGE_BYTES < _LEAST_MIB * MIB:
        raise NotApplicable(f"The guest has {free_mib} MiB of free memory, too little for our agent.")
    agent, command = AgentClient(shell, shlex.quote(file)), shlex.quote(file)
    plan = WriterPlan(pages * threads * PAGE_BYTES, threads, _PATTERN, _SEED, RATE)
    deadline = Deadline(_FILL_SECONDS)
    agent.serve(plan, free_mib * MIB, deadline)
    agent.start()
    each = agent.status().data_pages // threads
    least = Schedule(PATTERNS.index(_PATTERN), each, _SEED, 0).first_pass_steps
    deadline.wait_for(
        lambda: min(agent.status().steps) >= least, "The first pass of our agent's writers", interval=0.3
    )
    return GuestWriters(agent, command, agent.status(), median_write_bucket(agent))


def _leave(shell: GuestShell, file: str) -> str:
    """Take the agent out and return what is left of it, "" for nothing."""
    name = shlex.quote(file)
    done = shell.run(f"sh {shlex.quote(file + '.leave')} {name}", Deadline(_COPY_SECONDS))
    said = " ".join(done.stdout.split())
    if done.exit_code and not said:
        said = done.stderr.strip() or f"exit code {done.exit_code}"
    return said
