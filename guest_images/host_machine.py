"""From a host image to the QEMU that runs it."""

from __future__ import annotations

from pathlib import Path

from guest_images.architectures import AMD64, I386
from guest_images.cache import Cache, Log
from guest_images.host_image import HostImage
from guest_images.qemu import provision_qemu
from harness.machine_config import MachineConfig

RUNS_HOSTS = "debian-13"
"""The QEMU that runs x86 hosts; arm64 ones take the build `arm` of the same version."""

RAM_MIB, VCPUS = 2048, 2
"""Of a host: what a guest of 128 MiB, its QEMU and the feature tests need; tests want two processors."""

# Two nodes, so that tests of moving pages between them have where to. Each is a socket of its own: where two
# nodes share one, Linux warns (arch/x86/kernel/smpboot.c, topology_sane()) and is tainted.
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
    image: HostImage,
    cache: Cache,
    log: Log,
    *,
    accel: str = "tcg",
    arguments: tuple[str, ...] = (),
    mirror: str | None = None,
) -> MachineConfig:
    """The machine that runs a host.

    Args:
        image: the host.
        cache: where the QEMU is.
        log: told what takes time.
        accel: `tcg` or `kvm`, which x86 hosts alone can have here.
        arguments: further ones for QEMU, say for disks.
        mirror: a Debian mirror to use instead of the machine's own.

    Raises:
        MachineryMissing, SetupBroken: the QEMU could not be fetched.
    """
    architecture = image.architecture
    ours = architecture in (AMD64, I386)
    qemu = provision_qemu(RUNS_HOSTS if ours else "arm", cache, log, mirror=mirror)
    return MachineConfig(
        executable=Path(qemu.executable),
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=image.cmdline,
        ram_mib=RAM_MIB,
        vcpus=VCPUS,
        accel=accel if ours else "tcg",
        machine=architecture.machine,
        extra=(*architecture.machine_arguments, *_NUMA, *arguments),
        disk=image.disk,
    )
