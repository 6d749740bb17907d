"""Names the file of the native core: by its sources, its flags and this machine, in a cache folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHOICE = "SNAPPROOF_NATIVE"
"""Environment variable: the library to load, or NUMPY; a command sets it for itself and its children."""

NUMPY = "0"
SOURCES = Path(__file__).parent
AGENT_SOURCES = SOURCES.parents[1] / "guest_images" / "agent"
FLAGS = (
    "-std=c11",
    "-O3",
    "-D_FILE_OFFSET_BITS=64",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fPIC",
    "-shared",
    "-pthread",
)
_FILE = "core.so"
_AGENT_HEADERS = ("format.h", "mix.h", "word.h")


def source_files() -> list[Path]:
    """Return all files that the core is compiled from, headers included."""
    own = [*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]
    return sorted(own) + [AGENT_SOURCES / "core" / name for name in _AGENT_HEADERS]


def core_path(cache: Path) -> Path:
    """Return where a cache folder has the core that fits these sources and this machine, built or not.

    The compiler is no part of the name: asking it for its version would take longer than a check.
    """
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in source_files():
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return cache / "native" / f"{digest.hexdigest()[:12]}-{os.uname().machine}-{libc_name()}" / _FILE


def libc_name() -> str:
    """Return the last part of a compiler's target: "gnu", or "musl" where the C library is not glibc."""
    try:
        return "gnu" if os.confstr("CS_GNU_LIBC_VERSION") else "musl"
    except (OSError, ValueError):
        return "musl"


@contextmanager
def core_of(cache: Path) -> Iterator[None]:
    """Have files read by the core in that cache folder, here and in child processes, unless one is chosen."""
    if os.environ.get(CHOICE):
        yield
        return
    os.environ[CHOICE] = str(core_path(cache))
    try:
        yield
    finally:
        os.environ.pop(CHOICE, None)
