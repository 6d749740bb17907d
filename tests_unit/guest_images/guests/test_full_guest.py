"""The full guest's disk: root owns its files though a user builds it; equal packages give equal disks."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from guest_images.guests import init_script
from guest_images.guests.full_guest import boot_initramfs, build_disk, write_archive
from guest_images.guests.kernel_modules import Module
from guest_images.guests.root_files import GROUP_OF, MASKED_UNITS, TESTER, root_files
from guest_images.guests.ssh_keys import GuestKeys
from harness.errors import SetupBroken
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from tests_functional.lib import own_guest

_KEYS = GuestKeys(Path("user"), "ssh-ed25519 USER", "ssh-ed25519 HOST", b"dropbear", b"openssh private")


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A tree of unpacked packages with one of each kind of file."""
    root = tmp_path / "packages"
    for folder in ("usr/bin", "usr/sbin", "usr/share/doc/x", "etc", "var/mail", "root"):
        (root / folder).mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(b"tool")
    (root / "usr/bin/tool").chmod(0o4755)
    (root / "usr/sbin/unix_chkpwd").write_bytes(b"check")
    (root / "usr/share/doc/x/copyright").write_text("words")
    (root / "etc/environment").write_text("of the package")
    (root / "root").chmod(0o700)
    (root / "bin").symlink_to("usr/bin")
    return root


def _members(packages: Path) -> dict[str, tarfile.TarInfo]:
    file = io.BytesIO()
    write_archive(packages, _KEYS, file)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert len(names) == len(set(names))
    return {member.name: member for member in members}


def test_root_owns_all_but_what_is_listed(packages: Path) -> None:
    """Root owns all files but the listed ones; modes are those of the packages, with set-user-id bits."""
    found = _members(packages)
    strangers = {name for name, member in found.items() if (member.uid, member.gid) != (0, 0)}
    assert strangers == {
        "etc/shadow", "etc/gshadow", "usr/sbin/unix_chkpwd", "var/mail", "home/tester", "home/tester/.ssh",
        "home/tester/.ssh/authorized_keys",
    }  # fmt: skip
    assert found["usr/bin/tool"].mode == 0o4755
    assert found["usr/sbin/unix_chkpwd"].gid == GROUP_OF["shadow"]
    assert (found["root"].mode, found["root/.ssh"].mode) == (0o700, 0o700)
    assert found["home/tester/.ssh"].uid == TESTER
    assert found["bin"].linkname == "usr/bin"
    assert not [name for name in found if name.startswith("usr/share/doc")]


def test_folders_come_before_what_is_in_them(packages: Path) -> None:
    """Each folder comes before its content, since mke2fs does not make missing folders."""
    seen = {""}
    for name, member in _members(packages).items():
        assert name.rpartition("/")[0] in seen, name
        if member.isdir():
            seen.add(name)


def test_archive_repeats(packages: Path) -> None:
    """The archive does not depend on the time or order in which files were unpacked."""
    first, second = io.BytesIO(), io.BytesIO()
    write_archive(packages, _KEYS, first)
    os.utime(packages / "usr/bin/tool", (1, 1))
    write_archive(packages, _KEYS, second)
    assert first.getvalue() == second.getvalue()


def test_accounts_are_consistent() -> None:
    """Every user has a group and no password, and only root can read the private host key."""
    files = root_files(_KEYS)
    groups = {line.split(":")[2] for line in files["etc/group"][3].decode().splitlines()}
    users = [line.split(":") for line in files["etc/passwd"][3].decode().splitlines()]
    assert {user[3] for user in users} <= groups
    assert len({user[2] for user in users}) == len(users)
    shadow = [line.split(":") for line in files["etc/shadow"][3].decode().splitlines()]
    assert [(line[0], line[1]) for line in shadow] == [(user[0], "*") for user in users]
    assert files["etc/ssh/ssh_host_ed25519_key"][0] == 0o600
    assert len(set(MASKED_UNITS)) == len(MASKED_UNITS)


def test_scripts_parse(tmp_path: Path) -> None:
    """The scripts that run in guests are valid shell."""
    for number, text in enumerate(
        (init_script.DISK_INIT, own_guest._INSTALL, own_guest._FIND, own_guest._QUIET)
    ):
        script = tmp_path / str(number)
        script.write_text(text)
        assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


def test_initramfs_holds_modules_in_order(tmp_path: Path) -> None:
    """The initramfs has the modules, the list of them in order, and the script that starts the disk."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").write_bytes(b"busybox")
    found = boot_initramfs(tmp_path, [Module("virtio", b"first"), Module("virtio_blk", b"second")])
    assert b"virtio.ko\nvirtio_blk.ko\n" in found
    assert b"switch_root" in found


def test_failing_mke2fs_is_one_sentence(packages: Path, tmp_path: Path) -> None:
    """The error of a failed mke2fs has its exit code and output; no archive is left behind."""
    loader = tmp_path / "mkfs/usr/lib" / DEFAULT_ARCHITECTURE.triplet / DEFAULT_ARCHITECTURE.loader
    loader.parent.mkdir(parents=True)
    loader.write_text("#!/bin/sh\necho no space >&2\nexit 3\n")
    loader.chmod(0o755)
    with pytest.raises(
        SetupBroken, match=r"could not make the disk '.*disk.raw' \(exit code 3\)\."
    ) as caught:
        build_disk(packages, tmp_path / "mkfs", _KEYS, tmp_path / "disk.raw")
    assert "no space" in caught.value.evidence.log_tail
    assert not (tmp_path / "disk.tar").exists()
