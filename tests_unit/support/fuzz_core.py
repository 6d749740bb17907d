"""Fuzz the native core with sanitizers: `python -m tests_unit.support.fuzz_core SECONDS`.

With clang, libFuzzer looks for new paths; with any other `cc` a driver of our own mutates the seeds. Seeds
are the RAM sections of right streams, of streams with every planted fault, and of streams cut anywhere. A
run ends with the report of a sanitizer, or of a promise of the core that fuzz_core.c checks and that fails.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests_unit.support.fuzz_stream import seed_corpus
from tests_unit.support.synthetic_stream import Guest, Writer
from validators.faults.files import CATALOGUE, apply_fault
from validators.native.place import AGENT_SOURCES, SOURCES

_HARNESS = Path(__file__).with_suffix(".c")
_SANITIZERS = "address,undefined"
_PARAMETERS = 16
_MOST_BYTES = 1 << 17


def core_seeds(folder: Path) -> Iterator[bytes]:
    """Yield inputs: parameters, and bytes of a RAM section."""
    random = np.random.default_rng(1)
    for stream in (*seed_corpus(), *_damaged(folder)):
        at = max(0, stream.find(b"\x06pc.ram", 100) - 8)
        for start in (at, at + 4000, at + int(random.integers(1 << 16))):
            parameters = bytearray(random.integers(0, 256, _PARAMETERS, np.uint8).tobytes())
            # Pages of 4 KiB, a RAMBlock that is known, pages that lie like those of records.
            parameters[0:3] = (2, 3, 255)
            parameters[14] = 0
            yield bytes(parameters) + stream[start : start + _MOST_BYTES - _PARAMETERS]


def _damaged(folder: Path) -> Iterator[bytes]:
    right, damaged = folder / "right", folder / "damaged"
    guest = Guest(counts=(12, 8), steps=(40, 22), ram_pages=231)
    right.write_bytes(Writer(guest).stream())
    for fault in CATALOGUE:
        if apply_fault(right, fault, damaged, 1) is not None:
            yield damaged.read_bytes()


def build(program: Path, compiler: str) -> bool:
    """Build the harness; return whether it has libFuzzer."""
    fuzzer = Path(compiler).name.startswith("clang")
    own = [f"-fsanitize=fuzzer,{_SANITIZERS}"] if fuzzer else [f"-fsanitize={_SANITIZERS}", "-DOWN_DRIVER"]
    command = [
        *(compiler, "-std=c11", "-g", "-O1", "-fno-sanitize-recover=all", *own, "-pthread"),
        *(f"-I{SOURCES}", f"-I{AGENT_SOURCES}", "-o", str(program), str(_HARNESS)),
    ]
    subprocess.run([*command, *map(str, sorted(SOURCES.glob("*.c")))], check=True)
    return fuzzer


def main() -> int:
    """Fuzz for some seconds, and return the exit code of the harness."""
    seconds = sys.argv[1] if len(sys.argv) > 1 else "60"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(core_seeds(folder)):
            (corpus / f"seed-{number}").write_bytes(seed)
        fuzzer = build(folder / "fuzz", shutil.which("clang") or "cc")
        seeds = [str(path) for path in sorted(corpus.iterdir())]
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={_MOST_BYTES}",
            "-print_final_stats=1",
            str(corpus),
        ]
        return subprocess.run(
            [str(folder / "fuzz"), *(options if fuzzer else [seconds, *seeds])], check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
