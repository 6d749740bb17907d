"""Hosts as data and as images: the catalogue, the disk, and the machine that runs them."""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from guest_images import host_image, host_init, init_script
from guest_images.apt_sources import Mirrors
from guest_images.apt_state import configuration, sources_list
from guest_images.cache import Cache
from guest_images.catalogue import HOSTS, QEMUS, host_qemu_spec, host_spec, suite
from guest_images.elf import needed_libraries
from guest_images.host_image import _write_root, host_of_kernel
from guest_images.kernel_modules import Kernel
from guest_images.qemu import wrapper_script
from guest_images.ssh_keys import GuestKeys
from harness.errors import SetupBroken, UsageError
from harness.hosts.vm import VmDisk, disk_arguments
from harness.qemu.architectures import AARCH64, I386, X86_64, Architecture
from tests_unit.elf_files import shared_object

_KEYS = GuestKeys(Path("user"), "ssh-ed25519 USER", "ssh-ed25519 HOST", b"dropbear", b"openssh private")


def test_catalogue_hangs_together() -> None:
    """Each host's suite and QEMUs exist, its QEMU is built for it, and the guest's maker is one of ours."""
    names = [spec.name for spec in HOSTS]
    assert len(names) == len(set(names))
    for spec in HOSTS:
        assert spec.reason
        assert host_qemu_spec(spec.qemu).architecture is spec.architecture
        assert spec.source_qemu in {qemu.name for qemu in QEMUS}
        # The QEMU that goes on with a saved guest has the version of the one that saved it.
        assert suite(host_qemu_spec(spec.qemu).suite).codename == suite(spec.source_qemu).codename
        assert host_spec(spec.name) is spec


def test_expected_features_differ_where_hosts_do() -> None:
    """Hosts without write protection are there, and each has a counterpart with it."""
    without = {spec.name for spec in HOSTS if not spec.features & 1}
    assert without == {"debian-12-arm64", "debian-12-i386"}
    with_it = {spec.architecture for spec in HOSTS if spec.features & 1}
    assert with_it == {X86_64, AARCH64}


def test_foreign_packages_come_from_a_state_of_their_own(tmp_path: Path) -> None:
    """Apt is told the architecture in its sources and its configuration."""
    mirrors = Mirrors("http://mirror/debian", None, tmp_path / "keyring")
    assert "[arch=arm64 " in sources_list(suite("debian-12-arm64"), mirrors)
    text = configuration(tmp_path, "arm64")
    assert 'APT::Architecture "arm64";' in text
    assert 'APT::Architectures { "arm64"; };' in text


def test_elf_files_of_both_classes() -> None:
    """The libraries of a 32-bit program are found as those of a 64-bit one."""
    for bits in (32, 64):
        program = shared_object("libc.so.6", "libz.so.1", bits=bits)
        assert needed_libraries(program) == ("libc.so.6", "libz.so.1")
    with pytest.raises(ValueError, match="cut off"):
        needed_libraries(shared_object("libc.so.6", bits=32)[:60])


def _unmerged(root: Path) -> Path:
    """Packages of Debian 11: /bin, /lib and /lib64 beside /usr, and a loader with an absolute link."""
    for folder in ("bin", "lib/x86_64-linux-gnu", "lib64", "usr/lib/x86_64-linux-gnu", "usr/bin", "etc"):
        (root / folder).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(b"busybox")
    (root / "lib/x86_64-linux-gnu/ld-2.31.so").write_bytes(b"loader")
    (root / "usr/bin/python3").write_bytes(b"python")
    (root / "lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-2.31.so")
    return root


def _merged(root: Path) -> Path:
    """Packages of Debian 13, whose base-files has the links."""
    for folder in ("usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib64", "etc"):
        (root / folder).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr/bin/busybox").write_bytes(b"busybox")
    (root / "usr/lib/x86_64-linux-gnu/ld-2.31.so").write_bytes(b"loader")
    (root / "usr/bin/python3").write_bytes(b"python")
    (root / "usr/lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-2.31.so")
    return root


