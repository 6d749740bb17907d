"""Makes the configuration of the QEMU that runs a host."""

from __future__ import annotations

from pathlib import Path

from guest_images.hosts.image import HostImage
from guest_images.provisioning import Provisioning
from guest_images.qemu.builds import provision_qemu
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.qemu.configuration import MachineConfig

RUNS_HOSTS = "debian-13"
"""The QEMU of this machine that runs hosts."""

RAM_MIB, VCPUS = 2048, 2
"""RAM and virtual CPUs of a host: enough for a guest of 128 MiB and for feature tests that need two CPUs."""

# Two NUMA nodes, so that tests can move pages between them. Each is a socket: where two nodes share a socket,
# Linux warns (arch/x86/kernel/smpboot.c, topology_sane()) and is tainted.
_NUMA = (
    *("-smp", f"{VCPUS},sockets={VCPUS}"),
    *(
        word
        for node in range(VCPUS)
        for word in (
            *("-object", f"memory-backend-ram,id=node{node},size={RAM_MIB // VCPUS}M"),
            *("-numa", f"node,nodeid={node},cpus={node},memdev=node{node}"),
        )
    ),
)


def host_config(
    image: HostImage, provisioning: Provisioning, *, accel: str = "tcg", arguments: tuple[str, ...] = ()
) -> MachineConfig:
    """Return the configuration of the QEMU that runs a host.

    Args:
        image: the host.
        provisioning: the mirror, the cache, and the log of slow steps.
        accel: `tcg` or `kvm`. A host of a foreign architecture runs under TCG in any case.
        arguments: further arguments for QEMU, e.g. for disks.

    Raises:
        MachineryMissing, SetupBroken: the QEMU could not be fetched.
    """
    architecture = image.architecture
    # 32-bit x86 has the same QEMU program, which can run it under KVM too.
    native = architecture.qemu == DEFAULT_ARCHITECTURE.qemu
    qemu = provision_qemu(RUNS_HOSTS, provisioning, emulates=architecture)
    return MachineConfig(
        executable=Path(qemu.executable),
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=image.cmdline,
        ram_mib=RAM_MIB,
        vcpus=VCPUS,
        accel=accel if native else "tcg",
        machine=architecture.machine,
        extra=(*architecture.machine_arguments, *_NUMA, *arguments),
        disk=image.disk,
    )
