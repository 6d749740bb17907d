"""Makes and checks ext4 file systems in image files, without root and without mounting them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from guest_images.cache import Cache, Log
from guest_images.catalogue import USERLAND_SUITE, suite
from guest_images.loader import find_loader
from guest_images.packages import PackageSet, find_tree, provide_tree
from harness.errors import Evidence, SetupBroken

# Named one by one and without a configuration file, so that each mke2fs makes the same file system, which
# Linux 5.10 mounts as well as 7.x.
_FEATURES = "has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize"
_SECONDS = 120.0
# e2fsck(8): 0 for a clean file system, 4 for errors that it was told not to correct.
_CLEAN, _UNCORRECTED = 0, 4
_CHATTER = ("Pass ", "Fix? no", "e2fsck ")
_LINE = 200


def make_ext4(image: Path, size_bytes: int, cache: Cache, log: Log) -> None:
    """Make an image file with an empty ext4 file system that has a journal.

    Raises:
        MachineryMissing, SetupBroken: mke2fs is not there and cannot be had, or fails.
    """
    with image.open("wb") as file:
        file.truncate(size_bytes)
    # The guest's kernel would else write the inode tables later, at a time of its own.
    now = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    command = [
        *_tool("mke2fs", cache, log),
        "-q",
        "-F",
        "-t",
        "ext4",
        "-I",
        "256",
        "-O",
        _FEATURES,
        "-E",
        now,
        str(image),
    ]
    done = _run(command)
    if done.returncode != 0:
        raise _broken(command, done)


def ext4_errors(image: Path, cache: Cache, log: Log) -> tuple[str, ...]:
    """What `e2fsck -fn` finds wrong in an unmounted file system, line by line; empty where it is clean.

    Raises:
        MachineryMissing, SetupBroken: e2fsck is not there and cannot be had, or cannot do its work.
    """
    command = [*_tool("e2fsck", cache, log), "-fn", str(image)]
    done = _run(command)
    if done.returncode == _CLEAN:
        return ()
    lost = "Bad magic number" in done.stderr
    if not lost and not done.returncode & _UNCORRECTED:
        raise _broken(command, done)
    lines = (done.stderr if lost else done.stdout).splitlines()
    # A list of blocks can be as long as the disk has blocks.
    return tuple(line[:_LINE] for line in lines if line and not line.startswith(_CHATTER))


def _tool(name: str, cache: Cache, log: Log) -> list[str]:
    """The machine's own e2fsprogs, which hardly any lacks, else those of a Debian package."""
    # Where an ordinary user's PATH need not lead.
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=search)
    return [found] if found else packaged_tool(name, cache, log)


def packaged_tool(name: str, cache: Cache, log: Log) -> list[str]:
    """The beginning of a command line that runs a program of Debian's e2fsprogs.

    Raises:
        MachineryMissing, SetupBroken: see `packages.provide_tree`.
    """
    wanted = PackageSet("e2fsprogs", suite(USERLAND_SUITE), ("e2fsprogs",))
    root = (find_tree(wanted, cache) or provide_tree(wanted, cache, log)).root
    for folder in ("usr/sbin", "sbin"):
        if (root / folder / name).exists():
            return find_loader(root).command(root, f"{folder}/{name}")
    raise SetupBroken(f"Debian's e2fsprogs in '{root}' do not include '{name}'.")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LC_ALL": "C", "MKE2FS_CONFIG": os.devnull}
    return subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        check=False,
    )


def _broken(command: list[str], done: subprocess.CompletedProcess[str]) -> SetupBroken:
    said = (done.stderr.strip().splitlines() or ["no message"])[-1]
    evidence = Evidence(command, done.returncode, (done.stdout + done.stderr)[-2000:])
    return SetupBroken(f"The file system in '{command[-1]}' could not be made or checked: {said}", evidence)
