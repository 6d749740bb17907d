"""Starts a libvirt for tests from unpacked packages, and defines and runs domains in it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.deadline import Deadline
from harness.errors import Evidence, NotApplicable, SetupBroken
from harness.libvirt.room import Order
from harness.linux.socket_folder import socket_folder
from harness.process import last_line, log_tail

_START_SECONDS = 30.0
_VIRSH_SECONDS = 120.0
_END_SECONDS = 20.0
_QEMU_USER = "libvirt-qemu"
_QEMU_ID = 64055
# libvirt 11.3 src/util/virmodule.c and src/driver.c: where the drivers are that libvirtd loads.
_DRIVERS = "LIBVIRT_DRIVER_DIR"
_DRIVER_FOLDER = "/etc/drivers"


@dataclass(frozen=True)
class LibvirtPackages:
    """Unpacked packages of a libvirt.

    Attributes:
        name: of the libvirt, e.g. `debian-13`.
        version: e.g. `11.3.0`.
        root: of the packages.
        virsh: command line of its virsh, outside of the room.
        driver: the driver of QEMU, in the root.
    """

    name: str
    version: str
    root: Path
    virsh: tuple[str, ...]
    driver: str


class VirshRefused(SetupBroken):
    """A command of virsh ended with an error."""


class VirshUnfinished(VirshRefused):
    """A command of virsh did not end in time."""


class Libvirt:
    """A libvirtd in namespaces of its own; leaving the `with` ends it and all its VMs.

    As root it is a libvirt in system mode, whose QEMUs have a mount namespace and a /dev of their own; for
    another user it is one in session mode, whose QEMUs have no more rights than the user.
    """

    def __init__(
        self, packages: LibvirtPackages, folder: Path, binds: tuple[Path, ...], user: str = _QEMU_USER
    ) -> None:
        """Describe a libvirt; entering the `with` starts it.

        Args:
            packages: what it is made of.
            folder: for its logs and its virsh; created if missing.
            binds: folders of the machine that it and its VMs see under the same path.
            user: the user of its QEMUs in system mode, `root` or the one of Debian's packages.
        """
        self.packages, self.folder, self.user = packages, folder, user
        self._binds = binds
        self._sockets = socket_folder()
        self._process: subprocess.Popen[bytes] | None = None
        self.virsh = folder / "virsh"
        self.uri = ""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self._sockets.__enter__()
        try:
            self._start(place)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process is not None:
                self._end(self._process)
        finally:
            self._process = None
            self._sockets.__exit__(None, None, None)

    def run(self, *words: str, seconds: float = _VIRSH_SECONDS) -> str:
        """Run a command of virsh and return what it prints.

        Raises:
            VirshUnfinished: it did not end within that time.
            VirshRefused: it ended with an error; the sentence has its words.
        """
        command = [str(self.virsh), "--quiet", "--connect", self.uri, *words]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise VirshUnfinished(f"'virsh {words[0]}' did not end.", Evidence(command)) from error
        if done.returncode:
            raise VirshRefused(
                f"'virsh {words[0]}' failed: {' '.join(done.stderr.split())}",
                Evidence(command, done.returncode, log_tail(self.folder / "libvirtd.log")),
            )
        return done.stdout

    def start(self, xml: str) -> None:
        """Define a domain and start it."""
        path = self.folder / "domain.xml"
        path.write_text(xml)
        self.run("define", str(path))
        name = self.run("domname", _uuid(xml)).strip()
        try:
            self.run("start", name)
        except VirshRefused as refusal:
            words = self._last_words(name)
            raise VirshRefused(f"{refusal.sentence}{words}", refusal.evidence) from refusal

    def discard(self, name: str) -> None:
        """End a domain and forget it, with its snapshots."""
        for words in (("destroy", name), ("undefine", name, "--managed-save", "--snapshots-metadata")):
            # It may have ended by itself, or never begun.
            with contextlib.suppress(VirshRefused):
                self.run(*words)

    def restart(self) -> None:
        """Restart libvirtd, as an update of its package does; return once it answers again."""
        process = self._running()
        assert process.stdin is not None, "it is a pipe"
        process.stdin.write(b"restart\n")
        process.stdin.flush()
        self._await_answer(Deadline(_START_SECONDS))

    def inside(self, path: str) -> Path:
        """Return the path on this machine of a file that libvirt knows by another path.

        Raises:
            OSError, ValueError: the room has ended.
        """
        pid = self._running().pid
        (first, *_) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return Path(f"/proc/{first}/root{path}")

    def _last_words(self, name: str) -> str:
        """Return what a domain's QEMU wrote last, as the end of a sentence; "" where it wrote nothing."""
        try:
            log = self.inside(f"/var/log/libvirt/qemu/{name}.log").read_text(errors="replace")
        except (OSError, ValueError):
            return ""
        last = last_line(log)
        return f" The last words of its QEMU: {last}" if last else ""

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise SetupBroken("This libvirt has not been started.")
        return self._process

    def _start(self, place: Path) -> None:
        root = self.folder / "room"
        root.mkdir(exist_ok=True)
        system = os.geteuid() == 0
        run = place / "run"
        run.mkdir(mode=0o755)
        socket = run / "libvirt-sock"
        self.uri = f"qemu+unix:///{'system' if system else 'session'}?socket={socket}"
        self.virsh.write_text(f'#!/bin/sh\nexec {shlex.join(self.packages.virsh)} "$@"\n')
        self.virsh.chmod(0o755)
        log = self.folder / "libvirtd.log"
        order = Order(
            packages=str(self.packages.root),
            room=str(root),
            files=_files(self.user),
            # Of all drivers, QEMU's alone: others look at the machine's networks and devices.
            links={f"{_DRIVER_FOLDER}/{Path(self.packages.driver).name}": f"/{self.packages.driver}"},
            binds=[str(path) for path in self._binds],
            run=str(run),
            daemon=["/usr/sbin/libvirtd", "--config", "/etc/libvirt/libvirtd.conf"],
            environment={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/root",
                _DRIVERS: _DRIVER_FOLDER,
                "XDG_RUNTIME_DIR": "/run",
                "XDG_CONFIG_HOME": "/etc/session",
                "XDG_CACHE_HOME": "/var/cache",
            },
            log=str(log),
        )
        program = Path(__file__).with_name("room.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(asdict(order))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("ab"),
            start_new_session=True,
        )
        deadline = Deadline(_START_SECONDS)
        said = self._first_line(self._process, deadline)
        if said != "ready":
            raise NotApplicable(
                f"No libvirt of our own can be run here: {said or 'its room did not answer'}."
            )
        self._await_answer(deadline)

    def _first_line(self, process: subprocess.Popen[bytes], deadline: Deadline) -> str:
        assert process.stdout is not None, "it is a pipe"
        if not select.select([process.stdout], [], [], deadline.remaining())[0]:
            return ""
        return process.stdout.readline().decode().strip()

    def _await_answer(self, deadline: Deadline) -> None:
        while True:
            try:
                self.run("uri")
            except VirshRefused as refusal:
                if deadline.expired or self._running().poll() is not None:
                    raise SetupBroken(
                        f"Our own libvirtd does not answer: {refusal.sentence}", refusal.evidence
                    ) from refusal
                deadline.nap(0.1)
            else:
                return

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End the room; the kernel ends all that is in it with its first process."""
        assert process.stdin is not None, "it is a pipe"
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _files(user: str) -> dict[str, str]:
    """Return the files of a room, by path."""
    qemu = {
        "user": f'"{user}"',
        "group": f'"{user}"',
        # The machine's files keep their owners.
        "dynamic_ownership": "0",
        "remember_owner": "0",
        "security_driver": '"none"',
        "cgroup_controllers": "[ ]",
        # Instead of by virtlogd, another process.
        "stdio_handler": '"file"',
    }
    daemon = {"auth_unix_rw": '"none"', "unix_sock_rw_perms": '"0700"', "log_outputs": '"3:stderr"'}
    users = {"root": 0, _QEMU_USER: _QEMU_ID}
    return {
        "/etc/passwd": "".join(f"{name}:x:{one}:{one}::/:/bin/sh\n" for name, one in users.items()),
        "/etc/group": "".join(f"{name}:x:{one}:\n" for name, one in users.items()),
        "/etc/hosts": "127.0.0.1 localhost room\n",
        "/etc/libvirt/qemu.conf": _settings(qemu),
        "/etc/libvirt/libvirtd.conf": _settings(daemon),
        "/etc/session/libvirt/qemu.conf": _settings({"stdio_handler": '"file"'}),
        "/etc/machine-id": "5a11ab1e5a11ab1e5a11ab1e5a11ab1e\n",
    }


def _settings(values: Mapping[str, str]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in values.items())


def _uuid(xml: str) -> str:
    return xml.partition("<uuid>")[2].partition("</uuid>")[0]
