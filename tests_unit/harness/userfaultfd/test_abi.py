"""Our constants and layouts are those of the compiler's headers; the package runs on Python 3.9 alone."""

from __future__ import annotations

import ast
import ctypes
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guest_images.agent.build import find_compiler
from harness.errors import MachineryMissing
from harness.userfaultfd import abi, libc, pagemap

_ROOT = Path(__file__).parents[3]

# What is carried to old hosts: folder, and the modules of ours that it may import besides itself.
CARRIED: dict[str, tuple[str, ...]] = {
    "harness/userfaultfd": (),
    "harness/linux/kernel_log": (),
    "harness/plural": (),
    "validators/trackers": ("harness/userfaultfd",),
    "tests_functional/kernel": (
        "harness/userfaultfd",
        "harness/linux/kernel_log",
        "harness/plural",
        "validators/trackers",
    ),
}

# Modules that the standard library got after 3.9.
_NEWER_MODULES = {"tomllib", "compression", "annotationlib", "string.templatelib", "concurrent.interpreters"}

_MEMORY = ("MADV_", "MAP_", "PROT_", "MREMAP_")
_NUMBERS = {
    **{f"UFFD_FEATURE_{feature.name}": int(feature) for feature in abi.FEATURE_SINCE},
    **{f"UFFDIO_REGISTER_MODE_{mode.name}": int(mode) for mode in abi.Mode},
    **{f"UFFD_PAGEFAULT_FLAG_{flag.name}": int(flag) for flag in abi.FaultFlag},
    **{
        f"UFFDIO_{name}": getattr(abi, name)
        for name in vars(abi)
        if "_MODE_" in name[4:] and not name.startswith("UFFD")
    },
    **{name: value for name, value in vars(abi).items() if name.startswith("UFFDIO_")},
    **{f"UFFD_{name}": value for name, value in vars(abi).items() if name.startswith("EVENT_")},
    **{
        name: value
        for name, value in vars(libc).items()
        if name.startswith(("MADV_", "MAP_", "PROT_", "MREMAP_"))
    },
    **{name: value for name, value in vars(pagemap).items() if name.startswith(("PAGE_IS_", "PM_SCAN_"))},
    "UFFD_API": abi.UFFD_API,
    "UFFD_USER_MODE_ONLY": abi.UFFD_USER_MODE_ONLY,
    "USERFAULTFD_IOC_NEW": abi.USERFAULTFD_IOC_NEW,
    "PAGEMAP_SCAN": pagemap.PAGEMAP_SCAN,
    "__NR_userfaultfd": abi.system_call_number(),
    **{f"_UFFDIO_{name}": bit for bit, name in abi._IOCTL_BITS.items()},
}

# The structure, ours, and the macro without which the header does not have it.
_STRUCTURES = {
    "uffdio_range": (abi.Range, "UFFDIO_WAKE"),
    "uffdio_api": (abi.Api, "UFFDIO_API"),
    "uffdio_register": (abi.Register, "UFFDIO_REGISTER"),
    "uffdio_copy": (abi.Copy, "UFFDIO_COPY"),
    "uffdio_zeropage": (abi.Filled, "UFFDIO_ZEROPAGE"),
    "uffdio_writeprotect": (abi.WriteProtect, "UFFDIO_WRITEPROTECT"),
    "uffdio_continue": (abi.Filled, "UFFDIO_CONTINUE"),
    "uffdio_poison": (abi.Filled, "UFFDIO_POISON"),
    "uffdio_move": (abi.Copy, "UFFDIO_MOVE"),
    "pm_scan_arg": (pagemap.ScanArgument, "PAGEMAP_SCAN"),
    "page_region": (pagemap.PageRegion, "PAGEMAP_SCAN"),
}

# Bytes of struct uffd_msg, by which `events` unpacks.
_OFFSETS = {
    "uffd_msg.arg.pagefault.flags": 8,
    "uffd_msg.arg.pagefault.address": 16,
    "uffd_msg.arg.pagefault.feat.ptid": 24,
    "uffd_msg.arg.fork.ufd": 8,
    "uffd_msg.arg.remap.from": 8,
    "uffd_msg.arg.remap.to": 16,
    "uffd_msg.arg.remap.len": 24,
    "uffd_msg.arg.remove.start": 8,
    "uffd_msg.arg.remove.end": 16,
}


