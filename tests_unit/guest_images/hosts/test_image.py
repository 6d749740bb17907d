"""Hosts: their entries in the catalogue, their disks, and the QEMU wrappers that run on them."""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from guest_images.cache import Cache
from guest_images.catalogue import HOSTS, QEMUS, host_qemu_spec, host_spec, suite
from guest_images.guests import init_script
from guest_images.guests.kernel_modules import Kernel
from guest_images.guests.ssh_keys import GuestKeys
from guest_images.hosts import image as host_image
from guest_images.hosts import init as host_init
from guest_images.hosts.image import _write_root, build_host_with_kernel
from guest_images.packages.apt_sources import Mirrors
from guest_images.packages.apt_state import configuration, sources_list
from guest_images.packages.elf import needed_libraries
from guest_images.provisioning import Provisioning
from guest_images.qemu.builds import wrapper_script
from harness.errors import SetupBroken, UsageError
from harness.hosts.vm import VmDisk, disk_arguments
from harness.qemu.architectures import AARCH64, DEFAULT_ARCHITECTURE, I386, X86_64, Architecture
from tests_unit.support.elf_files import shared_object

_KEYS = GuestKeys(Path("user"), "ssh-ed25519 USER", "ssh-ed25519 HOST", b"dropbear", b"openssh private")


def test_catalogue_of_hosts_is_consistent() -> None:
    """Each host's QEMU is built for its processor; the QEMU that saves its guest has the same version."""
    names = [spec.name for spec in HOSTS]
    assert len(names) == len(set(names))
    for spec in HOSTS:
        assert spec.reason
        assert host_qemu_spec(spec.qemu).architecture is spec.architecture
        assert spec.source_qemu in {qemu.name for qemu in QEMUS}
        # The QEMU that goes on with a saved guest has the version of the one that saved it.
        assert suite(host_qemu_spec(spec.qemu).suite).codename == suite(spec.source_qemu).codename
        assert host_spec(spec.name) is spec


@pytest.mark.skipif(
    DEFAULT_ARCHITECTURE is not X86_64,
    reason="the features in the catalogue are those of x86_64 hosts (docs/hosts.md)",
)
def test_expected_features_differ_where_hosts_do() -> None:
    """The catalogue has hosts without write protection, and on arm64 a counterpart with it."""
    without = {spec.name for spec in HOSTS if not spec.features & 1}
    assert without == {"debian-12-arm64", "debian-12-i386"}
    with_it = {spec.architecture for spec in HOSTS if spec.features & 1}
    assert with_it == {X86_64, AARCH64}


def test_foreign_packages_come_from_a_state_of_their_own(tmp_path: Path) -> None:
    """The private sources and the private apt.conf name the architecture."""
    mirrors = Mirrors("http://mirror/debian", None, tmp_path / "keyring")
    assert "[arch=arm64 " in sources_list(suite("debian-12-arm64"), mirrors)
    text = configuration(tmp_path, "arm64")
    assert 'APT::Architecture "arm64";' in text
    assert 'APT::Architectures { "arm64"; };' in text


def test_elf_files_of_both_classes() -> None:
    """Libraries of 32-bit and 64-bit programs are read; an ELF file that is cut off is an error."""
    for bits in (32, 64):
        program = shared_object("libc.so.6", "libz.so.1", bits=bits)
        assert needed_libraries(program) == ("libc.so.6", "libz.so.1")
    with pytest.raises(ValueError, match="cut off"):
        needed_libraries(shared_object("libc.so.6", bits=32)[:60])


def _unmerged(root: Path) -> Path:
    """Lay out packages as of Debian 11: /bin, /lib and /lib64 beside /usr, an absolute link to the loader."""
    for folder in ("bin", "lib/x86_64-linux-gnu", "lib64", "usr/lib/x86_64-linux-gnu", "usr/bin", "etc"):
        (root / folder).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(b"busybox")
    (root / "lib/x86_64-linux-gnu/ld-2.31.so").write_bytes(b"loader")
    (root / "usr/bin/python3").write_bytes(b"python")
    (root / "lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-2.31.so")
    return root


def _merged(root: Path) -> Path:
    """Lay out packages as of Debian 13, whose base-files has links into /usr."""
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
    """Disks of both have all files in /usr, so programs find their loader and libraries."""
    old, new = _members(_unmerged(tmp_path / "old")), _members(_merged(tmp_path / "new"))
    assert set(old) == set(new)
    for found in (old, new):
        assert found["lib64"].linkname == "usr/lib64"
        assert found["usr/bin/sh"].linkname == "busybox"
        assert found["usr/lib/x86_64-linux-gnu/ld-2.31.so"].isfile()
        assert (found["root/.ssh"].mode, found["etc/dropbear/host_key"].mode) == (0o700, 0o600)
        assert found["usr/sbin/init"].mode == 0o755


