"""Boots a guest with an operating system as a domain of a libvirt: disk, firmware, console, guest agent."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from guest_images.disks.file_systems import make_ext4
from guest_images.guests.init_script import READY_LINE
from harness.attach.virsh import Domain
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.guest.guest_agent import CHANNEL_NAME, GuestAgent, GuestAgentShell, VirshChannel
from harness.libvirt.daemon import Libvirt
from harness.process import last_line, log_tail
from harness.qemu.configuration import MIB
from harness.qemu.disk import make_overlay
from tests_functional.attach.domains import NAME
from tests_functional.lib.guest import Stack
from tests_functional.lib.run import Run

_PING_SECONDS = 3.0
_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{ram_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    {firmware}
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <emulator>{qemu}</emulator>
    <controller type='usb' model='none'/>
    {disk}
    <interface type='user'><model type='virtio'/></interface>
    <serial type='file'><source path='{console}'/></serial>
    <channel type='unix'><target type='virtio' name='{channel}'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""
_DISK = """\
<disk type='file' device='disk'>
      <driver name='qemu' type='{kind}'/>
      <source file='{path}'/>
      <target dev='{name}' bus='virtio'/>
    </disk>"""
DATA_DISK = "/dev/vdb"
"""The guest's name of a second disk with an empty ext4 file system, for tests that write to it."""

_DATA_BYTES = 64 * MIB
_FIRMWARE = """\
<loader readonly='yes' type='pflash'>{code}</loader>
    <nvram>{variables}</nvram>"""


@dataclass(frozen=True)
class LinuxDomain:
    """A guest with an operating system, in a domain.

    Attributes:
        domain: the way to it.
        shell: of its guest agent, None where the guest has none.
    """

    domain: Domain
    shell: GuestAgentShell | None


def linux_domain_xml(run: Run, folder: Path) -> str:
    """Make the files of a domain that boots the run's guest, and return its definition.

    Args:
        run: of a stack, with UEFI firmware or without.
        folder: gets `disk.qcow2`, `data.raw`, `variables.fd` and, from the domain, `console.log`. QEMU's
            user must be able to enter it.
    """
    stack, disk, firmware = run.stack, "", ""
    image = stack.image
    if image.disk is not None:
        path, data = folder / "disk.qcow2", folder / "data.raw"
        make_overlay(image.disk, path)
        make_ext4(data, _DATA_BYTES, run.provisioning)
        for number, (file, kind) in enumerate(((path, "qcow2"), (data, "raw"))):
            disk += _DISK.format(path=escape(str(file)), kind=kind, name=f"vd{'ab'[number]}")
            _open_to_all(file)
    if stack.flash is not None:
        path = folder / "variables.fd"
        path.write_bytes(stack.flash.variables.read_bytes())
        firmware = _FIRMWARE.format(code=escape(str(stack.flash.code)), variables=escape(str(path)))
        _open_to_all(path)
    console = folder / "console.log"
    console.touch()
    _open_to_all(console)
    return _DOMAIN.format(
        name=NAME,
        uuid=uuid.uuid4(),
        ram_mib=stack.ram_mib,
        vcpus=stack.vcpus,
        machine=stack.machine,
        firmware=firmware,
        kernel=escape(str(image.kernel)),
        initrd=escape(str(image.initrd)),
        cmdline=escape(image.cmdline),
        qemu=escape(str(stack.executable)),
        disk=disk,
        console=escape(str(console)),
        channel=CHANNEL_NAME,
    )


def _open_to_all(path: Path) -> None:
    # For QEMU's user, and libvirt of tests changes no owners.
    path.chmod(0o666)


@contextmanager
def linux_domain(run: Run, libvirt: Libvirt, folder: Path) -> Iterator[LinuxDomain]:
    """Boot the run's guest in a domain, and yield it once it is up; it is destroyed on leaving.

    Raises:
        SetupBroken: the guest does not come up in time.
    """
    run.require_room()
    stack = run.stack
    libvirt.start(linux_domain_xml(run, folder))
    domain = Domain(NAME, str(libvirt.virsh), libvirt.uri)
    try:
        run.say("Waiting for the guest in the domain.")
        shell = _await_guest(stack, domain, folder, run.deadline.at_most(stack.image.boot_seconds))
        yield LinuxDomain(domain, shell)
    finally:
        libvirt.discard(NAME)


def _await_guest(stack: Stack, domain: Domain, folder: Path, deadline: Deadline) -> GuestAgentShell | None:
    """Wait until the guest is up: by its guest agent if it has a disk with one, else by its console."""
    agent, console = GuestAgent(VirshChannel(domain)), folder / "console.log"

    def up() -> bool:
        if stack.image.disk is None:
            return READY_LINE in console.read_text(errors="replace")
        return agent.answers(_PING_SECONDS)

    try:
        deadline.wait_for(up, "The guest in the domain", interval=0.5)
    except DeadlineExpired as error:
        last = last_line(log_tail(console))
        raise SetupBroken(
            f"The guest in the domain was not up in time; its console ends with: {last}"
        ) from error
    return GuestAgentShell(agent) if stack.image.disk is not None else None
