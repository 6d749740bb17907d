"""Lists the foreign writers, each with what QEMU and the host need for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Protocol

from harness.deadline import Deadline
from harness.qemu.architectures import PC, MachineType
from harness.qemu.board import Board, board_arguments, reachable
from harness.qemu.configuration import qemu_quoted
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.probe import has_block_driver, has_device, has_netdev
from tests_functional.foreign_writers.blitter_copies import TARGET_OFFSET, BlitterCopies
from tests_functional.foreign_writers.card_packets import E1000, RTL8139, CardPackets
from tests_functional.foreign_writers.disk_reads import DiskReads
from tests_functional.foreign_writers.file_reads import FileReads
from tests_functional.foreign_writers.fw_cfg import FILE, FwCfg
from tests_functional.foreign_writers.marks import Marks
from tests_functional.foreign_writers.packets import Packets
from tests_functional.foreign_writers.shared_memory import IVSHMEM_MIB, IvshmemPeer, ram_file
from tests_functional.foreign_writers.socket_bytes import CONSOLE, ENTROPY, SocketBytes
from tests_functional.foreign_writers.target import Target
from tests_functional.lib.daemons import FILE_SYSTEM, STORAGE, Daemon
from tests_functional.lib.drivers import virtio_disk
from tests_functional.lib.drivers.ahci import AhciDisk
from tests_functional.lib.drivers.am53c974 import Am53c974Disk
from tests_functional.lib.drivers.disk import DiskDriver
from tests_functional.lib.drivers.ehci import Ehci
from tests_functional.lib.drivers.ide import IdeDisk
from tests_functional.lib.drivers.lsi import LsiDisk
from tests_functional.lib.drivers.megasas import MegasasDisk
from tests_functional.lib.drivers.nvme import NvmeDisk
from tests_functional.lib.drivers.pvscsi import PvscsiDisk
from tests_functional.lib.drivers.sd_card import SdCard
from tests_functional.lib.drivers.usb_disk import UsbDisk
from tests_functional.lib.drivers.virtio_disk import VirtioDisk


class Writer(Protocol):
    """A writer of the target pages of one QEMU; made anew for the restored one, which does not `start` it."""

    @property
    def pages(self) -> int:
        """Return how many of the target pages it writes in each pass."""

    def start(self) -> None:
        """Make the writer ready."""

    def offer(self, number: int) -> None:
        """Prepare a pass, so that the guest has to write nothing more for it."""

    def write(self, number: int, deadline: Deadline) -> None:
        """Write each page with the mark of the pass that was offered last, and wait until that is done."""


# Machine types before 2.7 have virtio devices without the registers of VIRTIO 1.0 unless told otherwise.
_MODERN = "disable-modern=off"


class Needs(Enum):
    """What a writer's machine must have, for the words that say what it lacks."""

    DEVICES = "devices that the host can drive"
    PCI = "PCI"
    IDE = "IDE"
    PORTS = "I/O ports"


@dataclass(frozen=True)
class Place:
    """What the arguments and the writer of one QEMU are made of.

    Attributes:
        disk: image with the marked pages of all passes, one after another, alone in its folder.
        socket: UNIX socket of its own, for the process that serves it or to send it packets.
        marks: those of the test.
        kind: the machine type.
    """

    disk: Path
    socket: Path
    marks: Marks
    kind: MachineType = PC

    def arguments(self) -> tuple[str, ...]:
        """Return the arguments of a QEMU whose devices are to be reached."""
        return board_arguments(self.kind, self.socket)

    def reachable(self) -> tuple[str, ...]:
        """Return further ones for registers of a PCI function in memory."""
        return reachable(self.socket) if self.kind.config_ports else ()

    def virtio(self, name: str) -> str:
        """Return the name of a virtio device for `-device`, behind PCI or with registers in memory.

        Args:
            name: without what says where it is, as ``virtio-blk``.
        """
        if self.kind.config_ports:
            return f"{name}-pci" if name == "vhost-user-fs" else f"{name}-pci,{_MODERN}"
        return name if name == "vhost-user-blk" else f"{name}-device"


