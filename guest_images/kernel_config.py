"""Configurations of kernels that we compile: which there are, as data, and whether one came out as wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SetupBroken, UsageError

FRAGMENTS = Path(__file__).parent / "kernel_configs"

_BASE = "host"
_LINE = re.compile(r"CONFIG_(?P<name>\w+)=(?P<value>.+)|# CONFIG_(?P<off>\w+) is not set")
_OFF = "n"


@dataclass(frozen=True)
class KernelSpec:
    """A kernel to compile.

    Attributes:
        name: what `kernel:` and `--host vm:` take; also of its fragment in FRAGMENTS.
        reason: why it is in the catalogue.
        features: the mask of userfaultfd features that it should offer, 0 without userfaultfd.
        not_selected: symbols that arch/x86/Kconfig selects, so that no configuration can do without them;
            these lines are taken out of it.
    """

    name: str
    reason: str
    features: int
    not_selected: tuple[str, ...] = ()


KERNELS = (
    KernelSpec("uffd", "Linux 6.12 compiled here as it is: the control of the other two", 0x1FFFF),
    KernelSpec(
        "no-uffd-wp",
        "Linux 6.12 for x86_64: userfaultfd without write protection",
        # fs/userfaultfd.c userfaultfd_api() of Linux 6.12 takes out WP, WP_HUGETLBFS_SHMEM, WP_UNPOPULATED
        # and WP_ASYNC.
        0x1FFFF & ~(1 << 0 | 1 << 12 | 1 << 13 | 1 << 15),
        ("HAVE_ARCH_USERFAULTFD_WP",),
    ),
    KernelSpec("no-userfaultfd", "Linux 6.12 for x86_64: no userfaultfd at all (ENOSYS)", 0),
)


def kernel_spec(name: str) -> KernelSpec:
    """Look up a kernel by name; UsageError where there is none."""
    for spec in KERNELS:
        if spec.name == name:
            return spec
    known = ", ".join(f"'{spec.name}'" for spec in KERNELS)
    raise UsageError(f"There is no kernel '{name}' to compile, only {known}.")


def fragment(spec: KernelSpec) -> str:
    """What is to be in a kernel's configuration, in the form of `.config`; the rest is up to `tinyconfig`."""
    return "".join((FRAGMENTS / f"{name}.config").read_text(encoding="utf-8") for name in (_BASE, spec.name))


def symbols(config: str) -> dict[str, str]:
    """Read a `.config` or a part of one: values by symbol without `CONFIG_`, `n` for one that is not set."""
    found = {}
    for line in config.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found[match["name"] or match["off"]] = match["value"] or _OFF
    return found


def check_config(wanted: Mapping[str, str], config: str) -> None:
    """Check that a finished `.config` has every symbol as it is wanted; one that it lacks is not set.

    Raises:
        SetupBroken: it does not; `make olddefconfig` drops what other symbols do not allow, and says nothing.
    """
    found = symbols(config)
    wrong = [
        f"{name} is {found.get(name, _OFF)} instead of {value}"
        for name, value in sorted(wanted.items())
        if found.get(name, _OFF) != value
    ]
    if wrong:
        raise SetupBroken(
            "This source does not give the wanted kernel, since other symbols select or exclude what was "
            f"asked for: {', '.join(wrong)}."
        )


def without_selects(kconfig: str, not_selected: Iterable[str]) -> str:
    """A Kconfig file without the lines that select the given symbols.

    Raises:
        SetupBroken: one of them is not selected by exactly one line, so this is not the source we know.
    """
    for symbol in not_selected:
        line = re.compile(rf"^[ \t]+select[ \t]+{symbol}\b.*\n", re.MULTILINE)
        kconfig, count = line.subn("", kconfig)
        if count != 1:
            raise SetupBroken(
                f"arch/x86/Kconfig of this source selects {symbol} in {count} places, and 1 was expected."
            )
    return kconfig