def _members(root: Path) -> dict[str, tarfile.TarInfo]:
    file = io.BytesIO()
    _write_root(root, X86_64, _KEYS, file)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert len(names) == len(set(names))
    return {member.name: member for member in members}


def test_disks_of_old_and_new_debian_are_alike(tmp_path: Path) -> None:
    """Both have everything in /usr, so programs and loaders are where they look for each other."""
    old, new = _members(_unmerged(tmp_path / "old")), _members(_merged(tmp_path / "new"))
    assert set(old) == set(new)
    for found in (old, new):
        assert found["lib64"].linkname == "usr/lib64"
        assert found["usr/bin/sh"].linkname == "busybox"
        assert found["usr/lib/x86_64-linux-gnu/ld-2.31.so"].isfile()
        assert (found["root/.ssh"].mode, found["etc/dropbear/host_key"].mode) == (0o700, 0o600)
        assert found["usr/sbin/init"].mode == 0o755


def test_folders_come_before_what_is_in_them(tmp_path: Path) -> None:
    """mke2fs makes no folder that the archive does not have yet."""
    seen = {""}
    for name, member in _members(_unmerged(tmp_path / "old")).items():
        assert name.rpartition("/")[0] in seen, name
        if member.isdir():
            seen.add(name)


def test_scripts_parse(tmp_path: Path) -> None:
    """What runs in hosts is valid shell."""
    for number, text in enumerate((host_init.HOST_INIT, init_script.DISK_INIT)):
        script = tmp_path / str(number)
        script.write_text(text)
        assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


def test_missing_drivers_are_left_out(tmp_path: Path) -> None:
    """A kernel of one's own may have all built in."""
    assert tuple(host_image._modules(Kernel(tmp_path / "bzImage", None))) == ()
    assert tuple(host_image._modules(Kernel(tmp_path / "bzImage", tmp_path))) == ()


def test_kernel_of_ones_own_must_be_there(tmp_path: Path) -> None:
    """One sentence names what is not."""
    cache = Cache(tmp_path)
    with pytest.raises(UsageError, match="There is no kernel image"):
        host_of_kernel(Kernel(tmp_path / "bzImage", None), cache, print)
    (tmp_path / "bzImage").touch()
    with pytest.raises(UsageError, match="There is no folder"):
        host_of_kernel(Kernel(tmp_path / "bzImage", tmp_path / "modules"), cache, print)


def test_disks_are_known_by_serial_number(tmp_path: Path) -> None:
    """The host finds them by name whatever order QEMU has them in; commas in paths are doubled."""
    words = disk_arguments({"seed": VmDisk(tmp_path / "a,b"), "out": VmDisk(tmp_path / "c", writable=True)})
    assert f"file={tmp_path}/a,,b,format=raw,if=none,id=host-seed,readonly=on" in words
    assert "virtio-blk-pci,drive=host-seed,serial=disk-seed" in words
    assert words[-3].endswith("readonly=off")
    # virtio-blk hands out 20 bytes (linux/virtio_blk.h, VIRTIO_BLK_ID_BYTES).
    assert all(len(word.rpartition("serial=")[2]) <= 20 for word in words if "serial=" in word)


@pytest.mark.parametrize("architecture", [I386, AARCH64], ids=lambda entry: entry.name)
def test_wrapper_runs_a_foreign_build(architecture: Architecture, tmp_path: Path) -> None:
    """By its own loader, from the folders of its own architecture."""
    libraries = tmp_path / "usr/lib" / architecture.triplet
    libraries.mkdir(parents=True)
    (libraries / architecture.loader).touch()
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/qemu-system-x86_64").touch()
    text = wrapper_script(tmp_path, runs_on=architecture)
    assert f'"$root/usr/lib/{architecture.triplet}/{architecture.loader}"' in text
    with pytest.raises(SetupBroken, match="no dynamic loader"):
        wrapper_script(tmp_path, runs_on=replace(architecture, triplet="other"))