@functools.lru_cache
def _header() -> dict[str, int]:
    """Return macros, sizes and offsets that a C program prints, compiled with the compiler's headers."""
    lines = [
        f'#ifdef {name}\nputs_number("{name}", (unsigned long long)({name}));\n#endif' for name in _NUMBERS
    ]
    for name, (_, macro) in _STRUCTURES.items():
        lines.append(f'#ifdef {macro}\nputs_number("{name}", sizeof(struct {name}));\n#endif')
    lines.append('puts_number("uffd_msg", sizeof(struct uffd_msg));')
    for name in _OFFSETS:
        structure, member = name.split(".", 1)
        lines.append(f'puts_number("{name}", offsetof(struct {structure}, {member}));')
    program = (
        "#define _GNU_SOURCE\n#include <stddef.h>\n#include <stdio.h>\n#include <sys/mman.h>\n"
        "#include <linux/mman.h>\n"
        "#include <linux/userfaultfd.h>\n#include <linux/fs.h>\n#include <asm/unistd.h>\n"
        "static void puts_number(const char *name, unsigned long long value) "
        '{ printf("%s %llu\\n", name, value); }\n'
        "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    try:
        compiler = find_compiler()
    except MachineryMissing as error:
        pytest.skip(error.sentence)
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    executable = folder / f"snapproof-abi-{os.getpid()}"
    try:
        subprocess.run(
            [*compiler.command, "-x", "c", "-o", str(executable), "-"],
            input=program,
            text=True,
            check=True,
            timeout=300,
        )
        printed = subprocess.run([executable], capture_output=True, text=True, check=True, timeout=20).stdout
    finally:
        executable.unlink(missing_ok=True)
    return {name: int(value) for name, value in (line.split() for line in printed.splitlines())}


@pytest.mark.parametrize("name", _NUMBERS)
def test_constant_is_that_of_the_header(name: str) -> None:
    """Each constant that the compiler's headers know has the value there."""
    if name not in _header():
        pytest.skip(f"The compiler's headers are older than {name}.")
    assert _NUMBERS[name] == _header()[name]


@pytest.mark.parametrize("name", _STRUCTURES)
def test_structure_has_the_size_of_the_header(name: str) -> None:
    """Each structure that the compiler's headers know has the size there."""
    if name not in _header():
        pytest.skip(f"The compiler's headers are older than struct {name}.")
    assert ctypes.sizeof(_STRUCTURES[name][0]) == _header()[name]


def test_message_has_the_layout_of_the_header() -> None:
    """Events are unpacked at the offsets of struct uffd_msg."""
    assert {name: _header()[name] for name in _OFFSETS} == _OFFSETS
    assert _header()["uffd_msg"] == abi.MESSAGE_BYTES


def test_header_knows_most_constants() -> None:
    """The comparison is not empty: what every header since 5.7 has is compared."""
    assert len(_header()) > 60


def test_numbers_of_newer_ioctls() -> None:
    """Those that few headers have yet, as computed from linux/userfaultfd.h of 6.8 and linux/fs.h of 6.7."""
    assert abi.UFFDIO_MOVE == 0xC028AA05
    assert abi.UFFDIO_CONTINUE == 0xC020AA07
    assert abi.UFFDIO_POISON == 0xC020AA08
    assert ctypes.sizeof(pagemap.ScanArgument) == 0x60


def test_feature_bits_are_in_order() -> None:
    """A feature's place in the list of names is its bit."""
    assert [feature.bit_length() - 1 for feature in abi.FEATURE_SINCE] == list(range(19))
    assert abi.feature_names(1 << 16 | 1 << 20 | 1) == ("PAGEFAULT_FLAG_WP", "MOVE", "BIT_20")


def _sources() -> list[Path]:
    paths = [path for folder in CARRIED for path in sorted((_ROOT / folder).rglob("*.py"))]
    return paths + [path for path in (_ROOT / f"{name}.py" for name in CARRIED) if path.exists()]


@pytest.mark.parametrize("path", _sources(), ids=str)
def test_carried_files_are_python_3_9_and_standard_library(path: Path) -> None:
    """Syntax of 3.9, lazy annotations, and no import but the standard library and what is carried along."""
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    future = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    assert future or len(tree.body) == 1, "Without lazy annotations 'X | None' fails on 3.9."
    allowed = (*CARRIED, *(name for names in CARRIED.values() for name in names))
    packages = {name.replace("/", ".") for name in allowed}
    for name in _imports(tree):
        assert not any(name.startswith(newer) for newer in _NEWER_MODULES), name
        if name.split(".")[0] not in sys.stdlib_module_names:
            assert any(name == package or name.startswith(f"{package}.") for package in packages), name
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Match), "3.10"
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            assert keyword.arg not in {"slots", "kw_only", "strict"}, f"'{keyword.arg}' is 3.10."


def _imports(tree: ast.Module) -> list[str]:
    """Modules that a file imports, without relative ones and those that only a type checker reads."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
    return names


def test_carried_files_run_on_python_3_9() -> None:
    """A real Python 3.9 imports all of them, from a folder that has nothing else."""
    python = _python39()
    modules = [
        str(path.relative_to(_ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for path in _sources()
        if path.name != "__main__.py"
    ]
    program = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    done = subprocess.run(
        [python, "-S", "-c", program], cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def _python39() -> str:
    for name in (os.environ.get("PYTHON39", ""), "python3.9"):
        found = shutil.which(name) if name else None
        if not found:
            continue
        done = subprocess.run([found, "-c", "import ctypes"], capture_output=True, check=False)
        if done.returncode == 0:
            return found
    pytest.skip("There is no Python 3.9 here ($PYTHON39 may name one).")
