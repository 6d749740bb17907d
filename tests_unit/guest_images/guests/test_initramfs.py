"""The guest's initramfs: kernel and modules, libraries, SSH keys, and the archive with all of them."""

from __future__ import annotations

import base64
import lzma
import struct
import subprocess
from pathlib import Path

import paramiko
import pytest

from guest_images.cache import Cache
from guest_images.guests.init_script import INIT
from guest_images.guests.initramfs import AGENT_PATH, guest_initramfs
from guest_images.guests.kernel_modules import (
    GUEST_MODULES,
    Kernel,
    Module,
    find_kernel,
    guest_modules,
    load_order,
)
from guest_images.guests.ssh_keys import guest_keys
from guest_images.packages.elf import find_libraries, module_info, needed_libraries
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken
from harness.qemu.architectures import AARCH64, DEFAULT_ARCHITECTURE, RISCV64, X86_64
from tests_unit.support.elf_files import kernel_module, shared_object


def quiet(line: str) -> None:
    """Take log lines and drop them."""


def kernel_in(root: Path, *, merged: bool, split: bool = False) -> Path:
    """Lay out an unpacked kernel as Debian does; return the folder of its modules."""
    modules = root / ("usr/lib/modules/6.1-test" if merged else "lib/modules/6.1-test")
    (modules / "kernel/drivers").mkdir(parents=True)
    image = modules / "vmlinuz" if split else root / "boot/vmlinuz-6.1-test"
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(b"bzImage")
    return modules


@pytest.mark.parametrize(("merged", "split"), [(False, False), (True, False), (True, True)])
def test_kernel_is_found_in_every_layout(tmp_path: Path, merged: bool, split: bool) -> None:
    """A kernel is found as Debian 12 and before, Debian 13, and the split packages of Linux 7 have it."""
    kernel_in(tmp_path, merged=merged, split=split)
    kernel = find_kernel(tmp_path)
    assert kernel.release == "6.1-test"
    assert kernel.image.read_bytes() == b"bzImage"


def test_no_kernel_says_so(tmp_path: Path) -> None:
    """Packages without a kernel, or without its image, are an error."""
    with pytest.raises(SetupBroken, match="there are 0"):
        find_kernel(tmp_path)
    (kernel_in(tmp_path, merged=True, split=True) / "vmlinuz").unlink()
    with pytest.raises(SetupBroken, match="no kernel image"):
        find_kernel(tmp_path)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A kernel whose virtio_net needs failover, which needs virtio_ring, which is built in."""
    folder = kernel_in(tmp_path, merged=True)
    drivers = folder / "kernel/drivers"
    (drivers / "virtio_net.ko").write_bytes(
        kernel_module(name="virtio_net", depends="net-failover,virtio_ring")
    )
    (drivers / "net_failover.ko.xz").write_bytes(lzma.compress(kernel_module(depends="failover")))
    (drivers / "failover.ko").write_bytes(kernel_module(depends=""))
    (drivers / "virtio-rng.ko").write_bytes(kernel_module(depends="virtio_ring"))
    (folder / "modules.builtin").write_text("kernel/drivers/virtio/virtio_ring.ko\n")
    return find_kernel(tmp_path)


def modules_of(kernel: Kernel) -> Path:
    """The folder of a kernel's modules, which the fixture's kernel has."""
    assert kernel.modules_folder is not None
    return kernel.modules_folder


def test_modules_come_after_what_they_need(kernel: Kernel) -> None:
    """Each dependency comes first and once, built-in ones do not come; dashes become underscores."""
    names = [module.name for module in load_order(kernel, ("virtio_net", "virtio_rng", "failover"))]
    assert names == ["failover", "net_failover", "virtio_net", "virtio_rng"]


def test_modules_are_decompressed(kernel: Kernel) -> None:
    """Modules are plain ELF files, as busybox's insmod needs them."""
    assert all(module.image.startswith(b"\x7fELF") for module in load_order(kernel, ("virtio_net",)))


