"""Runs `snapproof bench validator`: the validators' speed against a plain read of the same file."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken, UsageError
from harness.process import ChildProcess
from harness.status import EXIT_PASS
from snapproof.bench.options import ValidatorOptions
from snapproof.bench.validator_files import make_file
from snapproof.bench.validator_plan import chosen_files
from snapproof.runs.events import Progress
from snapproof.runs.outputs import write_json_file
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

_PLAIN = "plain read (cat)"
_START = "start of Python alone"
_RESOURCE_USAGE = Path(__file__).with_name("resource_usage.py")
_JOBS = "snapproof.bench.validator_jobs"
# What the command sets for itself in snapproof/cli/entry.py.
_AS_THE_COMMAND = {"OPENBLAS_NUM_THREADS": "1"}
_ROOT = Path(__file__).parents[2]
_READ_BYTES = 1 << 20
_RUN_SECONDS = 3600.0
# Placeholder in an argument list for a new folder, which is deleted after the run.
_FOLDER = "{folder}"


@dataclass(frozen=True)
class Contender:
    """A command that is timed.

    Attributes:
        name: its name in the table.
        command: its argument list.
    """

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """The cost of one run: wall seconds of the whole process, and its peak memory in bytes."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Timing:
    """The runs of one contender, without the warm-up.

    Attributes:
        name: name of the contender.
        seconds: wall time of each run.
        min_seconds: the shortest.
        median_seconds: the median.
        max_seconds: the longest.
        ratio: median over the median of the plain read.
        ratio_of_minima: minimum over the minimum of the plain read, which other load disturbs least.
        ratio_without_start: ratio of minima without the start of Python; None for commands that are not ours.
        peak_mib: the highest peak memory, in MiB.
    """

    name: str
    seconds: tuple[float, ...]
    min_seconds: float
    median_seconds: float
    max_seconds: float
    ratio: float
    ratio_of_minima: float
    ratio_without_start: float | None
    peak_mib: float


def bench(options: ValidatorOptions) -> int:
    """Run the benchmark and return the exit code that `snapproof bench validator --help` explains."""
    if options.repeat < 1:
        raise UsageError(f"--repeat {options.repeat} is too few; give 1 or more.")
    if options.file is None and options.golden is not None:
        raise UsageError("--golden is the golden image of FILE, and no FILE is given; name it too.")
    if options.file is not None and options.make is not None:
        raise UsageError("--make names files that are made, and FILE is another one; leave one of them out.")
    kinds = chosen_files(options.make) if options.file is None else []
    progress = Progress()
    results = []
    try:
        if options.file is not None:
            results.append(_measure(options, options.file.absolute(), options.golden, progress))
        for kind in kinds:
            # In a folder for each, so that only one file at a time takes room.
            with tempfile.TemporaryDirectory(prefix="snapproof-bench-") as name:
                made = make_file(kind, options.stack, Path(name), progress.step)
                results.append(_measure(options, made.path, made.golden, progress, kind.name))
    except OSError as error:
        raise SetupBroken(f"The benchmark could not go on: {error}.") from error
    finally:
        progress.done()
    if options.json:
        content = results[0] if options.file is not None else {"version": 1, "files": results}
        write_json_file(options.json, json.dumps(content, indent=1))
    return EXIT_PASS


def _measure(
    options: ValidatorOptions, file: Path, golden: Path | None, progress: Progress, name: str = ""
) -> dict[str, Any]:
    """Measure and print what concerns one file; return it as JSON values."""
    with open_source(file) as source:
        read_index(source)
        size = source.size
    contenders = _contenders(file, golden, options.versus)
    with tempfile.TemporaryDirectory(prefix="snapproof-bench-") as folder:
        inputs = _inputs(file, golden)
        costs = _interleaved(contenders, options.repeat, Path(folder), inputs, progress)
    progress.done()
    timings = _timings(contenders, costs)
    _print(name or str(file), size, options.repeat, timings)
    return {
        "version": 1, "file": name or str(file), "bytes": size, "repeat": options.repeat,
        "figures": [{**asdict(entry), "command": list(contender.command)}
                    for entry, contender in zip(timings, contenders, strict=True)],
    }  # fmt: skip


def _contenders(file: Path, golden: Path | None, versus: Sequence[str]) -> list[Contender]:
    job = (sys.executable, "-m", _JOBS)
    contenders = [
        Contender(_PLAIN, ("cat", str(file))),
        Contender(_START, (*job, "start", str(file))),
        Contender("check: structure, digests", (*job, "digests", str(file))),
        Contender("check: all oracles", (*job, "check", str(file))),
        Contender("plain copy (cp)", ("cp", "--sparse=auto", str(file), _FOLDER)),
        Contender("extract", (*job, "extract", str(file), _FOLDER)),
    ]
    if golden is not None:
        image = str(golden.absolute())
        both = [str(path.absolute()) for path in _inputs(file, golden)]
        contenders.append(Contender("plain read of both (cat)", ("cat", *both)))
        contenders.append(Contender("golden comparison", (*job, "golden", str(file), image)))
    for text in versus:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UsageError(
                f"The command '{text}' of --versus cannot be split into words: {error}."
            ) from error
        if not any("{file}" in word for word in words):
            raise UsageError(
                f"The command '{text}' of --versus does not say where the file's name goes; write {{file}} "
                "there."
            )
        contenders.append(Contender(text, tuple(word.replace("{file}", str(file)) for word in words)))
    return contenders