@dataclass(frozen=True)
class WriterKind:
    """A foreign writer.

    Attributes:
        reason: why it is tested.
        device: QEMU's name of the device, which a refusal must have.
        arguments: makes the further arguments of a QEMU that has it.
        writer: makes the writer of a running QEMU.
        needs: what the machine must have.
        stoppable: whether it stands still while QEMU has stopped the guest; one that does not writes during
            the control too.
        shared_ram: whether it needs guest RAM that other processes can map.
        in_device: whether it writes to memory of its device, and not to the pages at the end of RAM.
        device_offset: where the pages begin in that memory, in bytes.
        may_refuse: whether QEMU may refuse to save a guest with it, by a message that names the device.
        daemon: the process that serves the device, and maps guest RAM for it; None where QEMU does.
        qemu_device: the device that a QEMU must have been built with, "" for one of each QEMU.
        netdev: the kind of network that it must have, "" for none.
        block_driver: a block driver that not every QEMU has, and its options of which the same is true; None
            for none.
    """

    reason: str
    device: str
    arguments: Callable[[Place], tuple[str, ...]]
    writer: Callable[[Board, Target, Place], Writer]
    daemon: Daemon | None = None
    needs: Needs = Needs.DEVICES
    stoppable: bool = True
    shared_ram: bool = False
    in_device: bool = False
    device_offset: int = 0
    may_refuse: bool = False
    qemu_device: str = ""
    netdev: str = ""
    block_driver: tuple[str, str] | None = None

    def runs_on(self, kind: MachineType) -> bool:
        """Return whether a machine type has what the writer needs."""
        return {
            Needs.DEVICES: kind.config_ports or kind.virtio_mmio,
            Needs.PCI: kind.pci and (kind.config_ports or kind.virtio_mmio),
            Needs.IDE: kind.config_ports,
            Needs.PORTS: kind.config_ports,
        }[self.needs]

    def target(self, board: Board) -> Target:
        """Return the pages that it writes in a running machine."""
        start = board.free_addresses() + self.device_offset if self.in_device else 0
        return Target(board.machine, start, board.kind)

    def lacking(self, executable: Path) -> str:
        """Return what a QEMU lacks of it, as the end of a sentence; "" for nothing.

        Raises:
            NoSubject: QEMU cannot be run, or does not answer in time.
        """
        if self.qemu_device and not has_device(executable, self.qemu_device):
            return f"device '{self.qemu_device}'"
        if self.netdev and not has_netdev(executable, self.netdev):
            return f"network of the kind '{self.netdev}'"
        if self.block_driver and not has_block_driver(executable, *self.block_driver):
            driver, options = self.block_driver
            return f"block driver '{driver}' with the options '{options}'"
        return ""


def all_arguments(kind: WriterKind, place: Place) -> tuple[str, ...]:
    """Return the further arguments of a QEMU that has a writer and whose devices are to be reached."""
    return (*place.arguments(), *kind.arguments(place))


_DISK = "foreign-disk"


def _disk(place: Place, device: str, options: str = "") -> tuple[str, ...]:
    """Return the arguments for a disk that QEMU reads itself; nobody writes to it, so QEMUs can share it.

    Args:
        place: what they are made of.
        device: value of `-device` without the disk.
        options: further ones of the file, beginning with a comma.
    """
    file = f"driver=file,node-name=foreign-file,filename={qemu_quoted(place.disk)},locking=off"
    return (
        *("-blockdev", f"{file}{options}"),
        *("-blockdev", f"driver=raw,node-name={_DISK},file=foreign-file"),
        *("-device", f"{device},drive={_DISK}"),
    )


def _virtio_blk(reason: str, options: str = "") -> WriterKind:
    return WriterKind(
        reason,
        "virtio-blk",
        lambda place: _disk(place, place.virtio("virtio-blk"), options),
        _blk_reads,
        qemu_device="virtio-blk-pci",
        block_driver=("file", f"filename=/dev/null{options}"),
    )