def test_missing_driver_says_so(kernel: Kernel) -> None:
    """A driver that is neither a module nor built in is named at once, not after a boot without network."""
    with pytest.raises(SetupBroken, match="no driver 'virtio_blk'"):
        load_order(kernel, ("virtio_blk",))


def test_without_a_list_unknown_drivers_count_as_built_in(kernel: Kernel) -> None:
    """A missing module counts as built in if there is no modules.builtin, as in packages of Linux 7."""
    (modules_of(kernel) / "modules.builtin").unlink()
    assert [module.name for module in load_order(kernel, ("virtio_pci", "failover"))] == ["failover"]


def test_damaged_module_says_so(kernel: Kernel) -> None:
    """The errors for a damaged module and for a damaged compression name the module."""
    (modules_of(kernel) / "kernel/drivers/failover.ko").write_bytes(b"\x7fELF")
    with pytest.raises(SetupBroken, match=r"'failover' of 6\.1-test is damaged"):
        load_order(kernel, ("failover",))
    (modules_of(kernel) / "kernel/drivers/net_failover.ko.xz").write_bytes(b"junk")
    with pytest.raises(SetupBroken, match="does not decompress"):
        load_order(kernel, ("net_failover",))


def test_elf_reader_reads_real_programs() -> None:
    """The reader finds what our own ELF files need, and the C library of a real program."""
    assert needed_libraries(shared_object("liba.so.1", "libb.so.2")) == ("liba.so.1", "libb.so.2")
    assert module_info(kernel_module(depends="a,b", license="GPL")) == {"depends": "a,b", "license": "GPL"}
    assert any(name.startswith("libc.") for name in needed_libraries(Path("/bin/sh").read_bytes()))


@pytest.mark.parametrize(
    "image",
    [b"", b"\x7fELF", shared_object("liba.so.1")[:-70], b"\x7fELF\x01\x01" + bytes(80), b"#!/bin/sh\n"],
)
def test_other_files_are_not_elf(image: bytes) -> None:
    """Scripts, incomplete headers and files that are cut off are errors."""
    with pytest.raises(ValueError, match="ELF"):
        needed_libraries(image)


def test_library_closure_is_complete(tmp_path: Path) -> None:
    """Libraries of libraries are found; the error for a missing one names the file that needs it."""
    (tmp_path / "program").write_bytes(shared_object("liba.so.1"))
    (tmp_path / "liba.so.1").write_bytes(shared_object("libb.so.2"))
    with pytest.raises(SetupBroken, match=r"'libb.so.2' that 'liba.so.1' needs"):
        find_libraries([tmp_path / "program"], [tmp_path])
    (tmp_path / "libb.so.2").write_bytes(shared_object("liba.so.1"))
    found = find_libraries([tmp_path / "program"], [tmp_path])
    assert sorted(found) == ["liba.so.1", "libb.so.2"]


def test_keys_are_made_once_and_fit_paramiko(tmp_path: Path) -> None:
    """The user's key is private and loads; asking again gives the same keys."""
    cache = Cache(tmp_path)
    keys = guest_keys(Provisioning(cache, quiet))
    assert keys == guest_keys(Provisioning(cache, quiet))
    assert keys.user_private.stat().st_mode & 0o777 == 0o600
    loaded = paramiko.Ed25519Key.from_private_key_file(str(keys.user_private))
    assert keys.user_line == f"ssh-ed25519 {loaded.get_base64()}"
    assert keys.host_line != keys.user_line


def test_host_key_is_in_dropbear_format(tmp_path: Path) -> None:
    """The key is its type, then a string of 32 private and 32 public bytes; the latter are pinned."""
    keys = guest_keys(Provisioning(Cache(tmp_path), quiet))
    length, kind, size = struct.unpack_from(">I11sI", keys.host_dropbear)
    assert (length, kind, size, len(keys.host_dropbear)) == (11, b"ssh-ed25519", 64, 83)
    assert base64.b64decode(keys.host_line.split()[1]).endswith(keys.host_dropbear[-32:])


