"""The agent's core/ needs no C library and no operating system, so that every agent can share it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from guest_images.agent.build import SOURCES, find_compiler
from harness.errors import MachineryMissing

CORE = SOURCES / "core"
FLAGS = ("-O2", "-ffreestanding", "-nostdlib", "-fno-stack-protector", "-Wall", "-Wextra", "-Werror")
FREESTANDING_HEADERS = {"stdbool.h", "stddef.h", "stdint.h"}
# A compiler may call these four functions for code of its own making; whoever links core/ has to have them.
START = """
#include <stddef.h>
void *memcpy(void *to, const void *from, size_t bytes) { (void)from; (void)bytes; return to; }
void *memmove(void *to, const void *from, size_t bytes) { (void)from; (void)bytes; return to; }
void *memset(void *to, int byte, size_t bytes) { (void)byte; (void)bytes; return to; }
int memcmp(const void *one, const void *two, size_t bytes) { return (int)bytes + (one == two); }
void _start(void) { for (;;) ; }
"""


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A copy of core/ that a test may change."""
    return Path(shutil.copytree(CORE, tmp_path / "core"))


def link(core: Path) -> subprocess.CompletedProcess[str]:
    """Compile a copy of core/ with nothing else, and link it without any library."""
    try:
        compiler = find_compiler()
    except MachineryMissing as error:
        pytest.skip(error.sentence)
    start = core.parent / "start.c"
    start.write_text(START)
    command = [*compiler.command, *FLAGS, "-static", "-o", str(core.parent / "program"), str(start)]
    command += map(str, sorted(core.glob("*.c")))
    return subprocess.run(command, capture_output=True, text=True)


def foreign_includes(core: Path) -> set[str]:
    """Return the includes of a copy of core/ that are neither its own files nor headers of every compiler."""
    found = set()
    for path in core.glob("*.[ch]"):
        text = path.read_text()
        found |= set(re.findall(r"#\s*include\s*<(.+?)>", text)) - FREESTANDING_HEADERS
        found |= set(re.findall(r'#\s*include\s*"(.+?)"', text)) - {path.name for path in core.iterdir()}
    return found


def test_core_links_without_a_library(core: Path) -> None:
    """Compiled freestanding, core/ has no undefined symbol."""
    done = link(core)
    assert done.returncode == 0, done.stderr


def test_core_includes_freestanding_headers_only() -> None:
    """The core includes nothing of Linux, of a C library or of another folder."""
    assert foreign_includes(CORE) == set()


def test_core_needs_no_integer_of_128_bits() -> None:
    """Targets of 32 bits have none."""
    assert not [path.name for path in CORE.glob("*.[ch]") if "__int128" in path.read_text()]


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        (
            "unsigned long strlen(const char *text); unsigned long f(const char *t) { return strlen(t); }",
            "strlen",
        ),
        ("int getpid(void); int f(void) { return getpid(); }", "getpid"),
    ],
)
def test_call_of_the_c_library_is_noticed(core: Path, code: str, missing: str) -> None:
    """A file in core/ that calls the C library does not link."""
    (core / "more.c").write_text(code)
    done = link(core)
    assert done.returncode != 0 and missing in done.stderr


@pytest.mark.parametrize(
    "line", ["#include <string.h>", "#include <linux/mman.h>", '#include "../linux/agent.h"']
)
def test_foreign_header_is_noticed(core: Path, line: str) -> None:
    """A header from outside core/ is found."""
    (core / "more.h").write_text(line + "\n")
    assert len(foreign_includes(core)) == 1