def _read_by(
    driver: Callable[[Board, GuestMemory, int], DiskDriver], requests: int
) -> Callable[[Board, Target, Place], Writer]:
    """Return what makes the reader of a disk.

    Args:
        driver: makes the disk's driver.
        requests: in each pass.
    """

    def writer(board: Board, target: Target, _place: Place) -> Writer:
        return DiskReads(driver(board, target.memory, target.control), target.data, requests)

    return writer


def _behind(
    controller: str,
    disk: str,
    reason: str,
    driver: Callable[[Board, GuestMemory, int], DiskDriver],
    requests: int,
    bus: str = "foreign-bus.0",
) -> WriterKind:
    """Return the reader of a disk behind a PCI controller.

    Args:
        controller: QEMU's name of the controller.
        disk: that of the disk.
        reason: why it is tested.
        driver: makes the disk's driver.
        requests: in each pass.
        bus: name of the bus between them.
    """
    return WriterKind(
        reason,
        controller,
        lambda place: (
            *place.reachable(),
            *("-device", f"{controller},id=foreign-bus"),
            *_disk(place, f"{disk},bus={bus}"),
        ),
        _read_by(driver, requests),
        qemu_device=controller,
        needs=Needs.PCI,
    )


def _scsi(
    device: str, reason: str, driver: Callable[[Board, GuestMemory, int], DiskDriver], requests: int
) -> WriterKind:
    """Return the reader of a SCSI disk behind a PCI controller."""
    return _behind(device, "scsi-hd", reason, driver, requests)


_blk_reads = _read_by(partial(VirtioDisk, kind=virtio_disk.BLK), 16)


def _libblkio(place: Place, driver: str, options: str) -> tuple[str, ...]:
    """Return the arguments for a disk that QEMU reads through libblkio."""
    disk = f"driver={driver},node-name={_DISK},{options},cache.direct=on,read-only=on"
    return ("-blockdev", disk, "-device", f"{place.virtio('virtio-blk')},drive={_DISK}")


def _vhost_user(name: str, options: str) -> Callable[[Place], tuple[str, ...]]:
    return lambda place: (
        *("-chardev", f"socket,id=foreign,path={qemu_quoted(place.socket)}"),
        *("-device", f"{place.virtio(name)},chardev=foreign,{options}"),
    )


def _packets(place: Place, device: str) -> tuple[str, ...]:
    local, peer = qemu_quoted(place.socket), qemu_quoted(place.socket.with_suffix(".peer"))
    ends = f"local.type=unix,local.path={local},remote.type=unix,remote.path={peer}"
    return (
        *("-netdev", f"dgram,id=foreign,{ends}"),
        *("-device", f"{device},netdev=foreign"),
    )


def _listening(place: Place) -> tuple[str, ...]:
    """Return the arguments for a socket at which QEMU takes bytes."""
    return ("-chardev", f"socket,id=foreign,path={qemu_quoted(place.socket)},server=on,wait=off")


