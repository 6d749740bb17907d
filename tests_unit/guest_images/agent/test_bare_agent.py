"""The bare agent writes exactly the documented format, finds what is wrong, and refuses what it cannot do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guest_images.agent import bare_agent
from guest_images.agent.bare_agent import BareAgent
from guest_images.agent.client import WriterPlan
from guest_images.agent.counters import AgentCounters
from guest_images.agent.format import (
    CONTROL_MAGIC,
    DATA_MAGIC,
    DIRECTORY_MAGIC,
    PAGE_BYTES,
    PAGE_WORDS,
    REPORT_MAGIC,
    THREAD_MAGIC,
    DataWord,
    DirectoryWord,
    PageWord,
    ServeArgument,
)
from guest_images.agent.pages import PATTERNS, Pattern, Schedule, Words, checksum
from guest_images.cache import Cache, default_cache_folder
from guest_images.catalogue import DEFAULT_QEMU
from guest_images.guests.image import build_guest
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import MachineryMissing, SetupBroken
from harness.guest.shell import GuestUnreachable
from harness.qemu.architectures import Architecture
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.ram import dump_golden, ramblocks
from harness.qemu.spawned_machine import SpawnedMachine
from snapproof.runs.stack import find_qemu
from tests_functional.lib.guest import Stack

pytestmark = pytest.mark.vm

SEED = 0xFEDCBA9876543210
RAM_MIB = 32
PAGES = 1201
"""Split over two writers this gives an odd and an even number of pages, and more than one directory page."""

_SENT_TO = 12 * MIB
_MAGICS = (CONTROL_MAGIC, DATA_MAGIC, DIRECTORY_MAGIC, THREAD_MAGIC, REPORT_MAGIC)

Booted = tuple[SpawnedMachine, BareAgent]


@pytest.fixture(name="provisioning", scope="module")
def _provisioning(tmp_path_factory: pytest.TempPathFactory) -> Provisioning:
    """A cache without an agent."""
    return Provisioning(Cache(tmp_path_factory.mktemp("cache")), lambda _: None)


@pytest.fixture(name="boot")
def _boot(provisioning: Provisioning, tmp_path: Path) -> Iterator[Callable[..., Booted]]:
    with ExitStack() as machines:

        def boot(vcpus: int = 2, machine: str = "", guest: str = "bare", ram_mib: int = RAM_MIB) -> Booted:
            try:
                image = build_guest(guest, provisioning)
            except MachineryMissing as error:
                pytest.skip(error.sentence)
            stack = Stack(
                _qemu_for(image.architecture),
                image,
                accel="tcg",
                ram_mib=ram_mib,
                vcpus=vcpus,
                machine=machine or image.architecture.machine,
            )
            running = machines.enter_context(SpawnedMachine(stack.machine_config(), tmp_path / "machine"))
            assert image.architecture.bare is not None
            agent = BareAgent(running, image.architecture.bare.control_page)
            agent.wait_booted(Deadline(20))
            return running, agent

        yield boot


def _qemu_for(architecture: Architecture) -> Path:
    """The QEMU that a run takes where there is one for the architecture already; nothing is fetched."""
    provisioning = Provisioning(Cache(default_cache_folder()), lambda _: None)
    if shutil.which(architecture.qemu):
        return find_qemu(None, provisioning, architecture).executable
    found = sorted(default_cache_folder().glob(f"trees/{DEFAULT_QEMU}-qemu*/{architecture.qemu}"))
    if not found:
        pytest.skip(f"there is no {architecture.qemu}; 'snapproof run --guest' fetches one")
    return found[0]


def serve(
    agent: BareAgent, pattern: str = "random", pages: int = PAGES, threads: int = 2, rate: int = 0
) -> None:
    """Have the agent lay out so many data pages."""
    stride = 2 if pattern == "sparse" else 1
    plan = WriterPlan(pages * PAGE_BYTES * stride, threads, pattern, SEED, rate)
    agent.serve(plan, RAM_MIB * MIB, Deadline(20))


def run_until(agent: BareAgent, counters: AgentCounters, steps: int) -> None:
    """Let the writers run until each has made so many steps, then park them."""
    agent.resume()
    Deadline(20).wait_for(lambda: min(counters.steps()) >= steps, f"{steps} steps", interval=0.001)
    agent.pause()


def dumped(machine: SpawnedMachine, thread: int, pages: int) -> Words:
    """All data pages of a thread as its directory pages place them: uint64[pages, 512]."""
    memory = GuestMemory(machine)
    ram = np.frombuffer(memory.read(0x100000, RAM_MIB * MIB - 0x100000), "<u8").reshape(-1, PAGE_WORDS)
    frames = np.zeros(pages, np.int64)
    for page in ram[ram[:, PageWord.MAGIC] == np.uint64(int.from_bytes(b"SNAPDIRY", "little"))]:
        if page[DirectoryWord.THREAD] == thread:
            assert checksum(page[None, :])[0] == page[DirectoryWord.CHECKSUM]
            first, count = int(page[DirectoryWord.FIRST_INDEX]), int(page[DirectoryWord.COUNT])
            frames[first : first + count] = page[DirectoryWord.FRAMES :][:count]
    assert frames.min() > 0x100 and len(set(frames.tolist())) == pages
    return ram[frames - 0x100]


@pytest.mark.parametrize("pattern", Pattern, ids=PATTERNS)
def test_content_equals_the_model_at_every_pause(boot: Callable[..., Booted], pattern: int) -> None:
    """Whenever all writers are parked, each page is what its thread's step count implies."""
    machine, agent = boot()
    serve(agent, PATTERNS[pattern])
    counters = agent.counters(machine)
    for target in (0, 40, 700, 6500):
        run_until(agent, counters, target)
        report, status = agent.verify(), agent.status()
        assert (report.pages_checked, report.mismatch_count, status.errors) == (PAGES, 0, 0)
        for thread, steps in enumerate(status.steps):
            schedule = Schedule(pattern, (PAGES + 1 - thread) // 2, SEED, thread)
            generation, step = schedule.state(steps)
            index = np.arange(schedule.pages, dtype=np.uint64)
            wanted = schedule.content(status.nonce, index, generation, step)
            np.testing.assert_array_equal(dumped(machine, thread, schedule.pages), wanted)


def test_status_tells_what_the_pages_say(boot: Callable[..., Booted]) -> None:
    """Counters, states, clocks and identity come from the pages; two readings of a writer's clock advance."""
    machine, agent = boot()
    serve(agent)
    idle = agent.status()
    assert (idle.state, idle.steps, idle.data_pages) == ("idle", (0, 0), PAGES)
    counters = agent.counters(machine)
    run_until(agent, counters, 5000)
    agent.reset_stats()
    paused = agent.status()
    assert paused.state == "paused" and paused.boot_id == idle.boot_id and paused.nonce == idle.nonce
    assert sum(paused.histogram) == 0
    agent.resume()
    running = agent.status()
    assert running.state == "running"
    assert running.monotonic_ns >= paused.monotonic_ns > 0
    assert [page.block for page in counters.pages.threads] == ["pc.ram", "pc.ram"]
    assert counters.pages == AgentCounters.find(machine, running.nonce).pages


def test_wrong_pages_are_found(boot: Callable[..., Booted]) -> None:
    """A flipped bit is found by the check of all pages, and by the writer that overwrites the page."""
    machine, agent = boot()
    serve(agent, "sequential")
    counters = agent.counters(machine)
    run_until(agent, counters, 700)
    agent.corrupt(1, 17)
    report = agent.verify()
    assert report.mismatch_count == 1
    found = report.mismatches[0]
    assert (found["kind"], found["thread"], found["index"], found["word"]) == ("data", 1, 17, 300)
    assert found["found_generation"] == found["expected_generation"] >= 2
    run_until(agent, counters, min(counters.steps()) + PAGES)
    assert agent.status().errors == 1 and agent.verify().mismatch_count == 0


def test_pages_on_both_sides_of_the_hole(
    boot: Callable[..., Booted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages lie on both sides of the hole in front of 4 GiB, and each is checked and named where it is."""
    low, high = 26 * MIB, 4 << 30
    windows = {ServeArgument.LOW_RAM: low, ServeArgument.HIGH_START: high}
    # The machine's rule would need gigabytes of RAM for a hole.
    monkeypatch.setattr(bare_agent, "ram_windows", lambda *_: windows)
    machine, agent = boot(machine="pc,max-ram-below-4g=26M")
    serve(agent, "random", pages=1600)
    counters = agent.counters(machine)
    run_until(agent, counters, 2000)
    assert agent.verify().mismatch_count == 0
    agent.corrupt(0, 0)
    agent.corrupt(1, 799)
    frames = [found["pfn"] for found in agent.verify().mismatches]
    assert frames[0] * PAGE_BYTES < low
    assert high <= frames[1] * PAGE_BYTES < high + RAM_MIB * MIB - low
    memory = GuestMemory(machine)
    for thread, frame in enumerate(frames):
        words = np.frombuffer(memory.read(frame * PAGE_BYTES, PAGE_BYTES), "<u8")
        assert (words[DataWord.THREAD], words[DataWord.INDEX]) == (thread, (0, 799)[thread])


@pytest.mark.parametrize(
    ("machine", "mib", "windows"),
    [
        ("pc", 3583, (3583 * MIB, 0)),
        ("pc,mem-merge=on", 4608, (3072 * MIB, 1 << 32)),
        ("pc-i440fx-10.0", 3584, (3072 * MIB, 1 << 32)),
        ("q35", 4608, (2048 * MIB, 1 << 32)),
        ("microvm", 4608, (3072 * MIB, 1 << 32)),
        ("isapc", 4608, (2048 * MIB, 0)),
        ("virt", 8192, (8192 * MIB, 0)),
    ],
)
def test_where_ram_lies(machine: str, mib: int, windows: tuple[int, int]) -> None:
    """RAM below the hole, and where the rest begins; on a machine type that is not known what is sure."""
    found = bare_agent.ram_windows(machine, mib * MIB)
    assert (found[ServeArgument.LOW_RAM], found[ServeArgument.HIGH_START]) == windows


def test_ram_that_nobody_uses() -> None:
    """The last 4 MiB, below the hole or behind it."""
    assert bare_agent.free_ram_at("pc", 256 * MIB) == 252 * MIB
    assert bare_agent.free_ram_at("q35", 3072 * MIB) == (4096 + 1024 - 4) * MIB


def test_content_of_an_older_write_is_found(boot: Callable[..., Booted]) -> None:
    """A page that is whole, but not of the last write, is wrong; generations tell by how much."""
    machine, agent = boot(vcpus=1)
    serve(agent, "sequential", threads=1, rate=1000)
    counters = agent.counters(machine)
    run_until(agent, counters, PAGES + 5)
    memory, block = GuestMemory(machine), {b.idstr: b for b in ramblocks(machine)}["pc.ram"]
    assert block.host_address
    first = int(dumped(machine, 0, PAGES)[2, DataWord.STEP])
    assert first >= PAGES
    status = agent.status()
    schedule = Schedule(Pattern.SEQUENTIAL, PAGES, SEED, 0)
    old = schedule.content(status.nonce, *(np.array([n], np.uint64) for n in (2, 1, 2)))
    ram = np.frombuffer(memory.read(0x100000, RAM_MIB * MIB - 0x100000), "<u8").reshape(-1, PAGE_WORDS)
    data = (ram[:, PageWord.MAGIC] == old[0, PageWord.MAGIC]) & (ram[:, DataWord.INDEX] == 2)
    memory.write(0x100000 + int(np.flatnonzero(data)[0]) * PAGE_BYTES, old.astype("<u8").tobytes())
    found = agent.verify().mismatches[0]
    assert (found["index"], found["expected_generation"], found["found_generation"]) == (2, 2, 1)


def test_refused_commands(boot: Callable[..., Booted]) -> None:
    """What cannot be done is refused with a reason, and the agent goes on."""
    _, agent = boot(vcpus=1)
    with pytest.raises(SetupBroken, match="wrong state"):
        agent.start()
    with pytest.raises(SetupBroken, match="no status"):
        agent.status()
    with pytest.raises(SetupBroken, match="too small for that plan"):
        serve(agent, pages=RAM_MIB * MIB // PAGE_BYTES, threads=1)
    serve(agent, threads=1)
    with pytest.raises(SetupBroken, match="wrong state"):
        serve(agent, threads=1)
    with pytest.raises(SetupBroken, match="out of its range"):
        agent.corrupt(0, PAGES)
    agent.start()
    with pytest.raises(SetupBroken, match="wrong state"):
        agent.verify()


def test_agent_that_ends_wipes_its_pages(boot: Callable[..., Booted], tmp_path: Path) -> None:
    """No page in RAM is an agent's any more, and the mailbox stays."""
    machine, agent = boot()
    serve(agent)
    run_until(agent, agent.counters(machine), 700)
    agent.pause()
    agent.verify()
    found = []
    for name in ("before", "after"):
        machine.qmp.execute("stop")
        dump_golden(machine, tmp_path / name)
        machine.qmp.execute("cont")
        ram = np.fromfile(tmp_path / name / "block-000.ram", "<u8").reshape(-1, PAGE_WORDS)
        found.append({magic: int((ram[:, 0] == np.uint64(magic)).sum()) for magic in _MAGICS})
        if name == "before":
            agent.quit()
    assert found[0] == dict(zip(_MAGICS, (1, PAGES, 2 * 2, 2, 2), strict=True))
    assert found[1] == dict.fromkeys(_MAGICS, 0)
    serve(agent)


def test_another_agent_after_the_first(boot: Callable[..., Booted]) -> None:
    """An agent that was ended leaves no control page, and the next one has pages of its own."""
    machine, agent = boot()
    serve(agent)
    run_until(agent, agent.counters(machine), 700)
    first = agent.status().nonce
    agent.quit()
    with pytest.raises(SetupBroken, match="were not found"):
        AgentCounters.find(machine, first)
    serve(agent, "hot")
    counters = agent.counters(machine)
    run_until(agent, counters, 700)
    status = agent.status()
    assert status.nonce != first and status.errors == 0 and agent.verify().mismatch_count == 0


@pytest.mark.parametrize(
    ("guest", "machine", "ram_mib"),
    [
        ("bare", "q35", RAM_MIB),
        ("bare", "microvm", RAM_MIB),
        ("bare-i386", "pc", RAM_MIB),
        ("bare-i386", "microvm", RAM_MIB),
        ("bare-aarch64", "virt", RAM_MIB),
        ("bare-riscv64", "virt", RAM_MIB),
        ("bare-s390x", "s390-ccw-virtio", RAM_MIB),
        # QEMU refuses to start it with less.
        ("bare-ppc64", "pseries", 256),
        ("bare-ppc64le", "pseries", 256),
    ],
)
def test_machines(boot: Callable[..., Booted], guest: str, machine: str, ram_mib: int) -> None:
    """On each of them several vCPUs write, all memory is right, a flipped bit is found, and time goes on."""
    running, agent = boot(3, machine, guest, ram_mib)
    serve(agent, threads=3)
    counters = agent.counters(running)
    run_until(agent, counters, 2000)
    assert agent.verify().mismatch_count == 0
    before = agent.status()
    agent.corrupt(2, 7)
    assert [found["index"] for found in agent.verify().mismatches] == [7]
    run_until(agent, counters, 3000)
    after = agent.status()
    assert after.errors == 1
    assert 0 < after.monotonic_ns - before.monotonic_ns < 60 * 10**9
    assert 0 <= (after.realtime_ns - after.monotonic_ns) - (before.realtime_ns - before.monotonic_ns) < 10**9


def test_data_pages_lie_where_they_are_sent(boot: Callable[..., Booted]) -> None:
    """At an address that the host names, one after the other; it must be that of a page."""
    machine, agent = boot()
    plan = WriterPlan(PAGES * PAGE_BYTES, 2, "random", SEED, address=_SENT_TO)
    with pytest.raises(SetupBroken, match="a number is out of its range"):
        agent.serve(replace(plan, address=_SENT_TO + 8), RAM_MIB * MIB, Deadline(20))
    agent.serve(plan, RAM_MIB * MIB, Deadline(20))
    run_until(agent, agent.counters(machine), 2000)
    assert agent.verify().mismatch_count == 0
    there = np.frombuffer(GuestMemory(machine).read(_SENT_TO, PAGES * PAGE_BYTES), "<u8")
    pages = [dumped(machine, thread, (PAGES + 1 - thread) // 2) for thread in range(2)]
    assert np.array_equal(there.reshape(-1, PAGE_WORDS), np.concatenate(pages))


def test_guest_that_stands_still_does_not_answer(boot: Callable[..., Booted]) -> None:
    """A command to a stopped guest ends with the time limit, and says whose it was."""
    machine, agent = boot(vcpus=1)
    machine.qmp.execute("stop")
    with pytest.raises(GuestUnreachable, match="did not answer 'TIME' within 1 s"):
        agent.serve(WriterPlan(PAGES * PAGE_BYTES), RAM_MIB * MIB, Deadline(1))
