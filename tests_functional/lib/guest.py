"""Boots a guest, logs in by SSH and starts the agent's writers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from guest_images.agent.bare_agent import BareAgent, ram_windows
from guest_images.agent.client import Agent, AgentClient, AgentStatus, WriterPlan
from guest_images.agent.counters import AgentCounters
from guest_images.agent.format import PAGE_BYTES, ServeArgument
from guest_images.agent.pages import PATTERNS, Schedule
from guest_images.guests.image import GuestImage
from harness.deadline import Deadline
from harness.errors import MachineryMissing, NotApplicable, SetupBroken, SnapproofError, SubjectFailed
from harness.guest.identity import SshIdentity
from harness.guest.no_shell import NoShell
from harness.guest.shell import GuestShell, GuestUnreachable
from harness.linux.kvm import find_kvm
from harness.process import last_line, log_tail
from harness.qemu.accelerator import kvm_sentence
from harness.qemu.configuration import MIB, MachineConfig, QemuSettings, type_of
from harness.qemu.disk import Disk
from harness.qemu.kept_disk import keep_disk
from harness.qemu.machine import Machine
from harness.qemu.spawned_machine import SpawnedMachine
from harness.qemu.virtio_driver import can_drive
from tests_functional.lib.bare_nic import BareNic
from tests_functional.lib.guest_size import COVERAGE, fitting_ram
from tests_functional.lib.own_guest import agent_command, prepare


@dataclass(frozen=True)
class Stack(QemuSettings):
    """The QEMU under test and the guest that a scenario boots; the agent has a writer thread for each vCPU.

    Attributes:
        image: the guest.
        coverage: share of guest RAM that the writers fill; less only where RAM is so small that kernel
            and initramfs need more of it.
        host_key_file: keeps the first host key seen of a guest whose key is not known.
        capabilities: migration capabilities that QEMU knows; empty where it was not asked.
        plugged_mib: RAM in MiB that is plugged in beside `ram_mib` before the writers start.
        plugged_at: guest-physical address where the writers of a bare guest fill `plugged_mib` in place of
            `ram_mib`; 0 where nobody gives them that memory, or the guest's kernel does.
        nic: a bare guest has a network card too, which the host drives; see `with_nic`.
    """

    image: GuestImage
    coverage: float = COVERAGE
    host_key_file: Path | None = None
    capabilities: tuple[str, ...] = ()
    plugged_mib: int = 0
    plugged_at: int = 0
    nic: bool = False

    @property
    def slowness(self) -> float:
        """How many times as long as usual a test's steps may take with its guest."""
        return self.image.slowness

    @property
    def total_mib(self) -> int:
        """The guest's RAM in MiB, plugged memory included."""
        return self.ram_mib + self.plugged_mib

    def fitted(self) -> Stack:
        """Return the stack with as much RAM as the image needs."""
        image = self.image
        multiple = image.architecture.machines[0].ram_multiple_mib
        return replace(self, ram_mib=fitting_ram(self.ram_mib, self.coverage, image.own_mib, multiple))

    def machine_config(self, disk: Disk | None = None) -> MachineConfig:
        """Return the configuration that source and restored guest share.

        Args:
            disk: what a restored guest finds as its disk; the image's own by default.
        """
        image = self.image
        kind = image.architecture.machine_type(type_of(self.machine))
        return MachineConfig(
            **{**self.settings(), "extra": (*image.machine_arguments, *self.extra)},
            kernel=image.kernel,
            initrd=image.initrd,
            cmdline=image.cmdline,
            disk=disk or image.disk,
            firmware=image.firmware,
            virtio=self.nic or not image.bare,
            by_loader=image.bare and kind is not None and not kind.takes_bare(type_of(self.machine)),
        )

    def with_nic(self) -> Stack:
        """Return the stack with a network card for its bare guest, where the host can drive one.

        A guest with an operating system has one in any case.
        """
        found = self.image.bare and can_drive(self.image.architecture, self.machine)
        return replace(self, nic=True) if found else self

    def writer_plan(self, pattern: str, seed: int) -> WriterPlan:
        """Return the writers for the covered share of guest RAM, rounded up to whole pages per thread.

        Raises:
            NotApplicable: the agent of a bare guest cannot use as much.
        """
        page = PAGE_BYTES * self.vcpus
        wanted = int((self.plugged_mib if self.plugged_at else self.total_mib) * MIB * self.coverage)
        size = (wanted + page - 1) // page * page
        if self.image.bare and not self.plugged_at:
            self._require_reachable(size)
        return WriterPlan(size, self.vcpus, pattern, seed, address=self.plugged_at)

    def _require_reachable(self, size: int) -> None:
        """Check that a bare agent finds so much RAM at addresses that it uses.

        Raises:
            NotApplicable: it does not.
        """
        target, whole = self.image.architecture.bare, self.ram_mib * MIB
        windows = ram_windows(self.machine, whole)
        joins = target is not None and target.joins_ram
        usable = whole if joins and windows[ServeArgument.HIGH_START] else windows[ServeArgument.LOW_RAM]
        if usable == whole or size <= usable - self.image.own_mib * MIB:
            return
        why = (
            "where that machine type has the rest is not known"
            if joins
            else "addresses of 32 bits do not reach behind the hole in front of 4 GiB"
        )
        raise NotApplicable(
            f"The agent of guest '{self.image.name}' uses the first {usable // MIB} MiB of RAM on machine "
            f"type '{self.machine}', and this test writes to {size // MIB} of {self.ram_mib} MiB: {why}."
        )

    def identity(self) -> SshIdentity:
        """Return the identity to log in to the guest with.

        Raises:
            NotApplicable: a bare guest has nothing to log in to.
        """
        image = self.image
        if image.ssh_private_key is None:
            raise NotApplicable("This test logs in to its guest, and a bare guest has no SSH server.")
        return SshIdentity(image.ssh_user, image.ssh_private_key, image.ssh_host_key_line, self.host_key_file)


