"""Contract: a file system that was made is clean, and one that was damaged is not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from guest_images import file_systems
from guest_images.cache import Cache
from guest_images.file_systems import ext4_errors, make_ext4
from guest_images.loader import Loader, find_loader
from harness.errors import SetupBroken

_BYTES = 16 << 20
_SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_HAS_TOOLS = pytest.mark.skipif(
    not (shutil.which("mke2fs", path=_SEARCH) and shutil.which("e2fsck", path=_SEARCH)),
    reason="this machine has no e2fsprogs, and unit tests fetch none",
)


def _made(folder: Path) -> tuple[Path, Cache]:
    image, cache = folder / "disk.raw", Cache(folder / "cache")
    make_ext4(image, _BYTES, cache, print)
    return image, cache


@_HAS_TOOLS
def test_clean(tmp_path: Path) -> None:
    """Of the size asked for, and without an error."""
    image, cache = _made(tmp_path)
    assert image.stat().st_size == _BYTES
    assert ext4_errors(image, cache, print) == ()


@_HAS_TOOLS
def test_damaged(tmp_path: Path) -> None:
    """Lines of a bearable length that name what is wrong; the image stays as it is."""
    image, cache = _made(tmp_path)
    content = bytearray(image.read_bytes())
    for offset in range(20 * 1024, 200 * 1024):
        content[offset] ^= 0x5A
    image.write_bytes(content)
    found = ext4_errors(image, cache, print)
    assert found
    assert all(0 < len(line) <= 200 for line in found)
    assert not any(line.startswith(("Pass ", "Fix? ")) for line in found)
    assert image.read_bytes() == content


@_HAS_TOOLS
def test_lost(tmp_path: Path) -> None:
    """A disk that no longer begins with a file system is an error of the file system, not of ours."""
    image, cache = _made(tmp_path)
    image.write_bytes(bytes(_BYTES))
    assert any("magic number" in line for line in ext4_errors(image, cache, print))


@_HAS_TOOLS
def test_missing_image(tmp_path: Path) -> None:
    """What cannot be opened says nothing about a guest."""
    with pytest.raises(SetupBroken, match=r"none\.raw' could not be made or checked"):
        ext4_errors(tmp_path / "none.raw", Cache(tmp_path), print)


def test_tool_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has none, the package's own program runs with the libraries beside it."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(file_systems, "packaged_tool", lambda name, *_: ["/bin/echo", "packaged", name])
    assert ext4_errors(tmp_path / "disk.raw", Cache(tmp_path), print) == ()


def test_loader(tmp_path: Path) -> None:
    """Found below the root, with every library folder there; a root without one is told."""
    with pytest.raises(SetupBroken, match="no dynamic loader"):
        find_loader(tmp_path)
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (folder / "ld-linux-x86-64.so.2").touch()
    loader = find_loader(tmp_path)
    assert loader == Loader("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", ("usr/lib/x86_64-linux-gnu",))
    command = loader.command(Path("/root/x"), "usr/sbin/e2fsck")
    assert command[0] == "/root/x/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    assert command[-2:] == ["/root/x/usr/lib/x86_64-linux-gnu", "/root/x/usr/sbin/e2fsck"]
