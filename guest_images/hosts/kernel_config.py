"""The kernels that we compile for hosts, as data, and the check that a configuration came out as wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from guest_images.catalogue import HOST_BOOT_SECONDS
from harness.errors import SetupBroken, UsageError
from harness.qemu.architectures import X86_64

FRAGMENTS = Path(__file__).parent / "kernel_configs"

ARCHITECTURE = X86_64
"""The processor of all of them, whose symbols FRAGMENTS name."""

KCONFIG = f"arch/{ARCHITECTURE.linux_folder}/Kconfig"
"""The file of Linux's source with the symbols of that processor."""

_BASE = "host"
_WRITE_PROTECTION = "uffd"
_LINE = re.compile(r"CONFIG_(?P<name>\w+)=(?P<value>.+)|# CONFIG_(?P<off>\w+) is not set")
_OFF = "n"


@dataclass(frozen=True)
class SourceEdit:
    """A change of Linux's source.

    Attributes:
        file: the file, from the top of the source.
        old: a text that the file has exactly once.
        new: what takes its place.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class KernelSpec:
    """A kernel to compile.

    Attributes:
        name: what `kernel:` and `--host vm:` take, and the end of its release.
        reason: why it is in the catalogue.
        features: mask of the userfaultfd features that it should offer, 0 without userfaultfd.
        fragments: the parts of its configuration in FRAGMENTS, beside the one that all kernels have.
        not_selected: symbols that KCONFIG selects, so that no configuration is without them; the lines that
            select them are removed from it.
        edits: changes of the source.
        boot_seconds: limit for the boot of a host with it.
    """

    name: str
    reason: str
    features: int
    fragments: tuple[str, ...]
    not_selected: tuple[str, ...] = ()
    edits: tuple[SourceEdit, ...] = ()
    boot_seconds: float = HOST_BOOT_SECONDS


_ALL_FEATURES = 0x1FFFF


def _with_bug(name: str, commit: str, bug: str, *edits: tuple[str, str, str]) -> KernelSpec:
    """Return a kernel without the fix of a bug: the control but for edits that undo the fix."""
    return KernelSpec(
        name,
        f"the control without the fix {commit}: {bug}",
        _ALL_FEATURES,
        (_WRITE_PROTECTION,),
        edits=tuple(SourceEdit(*edit) for edit in edits),
    )


KERNELS = (
    KernelSpec(
        "uffd", "Linux 6.12 compiled here as it is: the control of the others", _ALL_FEATURES, ("uffd",)
    ),
    KernelSpec(
        "no-uffd-wp",
        "Linux 6.12 for x86_64: userfaultfd without write protection",
        # fs/userfaultfd.c userfaultfd_api() of Linux 6.12 takes out WP, WP_HUGETLBFS_SHMEM, WP_UNPOPULATED
        # and WP_ASYNC.
        _ALL_FEATURES & ~(1 << 0 | 1 << 12 | 1 << 13 | 1 << 15),
        ("no-uffd-wp",),
        ("HAVE_ARCH_USERFAULTFD_WP",),
    ),
    KernelSpec(
        "no-userfaultfd", "Linux 6.12 for x86_64: no userfaultfd at all (ENOSYS)", 0, ("no-userfaultfd",)
    ),
    KernelSpec(
        "debug",
        "Linux 6.12 with lockdep, KASAN, DEBUG_VM, page table check and LKDTM",
        _ALL_FEATURES,
        ("uffd", "wide", "debug"),
        # With a load of 35 on two processors it answered after 350 s, and others after 110 s.
        boot_seconds=900.0,
    ),
    # Each has one bug of older kernels, which a test is seen to catch (docs/kernel.md).
    _with_bug(
        "huge-zero-bug",
        "42b2af2c9b7e",
        "a split of the huge zero page takes the protection of all its pages",
        ("mm/huge_memory.c", "if (pmd_uffd_wp(old_pmd))", "if (false)"),
    ),
    _with_bug(
        "private-hugetlb-bug",
        "60d5b473d61b",
        "a write to a private hugetlb page that needs no copy ignores protection",
        ("mm/hugetlb.c", "if (!unshare && huge_pte_uffd_wp(pte))", "if (false)"),
    ),
    _with_bug(
        "hugetlb-marker-bug",
        "0e678153f5be",
        "a marker of protection in hugetlb memory is taken for a page",
        (
            "mm/hugetlb.c",
            "\t\t} else if (!huge_pte_none(pte)) {\n\t\t\tpte_t old_pte;",
            "\t\t}\n\t\tif (is_hugetlb_entry_hwpoisoned(pte) || is_hugetlb_entry_migration(pte)) {\n"
            "\t\t} else if (!huge_pte_none(pte)) {\n\t\t\tpte_t old_pte;",
        ),
    ),
    _with_bug(
        "writenotify-bug",
        "51d3d5eb74ff",
        "mprotect makes protected pages of shared memory writable",
        ("mm/vma.c", "if (userfaultfd_wp(vma))", "if (false)"),
    ),
    _with_bug(
        "fork-marker-bug",
        "49d6d7fb6313",
        "a child inherits markers of protection",
        ("include/linux/mm_inline.h", " && userfaultfd_wp(dst_vma))", ")"),
    ),
    _with_bug(
        "mremap-bug",
        "0cef0bb836e3",
        "mremap takes protection along without EVENT_REMAP",
        (
            "include/linux/userfaultfd_k.h",
            "return uffd_ctx && (uffd_ctx->features & UFFD_FEATURE_EVENT_REMAP) == 0;",
            "return uffd_ctx && false;",
        ),
    ),
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
    parts = [(FRAGMENTS / f"{name}.config").read_text(encoding="utf-8") for name in (_BASE, *spec.fragments)]
    return f'{"".join(parts)}CONFIG_LOCALVERSION="-{spec.name}"\n'


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


def edited(text: str, edit: SourceEdit) -> str:
    """Return the text of a file of the source with an edit.

    Raises:
        SetupBroken: the file does not have the old text exactly once, so the source is not the one expected.
    """
    count = text.count(edit.old)
    if count != 1:
        raise SetupBroken(
            f"{edit.file} of this kernel source has the text {edit.old!r} in {count} places, and 1 was "
            "expected."
        )
    return text.replace(edit.old, edit.new)
