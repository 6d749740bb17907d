"""Prepares the two sides that `bench ab` compares: two QEMUs of this host, or two hosts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guest_images.catalogue import DEFAULT_QEMU, host_spec
from guest_images.hosts.image import require_kernel
from harness.errors import NoSubject, NotApplicable, SetupBroken, UsageError
from harness.hosts.host import Host
from harness.hosts.spec import LOCAL, HostSpecText, parse_host
from harness.qemu.migration import BACKGROUND_SNAPSHOT
from snapproof.bench.environment import require_room
from snapproof.bench.host_side import HostSave, HostSide
from snapproof.bench.options import AbOptions
from snapproof.bench.qemu_side import WAY, two_sides
from snapproof.bench.sides import AB_RAM_MIB, AB_WRITER, TwoSides
from snapproof.runs.defaults import HOST_ACCELERATORS
from snapproof.runs.events import Progress
from snapproof.runs.host_plan import Sources, prepared
from snapproof.runs.options import DEFAULT_ACCEL, HostOptions
from snapproof.runs.stack import prepare_stack
from tests_functional.hosts.examination import HostPlan
from tests_functional.hosts.portable_warm_guest import COVERAGE, RAM_MIB
from tests_functional.lib.guest import Stack
from tests_functional.lib.measure.cases import Writer
from tests_functional.lib.measure.warm_guest import sized

_LEAST_FOR_WRITERS_MIB = 16
# The saved guests of both sides, the file of a save, and some room.
_FILES = 4
_HOST_SCHEMES = ("vm:", "ssh:")


@dataclass(frozen=True)
class Compared:
    """Two sides that are ready to be measured.

    Attributes:
        sides: A and B.
        a: description of A for ab.json.
        b: description of B for ab.json.
        settings: description of the guest for ab.json.
        a_text: description of A for a person.
        b_text: description of B for a person.
        guest_text: description of the guest for a person.
    """

    sides: TwoSides
    a: dict[str, Any]
    b: dict[str, Any]
    settings: dict[str, Any]
    a_text: str
    b_text: str
    guest_text: str


@contextmanager
def fixed_baseline() -> Iterator[None]:
    """Turn a missing A into a usage error, which aborts a bisection instead of skipping the commit.

    A is the fixed baseline, the same at each commit.

    Raises:
        UsageError: in place of NoSubject.
    """
    try:
        yield
    except NoSubject as error:
        raise UsageError(error.sentence, error.evidence) from error


@contextmanager
def compared_qemus(options: AbOptions, folder: Path, progress: Progress) -> Iterator[Compared]:
    """Boot and save the guests of two QEMUs of this host.

    Raises:
        UsageError: A or B is not a QEMU, or they cannot be compared.
        NotApplicable: a QEMU has no background snapshots.
        SetupBroken, SubjectFailed: see two_sides.
    """
    ram_mib = AB_RAM_MIB if options.ram is None else options.ram
    writer = Writer(options.writer or AB_WRITER)
    with fixed_baseline():
        stack_a, a = _stack(options, options.a, ram_mib, folder, progress)
    stack_b, b = stack_a, a
    if options.b is not None:
        stack_b, b = _stack(options, options.b, ram_mib, folder, progress)
    if stack_a.accel != stack_b.accel:
        # Not UsageError: a commit whose KVM is broken says nothing about the others.
        raise SetupBroken(
            f"A runs under {stack_a.accel} and B under {stack_b.accel}; choose one for both with --accel."
        )
    require_room(folder, _FILES * ram_mib)
    with two_sides(stack_a, stack_b, writer, folder / "guests", progress.step, options.seed) as sides:
        own = "" if sides.common else "; each side has booted its own, since neither restores the other's"
        yield Compared(
            sides,
            a,
            b,
            {"writer": writer.value, "ram_mib": ram_mib, "way": WAY.value, "common_guest": sides.common},
            _qemu_text(a),
            _qemu_text(b),
            f"{a['guest_image']}, {ram_mib} MiB, {a['accelerator']}, writer '{writer.value}', "
            f"{WAY.value}{own}",
        )


def _qemu_text(environment: dict[str, Any]) -> str:
    return f"QEMU {environment['qemu']}, {environment['qemu_executable']}"


def _stack(
    options: AbOptions, name: str | None, ram_mib: int, folder: Path, progress: Progress
) -> tuple[Stack, dict[str, Any]]:
    stack, environment = prepare_stack(replace(options.stack, qemu=name), folder, progress.step)
    if stack.capabilities and BACKGROUND_SNAPSHOT not in stack.capabilities:
        raise NotApplicable(f"QEMU {environment['qemu']} has no capability '{BACKGROUND_SNAPSHOT}'.")
    least = stack.image.own_mib + _LEAST_FOR_WRITERS_MIB
    if ram_mib < least:
        raise UsageError(f"--ram {ram_mib} is too little for this guest; give {least} or more.")
    return replace(sized(stack, ram_mib), host_key_file=folder / "ssh_host_key"), environment


def is_host(text: str | None) -> bool:
    """Tell whether a value of `--a` or `--b` names a host and not a QEMU."""
    return text is not None and (text == LOCAL or text.startswith(_HOST_SCHEMES))


def require_hosts(options: AbOptions) -> None:
    """Check that A and B are hosts, and that no option was given that is about the guest on this host.

    Raises:
        UsageError: one of them is a QEMU, or there is such an option.
    """
    if not is_host(options.a) or not (options.b is None or is_host(options.b)):
        raise UsageError(
            f"A host cannot be compared with a QEMU; name two hosts, this one as '{LOCAL}', or two QEMUs."
        )
    values = {
        "ram": (options.ram, None),
        "writer": (options.writer, None),
        "accel": (options.stack.accel, DEFAULT_ACCEL),
        "guest": (options.stack.guest, None),
        "machine": (options.stack.machine, None),
        "cpu": (options.stack.cpu, None),
        "firmware": (options.stack.firmware, None),
        "firmware-vars": (options.stack.firmware_vars, None),
        "qemu-args": (options.stack.qemu_args, ""),
    }
    given = [name for name, (value, usual) in values.items() if value != usual]
    # The SSH options open a lab machine, too.
    given += [name for name in options.stack.own.given() if not name.startswith("ssh-")]
    if given:
        raise UsageError(
            f"--{given[0]} is about the guest on this host. Hosts save a guest of "
            f"{RAM_MIB} MiB that was made for them; leave the option out."
        )


def compared_hosts(options: AbOptions, folder: Path, progress: Progress) -> Compared:
    """Have two hosts save the guest once, and judge both files.

    Raises:
        UsageError: A or B is not a host.
        NotApplicable: a host has no background snapshots.
        MachineryMissing, SetupBroken: see HostSide.save.
    """
    own = options.stack.own
    wanted = HostOptions(
        qemu=options.qemu or DEFAULT_QEMU,
        host_qemu=options.host_qemu,
        accel=options.host_accel or HOST_ACCELERATORS[0],
        ssh_key=own.ssh_key,
        ssh_host_key=own.ssh_host_key or "",
        mirror=options.stack.mirror,
        cache=options.stack.cache,
        tests=False,
    )
    sources = Sources(wanted, folder, progress.step)
    assert options.a is not None, "require_hosts() has seen a host"
    host_a = parse_host(options.a)
    host_b = host_a if options.b is None else parse_host(options.b)
    with fixed_baseline():
        _require_vm(host_a)
    _require_vm(host_b)
    a = _host_side(host_a, sources)
    b = a if options.b is None else _host_side(host_b, sources)
    first = a.save(judge=True)
    second = first if b is a else b.save(judge=True)
    return Compared(
        TwoSides(a, b, common=True),
        _host_facts(a, first),
        _host_facts(b, second),
        {"writer": None, "ram_mib": RAM_MIB, "way": "background-socket", "common_guest": True},
        _host_text(a, first),
        _host_text(b, second),
        f"{RAM_MIB} MiB, {100 * COVERAGE:g} % of it written in random order, under TCG"
        + (", each time in a VM that was booted for it" if host_a.vm or host_b.vm else ""),
    )


def _require_vm(host: HostSpecText) -> None:
    """Check that a host's VM exists, before the other side is booted.

    Raises:
        UsageError, NoSubject: it does not.
    """
    if host.vm is None:
        return
    if host.vm.kernel is None:
        host_spec(host.vm.name)
    else:
        require_kernel(host.vm.kernel)


def _host_side(host: HostSpecText, sources: Sources) -> HostSide:
    def opened() -> tuple[HostPlan, AbstractContextManager[Host]]:
        return prepared(host, sources)

    return HostSide(host.text, opened, sources.log)


def _host_facts(side: HostSide, save: HostSave) -> dict[str, Any]:
    return {
        "host": side.name,
        "host_kernel": save.kernel,
        "host_architecture": save.architecture,
        "qemu": save.qemu,
    }


def _host_text(side: HostSide, save: HostSave) -> str:
    return f"{side.name}: Linux {save.kernel.split()[0]} ({save.architecture}), QEMU {save.qemu}"