def test_damaged_key_says_so(tmp_path: Path) -> None:
    """The error for a damaged key file says what to do."""
    keys = guest_keys(Provisioning(Cache(tmp_path), quiet))
    keys.user_private.write_text("not a key")
    with pytest.raises(SetupBroken, match="delete it"):
        guest_keys(Provisioning(Cache(tmp_path), quiet))


@pytest.fixture
def userland(tmp_path: Path) -> Path:
    """Lay out unpacked busybox and dropbear with one library and a loader."""
    root = tmp_path / "userland"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    for folder in (root / "usr/bin", root / "usr/sbin", libraries):
        folder.mkdir(parents=True)
    (root / "usr/bin/busybox").write_bytes(b"busybox")
    (root / "usr/sbin/dropbear").write_bytes(shared_object("libc.so.6"))
    (libraries / "libc.so.6").write_bytes(shared_object("ld-linux-x86-64.so.2"))
    (libraries / "ld-linux-x86-64.so.2").write_bytes(shared_object())
    return root


def test_initramfs_repeats_and_has_everything(tmp_path: Path, userland: Path) -> None:
    """Two builds are byte-identical; keys, agent, modules and loader are where the guest looks for them."""
    keys = guest_keys(Provisioning(Cache(tmp_path / "cache"), quiet))
    modules = [Module("failover", b"one"), Module("virtio_net", b"two")]
    image = guest_initramfs(userland, X86_64, modules, keys, b"agent")
    assert image == guest_initramfs(userland, X86_64, modules, keys, b"agent")
    for path in (
        "init",
        "dev/console",
        AGENT_PATH,
        "lib64/ld-linux-x86-64.so.2",
        "lib/x86_64-linux-gnu/libc.so.6",
    ):
        assert path.encode() + b"\0" in image
    assert b"failover.ko\nvirtio_net.ko\n" in image
    assert keys.user_line.encode() in image
    assert keys.host_dropbear in image
    assert keys.user_private.read_bytes() not in image


def test_initramfs_has_the_libraries_of_its_architecture(tmp_path: Path) -> None:
    """The loader is where programs of the architecture expect it; no folder of another one is made."""
    root = tmp_path / "userland"
    libraries = root / "usr/lib/aarch64-linux-gnu"
    for folder in (root / "usr/bin", libraries):
        folder.mkdir(parents=True)
    (root / "usr/bin/busybox").write_bytes(b"busybox")
    (root / "usr/bin/dropbear").write_bytes(shared_object("libc.so.6", "ld-linux-aarch64.so.1"))
    for name in ("libc.so.6", "ld-linux-aarch64.so.1"):
        (libraries / name).write_bytes(shared_object())
    image = guest_initramfs(
        root, AARCH64, [], guest_keys(Provisioning(Cache(tmp_path / "cache"), quiet)), b"agent"
    )
    for path in ("lib/ld-linux-aarch64.so.1", "lib/aarch64-linux-gnu/libc.so.6"):
        assert path.encode() + b"\0" in image
    assert b"lib64" not in image
    assert b"x86_64" not in image


def test_initramfs_without_dropbear_says_so(tmp_path: Path, userland: Path) -> None:
    """The error for a userland without dropbear names it."""
    (userland / "usr/sbin/dropbear").unlink()
    with pytest.raises(SetupBroken, match="'dropbear'"):
        guest_initramfs(userland, X86_64, [], guest_keys(Provisioning(Cache(tmp_path / "cache"), quiet)), b"")


def test_init_script_parses() -> None:
    """The guest's /init is valid shell; an error in it would show only as a kernel panic."""
    done = subprocess.run(["sh", "-n"], input=INIT.encode(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_drivers_that_an_architecture_lacks() -> None:
    """A guest gets the drivers of all devices that tests add, but those that its kernels do not have."""
    assert guest_modules(DEFAULT_ARCHITECTURE) == GUEST_MODULES
    assert set(GUEST_MODULES) - set(guest_modules(RISCV64)) == {"virtio_mem"}
