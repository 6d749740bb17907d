"""The kernels that we compile for hosts, as data, and the check that a configuration came out as wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SetupBroken, UsageError
from harness.qemu.architectures import X86_64

FRAGMENTS = Path(__file__).parent / "kernel_configs"

ARCHITECTURE = X86_64
"""The processor of all of them, whose symbols FRAGMENTS name."""

KCONFIG = f"arch/{ARCHITECTURE.linux_folder}/Kconfig"
"""The file of Linux's source with the symbols of that processor."""

_BASE = "host"
_LINE = re.compile(r"CONFIG_(?P<name>\w+)=(?P<value>.+)|# CONFIG_(?P<off>\w+) is not set")
_OFF = "n"


@dataclass(frozen=True)
class KernelSpec:
    """A kernel to compile.

    Attributes:
        name: what `kernel:` and `--host vm:` take; its part of the configuration in FRAGMENTS has that name.
        reason: why it is in the catalogue.
        features: mask of the userfaultfd features that it should offer, 0 without userfaultfd.
        not_selected: symbols that KCONFIG selects, so that no configuration is without them; the lines that
            select them are removed from it.
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
    """Return the kernel of that name; raise UsageError where there is none."""
    for spec in KERNELS:
        if spec.name == name:
            return spec
    known = ", ".join(f"'{spec.name}'" for spec in KERNELS)
    raise UsageError(f"There is no kernel '{name}' to compile, only {known}.")


def read_fragment(spec: KernelSpec) -> str:
    """Return the wanted symbols of a kernel in the form of `.config`; `make tinyconfig` sets the others."""
    return "".join((FRAGMENTS / f"{name}.config").read_text(encoding="utf-8") for name in (_BASE, spec.name))


def parse_symbols(config: str) -> dict[str, str]:
    """Return the values in a `.config` or a part of one, by symbol without `CONFIG_`; `n` is not set."""
    found = {}
    for line in config.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found[match["name"] or match["off"]] = match["value"] or _OFF
    return found


def check_config(wanted: Mapping[str, str], config: str) -> None:
    """Check that a finished `.config` has the wanted values; a symbol that it lacks is not set.

    Args:
        wanted: values by symbol, as `parse_symbols` returns them.
        config: the text of the `.config`.

    Raises:
        SetupBroken: a value differs. `make olddefconfig` drops a value that other symbols exclude, silently.
    """
    found = parse_symbols(config)
    wrong = [
        f"{name} is {found.get(name, _OFF)} instead of {value}"
        for name, value in sorted(wanted.items())
        if found.get(name, _OFF) != value
    ]
    if wrong:
        raise SetupBroken(
            "This kernel source cannot be configured as wanted, since other symbols select or exclude these: "
            f"{', '.join(wrong)}."
        )


def remove_selects(kconfig: str, not_selected: Iterable[str]) -> str:
    """Return the text of KCONFIG without the lines that select the given symbols.

    Raises:
        SetupBroken: a symbol is not selected by exactly one line, so the source is not the one expected.
    """
    for symbol in not_selected:
        line = re.compile(rf"^[ \t]+select[ \t]+{symbol}\b.*\n", re.MULTILINE)
        kconfig, count = line.subn("", kconfig)
        if count != 1:
            raise SetupBroken(
                f"{KCONFIG} of this kernel source selects {symbol} in {count} places, and 1 was expected."
            )
    return kconfig
