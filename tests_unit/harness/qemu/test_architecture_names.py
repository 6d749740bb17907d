"""Facts of an architecture are in one place: no other file has names of one or page sizes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.qemu.architectures import ARCHITECTURES, MACHINE_TYPES

ROOT = Path(__file__).parents[3]
PACKAGES = ("harness", "guest_images", "validators", "tests_functional", "snapproof")

ALLOWED = {
    "harness/qemu/architectures.py": "the place itself",
    "guest_images/catalogue.py": "the other place: names of suites and hosts",
    "guest_images/agent/format.py": "the agent's page, a format",
    "guest_images/agent/core/format.h": "the same format in C",
    "guest_images/agent/linux/cycle_counter.h": "reads the processor's counter by its own instruction",
    "harness/userfaultfd/abi.py": "numbers of system calls; carried to hosts by itself",
    "harness/libvirt/room.py": "numbers of a system call and of a flag; runs by itself",
    "harness/linux/process_memory.py": "the number of a system call",
    "harness/linux/seccomp.py": "numbers of system calls, as a seccomp filter has them",
    "harness/qemu/virtio_driver.py": "0x1000 is the PCI id of a network card",
    "tests_functional/lib/drivers/lsi.py": "0x1000 is the PCI id of a vendor",
    "tests_functional/lib/drivers/megasas.py": "0x1000 is the PCI id of a vendor",
    "tests_functional/lib/drivers/nvme.py": "0x1000 is the offset of a register",
    "tests_functional/kernel/checks/movement.py": "the number of a system call; carried to hosts by itself",
    "tests_functional/kernel/trackers/segv.c": "reads a fault's kind from the registers of a signal frame",
    "snapproof/bench/downtime_plan.py": "4096 is a size of RAM in MiB",
    "validators/vmstate/stream/format.py": "limits and the page size of the vmstate format",
    "validators/faults/preload/acts.py": "the page that preloaded libraries share, a format",
    "validators/faults/preload/shared_page.h": "the same format in C",
    "validators/faults/preload/raw_syscall.h": "calls the kernel by the processor's own instruction",
}
"""Files whose format, or whose interface of the kernel, is defined so, each with its reason."""

# Those that are described, and those that the next ones will be.
_NAMES = {name for entry in ARCHITECTURES for name in (entry.name, entry.debian, entry.linux_folder)}
_NAMES |= {"x86-64", "riscv64", "ppc64", "ppc64el", "ppc64le", "s390x", "loongarch64", "loong64"}
_ARCHITECTURE = re.compile(
    "|".join(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9_])" for name in sorted(_NAMES))
    + r"|x86_64|aarch64|(?<![a-z0-9])i[3-6]86|bzImage|qemu-system-(?!modules-)[a-z0-9]"
)
_RAM_BLOCKS = {re.escape(machine.ram_block) for machine in MACHINE_TYPES}
_CONSOLE_OR_MACHINE = re.compile(
    rf"tty(S|AMA)\d|\bhvc\d|sclpconsole|i440fx|(?<![a-z0-9])q35(?![a-z0-9])|mach-virt|{'|'.join(_RAM_BLOCKS)}"
)
_MACHINE_TYPES = {machine.name for machine in MACHINE_TYPES} | {"microvm", "pseries", "s390-ccw-virtio"}
_PAGE = 4096
_C_PAGE = re.compile(r"(?<![\w])4096(?![0-9])")
_C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def _names_architecture(text: str) -> bool:
    """Return whether a string is, or has, a fact of an architecture.

    A sentence and an example of a command may name an architecture: they have a space and are for a person.
    """
    if _CONSOLE_OR_MACHINE.search(text) or text in _MACHINE_TYPES:
        return True
    return " " not in text and _ARCHITECTURE.search(text) is not None


def _docstrings(tree: ast.Module) -> set[int]:
    bodies = (node.body for node in ast.walk(tree) if hasattr(node, "body") and isinstance(node.body, list))
    statements = (statement for body in bodies for statement in body)
    return {id(statement.value) for statement in statements if isinstance(statement, ast.Expr)}


def python_facts(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each fact of an architecture in Python code, without comments and docstrings."""
    tree = ast.parse(source)
    documentation = _docstrings(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in documentation:
            continue
        value = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        if value == _PAGE or (isinstance(value, str) and _names_architecture(value)):
            yield node.lineno, repr(value)


def c_facts(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each fact of an architecture in a C file; comments are free."""
    # A comment's lines stay, so that the numbers of the others are right.
    code = _C_COMMENT.sub(lambda found: "\n" * found[0].count("\n"), source)
    for number, line in enumerate(code.splitlines(), 1):
        if _C_PAGE.search(line) or _ARCHITECTURE.search(line):
            yield number, line.strip()


def _files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))
        yield from sorted((ROOT / package).rglob("*.[ch]"))


def _facts(path: Path) -> list[tuple[int, str]]:
    find = python_facts if path.suffix == ".py" else c_facts
    return list(find(path.read_text(encoding="utf-8")))


def test_facts_of_an_architecture_are_in_their_place() -> None:
    """Only the listed files name an architecture, a console, a machine type or a page size."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in _files()
        if str(path.relative_to(ROOT)) not in ALLOWED
        for line, text in _facts(path)
    ]
    assert not found, f"Take these from harness/qemu/architectures.py: {found}"


@pytest.mark.parametrize("name", ALLOWED)
def test_exceptions_are_needed(name: str) -> None:
    """Each listed file exists and has such a fact, so that the list cannot outlive its reasons."""
    assert _facts(ROOT / name)


@pytest.mark.parametrize(
    "source",
    [
        'program = "qemu-system-x86_64"',
        'libraries = f"usr/lib/x86_64-linux-gnu/{name}"',
        'debian = "amd64"',
        'image = folder / "arch/x86/boot"',
        'image = "bzImage"',
        'cmdline = "console=ttyS0 panic=-1"',
        'cmdline = f"console=ttyAMA0 {words}"',
        'machine: str = "pc"',
        'arguments = ["-machine", "q35,mem-merge=off"]',
        'config = replace(config, machine="virt")',
        'block = "pc.ram"',
        "page_bytes = 4096",
        "pages = size // 4096",
        'signature = b"arm64"',
        'target = "loongarch64-linux-musl"',
        'package = "linux-image-loong64"',
    ],
)
def test_a_fact_elsewhere_is_seen(source: str) -> None:
    """The search finds each kind of fact in Python."""
    assert list(python_facts(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""Boots x86_64 guests with pages of 4096 bytes on ttyS0."""',
        "value = 1  # Linux on x86_64 has pages of 4096 bytes.",
        'message = "userfaultfd without write protection, as on arm64 before Linux 6.10"',
        'example = "doctor --qemu ./build/qemu-system-x86_64"',
        'device = "pc-dimm"',
        'device = "virtio-blk-pci"',
        "size = 40960",
    ],
)
def test_words_for_a_person_are_free(source: str) -> None:
    """Comments, docstrings, sentences and examples may name an architecture."""
    assert not list(python_facts(source))


def test_facts_in_c_are_seen() -> None:
    """The search finds names and page sizes in C, with the right line, and passes over comments."""
    source = "/* x86_64 has\n4096 bytes */\n#ifdef __x86_64__\nint size = 4096; // 4096\n#define P 4096ull\n"
    assert [line for line, _ in c_facts(source)] == [3, 4, 5]
