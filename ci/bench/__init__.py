"""`snapproof bench`: the benchmarks by name."""

from __future__ import annotations

from typing import Any

from ci.bench import ab, downtime, faults, validator


def add_parser(commands: Any) -> None:
    """Add the command and a parser for each benchmark."""
    parser = commands.add_parser("bench", help="measure", description="Runs one benchmark.")
    benchmarks = parser.add_subparsers(required=True, metavar="NAME")
    downtime.add_parser(benchmarks)
    faults.add_parser(benchmarks)
    validator.add_parser(benchmarks)
    ab.add_parser(benchmarks)
