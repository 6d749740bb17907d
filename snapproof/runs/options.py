"""Defines the options of a run as frozen values, so that nothing below the command line parses arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from snapproof.runs.defaults import HOST_ACCELERATORS
from tests_functional.lib.profile_row import UEFI

DEFAULT_ACCEL = "auto"
DEFAULT_GUEST = "default"
"""The Linux guest that tests run with unless they say otherwise."""


@dataclass(frozen=True)
class OwnGuestOptions:
    """The options that describe a guest of the user's own, under their own names; None if not given.

    Attributes:
        disk: its disk.
        kernel: its kernel, unless the disk boots itself.
        initrd: its initramfs.
        ssh_key: private key file that opens it.
        cmdline: the kernel's command line.
        ssh_user: root, or a user who may use sudo.
        ssh_host_key: line with its host key.
        guest_needs: its RAM beside the writers, in MiB.
    """

    disk: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    ssh_key: Path | None = None
    cmdline: str | None = None
    ssh_user: str | None = None
    ssh_host_key: str | None = None
    guest_needs: int | None = None

    def given(self) -> dict[str, Path | str | int]:
        """Return the options that were given, by their names without the leading dashes."""
        values = {one.name.replace("_", "-"): getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class StackOptions:
    """The options that say which QEMU, guest and accelerator to use.

    Attributes:
        qemu: an executable, or a name from the catalogue; None for the default.
        accel: `auto`, `kvm` or `tcg`.
        guest: a guest of the catalogue, None for the one that suits the tests best.
        arch: architecture of the guest, None for that of `guest` or of the user's own files.
        machine: machine type of the guest's QEMU, with its properties, None for the architecture's usual one.
        cpu: its CPU model, with its properties, None for the usual one.
        firmware: `uefi` for Debian's UEFI firmware, or a file with such firmware; None for QEMU's own.
        firmware_vars: the variables of a firmware file, None if none is named.
        qemu_args: further arguments for it, as a shell would take them; "" for none.
        own: a guest of the user's own, which takes the place of `guest` if any of its options is given.
        cache: the cache folder, None for the default.
        mirror: URL of a Debian mirror, None for the machine's own.
    """

    qemu: str | None = None
    accel: str = DEFAULT_ACCEL
    guest: str | None = None
    arch: str | None = None
    machine: str | None = None
    cpu: str | None = None
    firmware: str | None = None
    firmware_vars: Path | None = None
    qemu_args: str = ""
    own: OwnGuestOptions = OwnGuestOptions()
    cache: Path | None = None
    mirror: str | None = None

    @property
    def names_guest(self) -> bool:
        """Whether they say which guest, or which machine of one architecture, the run is about."""
        machine = (self.guest, self.arch, self.machine, self.cpu, self.firmware)
        return any(machine) or bool(self.qemu_args or self.own.given())


@dataclass(frozen=True)
class HostOptions:
    """The options that say how to reach a host, and what to do on it.

    Attributes:
        qemu: QEMU of the catalogue for the host, None for the default.
        host_qemu: path of a QEMU that is on the host already.
        accel: accelerator of x86 VMs, one of HOST_ACCELERATORS.
        ssh_key: private key file for a lab machine.
        ssh_host_key: public host key of a lab machine.
        mirror: URL of a Debian mirror, None for the machine's own.
        cache: the cache folder, None for the default.
        tests: whether to run the feature tests.
        trackers: whether to run the tests of write trackers too.
        filter: shell patterns of the only feature tests to run; empty for all.
        snapshots: whether to take snapshots of a warm guest.
        guest: that guest, one of the catalogue's.
    """

    qemu: str | None = None
    host_qemu: str | None = None
    accel: str = HOST_ACCELERATORS[0]
    ssh_key: Path | None = None
    ssh_host_key: str = ""
    mirror: str | None = None
    cache: Path | None = None
    tests: bool = True
    trackers: bool = False
    filter: tuple[str, ...] = ()
    snapshots: bool = True
    guest: str = DEFAULT_GUEST


@dataclass(frozen=True)
class RunOptions:
    """The options of `snapproof run`.

    Attributes:
        profile: name of the profile.
        filters: shell patterns of the only tests to run; empty for all.
        seed: of the random write order, None for a random one.
        repeat: snapshot-restore cycles per test.
        shard: which part of how many to run, None for all.
        jobs: tests side by side at most, None for as many as fit.
        qemus: what `--qemu` named, in this order; empty for the default QEMU.
        stack: what all legs share; its `qemu` is None.
        keep: whether to keep snapshots and golden images.
        results: new folder for the results, None for the default.
        formats: names of further forms to write the results in.
        events: where events go, as given with `--events`.
        bisect: whether the exit code is for `git bisect run`.
        patience: the factor by which time limits are multiplied, None for the one of the environment.
    """

    profile: str = "smoke"
    filters: tuple[str, ...] = ()
    seed: int | None = None
    repeat: int = 1
    shard: tuple[int, int] | None = None
    jobs: int | None = None
    qemus: tuple[str, ...] = ()
    stack: StackOptions = field(default_factory=StackOptions)
    keep: bool = False
    results: Path | None = None
    formats: tuple[str, ...] = ()
    events: str | None = None
    bisect: bool = False
    patience: float | None = None

    @property
    def prefers_bare(self) -> bool:
        """Whether tests that need no operating system get a bare guest, since none was named."""
        stack = self.stack
        named = stack.guest is not None or bool(stack.own.given())
        # A bare guest starts without UEFI.
        return self.profile == "premerge" and not named and stack.firmware is None

    def legs(self) -> tuple[str | None, ...]:
        """Return the QEMU of each leg, None for the default one."""
        return self.qemus or (None,)

    def for_leg(self, qemu: str | None) -> RunOptions:
        """Return the options of a run of one leg with all tests of the profile."""
        return replace(self, qemus=() if qemu is None else (qemu,), filters=(), shard=None)

    def as_command(self) -> list[str]:
        """Return the arguments of `snapproof` that make the same run again.

        The options that do not affect the results (such as `--results`, `--format`, `--jobs`) are left out.
        """
        return ["run", *(word for option, value in self._told() for word in _words(option, str(value)))]

    def _told(self) -> Iterator[tuple[str, Path | str | int]]:
        """Yield options and values; paths are absolute."""
        yield "profile", self.profile
        if self.seed is not None:
            yield "seed", self.seed
        for qemu in self.qemus:
            yield "qemu", Path(qemu).absolute() if Path(qemu).exists() else qemu
        stack = self.stack
        yield "accel", stack.accel
        if stack.guest is not None:
            yield "guest", stack.guest
        if stack.arch is not None:
            yield "arch", stack.arch
        if stack.machine is not None:
            yield "machine", stack.machine
        if stack.cpu is not None:
            yield "cpu", stack.cpu
        if stack.firmware is not None:
            yield "firmware", stack.firmware if stack.firmware == UEFI else Path(stack.firmware).absolute()
        if stack.firmware_vars is not None:
            yield "firmware-vars", stack.firmware_vars.absolute()
        if stack.qemu_args:
            yield "qemu-args", stack.qemu_args
        if stack.cache is not None:
            yield "cache", stack.cache.absolute()
        if stack.mirror is not None:
            yield "mirror", stack.mirror
        for name, value in stack.own.given().items():
            yield name, value.absolute() if isinstance(value, Path) else value
        if self.patience is not None:
            yield "patience", f"{self.patience:g}"
        if self.repeat != 1:
            yield "repeat", self.repeat
        for pattern in self.filters:
            yield "filter", pattern
        if self.shard:
            yield "shard", "/".join(map(str, self.shard))


def _words(option: str, value: str) -> tuple[str, ...]:
    """Return an option as words of a command line; argparse takes a value with a dash only behind a `=`."""
    return (f"--{option}={value}",) if value.startswith("-") else (f"--{option}", value)