@dataclass(frozen=True)
class Guest:
    """A running guest and the handles on it."""

    machine: Machine
    shell: GuestShell
    agent: Agent


@contextmanager
def booted(stack: Stack, folder: Path, deadline: Deadline) -> Iterator[Guest]:
    """Boot a guest and make it ready, logged in where it has an SSH server; everything is ended on leaving.

    Raises:
        SetupBroken: the guest does not answer, or is not fit to be tested.
    """
    machine = SpawnedMachine(stack.machine_config(), folder)
    if stack.image.bare:
        with ExitStack() as opened:
            with kvm_explained(stack):
                opened.enter_context(machine)
                guest = _bare_guest(machine, stack, deadline)
            if stack.nic:
                BareNic(machine).start()
            yield guest
        return
    with ExitStack() as opened:
        with kvm_explained(stack):
            opened.enter_context(machine)
            shell = opened.enter_context(_first_login(stack, machine, deadline))
        prepare(stack.image, shell, deadline)
        keep_disk(machine)
        yield Guest(machine, shell, AgentClient(shell, agent_command(stack.image, shell)))


@contextmanager
def kvm_explained(stack: Stack) -> Iterator[None]:
    """Say, of a guest that does not boot under KVM within the `with`, what KVM can do on this host."""
    try:
        yield
    except (GuestUnreachable, SubjectFailed) as error:
        if stack.accel != "kvm":
            raise
        why = kvm_sentence(error.sentence, stack.image.bare)
        if not find_kvm().usable:
            raise MachineryMissing(why, error.evidence) from error
        raise type(error)(why, error.evidence, code=error.code, fields=error.fields) from error


