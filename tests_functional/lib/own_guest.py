"""Changes a user's booted guest for tests: agent copied in, its pages kept in place, disk read-only."""

from __future__ import annotations

import shlex
from hashlib import sha256
from pathlib import Path

from guest_images.guests.image import GuestImage
from guest_images.guests.init_script import PAGES_STAY
from guest_images.guests.initramfs import AGENT_PATH
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.guest.shell import GuestShell
from tests_functional.lib.time_limits import COPY_SECONDS

AGENT_NAME = "snapproof-agent"
"""File name of the agent in a guest that it was copied to."""

# Folders in memory first: their files are in the snapshot and do not depend on the disk.
_FOLDERS = ("/run", "/dev/shm", "/tmp", "/var/tmp", "$HOME")
_SETTLE_SECONDS = 60.0

_INSTALL = f"""
for folder in {" ".join(f'"{folder}"' for folder in _FOLDERS)}; do
    file=$folder/{AGENT_NAME}
    cp "$1" "$file" 2>/dev/null && chmod 755 "$file" || continue
    # Without a command it says what it takes and exits with 2; on a noexec mount it does not start.
    "$file" 2>/dev/null
    [ $? -eq 2 ] && echo "$file" && break
    rm -f "$file"
done
rm -f "$1"
"""

_FIND = f"""
for folder in {" ".join(f'"{folder}"' for folder in _FOLDERS)}; do
    [ -x "$folder/{AGENT_NAME}" ] && echo "$folder/{AGENT_NAME}" && break
done
"""

_QUIET = f"""
{PAGES_STAY}
swapoff -a 2>/dev/null
# The journal's files are mapped, and a mapping made before goes on being written back to a read-only disk.
journalctl --relinquish-var 2>/dev/null
sync
# Remounts all file systems that lie on a disk, open files or not (Linux fs/super.c do_emergency_remount()).
[ ! -w /proc/sysrq-trigger ] || echo u > /proc/sysrq-trigger
tries=0
while left=$(grep '^/dev/[^ ]* [^ ]* [^ ]* rw' /proc/mounts); do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || {{ echo "$left"; exit 1; }}
    sleep 0.2
done
# The flag shows before the last blocks are written; this waits for the remount's lock (Linux fs/sync.c).
sync
"""


def agent_command(image: GuestImage, shell: GuestShell) -> str:
    """Return the command that calls the agent in a guest.

    Raises:
        SetupBroken: the agent is not in the guest.
    """
    if image.agent is None:
        return f"/{AGENT_PATH}"
    found = shell.run(_FIND).stdout.strip()
    if not found:
        raise SetupBroken("The agent that was copied into the guest is no longer there.")
    return as_root(image, found)


def as_root(image: GuestImage, command: str) -> str:
    """Return a command that runs as root, also if another user logs in."""
    return command if image.ssh_user == "root" else f"sudo -n {command}"


def prepare(image: GuestImage, shell: GuestShell, deadline: Deadline) -> None:
    """Copy the agent in and make the guest keep its pages and its disk as they are.

    All file systems on disks become read-only until the guest ends: a snapshot holds the guest's memory
    and not its disk, and a restored guest must find the disk that its memory knows
    (docs/decisions/005-disk-of-a-guest.md).

    Raises:
        SetupBroken: a step failed in the guest, with its reason.
    """
    if image.agent is None:
        return
    _require_root(image, shell)
    install_agent(image.agent, shell, deadline.at_most(COPY_SECONDS))
    command = as_root(image, "sh -s")
    quiet = shell.run(command, deadline.at_most(_SETTLE_SECONDS), _QUIET.encode())
    if quiet.exit_code:
        left = quiet.stdout.strip() or quiet.stderr.strip()
        raise SetupBroken(f"The guest's file systems cannot be made read-only; still writable: {left}.")


def _require_root(image: GuestImage, shell: GuestShell) -> None:
    answer = shell.run(as_root(image, "id -u"))
    if answer.stdout.strip() != "0":
        said = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SetupBroken(
            f"The user '{image.ssh_user}' is not root in the guest and cannot run commands by 'sudo -n' "
            f"({said}); the agent must lock memory, so name another with --ssh-user or allow it in sudoers."
        )


def install_agent(agent: Path, shell: GuestShell, deadline: Deadline) -> str:
    """Copy the agent into a guest and return its path there.

    Raises:
        SetupBroken: it does not arrive, or there is no folder for it.
    """
    content = agent.read_bytes()
    upload = shell.check("mktemp").strip()
    sent = shell.run(f"cat > {shlex.quote(upload)}", deadline, content)
    arrived = shell.run(f"wc -c < {shlex.quote(upload)}").stdout.strip()
    if sent.exit_code or arrived != str(len(content)):
        raise SetupBroken(
            f"The agent could not be copied into the guest, of {len(content)} bytes {arrived or 0} arrived: "
            f"{sent.stderr.strip().rstrip('.') or 'no reason given'}."
        )
    _compare(shell, upload, content)
    placed = shell.run(f"sh -s {shlex.quote(upload)}", deadline, _INSTALL.encode()).stdout.strip()
    if not placed:
        raise SetupBroken(
            "The guest has no folder for the agent: none of "
            f"{', '.join(_FOLDERS)} can be written and lets programs run."
        )
    return placed


def _compare(shell: GuestShell, path: str, content: bytes) -> None:
    """Compare the agent's checksum, if the guest has sha256sum."""
    found = shell.run(f"sha256sum {shlex.quote(path)}")
    if found.exit_code == 0 and found.stdout.split()[0] != sha256(content).hexdigest():
        raise SetupBroken("The agent arrived in the guest with another checksum than it was sent with.")
