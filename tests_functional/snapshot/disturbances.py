"""Takes snapshots while devices, the guest's kernel or the balloon write to guest RAM."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken, SnapproofError
from harness.guest.shell import GuestShell
from harness.qemu.configuration import MIB, qemu_quoted
from tests_functional.lib.bare_nic import BareNic
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, writing_guest
from tests_functional.lib.guest import Guest, Stack, open_shell
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SAVE_SECONDS

# Passes of a loop during one save, which takes a second or two.
_LEAST_PASSES = 3
_PASSES_SECONDS = 60.0
_LOGIN_SECONDS = 30.0
_DISK_MIB = 16
_COUNT = "/tmp/snapproof-passes"
_SENT = bytes(64 << 10)
_BALLOON_MIB = 16
_PACKET_SECONDS = 0.02


@dataclass
class _Passes:
    """The progress of a loop on the host."""

    done: int = 0
    ended: str = ""
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Disturbance:
    """A writer to guest RAM other than the agent.

    Attributes:
        reason: why it is tested.
        arguments: further arguments for QEMU; `{folder}` is the test's folder.
        guest_loop: shell commands that the guest repeats; one pass takes some tens of milliseconds.
        host_pass: the function that the host repeats, if the guest runs no loop.
        packets: whether a bare guest does as well, whose network card is sent packets.
        disk: whether it needs a disk image of random content.
    """

    reason: str
    arguments: tuple[str, ...] = ()
    guest_loop: str = ""
    host_pass: Callable[[Guest, GuestShell, int], None] | None = None
    packets: bool = False
    disk: bool = False

    def stack(self, stack: Stack, folder: Path) -> Stack:
        """Return the stack with the devices that it needs."""
        if self.disk:
            (folder / "disk.raw").write_bytes(os.urandom(_DISK_MIB * MIB))
        return replace(
            stack, extra=tuple(text.replace("{folder}", qemu_quoted(folder)) for text in self.arguments)
        )


def _send(_guest: Guest, shell: GuestShell, _number: int) -> None:
    shell.run("cat > /dev/null", stdin=_SENT)


def _resize_balloon(guest: Guest, _shell: GuestShell, number: int) -> None:
    full = guest.machine.config.ram_mib
    guest.machine.qmp.execute("balloon", {"value": (full - (number % 2) * _BALLOON_MIB) * MIB})
    time.sleep(0.05)


DISTURBANCES: Mapping[str, Disturbance] = {
    "disk-reads": Disturbance(
        "QEMU's main loop, and no vCPU, writes a disk's data to guest RAM",
        (
            "-blockdev", "driver=file,filename={folder}/disk.raw,node-name=disk0,read-only=on",
            "-device", "virtio-blk-pci,drive=disk0",
        ),
        "dd if=/dev/vda of=/dev/null bs=64k count=16; echo 1 > /proc/sys/vm/drop_caches",
        disk=True,
    ),
    "network-receive": Disturbance(
        "the NIC writes packets to guest RAM at any time", host_pass=_send, packets=True
    ),
    "random-numbers": Disturbance(
        "virtio-rng fills buffers of the guest", guest_loop="dd if=/dev/hwrng of=/dev/null bs=512 count=8"
    ),
    "kernel-writes": Disturbance(
        "the guest's kernel allocates, fills and frees pages, page tables included",
        guest_loop="dd if=/dev/urandom of=/tmp/fill bs=64k count=32; rm /tmp/fill",
    ),
    "balloon": Disturbance(
        "a balloon returns pages to the host, which must wait while they are being saved",
        ("-device", "virtio-balloon-pci,id=balloon0"),
        host_pass=_resize_balloon,
    ),
    "free-page-reporting": Disturbance(
        "the guest reports free pages, and the host drops them",
        ("-device", "virtio-balloon-pci,id=balloon0,free-page-reporting=on"),
        "dd if=/dev/zero of=/tmp/fill bs=64k count=64; rm /tmp/fill",
    ),
}  # fmt: skip


def disturbed(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario for one of DISTURBANCES: stopped at T0 with a golden image, and live."""
    return lambda run: _disturbed(run, DISTURBANCES[name])


def _disturbed(run: Run, disturbance: Disturbance) -> Outcome:
    begun = time.monotonic()
    if run.stack.image.bare and not disturbance.packets:
        raise NotApplicable("This test needs an operating system in its guest, and a bare guest has none.")
    stack = disturbance.stack(run.stack, run.folder)
    run = replace(run, stack=stack.with_nic() if disturbance.packets else stack)
    cycles: list[Cycle] = []
    with writing_guest(run) as source, _at_work(run, source, disturbance) as passes:
        for number, flow in enumerate((Flow.STOP_MIGRATE_CONT, Flow.LIVE), 1):
            label = f"{number:02d}-{flow.label}"
            cycles.append(_cycle(run, source, flow, label, passes, disturbance.host_pass is not None))
    return outcome_of_cycles(run, cycles, time.monotonic() - begun)


