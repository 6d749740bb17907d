"""Fuzz the vmstate reader: `python -m tests_unit.support.fuzz_stream [libFuzzer options] [corpus]`.

Needs the package `atheris`. Without a corpus folder it starts from the seeds of `seed_corpus()`. A run that
raises anything but UsageError, takes over 5 s or needs over 300 MiB more memory is a finding.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

from harness.errors import UsageError
from harness.status import EXIT_ERROR
from tests_unit.support.synthetic_stream import Guest, Writer
from validators.judge import check_file
from validators.vmstate.devices import decode_devices
from validators.vmstate.stream import PipeSource, open_source, read_index

_LIMITS = ["-timeout=5", "-rss_limit_mb=600", "-max_len=65536"]


def seed_corpus() -> list[bytes]:
    """Small valid streams, plain and mapped-ram, each also cut before its RAM and after its header."""
    seeds = []
    for pattern in (0, 4):
        guest = Guest(pattern=pattern, counts=(3, 2), steps=(8, 5), ram_pages=231)
        # Few pages with data keep a seed small: everything else is a 9-byte record.
        guest.ram[200:] = 0
        guest.ram[6:10] = 0
        stream = Writer(guest, rom=b"\xaa" * 4096).stream()
        seeds += [stream, stream[:300], stream[-2000:]]
    mapped = Writer(Guest(agent=False), mapped=True).stream()
    return [*seeds, mapped[:4096], mapped[-1000:]]


def one_input(data: bytes) -> None:
    """Judge one input as a file and as a pipe; nothing but UsageError may come out."""
    with tempfile.NamedTemporaryFile(dir=_folder()) as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        with contextlib.suppress(UsageError):
            check_file(path).to_json()
        with contextlib.suppress(UsageError), open_source(path) as source:
            decode_devices(source, read_index(source))
    with contextlib.suppress(UsageError):
        read_index(PipeSource(io.BytesIO(data)))


def _folder() -> str | None:
    """A folder in memory where there is one: a file is written for every input."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> None:
    """Run libFuzzer over `one_input`; without atheris, say so and exit with 2."""
    try:
        import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        print("Fuzzing needs the Python package 'atheris'.", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        if not any(not argument.startswith("-") for argument in arguments):
            for number, seed in enumerate(seed_corpus()):
                (Path(name) / f"seed-{number}").write_bytes(seed)
            arguments.append(name)
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], *_LIMITS, *arguments], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
