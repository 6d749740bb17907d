"""The arguments of `snapproof bench ab`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ci.bisect import add_bisect_argument
from ci.host_plan import HOST_ACCELERATORS
from ci.results import AB_FILE
from ci.stack_arguments import add_stack_arguments, seed_number
from tests_functional.scenarios.bench.sides import METRICS
from tests_functional.scenarios.bench.writers import Writer

RAM_MIB, WRITER = 256, Writer.ALL
"""Of the guest on this host, where nobody says otherwise."""

_PAIRS, _MAX_PAIRS = 10, 40


def add_parser(benchmarks: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the benchmark's arguments, and what runs it."""
    parser = benchmarks.add_parser(
        "ab",
        help="whether QEMU or host B's snapshots cost more than A's, with an exit code",
        description="Saves a small guest with two QEMUs or on two hosts by turns, always by a fresh process\n"
        "(on a host that is a VM: after a fresh boot), and gives the ratio of B to A with an interval that\n"
        "holds it in 95 of 100 cases. Goes on until that decides.",
        epilog="Exit codes: 0 better or same, 1 worse, 2 undecided or error, 3 nothing was measured.\n"
        "Examples:\n"
        "  snapproof bench ab --a debian-13 --b build/qemu-system-x86_64 --max-regression 10%\n"
        "  snapproof bench ab --a build/qemu-system-x86_64 --plant-slowdown 20%\n"
        "  snapproof bench ab --a build/qemu-system-x86_64 --self-check 20\n"
        "  snapproof bench ab --a vm:debian-13 --b vm:/path/to/bzImage --metric stun\n"
        "docs/ab-gate.md says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_sides(parser)
    _add_gate(parser)
    _add_guest(parser)
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=1,
        metavar="N",
        help="of the order of runs and of writes (default: 1)",
    )
    add_bisect_argument(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures and verdict there")
    parser.add_argument("--results", type=Path, metavar="DIR", help=f"new folder for {AB_FILE} and logs")
    add_stack_arguments(parser, qemu=False)
    parser.set_defaults(run=run)


def _add_sides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--a",
        metavar="QEMU|HOST",
        help="the measure: an executable, a name from 'snapproof images list', or a host: local, vm:NAME, "
        "vm:/path/to/bzImage or ssh://[user@]address (default: a QEMU as for 'run')",
    )
    parser.add_argument("--b", metavar="QEMU|HOST", help="what is judged, likewise (default: A again)")
    hosts = parser.add_argument_group("hosts", "--ssh-key and --ssh-host-key open a lab machine")
    hosts.add_argument("--qemu", metavar="PATH|NAME", help="the QEMU for VMs (default: debian-13)")
    hosts.add_argument("--host-qemu", metavar="PATH", help="QEMU that is on a lab machine")
    hosts.add_argument(
        "--host-accel",
        choices=HOST_ACCELERATORS,
        help=f"accelerator of x86 VMs (default: {HOST_ACCELERATORS[0]})",
    )


def _add_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", choices=tuple(METRICS), default="total", help="(default: total)")
    parser.add_argument(
        "--max-regression",
        type=percent,
        default=percent("10%"),
        metavar="N%",
        help="by how much B may be worse (default: 10%%)",
    )
    parser.add_argument(
        "--pairs", type=int, default=_PAIRS, metavar="N", help="before the first look (default: %(default)s)"
    )
    parser.add_argument(
        "--max-pairs", type=int, default=_MAX_PAIRS, metavar="N", help="at most (default: %(default)s)"
    )
    parser.add_argument(
        "--plant-slowdown",
        type=percent,
        metavar="N%",
        help="make B worse by so much, to see the gate find it; with the metrics total, stun and downtime",
    )
    parser.add_argument(
        "--self-check",
        type=int,
        metavar="N",
        help="N gates of A against itself, N with a slowdown (20%%) planted, and how often each verdict came",
    )


def _add_guest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--writer",
        choices=[writer.value for writer in Writer],
        help=f"what writes in the guest on this host meanwhile (default: {WRITER.value})",
    )
    parser.add_argument(
        "--ram", type=int, metavar="MIB", help=f"of the guest on this host (default: {RAM_MIB})"
    )


def percent(text: str) -> float:
    """A share above 0 from a text like ``10%``; raises ValueError for anything else."""
    if not text.endswith("%"):
        raise ValueError
    share = float(text[:-1]) / 100
    if not 0 < share <= 10:
        raise ValueError
    return share
