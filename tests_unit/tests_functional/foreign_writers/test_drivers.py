"""Contract: each driver has its device of a real QEMU write the pages of each pass, and sees it fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from guest_images.cache import Cache, default_cache_folder
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.linux.socket_folder import socket_folder
from harness.qemu.architectures import MICROVM, PC, MachineType
from harness.qemu.board import Board
from harness.qemu.machine import Machine
from tests_functional.foreign_writers.disk_reads import DiskReads, make_disk
from tests_functional.foreign_writers.kinds import WRITER_KINDS, Place, Writer, all_arguments
from tests_functional.foreign_writers.marks import Marks
from tests_functional.foreign_writers.target import PAGES, Target
from tests_functional.lib.daemons import served
from tests_functional.lib.drivers.ahci import AhciDisk
from tests_functional.memory.kinds import MEMORY_KINDS
from tests_unit.support.real_machine import RAM_MIB, found_qemu, real_machine

pytestmark = pytest.mark.vm

# Passes that the disk has; one more is behind its end.
_PASSES = 2
_MEMORY = MEMORY_KINDS["memfd-shared"].backends[0]
# Those that read the disk of the place, which tells them that a pass is behind its end.
_DISKS = (
    "virtio-blk",
    "ide",
    "ahci",
    "nvme",
    "virtio-scsi",
    "lsi53c895a",
    "megasas",
    "pvscsi",
    "am53c974",
    "usb-storage",
    "usb-ehci",
    "sd-card",
)


# A machine whose virtio devices, and PCI functions here, are reached in memory.
_IN_MEMORY = replace(MICROVM, name="microvm,pcie=on", pci=True)
_NOT_IN_MEMORY = ("ide", "am53c974", "vhost-user-blk", "vhost-user-fs", "vhost-user-libblkio", "shared-ram")


@contextmanager
def _place(folder: Path, machine: MachineType) -> Iterator[Place]:
    marks, disk = Marks(), folder / "shared" / "marks"
    disk.parent.mkdir()
    make_disk(disk, marks, _PASSES)
    with socket_folder() as sockets:
        yield Place(disk, sockets / "socket-0", marks, machine)


@contextmanager
def _started(
    name: str, folder: Path, kind_of_machine: MachineType = PC
) -> Iterator[tuple[Machine, Writer, Target, Marks]]:
    """Run a QEMU with a writer, which has been started."""
    kind, qemu = WRITER_KINDS[name], found_qemu()
    if lacking := kind.lacking(qemu):
        pytest.skip(f"this QEMU has no {lacking}")
    with _place(folder, kind_of_machine) as place:
        shared = ("-object", f"{_MEMORY},id=mem0,size={RAM_MIB}M") if kind.shared_ram else ()
        arguments = (*shared, *all_arguments(kind, place))
        machine_type = f"{kind_of_machine.name},memory-backend=mem0" if shared else kind_of_machine.name
        with (
            _daemon(name, place, folder),
            real_machine(folder / "machine", *arguments, machine=machine_type) as machine,
        ):
            board = Board(machine, place.kind, place.socket)
            target = kind.target(board)
            writer = kind.writer(board, target, place)
            writer.start()
            yield machine, writer, target, place.marks


@contextmanager
def _daemon(name: str, place: Place, folder: Path) -> Iterator[None]:
    daemon = WRITER_KINDS[name].daemon
    if daemon is None:
        yield
        return
    if not list(default_cache_folder().glob(f"trees/*-{daemon.package}-*")):
        pytest.skip(f"there is no {daemon.program}; 'snapproof run' fetches it")
    values = {"disk": str(place.disk), "folder": str(place.disk.parent), "socket": str(place.socket)}
    provisioning = Provisioning(Cache(default_cache_folder()), lambda _: None)
    with served(daemon, values, folder / "daemon.log", provisioning):
        yield


@pytest.mark.parametrize("name", WRITER_KINDS)
def test_each_page_has_the_pass_that_was_offered_last(tmp_path: Path, name: str) -> None:
    """Nothing is written before it is asked for; then each page is, and a second pass follows the first."""
    with _started(name, tmp_path) as (_, writer, target, marks):
        assert set(target.passes(marks, PAGES)) == {None}
        for number in range(_PASSES):
            writer.offer(number)
            before = target.passes(marks, writer.pages)
            writer.write(number, Deadline(20))
            assert target.passes(marks, PAGES) == [number] * writer.pages + [None] * (PAGES - writer.pages)
            assert number not in before


@pytest.mark.parametrize("name", [name for name in WRITER_KINDS if name not in _NOT_IN_MEMORY])
def test_devices_are_reached_in_memory(tmp_path: Path, name: str) -> None:
    """The same without the ports of PCI configuration space."""
    with _started(name, tmp_path, _IN_MEMORY) as (_, writer, target, marks):
        for number in range(_PASSES):
            writer.offer(number)
            assert number not in target.passes(marks, writer.pages)
            writer.write(number, Deadline(20))
            assert target.passes(marks, writer.pages) == [number] * writer.pages


def test_driver_of_a_restored_machine_finds_registers_that_have_their_place(tmp_path: Path) -> None:
    """The memory tree shows the addresses that a function has already no longer as free ones."""
    with _started("ahci", tmp_path, _IN_MEMORY) as (machine, writer, target, _):
        first = AhciDisk(Board(machine, _IN_MEMORY, tmp_path / "none"), target.memory, target.control)
        started = cast(AhciDisk, cast(DiskReads, writer)._driver)
        assert first._registers._first == started._registers._first


@pytest.mark.parametrize("name", _DISKS)
def test_failed_read_is_seen(tmp_path: Path, name: str) -> None:
    """A pass behind the end of the disk is no pass that was written."""
    with _started(name, tmp_path) as (_, writer, _, _):
        for number in range(_PASSES):
            writer.offer(number)
            writer.write(number, Deadline(20))
        writer.offer(_PASSES)
        with pytest.raises(SetupBroken, match=r"(answers|reports)"):
            writer.write(_PASSES, Deadline(10))


@pytest.mark.parametrize("name", [name for name in WRITER_KINDS if name not in ("fw-cfg", "shared-ram")])
def test_machine_without_the_device(tmp_path: Path, name: str) -> None:
    """A driver that finds no device says so."""
    with _place(tmp_path, PC) as place, real_machine(tmp_path / "machine") as machine:
        target = Target(machine)
        if name == "ide":
            # The machine has its controller in any case.
            return
        with pytest.raises(
            (SetupBroken, NotApplicable), match=r"^(The machine has no|QEMU has 0 memory files) "
        ):
            WRITER_KINDS[name].writer(Board(machine, place.kind, place.socket), target, place)


def test_file_that_fw_cfg_lacks(tmp_path: Path) -> None:
    """A driver whose file is missing says so."""
    with _place(tmp_path, PC) as place, real_machine(tmp_path / "machine") as machine:
        writer = WRITER_KINDS["fw-cfg"].writer(
            Board(machine, place.kind, place.socket), Target(machine), place
        )
        with pytest.raises(SetupBroken, match="has no file 'opt/snapproof/marks'"):
            writer.start()
