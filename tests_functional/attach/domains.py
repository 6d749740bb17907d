"""Boots a bare guest as a domain of a libvirt of our own, which QEMU's owner would use."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from guest_images.agent.bare_agent import BareAgent
from guest_images.libvirt import provide_libvirt
from harness.attach.machine import AttachedMachine
from harness.attach.virsh import Domain
from harness.errors import NotApplicable
from harness.guest.no_shell import NoShell
from harness.libvirt.daemon import Libvirt
from harness.qemu.architectures import X86_64
from tests_functional.lib.cycle import Source
from tests_functional.lib.guest import Guest, Stack, start_writers
from tests_functional.lib.run import Run
from tests_functional.lib.source_checks import baseline
from tests_functional.lib.time_limits import FILL_SECONDS

NAME = "snapproof"
MAX_STOP = 60.0

_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{ram_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  {memory}
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <loader type='rom'>{firmware}</loader>
    <kernel>{kernel}</kernel>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>{qemu}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    {devices}
  </devices>
</domain>
"""


@dataclass(frozen=True)
class DomainGuest:
    """A guest whose writers write, in a domain.

    Attributes:
        source: the guest and what it was like at first.
        domain: the way to it.
        libvirt: that runs it.
    """

    source: Source
    domain: Domain
    libvirt: Libvirt


@contextmanager
def own_libvirt(run: Run, name: str, user: str, *binds: Path) -> Iterator[Libvirt]:
    """Run a libvirt of our own within the `with`.

    Args:
        run: the test's run, of whose QEMU the domains are made.
        name: of the libvirt, see `guest_images.libvirt.LIBVIRTS`.
        user: of its QEMUs where it is one in system mode.
        binds: folders that it sees beside the cache and the test's own.

    Raises:
        NotApplicable: there can be none here, or none with this QEMU; the sentence has the probed reason.
    """
    if not run.stack.executable.is_relative_to(run.cache.folder) and run.folder not in binds:
        raise NotApplicable(
            f"'{run.stack.executable}' is none of the catalogue's QEMUs, and a libvirt of our own, which has "
            "its own /usr, can run only those."
        )
    require_x86_64(run.stack)
    packages = provide_libvirt(name, run.provisioning)
    run.say(f"Starting libvirt {packages.version}.")
    with Libvirt(packages, run.folder / "libvirt", (run.cache.folder, *binds), user) as libvirt:
        yield libvirt


def require_x86_64(stack: Stack) -> None:
    """Check that the stack's guest is one that these tests boot in a domain.

    Raises:
        NotApplicable: it is none of x86_64, or boots by its own boot loader.
    """
    if stack.image.kernel is None or stack.image.architecture != X86_64:
        raise NotApplicable("These tests boot a guest of x86_64 by its kernel in a domain.")


def domain_xml(stack: Stack, devices: str = "", memory: str = "") -> str:
    """Return the definition of a domain that boots the stack's bare guest.

    Raises:
        NotApplicable: the guest is none of x86, or has an operating system.
    """
    image = stack.image
    if not image.bare or image.kernel is None or image.architecture != X86_64:
        raise NotApplicable("These tests boot the bare guest of x86_64 in a domain.")
    return _DOMAIN.format(
        name=NAME,
        uuid=uuid.uuid4(),
        ram_mib=stack.ram_mib,
        vcpus=stack.vcpus,
        memory=memory,
        firmware=escape(str(image.firmware)),
        kernel=escape(str(image.kernel)),
        qemu=escape(str(stack.executable)),
        devices=devices,
    )


@contextmanager
def writing_domain(run: Run, libvirt: Libvirt, devices: str = "") -> Iterator[DomainGuest]:
    """Boot the run's bare guest in a domain, and yield it once its writers have written each page."""
    run.require_room()
    stack = run.stack
    libvirt.start(domain_xml(stack, devices))
    domain = Domain(NAME, str(libvirt.virsh), libvirt.uri)
    run.say("Starting the writers of the guest in the domain.")
    with AttachedMachine(domain, run.folder / "owner", MAX_STOP) as machine:
        target = stack.image.architecture.bare
        assert target is not None, "there is no bare image without"
        agent = BareAgent(machine, target.control_page)
        agent.wait_booted(run.deadline.at_most(stack.image.boot_seconds))
        guest = Guest(machine, NoShell(), agent)
        plan = stack.writer_plan(run.pattern, run.seed)
        status, counters = start_writers(guest, plan, run.deadline.at_most(FILL_SECONDS * stack.slowness))
        yield DomainGuest(Source(guest, counters, status, baseline(guest)), domain, libvirt)
