"""Makes and checks ext4 file systems in image files, without root and without mounting them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from subprocess import CompletedProcess

from guest_images.packages.programs import packaged_program
from guest_images.programs import run_program
from guest_images.provisioning import Provisioning
from harness.errors import Evidence, SetupBroken

# All features are named, and no configuration file is read: every mke2fs makes the same file system, which
# Linux 5.10 and 7.x both mount.
_FEATURES = "has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize"
_SECONDS = 120.0
# Exit codes of e2fsck(8): 0 for a clean file system, 4 for errors that it was told not to correct.
_CLEAN, _UNCORRECTED = 0, 4
_PROGRESS_LINES = ("Pass ", "Fix? no", "e2fsck ")
_MOST_LETTERS = 200


def make_ext4(image: Path, size_bytes: int, provisioning: Provisioning) -> None:
    """Make an image file with an empty ext4 file system that has a journal.

    Args:
        image: the file to make.
        size_bytes: its size.
        provisioning: the mirror, the cache, and the log of slow steps.

    Raises:
        MachineryMissing, SetupBroken: mke2fs is neither here nor to be fetched, or fails.
    """
    with image.open("wb") as file:
        file.truncate(size_bytes)
    # Without these the guest's kernel writes the inode tables later, at a time that it chooses.
    extended = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    options = ["-q", "-F", "-t", "ext4", "-I", "256", "-O", _FEATURES, "-E", extended]
    command = [*_find_tool("mke2fs", provisioning), *options, str(image)]
    done = _run_tool("mke2fs", f"make a file system in '{image}'", command)
    if done.returncode != 0:
        raise _tool_failure(command, done)


def ext4_errors(image: Path, provisioning: Provisioning) -> tuple[str, ...]:
    """Return the errors that `e2fsck -fn` finds in an unmounted file system, a line each.

    Args:
        image: the image file; it is not written to.
        provisioning: the mirror, the cache, and the log of slow steps.

    Raises:
        MachineryMissing, SetupBroken: e2fsck is neither here nor to be fetched, or cannot read the image.
    """
    command = [*_find_tool("e2fsck", provisioning), "-fn", str(image)]
    done = _run_tool("e2fsck", f"check the file system in '{image}'", command)
    if done.returncode == _CLEAN:
        return ()
    lost = "Bad magic number" in done.stderr
    if not lost and not done.returncode & _UNCORRECTED:
        raise _tool_failure(command, done)
    lines = (done.stderr if lost else done.stdout).splitlines()
    # A line can list all blocks of the disk.
    return tuple(line[:_MOST_LETTERS] for line in lines if line and not line.startswith(_PROGRESS_LINES))


def _find_tool(name: str, provisioning: Provisioning) -> list[str]:
    """Return how to call a program of this machine's e2fsprogs, else of Debian's package."""
    # An ordinary user's PATH may lack these folders.
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=search)
    return [found] if found else packaged_program("e2fsprogs", name, provisioning)


def _run_tool(name: str, task: str, command: list[str]) -> CompletedProcess[str]:
    environment = os.environ | {"MKE2FS_CONFIG": os.devnull}
    return run_program(name, task, command, _SECONDS, environment=environment)


def _tool_failure(command: list[str], done: CompletedProcess[str]) -> SetupBroken:
    said = (done.stderr.strip().splitlines() or ["no message"])[-1]
    evidence = Evidence(command, done.returncode, (done.stdout + done.stderr)[-2000:])
    return SetupBroken(
        f"The file system in '{command[-1]}' could not be made or checked: {said.rstrip('.')}.", evidence
    )