def _interleaved(
    contenders: Sequence[Contender], repeat: int, folder: Path, inputs: Sequence[Path], progress: Progress
) -> dict[str, list[Cost]]:
    """Run all contenders in turn: once to warm up, then `repeat` times."""
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    for number in range(repeat + 1):
        progress.step(f"Round {number} of {repeat}." if number else "Warming up.")
        for contender in contenders:
            # Files written before may have pushed the inputs out of the page cache.
            _read_through(inputs)
            cost = _run(contender, folder)
            if number:
                costs[contender.name].append(cost)
    return costs


def _inputs(file: Path, golden: Path | None) -> list[Path]:
    """Return all files that a contender reads."""
    images = [] if golden is None else sorted(golden.iterdir()) if golden.is_dir() else [golden]
    return [file, *images]


def _read_through(files: Sequence[Path]) -> None:
    """Read what the files have, but no holes: the kernel would fill its cache with their zeros."""
    buffer = memoryview(bytearray(_READ_BYTES))
    for path in files:
        with path.open("rb", buffering=0) as file:
            for start, end in _extents(file.fileno()):
                for at in range(start, end, _READ_BYTES):
                    os.preadv(file.fileno(), (buffer[: min(_READ_BYTES, end - at)],), at)


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data: the offset of the first byte, and that behind the last."""
    end, size = 0, os.fstat(descriptor).st_size
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _run(contender: Contender, folder: Path) -> Cost:
    """Run one contender in a folder of its own.

    Raises:
        SetupBroken: it failed, so its time means nothing.
    """
    work, report, log = folder / "work", folder / "report.json", folder / "log"
    work.mkdir()
    command = [word.replace(_FOLDER, str(work / "out")) for word in contender.command]
    log.unlink(missing_ok=True)
    argv = [sys.executable, "-I", "-S", str(_RESOURCE_USAGE), str(report), str(work), *command]
    # So that our modules are found even if the package is not installed.
    with ChildProcess(argv, log, environment={"PYTHONPATH": str(_ROOT), **_AS_THE_COMMAND}) as process:
        try:
            process.wait(Deadline(_RUN_SECONDS))
        except DeadlineExpired as error:
            raise SetupBroken(f"'{contender.name}' did not end within an hour.") from error
        evidence = process.evidence()
    shutil.rmtree(work)
    # Otherwise the host would write back this contender's files during the next one.
    os.sync()
    content = json.loads(report.read_text())
    report.unlink()
    if content["exit_code"] != 0:
        words = f"'{contender.name}' ended with exit code {content['exit_code']}, so it cannot be compared."
        raise SetupBroken(words, evidence)
    return Cost(float(content["seconds"]), int(content["peak_kib"]) * 1024)


def _timings(contenders: Sequence[Contender], costs: dict[str, list[Cost]]) -> list[Timing]:
    seconds = {name: [cost.seconds for cost in runs] for name, runs in costs.items()}
    plain, start = seconds[_PLAIN], min(seconds[_START])
    timings = []
    for contender in contenders:
        mine = seconds[contender.name]
        ours = contender.name != _START and _JOBS in contender.command
        timings.append(
            Timing(
                name=contender.name,
                seconds=tuple(round(value, 4) for value in mine),
                min_seconds=round(min(mine), 4),
                median_seconds=round(median(mine), 4),
                max_seconds=round(max(mine), 4),
                ratio=round(median(mine) / median(plain), 2),
                ratio_of_minima=round(min(mine) / min(plain), 2),
                ratio_without_start=round(max(0.0, min(mine) - start) / min(plain), 2) if ours else None,
                peak_mib=round(max(cost.peak_bytes for cost in costs[contender.name]) / (1 << 20), 1),
            )
        )
    return timings


def _print(file: str, size: int, repeat: int, timings: Sequence[Timing]) -> None:
    width = max(len(entry.name) for entry in timings)
    print(f"{file}: {size:,} bytes, {repeat} rounds after a warm-up, all in turn")
    print(f"ratio: to the {_PLAIN}; of medians, of minima, and of minima without the start of Python")
    heads = ("min s", "median s", "max s", "medians", "minima", "no start", "peak MiB")
    print(" ".join([" " * width, *(f"{head:>8}" for head in heads)]))
    for entry in timings:
        without = "" if entry.ratio_without_start is None else f"{entry.ratio_without_start:.2f}"
        print(
            f"{entry.name:{width}} {entry.min_seconds:8.3f} {entry.median_seconds:8.3f} "
            f"{entry.max_seconds:8.3f} {entry.ratio:8.2f} {entry.ratio_of_minima:8.2f} {without:>8} "
            f"{entry.peak_mib:8.1f}"
        )
