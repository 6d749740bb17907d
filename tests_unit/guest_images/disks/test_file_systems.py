"""Ext4 file systems in image files: a new one is clean, a damaged one is not. Also the loader of packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from guest_images.cache import Cache
from guest_images.disks import file_systems
from guest_images.disks.file_systems import ext4_errors, make_ext4
from guest_images.packages.loader import Loader, find_loader
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken
from harness.qemu.architectures import X86_64

_BYTES = 16 << 20
_SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_HAS_TOOLS = pytest.mark.skipif(
    not (shutil.which("mke2fs", path=_SEARCH) and shutil.which("e2fsck", path=_SEARCH)),
    reason="this machine has no e2fsprogs, and unit tests fetch none",
)


def _made(folder: Path) -> tuple[Path, Cache]:
    image, cache = folder / "disk.raw", Cache(folder / "cache")
    make_ext4(image, _BYTES, Provisioning(cache, print))
    return image, cache


@_HAS_TOOLS
def test_clean(tmp_path: Path) -> None:
    """A new file system has the wanted size and no errors."""
    image, cache = _made(tmp_path)
    assert image.stat().st_size == _BYTES
    assert ext4_errors(image, Provisioning(cache, print)) == ()


@_HAS_TOOLS
def test_damaged(tmp_path: Path) -> None:
    """The errors of a damaged file system come as short lines; the image is not changed."""
    image, cache = _made(tmp_path)
    content = bytearray(image.read_bytes())
    for offset in range(20 * 1024, 200 * 1024):
        content[offset] ^= 0x5A
    image.write_bytes(content)
    found = ext4_errors(image, Provisioning(cache, print))
    assert found
    assert all(0 < len(line) <= 200 for line in found)
    assert not any(line.startswith(("Pass ", "Fix? ")) for line in found)
    assert image.read_bytes() == content


@_HAS_TOOLS
def test_lost(tmp_path: Path) -> None:
    """An image that no longer begins with a file system is a finding, not a failure of e2fsck."""
    image, cache = _made(tmp_path)
    image.write_bytes(bytes(_BYTES))
    assert any("magic number" in line for line in ext4_errors(image, Provisioning(cache, print)))


@_HAS_TOOLS
def test_missing_image(tmp_path: Path) -> None:
    """An image that cannot be opened is a broken set-up, not a finding about a guest."""
    with pytest.raises(SetupBroken, match=r"none\.raw' could not be made or checked"):
        ext4_errors(tmp_path / "none.raw", Provisioning(Cache(tmp_path), print))


def test_tool_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged program runs if the machine lacks e2fsprogs."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(file_systems, "packaged_program", lambda *names: ["/bin/echo", *names[:2]])
    assert ext4_errors(tmp_path / "disk.raw", Provisioning(Cache(tmp_path), print)) == ()


def test_loader(tmp_path: Path) -> None:
    """The loader is found with all library folders of the packages; packages without one are an error."""
    with pytest.raises(SetupBroken, match="no dynamic loader"):
        find_loader(tmp_path, X86_64)
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (folder / "ld-linux-x86-64.so.2").touch()
    loader = find_loader(tmp_path, X86_64)
    assert loader == Loader("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", ("usr/lib/x86_64-linux-gnu",))
    command = loader.command(Path("/root/x"), "usr/sbin/e2fsck")
    assert command[0] == "/root/x/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    assert command[-2:] == ["/root/x/usr/lib/x86_64-linux-gnu", "/root/x/usr/sbin/e2fsck"]