def _cycle(run: Run, source: Source, flow: Flow, label: str, passes: Callable[[], int], host: bool) -> Cycle:
    run.require_room()
    folder = run.folder / label
    folder.mkdir()
    run.say(f"{label}: saving ({flow.value}).")
    limit = run.deadline.at_most(SAVE_SECONDS)
    before = passes()
    # A pass of the host may be late on a busy host, so the sink is slow until enough passes were made. For a
    # loop in the guest the sink is not slow: the guest's kernel would wait for one page after the other,
    # and its writers, on one vCPU, for the kernel.
    acts = Acts(saving=lambda: await_passes(passes, limit.at_most(_PASSES_SECONDS))) if host else Acts()
    snapshot = take(flow, source.guest, source.counters, folder, limit, acts)
    _require(passes() - before)
    return judge_cycle(run, source, snapshot, label, judge_source(source.guest, source.before))


def await_passes(passes: Callable[[], int], limit: Deadline) -> None:
    """Wait until a disturbance has made some passes from now on.

    Args:
        passes: returns the number of passes so far.
        limit: for all of them; the count after the save shows if it was too short.
    """
    before = passes()
    while passes() - before < _LEAST_PASSES and not limit.expired:
        limit.nap(0.02)


def _require(passes: int) -> None:
    """Raise SetupBroken if the disturbance made too few passes while RAM was saved."""
    if passes < _LEAST_PASSES:
        raise SetupBroken(
            f"The disturbance made {passes} passes during the save, fewer than {_LEAST_PASSES}, so this run "
            "proves nothing; see in the test's log whether the disturbance ended by itself."
        )


@contextmanager
def _at_work(run: Run, source: Source, disturbance: Disturbance) -> Iterator[Callable[[], int]]:
    """Keep the disturbance going for a `with` block; yield a function that returns its number of passes."""
    guest = source.guest
    if run.stack.image.bare:
        with _packets(run, guest) as received:
            yield received
        return
    if disturbance.host_pass is None:
        # The loop appends a byte for each pass: a number that is rewritten could be read while it is empty.
        loop = f"(while :; do {disturbance.guest_loop}; printf . >> {_COUNT}; done) > /dev/null 2>&1 &"
        guest.shell.check(f": > {_COUNT}; {loop}")
        yield lambda: int(guest.shell.check(f"wc -c < {_COUNT}"))
        return
    host_pass = disturbance.host_pass
    with (
        open_shell(guest.machine, run.stack, Deadline(_LOGIN_SECONDS)) as shell,
        _repeated(run, lambda number: host_pass(guest, shell, number)) as passes,
    ):
        yield lambda: passes.done


@contextmanager
def _packets(run: Run, guest: Guest) -> Iterator[Callable[[], int]]:
    """Send packets to a bare guest; a pass is a packet that its network card has written to guest RAM.

    Raises:
        NotApplicable: the host cannot drive a card of such a machine.
    """
    if not run.stack.nic:
        raise NotApplicable(
            f"On the machine type '{run.stack.machine}' the network card of a bare guest cannot be driven "
            "from outside; choose another machine type, or a guest with an operating system."
        )
    nic = BareNic(guest.machine)

    def send(_number: int) -> None:
        nic.poke()
        time.sleep(_PACKET_SECONDS)

    with _repeated(run, send):
        yield nic.received


@contextmanager
def _repeated(run: Run, once: Callable[[int], None]) -> Iterator[_Passes]:
    """Repeat a pass, in a thread of its own, for a `with` block; it is given its number."""
    passes = _Passes()
    thread = threading.Thread(target=_repeat, args=(once, passes), daemon=True)
    thread.start()
    try:
        yield passes
    finally:
        passes.stop.set()
        thread.join(_LOGIN_SECONDS)
        if passes.ended:
            run.say(f"The disturbance ended by itself: {passes.ended}")


def _repeat(once: Callable[[int], None], passes: _Passes) -> None:
    """Repeat a pass until told to stop; an error ends the loop, which shows in the count of passes."""
    try:
        while not passes.stop.is_set():
            once(passes.done)
            passes.done += 1
    except SnapproofError as error:
        passes.ended = error.sentence
