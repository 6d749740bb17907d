"""Tells what a vmstate file demands of the QEMU that restores it, as far as a stream says it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from validators.vmstate.memory_map import ram_blocks, type_of_machine
from validators.vmstate.stream.index import Block, SnapshotIndex

_MIB = 1 << 20
# QEMU 10.0 hw/pci/pci.c pcibus_get_dev_path(): domain, bus, slot and function of a device.
_ON_PCI = re.compile(r"0000:00:(?P<slot>[0-9a-f]{2})\.(?P<function>[0-7])/(?P<name>[^/]+)")
# On the root bus: what pc and q35 have in any case (hw/i386/pc_piix.c, pc_q35.c), by section.
_OF_THE_MACHINE = frozenset(
    ("I440FX", "PIIX3", "piix4_pm", "mch", "ICH9LPC", "ICH9 LPC", "ich9_ahci", "ich9_smb", "ide")
)
# hw/virtio: the section of a PCI device has the name of the virtio device. Others have mostly their own.
_VIRTIO = "virtio-"
_KVM_ONLY = "kvmclock"
# hw/core/cpu-common.c: each vCPU of most architectures has one of these.
_VCPU = "cpu_common"
_SERIAL = "serial"
# hw/i386/x86-common.c x86_bios_rom_init(); the SeaBIOS that comes with QEMU since 1.7 has 256 KiB.
_BIOS, _BIOS_BYTES = "pc.bios", 256 << 10

NOT_IN_A_STREAM = (
    "the CPU model and its features (the stream has registers only)",
    "disks, and what else is behind devices",
    "files of firmware and kernel (only how long their RAMBlocks are)",
    "properties of devices that change no state",
)
"""What a restore may need too, and no stream says."""


@dataclass(frozen=True)
class Need:
    """One demand.

    Attributes:
        option: of QEMU's command line, or a migration capability.
        reason: what in the stream demands it.
        sure: whether exactly this option is meant; a device of another name may have the same section.
    """

    option: str
    reason: str
    sure: bool = True


@dataclass(frozen=True)
class Needs:
    """What a file demands.

    Attributes:
        options: of the command line.
        capabilities: migration capabilities that must be on before the restore.
        blocks: RAMBlocks beside main memory, which must be there with these bytes.
    """

    options: tuple[Need, ...]
    capabilities: tuple[Need, ...]
    blocks: tuple[tuple[str, int], ...]


def needs_of(index: SnapshotIndex) -> Needs:
    """Return what a stream that was read to its end demands."""
    main = ram_blocks(index)
    others = tuple(
        (block.idstr, block.used_length) for number, block in enumerate(index.blocks) if number not in main
    )
    options = (
        *_machine(index, [index.blocks[number] for number in main]),
        *_firmware(index),
        *_vcpus(index),
        *_devices(index),
    )
    return Needs(options, tuple(_capabilities(index)), others)


def _machine(index: SnapshotIndex, main: list[Block]) -> Iterator[Need]:
    name, kind = index.configuration.machine, type_of_machine(index)
    size = sum(block.used_length for block in main)
    backends = [block for block in main if kind is None or block.idstr != kind.ram_block]
    machine = name
    if len(backends) == 1 and len(main) == 1:
        backend = backends[0].idstr
        machine += f",memory-backend={backend}"
        yield Need(
            f"-object memory-backend-ram,id={backend},size={size}",
            f"RAMBlock '{backends[0].idstr}'; any backend of that id and size will do",
        )
    elif backends:
        for block in backends:
            backend = block.idstr
            yield Need(
                f"-object memory-backend-ram,id={backend},size={block.used_length}",
                f"RAMBlock '{block.idstr}', of a NUMA node or a memory device, which is not told apart",
                sure=False,
            )
    if name:
        yield Need(f"-machine {machine}", "configuration")
    if size:
        length = f"{size // _MIB}M" if size % _MIB == 0 else f"{size}B"
        yield Need(f"-m {length}", f"RAMBlocks {', '.join(block.idstr for block in main)}")


def _firmware(index: SnapshotIndex) -> Iterator[Need]:
    for block in index.blocks:
        if block.idstr == _BIOS and block.used_length != _BIOS_BYTES:
            yield Need(
                "-bios FILE",
                f"RAMBlock '{_BIOS}'; a file of {block.used_length} bytes, whose content the stream replaces",
            )


def _vcpus(index: SnapshotIndex) -> Iterator[Need]:
    names = [section.idstr for section in index.devices]
    count = names.count(_VCPU)
    if count:
        yield Need(f"-smp {count}", f"{count} sections '{_VCPU}'; sockets and cores are not in it")
    if _KVM_ONLY in names:
        yield Need("-accel kvm", f"section '{_KVM_ONLY}', which only a guest under KVM has")


def _devices(index: SnapshotIndex) -> Iterator[Need]:
    yield Need("-nodefaults", "so that QEMU adds no device that is not in the stream")
    for section in index.devices:
        found = _ON_PCI.fullmatch(section.idstr)
        if section.idstr == _SERIAL:
            yield Need("-serial null", f"section '{_SERIAL}' ({section.instance})")
        elif found and found["name"] not in _OF_THE_MACHINE:
            name = found["name"]
            device = f"{name}-pci" if name.startswith(_VIRTIO) else name
            where = f"addr={found['slot']}.{found['function']}"
            yield Need(f"-device {device},{where}", f"section '{section.idstr}'", sure=False)


def _capabilities(index: SnapshotIndex) -> Iterator[Need]:
    if index.mapped:
        yield Need("mapped-ram", "layout of the file")
    for name in index.configuration.capabilities:
        if name != "mapped-ram":
            yield Need(name, "configuration")