@contextmanager
def open_shell(machine: Machine, stack: Stack, deadline: Deadline) -> Iterator[GuestShell]:
    """Open a shell in the guest of a running machine; the one place that knows which way in is used.

    Raises:
        GuestUnreachable: the guest does not answer in time, or its QEMU has ended.
        SetupBroken: the guest is not the expected one, or refuses us.
    """
    # It imports paramiko, which takes 0.3 s: not for a list of the tests.
    from harness.guest.ssh import SshShell

    with SshShell(machine.ssh, stack.identity()) as shell:
        shell.connect(deadline, machine.alive)
        yield shell


@contextmanager
def _first_login(stack: Stack, machine: Machine, deadline: Deadline) -> Iterator[GuestShell]:
    with ExitStack() as opened:
        try:
            shell = opened.enter_context(open_shell(machine, stack, deadline))
        except GuestUnreachable as error:
            raise _silent_guest(stack, machine, error) from error
        yield shell


def _silent_guest(stack: Stack, machine: Machine, error: GuestUnreachable) -> SnapproofError:
    """Return the error for a guest that does not answer; for a user's own guest it says what to check."""
    if stack.image.agent is None:
        return error
    said = last_line(log_tail(machine.folder / "qemu.log"))
    words = f" QEMU's last words: {said}." if said and not machine.alive() else ""
    return SetupBroken(
        f"{error.sentence}{words} It must boot from a virtio disk, get its address by DHCP on virtio-net and "
        f"run an SSH server; what it printed is in '{machine.folder / 'console.log'}'."
    )


@contextmanager
def way_in(machine: Machine, stack: Stack, deadline: Deadline) -> Iterator[GuestShell]:
    """Open the way in to the guest of a running machine: a shell, or a wait for a bare guest's agent.

    Raises:
        GuestUnreachable: the guest does not answer in time, or its QEMU has ended.
    """
    if stack.image.bare:
        yield _bare_guest(machine, stack, deadline).shell
        return
    with open_shell(machine, stack, deadline) as shell:
        yield shell


@contextmanager
def logged_in(machine: Machine, stack: Stack, deadline: Deadline) -> Iterator[Guest]:
    """Find the way in to the guest of a running machine anew, and its agent, which runs already."""
    if stack.image.bare:
        guest = _bare_guest(machine, stack, deadline)
        assert isinstance(guest.agent, BareAgent)
        # Its mailbox can be read in a guest that stands still, too.
        guest.agent.wait_answer(deadline)
        if stack.nic:
            # As a login shows for a guest that has an SSH server.
            BareNic(machine).wait_received(deadline)
        yield guest
        return
    with open_shell(machine, stack, deadline) as shell:
        yield Guest(machine, shell, AgentClient(shell, agent_command(stack.image, shell)))


def _bare_guest(machine: Machine, stack: Stack, deadline: Deadline) -> Guest:
    """Return a bare guest once its agent takes commands.

    Raises:
        GuestUnreachable: it does not in time.
    """
    target = stack.image.architecture.bare
    assert target is not None, "there is no bare image without"
    agent = BareAgent(machine, target.control_page)
    agent.wait_booted(deadline)
    return Guest(machine, NoShell(), agent)


def start_writers(guest: Guest, plan: WriterPlan, deadline: Deadline) -> tuple[AgentStatus, AgentCounters]:
    """Start the agent, let it write, and wait until each page has been written once.

    Only then a page that is older or newer than T0 differs from the page at T0.

    Raises:
        DeadlineExpired: the writers did not get through all pages in time.
    """
    ram_bytes = guest.machine.config.ram_mib * MIB
    guest.agent.serve(plan, ram_bytes, deadline)
    guest.agent.start()
    status = guest.agent.status()
    counters = guest.agent.counters(guest.machine)
    pages_each = status.data_pages // plan.threads
    pass_steps = Schedule(PATTERNS.index(plan.pattern), pages_each, plan.seed, 0).first_pass_steps
    deadline.wait_for(lambda: min(counters.steps()) >= pass_steps, "The writers' first pass over all pages")
    return guest.agent.status(), counters
