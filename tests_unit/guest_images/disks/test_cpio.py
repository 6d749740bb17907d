"""The initramfs writer: equal contents give equal bytes, and the kernel's format is kept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from guest_images.disks import cpio

ENTRIES = (
    cpio.folder("dev"),
    cpio.character_device("dev/console", 5, 1),
    cpio.folder("bin"),
    cpio.file("bin/tool", b"#!/bin/sh\n", 0o755),
    cpio.link("bin/other", "tool"),
)


def test_order_of_entries_does_not_show() -> None:
    """Two archives of the same entries are byte-identical, whatever order they were given in."""
    assert cpio.archive(ENTRIES) == cpio.archive(reversed(ENTRIES))


def test_one_changed_bit_shows() -> None:
    """A change of a file's content or mode changes the archive."""
    original = cpio.archive(ENTRIES)
    assert cpio.archive([*ENTRIES[:3], cpio.file("bin/tool", b"#!/bin/si\n", 0o755), ENTRIES[4]]) != original
    assert cpio.archive([*ENTRIES[:3], cpio.file("bin/tool", b"#!/bin/sh\n", 0o750), ENTRIES[4]]) != original


def test_header_fields() -> None:
    """A header is the magic and 13 numbers of 8 hex digits; data starts and ends on 4 bytes."""
    data = cpio.archive([cpio.file("abcd", b"hello", 0o640)])
    numbers = [int(data[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    assert data[:6] == b"070701"
    assert numbers == [1, 0o100640, 0, 0, 1, 0, 5, 0, 0, 0, 0, 5, 0]
    assert data[110:124] == b"abcd\0\0" + b"hello\0\0\0"
    assert data[124:130] == b"070701"
    assert len(data) % 512 == 0
    assert b"TRAILER!!!" in data


def test_file_without_its_folder_is_refused() -> None:
    """A file whose folder is missing is an error, since the kernel does not make the folder."""
    with pytest.raises(ValueError, match="folder of 'bin/tool'"):
        cpio.archive([cpio.file("bin/tool", b"")])


def test_two_entries_of_one_path_are_refused() -> None:
    """Two entries with one path are an error."""
    with pytest.raises(ValueError, match="twice"):
        cpio.archive([cpio.folder("bin"), cpio.file("bin", b"")])


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio on this machine to read the archive with")
def test_gnu_cpio_reads_it(tmp_path: Path) -> None:
    """GNU cpio, an independent reader, lists the entries."""
    path = tmp_path / "archive"
    path.write_bytes(cpio.archive(ENTRIES))
    with path.open("rb") as stream:
        listing = subprocess.run(["cpio", "-t", "--quiet"], stdin=stream, capture_output=True, check=True)
    assert listing.stdout.decode().split() == ["bin", "bin/other", "bin/tool", "dev", "dev/console"]