WRITER_KINDS: Mapping[str, WriterKind] = {
    "virtio-blk": _virtio_blk("QEMU's threads read the disk into guest RAM"),
    "virtio-blk-native": _virtio_blk(
        "the host's kernel reads the disk into guest RAM, by asynchronous I/O", ",cache.direct=on,aio=native"
    ),
    "virtio-blk-io-uring": _virtio_blk("the same by io_uring", ",cache.direct=on,aio=io_uring"),
    "virtio-blk-iothread": WriterKind(
        "a thread of its own plays the device, while QEMU's main loop saves",
        "virtio-blk",
        lambda place: (
            # Without polling it begins when it is told to: one that polls may carry out what is offered
            # before T0, and the test would call that newer than T0.
            *("-object", "iothread,id=foreign-thread,poll-max-ns=0"),
            *_disk(place, f"{place.virtio('virtio-blk')},iothread=foreign-thread"),
        ),
        _blk_reads,
    ),
    "vhost-user-blk": WriterKind(
        "its process has a mapping of guest RAM of its own, and userfaultfd is of QEMU's page tables",
        "vhost-user-blk",
        _vhost_user("vhost-user-blk", "num-queues=1"),
        _blk_reads,
        STORAGE,
        shared_ram=True,
        qemu_device="vhost-user-blk-pci",
    ),
    "ide": WriterKind(
        "a PCI bus master reads the disk into guest RAM",
        "ide-hd",
        lambda place: _disk(place, "ide-hd,bus=ide.0"),
        _read_by(IdeDisk, 24),
        qemu_device="ide-hd",
        needs=Needs.IDE,
    ),
    "fw-cfg": WriterKind(
        "a device of the board writes to guest RAM without a bus",
        "fw_cfg",
        lambda place: ("-fw_cfg", f"name={FILE},file={qemu_quoted(place.disk)}"),
        lambda board, target, _: FwCfg(board, target),
    ),
    "virtio-net": WriterKind(
        "packets arrive at any time, also while the guest does nothing",
        "virtio-net",
        lambda place: _packets(
            place, place.virtio("virtio-net") + (",romfile=" if place.kind.config_ports else "")
        ),
        lambda board, target, place: Packets(board, target, place.marks, place.socket),
        qemu_device="virtio-net-pci",
        netdev="dgram",
    ),
    "vhost-user-fs": WriterKind(
        "the same by virtiofsd, which has state of its own that belongs to T0",
        "vhost-user-fs",
        _vhost_user("vhost-user-fs", f"tag={FILE}"),
        lambda board, target, _: FileReads(board, target),
        FILE_SYSTEM,
        shared_ram=True,
        may_refuse=True,
        qemu_device="vhost-user-fs-pci",
    ),
    "libblkio-io-uring": WriterKind(
        "libblkio knows guest RAM, as buffers that the kernel may keep in memory for its io_uring",
        "virtio-blk",
        lambda place: _libblkio(place, "io_uring", f"filename={qemu_quoted(place.disk)}"),
        _blk_reads,
        block_driver=("io_uring", "filename=/"),
    ),
    "vhost-user-libblkio": WriterKind(
        "the guest has an ordinary virtio-blk, and a process behind it writes to guest RAM by itself",
        "virtio-blk",
        lambda place: _libblkio(place, "virtio-blk-vhost-user", f"path={qemu_quoted(place.socket)}"),
        _blk_reads,
        STORAGE,
        shared_ram=True,
        block_driver=("virtio-blk-vhost-user", "path=/"),
    ),
    "ahci": WriterKind(
        "the SATA controller of PCs follows lists of commands and of regions in guest RAM",
        "ahci",
        lambda place: (
            *place.reachable(),
            *("-device", "ich9-ahci,id=foreign-ahci"),
            *_disk(place, "ide-hd,bus=foreign-ahci.0"),
        ),
        _read_by(AhciDisk, 8),
        qemu_device="ich9-ahci",
        needs=Needs.PCI,
    ),
    "nvme": WriterKind(
        "an NVMe disk reads its commands from guest RAM, and writes there by lists of pages",
        "nvme",
        lambda place: (*place.reachable(), *_disk(place, "nvme,serial=foreign")),
        _read_by(NvmeDisk, 16),
        qemu_device="nvme",
        needs=Needs.PCI,
        may_refuse=True,
    ),
    "virtio-scsi": WriterKind(
        "SCSI disks of virtual machines are behind this controller",
        "virtio-scsi",
        lambda place: (
            *("-device", f"{place.virtio('virtio-scsi')},id=foreign-scsi"),
            *_disk(place, "scsi-hd,bus=foreign-scsi.0"),
        ),
        _read_by(partial(VirtioDisk, kind=virtio_disk.SCSI), 16),
        qemu_device="virtio-scsi-pci",
    ),
    "lsi53c895a": _scsi(
        "lsi53c895a", "a SCSI controller runs programs in guest RAM, which write there too", LsiDisk, 48
    ),
    "megasas": _scsi(
        "megasas",
        "a RAID controller maps frames in guest RAM, and writes their status there",
        MegasasDisk,
        16,
    ),
    "pvscsi": _scsi(
        "pvscsi",
        "the SCSI controller of VMware's guests has rings in guest RAM, and where it is in them",
        PvscsiDisk,
        16,
    ),
    "am53c974": replace(
        _scsi(
            "am53c974",
            "a SCSI controller copies what its disk sends, phase by phase of a command",
            Am53c974Disk,
            8,
        ),
        needs=Needs.PORTS,
    ),
    "e1000": WriterKind(
        "packets arrive by a card that writes descriptors and packets as a bus master",
        "e1000",
        lambda place: (*place.reachable(), *_packets(place, "e1000,romfile=")),
        lambda board, target, place: CardPackets(E1000, board, target, place.marks, place.socket),
        qemu_device="e1000",
        needs=Needs.PCI,
        netdev="dgram",
    ),
    "rtl8139": WriterKind(
        "the same by a card whose descriptors in guest RAM say whose they are",
        "rtl8139",
        lambda place: (*place.reachable(), *_packets(place, "rtl8139,romfile=")),
        lambda board, target, place: CardPackets(RTL8139, board, target, place.marks, place.socket),
        qemu_device="rtl8139",
        needs=Needs.PCI,
        netdev="dgram",
    ),
    "virtio-console": WriterKind(
        "bytes arrive from a socket at any time",
        "virtio-console",
        lambda place: (
            *_listening(place),
            *("-device", place.virtio("virtio-serial"), "-device", "virtconsole,chardev=foreign"),
        ),
        lambda board, target, place: SocketBytes(CONSOLE, board, target, place.marks, place.socket),
        qemu_device="virtio-serial-pci",
    ),
    "virtio-rng": WriterKind(
        "an entropy device has asked a daemon for bytes before T0, which come after it",
        "virtio-rng",
        lambda place: (
            *_listening(place),
            *("-object", "rng-egd,id=foreign-random,chardev=foreign"),
            *("-device", f"{place.virtio('virtio-rng')},rng=foreign-random"),
        ),
        lambda board, target, place: SocketBytes(ENTROPY, board, target, place.marks, place.socket),
        qemu_device="virtio-rng-pci",
    ),
    "shared-ram": WriterKind(
        "a process of the host's writes to guest RAM that it shares, by a mapping or descriptor of its own",
        "memory-backend-memfd",
        lambda _: (),
        lambda board, target, place: ram_file(board, target, place.disk),
        stoppable=False,
        shared_ram=True,
    ),
    "ivshmem": WriterKind(
        "a peer of the guest's writes to the memory that both share, and nobody tells it of T0",
        "ivshmem-plain",
        lambda _: (
            *("-object", f"memory-backend-memfd,id=foreign-memory,size={IVSHMEM_MIB}M,share=on"),
            *("-device", "ivshmem-plain,memdev=foreign-memory,master=on,addr=9"),
        ),
        lambda board, _, place: IvshmemPeer(board, place.disk),
        stoppable=False,
        in_device=True,
        qemu_device="ivshmem-plain",
        needs=Needs.PCI,
    ),
    "usb-storage": _behind(
        "qemu-xhci",
        "usb-storage",
        "a USB controller follows rings in guest RAM, and keeps what it knows of devices there",
        UsbDisk,
        1,
    ),
    "usb-ehci": _behind(
        "usb-ehci",
        "usb-storage",
        "an older USB controller follows lists in guest RAM whenever it likes, and writes its progress there",
        partial(UsbDisk, controller=Ehci),
        1,
    ),
    "sd-card": _behind(
        "sdhci-pci",
        "sd-card",
        "an SD host controller reads a card by itself, at the write to its register",
        SdCard,
        16,
        bus="sd-bus",
    ),
    "cirrus": WriterKind(
        "a display card writes to its video RAM by itself, through a pointer of QEMU's",
        "cirrus_vga",
        lambda place: (*place.reachable(), "-device", "cirrus-vga"),
        lambda board, target, place: BlitterCopies(board, target, place.marks),
        in_device=True,
        device_offset=TARGET_OFFSET,
        qemu_device="cirrus-vga",
        needs=Needs.PCI,
    ),
}
