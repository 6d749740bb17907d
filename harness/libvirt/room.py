"""Enters namespaces with a root of their own and runs libvirtd in them: usage `room.py ORDER`, in JSON.

The room's / is a new tmpfs with the folders of unpacked packages, a /dev of its own, and some folders of the
machine under their own paths. All its processes are in a PID namespace whose first process is this program:
it ends when its standard input does, and the kernel ends the others. `restart` as a line of that input ends
libvirtd and starts it again, as an update of its package does; the VMs live on.

Nothing here imports more than the standard library, and nothing is imported once the root has changed.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Linux include/uapi/linux/sched.h.
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
# Linux include/uapi/linux/mount.h.
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE, _SLAVE = 1, 32, 4096, 16384, 1 << 18, 1 << 19
_DETACH = 2
# Linux include/uapi/asm-generic/unistd.h and arch/x86/entry/syscalls/syscall_64.tbl.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
# Linux include/uapi/linux/prctl.h PR_SET_PDEATHSIG.
_PDEATHSIG = 1
# Folders of the packages that programs may write to, or that the room has of its own.
_OWN = ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "var")
# What the script that starts an unpacked QEMU needs.
_APPLETS = ("sh", "readlink")
# What a QEMU and its libvirt may open; the machine's own nodes are neither used nor changed.
_NODES = ("null", "zero", "full", "random", "urandom", "tty", "userfaultfd")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
_MOUNT_POINTS = (
    *("dev/pts", "dev/shm", "proc", "sys", "tmp", "run", "old", "root"),
    *("var/tmp", "var/log", "var/lib", "var/cache"),
)

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Order:
    """What the room is to have.

    Attributes:
        packages: root of the unpacked packages.
        room: an empty folder that becomes its /.
        files: text of files by their path in the room.
        links: targets of symbolic links, likewise.
        binds: folders of the machine that it has under the same path, to write to.
        run: folder of the machine that is its /run/libvirt.
        daemon: command line of libvirtd.
        environment: of it.
        log: takes the output of it, a path of the machine.
    """

    packages: str
    room: str
    files: dict[str, str]
    links: dict[str, str]
    binds: list[str]
    run: str
    daemon: list[str]
    environment: dict[str, str]
    log: str


def enter_namespaces() -> None:
    """Leave the machine's namespaces of mounts, processes, networks and IPC; unless root, of users too."""
    uid, gid = os.geteuid(), os.getegid()
    flags = _NEWNS | _NEWPID | _NEWNET | _NEWIPC
    _check(_LIBC.unshare(flags | (_NEWUSER if uid else 0)), "unshare")
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def furnish(order: Order) -> None:
    """Make the room's root, and change to it."""
    # Nothing that is mounted from here on reaches the machine.
    _mount("none", "/", "", _REC | _PRIVATE)
    root = Path(order.room)
    _mount("tmpfs", str(root), "tmpfs", 0, "mode=755")
    (root / "dev").mkdir()
    # libvirt looks for a file system that is mounted there.
    _mount("tmpfs", str(root / "dev"), "tmpfs", 0, "mode=755")
    for name in _MOUNT_POINTS:
        (root / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp", "dev/shm"):
        (root / name).chmod(0o1777)
    _take_packages(Path(order.packages), root)
    for name, text in order.files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, target in order.links.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    _make_devices(root / "dev")
    for folder in order.binds:
        _bind_open(folder, root / folder.lstrip("/"))
    _bind(order.run, root / "run/libvirt")
    _bind("/sys", root / "sys", _RDONLY)
    _mount("proc", str(root / "proc"), "proc", 0)
    os.chdir(root)
    number = _PIVOT_ROOT[os.uname().machine]
    _check(_LIBC.syscall(number, b".", b"old"), "pivot_root")
    os.chdir("/")
    _check(_LIBC.umount2(b"/old", _DETACH), "umount2 /old")


def _take_packages(packages: Path, root: Path) -> None:
    for entry in packages.iterdir():
        if entry.name in _OWN:
            continue
        if entry.is_symlink():
            (root / entry.name).symlink_to(entry.readlink())
        else:
            _bind(str(entry), root / entry.name, _RDONLY)
    busybox = next(path for path in (packages / "bin/busybox", packages / "usr/bin/busybox") if path.exists())
    (root / "bin").mkdir()
    shutil.copy2(busybox, root / "bin/busybox")
    for name in _APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    for name in ("sbin", "lib", "lib64"):
        # Packages since Debian 13 rely on links of the installed system.
        if not (root / name).exists() and (root / "usr" / name).exists():
            (root / name).symlink_to(f"usr/{name}")


def _make_devices(folder: Path) -> None:
    mask = os.umask(0)
    for name in _NODES:
        theirs = Path("/dev", name)
        if not theirs.exists():
            continue
        if os.geteuid():
            # No node can be made in a namespace of users; a file that one is mounted on does the same.
            (folder / name).touch()
            _mount(str(theirs), str(folder / name), "", _BIND)
        else:
            # libvirt chowns nodes for QEMU, which must not happen to the machine's.
            mode = 0o600 if name == "userfaultfd" else 0o666
            os.mknod(folder / name, stat.S_IFCHR | mode, theirs.stat().st_rdev)
    os.umask(mask)
    for name, target in _LINKS.items():
        (folder / name).symlink_to(target)
    _mount("devpts", str(folder / "pts"), "devpts", 0, "newinstance,ptmxmode=0666")


def _bind(theirs: str, ours: Path, flags: int = 0) -> None:
    ours.mkdir(parents=True, exist_ok=True)
    _mount(theirs, str(ours), "", _BIND | (_REC if os.geteuid() else 0))
    if flags:
        _mount("none", str(ours), "", _BIND | _REMOUNT | flags)


def _bind_open(theirs: str, ours: Path) -> None:
    """Bind a folder; one that other users may not enter, as QEMU's may have to, by what is in it now."""
    if Path(theirs).stat().st_mode & stat.S_IXOTH:
        _bind(theirs, ours)
        return
    ours.mkdir(parents=True, exist_ok=True)
    for child in Path(theirs).iterdir():
        if child.is_symlink():
            (ours / child.name).symlink_to(child.readlink())
        elif child.is_dir():
            _bind(str(child), ours / child.name)
        else:
            # A socket too, which is found through the file that it is mounted on.
            (ours / child.name).touch()
            _mount(str(child), str(ours / child.name), "", _BIND)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    words = [word.encode() for word in (source, target, kind)]
    _check(_LIBC.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount {kind or source} at {target}")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def supervise(order: Order, log: int) -> None:
    """Run libvirtd until the standard input ends; a line there restarts it."""
    daemon = _start(order, log)
    while True:
        if select.select([0], [], [], 0.2)[0]:
            if not os.read(0, 64):
                return
            daemon.terminate()
            daemon.wait()
            daemon = _start(order, log)
        # QEMUs have this process as their parent, and may end at any time.
        if daemon.poll() is not None:
            return
        _reap(daemon.pid)


def _reap(daemon: int) -> None:
    """Take note of ended children, but for the one that `Popen` waits for."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for child in children:
        if int(child) != daemon:
            os.waitpid(int(child), os.WNOHANG)


def _start(order: Order, log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        order.daemon, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=order.environment, cwd="/"
    )


def main(text: str) -> int:
    """Enter the room and run libvirtd; return 1, with a sentence, if the room cannot be had."""
    order = Order(**json.loads(text))
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        enter_namespaces()
    except OSError as error:
        print(f"no namespaces for it: {error.strerror}", flush=True)
        return 1
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) and 1
    try:
        _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)
        furnish(order)
        print("ready", flush=True)
        supervise(order, log)
    except OSError as error:
        print(f"no room for it: {error.strerror}", flush=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
