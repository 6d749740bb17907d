"""A user's disk image: known by its content, never written, and at rest while a snapshot is judged."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import SetupBroken, UsageError
from harness.qemu.configuration import OVERLAY_FILE, MachineConfig, qemu_argv
from harness.qemu.disk import Disk, KeptDisk, make_empty_disk, make_overlay, probe_disk
from harness.qemu.kept_disk import disk_of_snapshot, keep_disk
from harness.qemu.machine import Machine


def _disk(path: Path, sign: bytes = b"\x55\xaa", at: int = 510, size: int = 4096) -> Path:
    content = bytearray(size)
    content[at : at + len(sign)] = sign
    path.write_bytes(content)
    return path


def test_raw_images_are_known_by_partition_table_or_file_system(tmp_path: Path) -> None:
    """Its size counts in whole sectors, as QEMU rounds it up."""
    for at, sign in ((510, b"\x55\xaa"), (0x438, b"\x53\xef"), (0, b"XFSB")):
        found = probe_disk(_disk(tmp_path / "disk", sign, at, 4097))
        assert (found.format, found.size) == ("raw", 4608)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a disk image"),
        (b"hello", "is not a disk image"),
        (b"KDMV" + bytes(600), "in the format vmdk"),
        (b"QFI\xfb", "is not a disk image"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """Empty, text, another program's format, cut off in the header."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        probe_disk(tmp_path / "file")


def test_missing_image_and_folder(tmp_path: Path) -> None:
    """A missing image and a folder each give a usage error."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            probe_disk(path)


def test_empty_disk_is_based_on_nothing(tmp_path: Path) -> None:
    """The header has no backing file and no extension but the end marker."""
    disk = make_empty_disk(tmp_path / "empty", 1 << 20)
    assert disk == probe_disk(tmp_path / "empty") == Disk((tmp_path / "empty").absolute(), "qcow2", 1 << 20)
    head = (tmp_path / "empty").read_bytes()[:256]
    assert struct.unpack_from(">QI", head, 8) == (0, 0)
    assert head[104:] == bytes(152)


@pytest.mark.parametrize("size", [512, 640 << 20, 1 << 46])
def test_overlay_reads_as_its_base(tmp_path: Path, size: int) -> None:
    """The fields that QEMU goes by, for disks of one sector to 64 TiB (where the L1 table is 16 clusters)."""
    base = Disk(tmp_path / "base,with comma", "raw", size)
    overlay = make_overlay(base, tmp_path / "overlay")
    assert probe_disk(overlay.path) == overlay == Disk(tmp_path / "overlay", "qcow2", size)
    head = overlay.path.read_bytes()
    name_at, name_length = struct.unpack_from(">QI", head, 8)
    assert head[name_at : name_at + name_length].decode() == str(base.path)
    entries, table = struct.unpack_from(">IQ", head, 36)
    assert entries * 8192 * 65536 >= size
    assert len(head) >= table + entries * 8
    assert b"raw" in head[104:name_at]


def test_overlay_of_a_path_that_is_too_long(tmp_path: Path) -> None:
    """The format has room for 1023 bytes."""
    with pytest.raises(UsageError, match="longer than the 1023 bytes that qcow2 allows"):
        make_overlay(Disk(Path("/" + "x/" * 600), "raw", 512), tmp_path / "overlay")


def test_command_line_has_what_is_given(tmp_path: Path) -> None:
    """The disk boots by itself, without kernel and initrd, from the overlay and not from the user's file."""
    user_file = Disk(tmp_path / "user.raw", "raw", 512)
    config = MachineConfig(Path("qemu"), None, None, "", user_file, accel="tcg")
    argv = qemu_argv(config, tmp_path, 3, "127.0.0.1", incoming=False)
    assert not {"-kernel", "-initrd", "-append"} & set(argv)
    assert any(OVERLAY_FILE in word for word in argv)
    assert not any("user.raw" in word for word in argv)


class _Machine:
    """Counts what it is asked to do, and reports that many writes."""

    def __init__(self, folder: Path, disk: Disk | None) -> None:
        self.folder = folder
        self.config = SimpleNamespace(disk=disk)
        self.kept_disk: KeptDisk | None = None
        self.writes = 5
        self.said: list[str] = []
        self.qmp = self

    def execute(self, command: str) -> Any:
        self.said.append(command)
        if command == "query-blockstats":
            return [{"device": "guest-disk", "stats": {"wr_operations": self.writes, "unmap_operations": 0}}]
        return {}


def test_disk_is_copied_while_the_guest_stands_still(tmp_path: Path) -> None:
    """Every snapshot has the copy of the disk until the guest writes again; then it is an error."""
    (tmp_path / OVERLAY_FILE).write_bytes(b"written")
    stand_in = _Machine(tmp_path, Disk(tmp_path / "user.raw", "raw", 512))
    machine = cast(Machine, stand_in)
    keep_disk(machine)
    assert stand_in.said == ["stop", "query-blockstats", "cont"]
    kept = disk_of_snapshot(machine)
    assert kept is not None
    assert kept.path.read_bytes() == b"written"
    stand_in.writes += 2
    with pytest.raises(SetupBroken, match="wrote 2 times to its disk"):
        disk_of_snapshot(machine)


def test_guest_without_a_disk(tmp_path: Path) -> None:
    """A guest without a disk is not stopped, and its snapshots have no disk."""
    stand_in = _Machine(tmp_path, None)
    keep_disk(cast(Machine, stand_in))
    assert stand_in.said == []
    assert disk_of_snapshot(cast(Machine, stand_in)) is None
