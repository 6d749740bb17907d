"""Lists the streams, each with what QEMU needs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.qemu.board import reachable
from harness.qemu.configuration import qemu_quoted
from harness.qemu.machine import Machine
from harness.qemu.probe import has_device, has_netdev
from tests_functional.in_flight import disks, packets, pio, port, uart, user_network
from tests_functional.in_flight.disk_stream import DiskBus, DiskStream
from tests_functional.in_flight.numbers import Counts
from tests_functional.in_flight.stream import FarEnd, Stream
from tests_functional.lib.drivers import virtio_disk
from tests_functional.lib.drivers.ahci import AhciDisk
from tests_functional.lib.drivers.am53c974 import Am53c974Disk
from tests_functional.lib.drivers.ehci import Ehci
from tests_functional.lib.drivers.ide import IdeDisk
from tests_functional.lib.drivers.lsi import LsiDisk
from tests_functional.lib.drivers.nvme import NvmeDisk
from tests_functional.lib.drivers.usb_disk import UsbDisk
from tests_functional.lib.drivers.virtio_disk import VirtioDisk
from tests_functional.lib.save import Flow


@dataclass(frozen=True)
class StreamKind:
    """A stream.

    Attributes:
        reason: why it is tested.
        device: QEMU's name of the device.
        counts: how many items it carries around a snapshot.
        arguments: makes the further arguments of a QEMU that has it.
        stream: makes the stream of a running QEMU.
        sent_while_saving: whether items of after T0 are sent while RAM is saved. Items that the guest's
            driver puts into RAM are sent when that is done: a driver outside of the guest cannot write to
            protected pages.
        delivered_while_saving: whether what is in flight can arrive while RAM is saved.
        ordered: whether it promises the order.
        lossy: whether it makes no promise to deliver: packets of a network.
        netdev: the kind of network that QEMU must have, "" for none.
        may_refuse: whether QEMU may refuse to save a guest with the device, by a message that names it.
        flows: how the guest is saved, once each.
        disk_bytes: size of its disk, 0 for none.
    """

    reason: str
    device: str
    counts: Counts
    arguments: Callable[[FarEnd], tuple[str, ...]]
    stream: Callable[[Machine, FarEnd], Stream]
    sent_while_saving: bool = True
    delivered_while_saving: bool = True
    ordered: bool = True
    lossy: bool = False
    netdev: str = ""
    may_refuse: bool = False
    flows: Sequence[Flow] = (Flow.STOP_AND_SAVE, Flow.STOP_MIGRATE_CONT, Flow.LIVE)
    disk_bytes: int = 0

    def lacking(self, executable: Path) -> str:
        """Return what a QEMU lacks of it, as the end of a sentence; "" for nothing.

        Raises:
            NoSubject: QEMU cannot be run, or does not answer in time.
        """
        if not has_device(executable, self.device):
            return f"device '{self.device}'"
        if self.netdev and not has_netdev(executable, self.netdev):
            return f"network of the kind '{self.netdev}'"
        return ""


# Machine types before 2.7 have virtio devices without the registers of VIRTIO 1.0 unless told otherwise.
_MODERN = "disable-modern=off"


def _chardev(far: FarEnd, *device: str) -> tuple[str, ...]:
    return ("-chardev", f"pipe,id=flight,path={qemu_quoted(far.pipes.path)}", *device)


def _uart(far: FarEnd) -> tuple[str, ...]:
    return _chardev(far, "-device", "isa-serial,chardev=flight,index=1")


def _port(far: FarEnd) -> tuple[str, ...]:
    bus = ("-device", f"virtio-serial-pci,{_MODERN}", "-device", "virtserialport,nr=1,chardev=flight")
    return _chardev(far, *bus)


def _user(far_network: tuple[str, ...]) -> tuple[str, ...]:
    return (*far_network, "-device", f"virtio-net-pci,{_MODERN},netdev=flight-net,romfile=")


def _net(far: FarEnd) -> tuple[str, ...]:
    local, remote = (qemu_quoted(far.folder / name) for name in (packets.QEMU_SOCKET, packets.PEER_SOCKET))
    ends = f"local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"
    return (
        *("-netdev", f"dgram,id=flight,{ends}"),
        *("-device", f"virtio-net-pci,{_MODERN},netdev=flight,romfile="),
    )


# What waits in a disk goes on in a guest that is stopped for its golden image, and an ordinary save may abort
# QEMU (F48, F64), so that it comes last.
_CONTROL_LAST = (Flow.LIVE, Flow.STOP_AND_SAVE)
_WAIT = "requests wait in QEMU and in the guest's RAM"
_FAILS = "fails while QEMU stops the guest, is in the device's state, and is tried again"


def _disks(name: str, bus: DiskBus, plan: disks.Plan) -> dict[str, StreamKind]:
    """Return the streams of a kind of disk: of requests that wait, and with one that fails.

    Args:
        name: the first one's.
        bus: of the disk.
        plan: of its requests.
    """
    plans = {
        name: (_WAIT, plan),
        f"{name}-failed": (f"a write {_FAILS}", replace(plan, fails=True)),
        f"{name}-failed-read": (f"a read {_FAILS}", replace(plan, fails=True, last_reads=True)),
    }
    return {found: _disk(bus, reason, one) for found, (reason, one) in plans.items()}


def _disk(bus: DiskBus, reason: str, plan: disks.Plan) -> StreamKind:
    return StreamKind(
        reason,
        bus.device,
        plan.counts,
        lambda far: (*reachable(far.board), *disks.disk(far, bus.devices, plan)),
        lambda machine, far: DiskStream(machine, far, bus, plan),
        sent_while_saving=False,
        delivered_while_saving=not bus.put_late,
        ordered=False,
        disk_bytes=plan.disk_bytes,
    )


def _long(bus: DiskBus, plan: disks.Plan) -> StreamKind:
    """Return the stream of long requests of a kind of disk.

    Args:
        bus: of the disk.
        plan: of its requests.
    """
    pieces = f"requests of up to 256 KiB, with data in {plan.pieces} pieces of RAM, wait in QEMU and in RAM"
    return _disk(bus, pieces, plan)


def _in_chunks(bus: DiskBus, plan: disks.Plan) -> StreamKind:
    """Return the same of a SCSI disk that carries out a long request in parts (F64)."""
    return replace(_long(bus, plan), flows=_CONTROL_LAST)


def _pio(reason: str, *, writes: bool = False) -> StreamKind:
    return StreamKind(
        reason,
        _IDE.device,
        pio.COUNTS,
        lambda far: disks.disk(far, _IDE.devices, disks.ONE),
        lambda machine, far: pio.Pio(machine, far, writes=writes),
        sent_while_saving=False,
        delivered_while_saving=False,
        disk_bytes=disks.ONE.disk_bytes,
    )


_VIRTIO_BLK = DiskBus(
    "virtio-blk-pci",
    (f"virtio-blk-pci,{_MODERN}",),
    partial(VirtioDisk, kind=virtio_disk.BLK),
    # A virtio device on a PCI bus is two devices, and the one behind has the queue.
    f"{disks.DISK_PATH}/virtio-backend",
)
_VIRTIO_SCSI = DiskBus(
    "virtio-scsi-pci",
    (f"virtio-scsi-pci,{_MODERN}", "scsi-hd"),
    partial(VirtioDisk, kind=virtio_disk.SCSI),
    f"{disks.BUS_PATH}/virtio-backend",
    virtio_disk.SCSI.queue,
)
_IDE = DiskBus("piix3-ide", ("ide-hd,bus=ide.0",), IdeDisk)
_AHCI = DiskBus("ich9-ahci", ("ich9-ahci", "ide-hd,bus=flight-bus.0"), AhciDisk)
_NCQ = replace(_AHCI, driver=partial(AhciDisk, at_once=32, queued=True))
_ESP = DiskBus("am53c974", ("am53c974", "scsi-hd"), Am53c974Disk)
_LSI = DiskBus("lsi53c895a", ("lsi53c895a", "scsi-hd"), LsiDisk)
_USB = DiskBus("qemu-xhci", ("qemu-xhci", "usb-storage"), UsbDisk, put_late=True)
_EHCI = DiskBus("usb-ehci", ("usb-ehci", "usb-storage"), partial(UsbDisk, controller=Ehci), put_late=True)
_NVME = DiskBus("nvme", ("nvme,serial=flight",), NvmeDisk)


def _scattered(bus: DiskBus, kind: virtio_disk.VirtioDiskKind) -> DiskBus:
    """Return a virtio disk whose driver takes the data of a request in several pieces."""
    return replace(bus, driver=partial(VirtioDisk, kind=kind, pieces=disks.PIECES))


STREAM_KINDS: Mapping[str, StreamKind] = {
    "uart-in": StreamKind(
        "bytes that the guest has not read are in the UART's receive FIFO",
        "isa-serial",
        uart.COUNTS,
        _uart,
        lambda machine, far: uart.UartIn(machine, far.pipes),
    ),
    "uart-out": StreamKind(
        "bytes that the far end does not take are in the UART's transmit FIFO, and one in its shift register",
        "isa-serial",
        uart.COUNTS,
        _uart,
        lambda machine, far: uart.UartOut(machine, far.pipes),
    ),
    "virtio-serial-in": StreamKind(
        "bytes are in buffers in guest RAM that the device has used and the guest has not seen",
        "virtio-serial-pci",
        port.IN_COUNTS,
        _port,
        lambda machine, far: port.PortIn(machine, far.pipes),
    ),
    "virtio-serial-out": StreamKind(
        "the device has passed on the first part of a buffer, and must go on in its middle",
        "virtio-serial-pci",
        port.OUT_COUNTS,
        _port,
        lambda machine, far: port.PortOut(machine, far.pipes),
        sent_while_saving=False,
    ),
    "virtio-net-in": StreamKind(
        "packets are in buffers in guest RAM that the device has used and the guest has not seen",
        "virtio-net-pci",
        packets.COUNTS,
        _net,
        lambda machine, far: packets.NetIn(machine, far.folder, far.peer),
        netdev="dgram",
    ),
    "virtio-net-in-queued": StreamKind(
        "the guest has no buffer left, so that a packet is in QEMU's own queue",
        "virtio-net-pci",
        packets.COUNTS,
        _net,
        lambda machine, far: packets.NetIn(machine, far.folder, far.peer, queued=True),
        sent_while_saving=False,
        delivered_while_saving=False,
        lossy=True,
        netdev="dgram",
    ),
    "virtio-net-out": StreamKind(
        "the guest has offered packets, and not told the device of them",
        "virtio-net-pci",
        packets.COUNTS,
        _net,
        lambda machine, far: packets.NetOut(machine, far.folder, far.peer),
        sent_while_saving=False,
        netdev="dgram",
    ),
    "virtio-net-out-queued": StreamKind(
        "the far end takes no packets, so that the device waits for it with one of the guest's",
        "virtio-net-pci",
        packets.COUNTS,
        _net,
        lambda machine, far: packets.NetOut(machine, far.folder, far.peer, queued=True),
        sent_while_saving=False,
        lossy=True,
        netdev="dgram",
    ),
    "user-net-in": StreamKind(
        "QEMU's user network keeps bytes that the guest has not acknowledged, and more than it takes",
        "virtio-net-pci",
        user_network.IN_COUNTS,
        lambda far: _user(user_network.server_arguments(far)),
        lambda machine, far: user_network.ServerIn(machine, far.pipes),
        delivered_while_saving=False,
        netdev="user",
    ),
    "user-net-out": StreamKind(
        "the guest has offered segments of a connection whose other end is in QEMU's user network",
        "virtio-net-pci",
        user_network.OUT_COUNTS,
        lambda far: _user(user_network.server_arguments(far)),
        lambda machine, far: user_network.ServerOut(machine, far.pipes),
        sent_while_saving=False,
        netdev="user",
    ),
    "user-net-in-queued": StreamKind(
        "the guest has no buffer left, so that packets of QEMU's user network are in QEMU's own queue",
        "virtio-net-pci",
        user_network.OUT_COUNTS,
        lambda _: _user(user_network.forward_arguments()),
        lambda machine, _: user_network.ForwardedIn(machine),
        sent_while_saving=False,
        delivered_while_saving=False,
        lossy=True,
        netdev="user",
    ),
    **_disks("virtio-blk", _VIRTIO_BLK, disks.QUEUE),
    **_disks("virtio-scsi", _VIRTIO_SCSI, disks.QUEUE),
    **_disks("ide", _IDE, disks.ONE),
    "ide-pio-read": _pio("the guest has read a part of a sector by itself, and the disk keeps the rest"),
    "ide-pio-write": _pio("the guest has written a part of a sector, which the disk keeps", writes=True),
    **_disks("ahci", _AHCI, disks.ONE),
    "ahci-waiting": replace(
        _disk(
            replace(_AHCI, driver=partial(AhciDisk, at_once=32)),
            "commands that are not queued ones wait in the port, which carries them out one by one",
            disks.WAITING,
        ),
        flows=_CONTROL_LAST,
    ),
    **_disks("ahci-ncq", _NCQ, disks.QUEUE),
    # It has neither `rerror` nor `werror`.
    "nvme": replace(_disk(_NVME, _WAIT, disks.QUEUE), may_refuse=True),
    **_disks("lsi53c895a", _LSI, disks.ONE),
    "am53c974": _disk(_ESP, _WAIT, disks.ONE),
    **_disks("usb-storage", _USB, disks.ONE),
    "usb-ehci": _disk(_EHCI, _WAIT, disks.ONE),
    "virtio-blk-long": _long(_scattered(_VIRTIO_BLK, virtio_disk.BLK), disks.QUEUE_IN_PIECES),
    "virtio-scsi-long": _long(_scattered(_VIRTIO_SCSI, virtio_disk.SCSI), disks.QUEUE_IN_PIECES),
    "ide-long": _long(_IDE, disks.ONE_IN_PIECES),
    "ahci-long": _long(_AHCI, disks.ONE_IN_PIECES),
    "ahci-ncq-long": _long(_NCQ, disks.QUEUE_IN_PIECES),
    "nvme-long": replace(_long(_NVME, disks.QUEUE_IN_PIECES), may_refuse=True),
    "lsi53c895a-long": _in_chunks(_LSI, disks.ONE_IN_PIECES),
    "usb-storage-long": _in_chunks(_USB, disks.ONE_IN_PIECES),
    # A long write would not be in QEMU at T0 for sure: this controller comes for its data by and by.
    "usb-ehci-long": _in_chunks(_EHCI, replace(disks.ONE_IN_PIECES, last_reads=True)),
}
