"""Two hosts for the A/B gate: what `--a vm:NAME --b vm:/path/to/bzImage` stands for."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ci.bench.ab_sides import Compared, never_of_a_commit
from ci.events import Progress
from ci.host_plan import DEFAULT_QEMU, HOST_ACCELERATORS, Sources, prepared
from ci.stack import cache_of
from guest_images.catalogue import host_spec
from guest_images.host_image import require_kernel
from harness.errors import UsageError
from harness.hosts.host import Host
from harness.hosts.spec import LOCAL, HostSpecText, parse_host
from tests_functional.scenarios.bench.host_side import HostSave, HostSide
from tests_functional.scenarios.bench.sides import TwoSides
from tests_functional.scenarios.hosts.plan import Plan
from tests_functional.scenarios.hosts.seed import COVERAGE, RAM_MIB

_SCHEMES = ("vm:", "ssh:")
_OF_THIS_HOST = {"ram": None, "writer": None, "accel": "auto", "guest": "default"}
_OWN_GUEST = ("disk", "kernel", "initrd", "cmdline", "guest_needs")


def is_host(text: str | None) -> bool:
    """Whether `--a` or `--b` means a host and not a QEMU."""
    return text is not None and (text == LOCAL or text.startswith(_SCHEMES))


def require_hosts(arguments: argparse.Namespace) -> None:
    """Check that nothing was asked for that two hosts cannot be compared by.

    Raises:
        UsageError: something was.
    """
    if not is_host(arguments.a) or not (arguments.b is None or is_host(arguments.b)):
        raise UsageError(
            f"A host cannot be compared with a QEMU; name two hosts, this one as '{LOCAL}', or two QEMUs."
        )
    given = [name for name, usual in _OF_THIS_HOST.items() if getattr(arguments, name) != usual]
    given += [name for name in _OWN_GUEST if getattr(arguments, name) is not None]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} is about a guest on this host alone; hosts save one of "
            f"{RAM_MIB} MiB that was made for that."
        )


def compared_hosts(arguments: argparse.Namespace, folder: Path, progress: Progress) -> Compared:
    """Two hosts, each of which has saved the guest once, and rightly.

    Raises:
        UsageError: one of them is none.
        NotApplicable: there are no background snapshots on one.
        MachineryMissing, SetupBroken: see HostSide.save.
    """
    wanted = argparse.Namespace(
        **{
            **vars(arguments),
            "qemu": arguments.qemu or DEFAULT_QEMU,
            "host_accel": arguments.host_accel or HOST_ACCELERATORS[0],
        },
        no_snapshots=False,
        no_tests=True,
        filter=[],
        trackers=False,
    )
    sources = Sources(wanted, cache_of(arguments), folder, progress.step)
    host_a = parse_host(arguments.a)
    host_b = host_a if arguments.b is None else parse_host(arguments.b)
    with never_of_a_commit():
        _require_there(host_a)
    _require_there(host_b)
    a = _side(host_a, sources)
    b = a if arguments.b is None else _side(host_b, sources)
    first = a.save(judge=True)
    second = first if b is a else b.save(judge=True)
    return Compared(
        TwoSides(a, b, common=True),
        _facts(a, first),
        _facts(b, second),
        {"writer": None, "ram_mib": RAM_MIB, "way": "background-socket", "common_guest": True},
        _text(a, first),
        _text(b, second),
        f"{RAM_MIB} MiB, {100 * COVERAGE:g} % of it written in random order, under TCG"
        + (", each time in a VM that was booted for it" if host_a.vm or host_b.vm else ""),
    )


def _require_there(host: HostSpecText) -> None:
    """Find out before the other side is booted that there is no such VM: UsageError, or NoSubject."""
    if host.vm is None:
        return
    if host.vm.kernel is None:
        host_spec(host.vm.name)
    else:
        require_kernel(host.vm.kernel)


def _side(host: HostSpecText, sources: Sources) -> HostSide:
    def opened() -> tuple[Plan, AbstractContextManager[Host]]:
        return prepared(host, sources)

    return HostSide(host.text, opened, sources.log)


def _facts(side: HostSide, save: HostSave) -> dict[str, Any]:
    return {
        "host": side.name,
        "host_kernel": save.kernel,
        "host_architecture": save.architecture,
        "qemu": save.qemu,
    }


def _text(side: HostSide, save: HostSave) -> str:
    return f"{side.name}: Linux {save.kernel.split()[0]} ({save.architecture}), QEMU {save.qemu}"
