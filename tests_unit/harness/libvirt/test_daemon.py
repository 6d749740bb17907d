"""Contract: a libvirt of our own changes nothing of the machine; if there can be none, the reason is told."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.errors import NotApplicable
from harness.libvirt import daemon, room
from harness.libvirt.daemon import Libvirt, LibvirtPackages, VirshRefused, VirshUnfinished
from harness.libvirt.room import Order

_PACKAGES = LibvirtPackages("debian-13", "11.3.0", Path("/packages"), ("virsh",), "usr/lib/driver.so")


def test_settings_keep_the_owners_of_files() -> None:
    """Libvirt changes owners of disks and kernels by default, and of device nodes."""
    files = daemon._files("root")
    qemu = files["/etc/libvirt/qemu.conf"].splitlines()
    assert "dynamic_ownership = 0" in qemu
    assert "remember_owner = 0" in qemu
    assert 'user = "root"' in qemu
    assert 'user = "libvirt-qemu"' in daemon._files("libvirt-qemu")["/etc/libvirt/qemu.conf"]
    assert "libvirt-qemu:x:64055:64055::/:/bin/sh" in files["/etc/passwd"].splitlines()


def _with_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str) -> Libvirt:
    """Return a libvirt whose room only says some words."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho '{words}'\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    return Libvirt(_PACKAGES, tmp_path / "libvirt", (tmp_path,))


def test_reason_of_a_room_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is what the test is skipped with, and nothing is left running."""
    words = "no namespaces of one's own: Operation not permitted".replace("'", "")
    libvirt = _with_room(monkeypatch, tmp_path, words)
    with (
        pytest.raises(NotApplicable, match="can be run here: no namespaces of ones own: Operation not"),
        libvirt,
    ):
        pass
    assert libvirt._process is None


def test_commands_of_virsh(tmp_path: Path) -> None:
    """Its output is returned, its error and its silence are raised."""
    libvirt = Libvirt(_PACKAGES, tmp_path, ())
    libvirt.uri = "qemu:///system"
    libvirt.virsh.write_text('#!/bin/sh\n[ "$4" = bad ] && { echo "error: no" >&2; exit 1; }\n')
    with libvirt.virsh.open("a") as script:
        script.write('[ "$4" = slow ] && exec sleep 60\necho "$@"\n')
    libvirt.virsh.chmod(0o755)
    assert libvirt.run("list") == "--quiet --connect qemu:///system list\n"
    with pytest.raises(VirshRefused, match="'virsh bad' failed: error: no"):
        libvirt.run("bad")
    with pytest.raises(VirshUnfinished):
        libvirt.run("slow", seconds=0.2)
    libvirt.discard("bad")


def test_order_comes_through(tmp_path: Path) -> None:
    """The room gets it as JSON."""
    order = Order("/p", str(tmp_path), {"/a": "b"}, {"/c": "d"}, ["/e"], "/r", ["libvirtd"], {"A": "B"}, "/l")
    assert Order(**json.loads(json.dumps(asdict(order)))) == order


@pytest.mark.skipif(os.geteuid() != 0, reason="nodes are made by root alone")
def test_nodes_are_new_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They have the machine's numbers, but are others; userfaultfd is root's until libvirt gives it away."""
    (tmp_path / "pts").mkdir()
    monkeypatch.setattr(room, "_mount", lambda *_words: None)
    room._make_devices(tmp_path)
    null = (tmp_path / "null").stat()
    assert stat.S_ISCHR(null.st_mode)
    assert null.st_rdev == Path("/dev/null").stat().st_rdev
    assert (null.st_dev, null.st_ino) != (Path("/dev/null").stat().st_dev, Path("/dev/null").stat().st_ino)
    if (tmp_path / "userfaultfd").exists():
        assert (tmp_path / "userfaultfd").stat().st_mode & 0o777 == 0o600
    assert str((tmp_path / "ptmx").readlink()) == "pts/ptmx"


def test_packages_of_a_merged_and_of_an_unmerged_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each gets a /bin with a shell, and the links that its packages rely on."""
    bound: list[str] = []
    monkeypatch.setattr(room, "_bind", lambda theirs, _ours, _flags=0: bound.append(theirs))
    packages = tmp_path / "packages"
    for name in ("usr/bin", "usr/lib", "usr/sbin", "etc", "var"):
        (packages / name).mkdir(parents=True)
    (packages / "usr/bin/busybox").write_text("busybox")
    root = tmp_path / "merged"
    (root / "usr").mkdir(parents=True)
    (root / "usr/lib").mkdir()
    room._take_packages(packages, root)
    assert bound == [str(packages / "usr")]
    assert (root / "bin/sh").resolve() == root / "bin/busybox"
    assert str((root / "lib").readlink()) == "usr/lib"