def test_modules_that_were_compiled_here_take_the_place_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python that ran in the packages' folder left files there, for sources with another time."""
    place = "usr/lib/python3.13/__pycache__/os.cpython-313.pyc"
    root = _merged(tmp_path)
    (root / place).parent.mkdir(parents=True)
    (root / place).write_bytes(b"stale")
    monkeypatch.setattr(host_image, "compiled_modules", lambda *_: {place: b"compiled here"})
    assert _members(root)[place].size == len(b"compiled here")


def test_folders_come_before_what_is_in_them(tmp_path: Path) -> None:
    """Each folder comes before its content, since mke2fs does not make missing folders."""
    seen = {""}
    for name, member in _members(_unmerged(tmp_path / "old")).items():
        assert name.rpartition("/")[0] in seen, name
        if member.isdir():
            seen.add(name)


def test_scripts_parse(tmp_path: Path) -> None:
    """The scripts that run in hosts are valid shell."""
    for number, text in enumerate((host_init.HOST_INIT, init_script.DISK_INIT)):
        script = tmp_path / str(number)
        script.write_text(text)
        assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


def test_hosts_do_not_check_the_timer_that_a_busy_machine_delays() -> None:
    """Linux 6.16.12 panicked, and QEMU ended, when the thread that gives the ticks was starved."""
    words = host_image._KERNEL_WORDS.split()
    assert "no_timer_check" in words
    # A panic must end QEMU, and not leave a VM that never answers.
    assert "panic=-1" in words


def test_hosts_guard_against_no_speculation_and_keep_their_clock() -> None:
    """The guards cost an emulated processor time; without the HPET a busy machine makes a wrong clock."""
    words = host_image._KERNEL_WORDS.split()
    assert "mitigations=off" in words
    assert "tsc=reliable" not in words


def test_missing_drivers_are_left_out(tmp_path: Path) -> None:
    """A user's own kernel may have all drivers built in; no module is loaded then."""
    assert tuple(host_image._modules(Kernel(tmp_path / "bzImage", None))) == ()


def test_own_kernel_must_exist(tmp_path: Path) -> None:
    """The error names the missing kernel image, or the missing folder of modules."""
    cache = Cache(tmp_path)
    with pytest.raises(UsageError, match="There is no kernel image"):
        build_host_with_kernel(Kernel(tmp_path / "bzImage", None), Provisioning(cache, print))
    (tmp_path / "bzImage").touch()
    with pytest.raises(UsageError, match="There is no folder"):
        build_host_with_kernel(Kernel(tmp_path / "bzImage", tmp_path / "modules"), Provisioning(cache, print))


def test_own_modules_must_be_there(tmp_path: Path) -> None:
    """A folder without a module would be taken for a kernel with all drivers built in."""
    (tmp_path / "bzImage").touch()
    (tmp_path / "modules/kernel").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"has no kernel modules .* 'make modules_install"):
        build_host_with_kernel(
            Kernel(tmp_path / "bzImage", tmp_path / "modules"), Provisioning(Cache(tmp_path), print)
        )


def test_disks_are_known_by_serial_number(tmp_path: Path) -> None:
    """Each disk has its name as serial number, for the host to find it; commas in paths are doubled."""
    seed, out = VmDisk(tmp_path / "a,b"), VmDisk(tmp_path / "c", writable=True)
    words = disk_arguments({"seed": seed, "qemu": VmDisk(tmp_path / "d", mounted=True), "out": out})
    assert f"file={tmp_path}/a,,b,format=raw,if=none,id=host-seed,readonly=on" in words
    assert "virtio-blk-pci,drive=host-seed,serial=disk-seed" in words
    assert "virtio-blk-pci,drive=host-qemu,serial=files-qemu" in words
    assert words[-3].endswith("readonly=off")
    # virtio-blk hands out 20 bytes (linux/virtio_blk.h, VIRTIO_BLK_ID_BYTES).
    assert all(len(word.rpartition("serial=")[2]) <= 20 for word in words if "serial=" in word)


@pytest.mark.parametrize("architecture", [I386, AARCH64], ids=lambda entry: entry.name)
def test_wrapper_runs_a_foreign_build(architecture: Architecture, tmp_path: Path) -> None:
    """A QEMU built for another processor runs with the loader and libraries of that processor."""
    libraries = tmp_path / "usr/lib" / architecture.triplet
    libraries.mkdir(parents=True)
    (libraries / architecture.loader).touch()
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin" / DEFAULT_ARCHITECTURE.qemu).touch()
    text = wrapper_script(tmp_path, runs_on=architecture)
    assert f'"$root/usr/lib/{architecture.triplet}/{architecture.loader}"' in text
    with pytest.raises(SetupBroken, match="no dynamic loader"):
        wrapper_script(tmp_path, runs_on=replace(architecture, triplet="other"))
