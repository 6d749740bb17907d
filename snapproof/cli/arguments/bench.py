"""Defines the command-line arguments of `snapproof bench`."""

from __future__ import annotations

import argparse
from typing import Any

from snapproof.bench.downtime_plan import RAM_MIB
from snapproof.bench.sides import AB_RAM_MIB, AB_WRITER, METRICS
from snapproof.bench.validator_plan import FILES
from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.host import HOST_HELP, add_host_arguments
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import add_json_argument, named_path, value_of
from snapproof.cli.arguments.stack import ACCELERATORS, SEED, add_stack_arguments
from snapproof.cli.bisect import add_bisect_argument
from snapproof.runs.defaults import HOST_ACCELERATORS
from snapproof.runs.results_folder import AB_FILE, BENCH_FILE
from tests_functional.lib.measure.cases import Way, Writer

_AB_PAIRS, _AB_MAX_PAIRS = 10, 40


def add_parser(commands: Any, summary: str) -> None:
    """Add the command and a parser for each benchmark."""
    parser = commands.add_parser("bench", help=summary, **help_text("Runs one benchmark."))
    benchmarks = parser.add_subparsers(required=True, metavar="NAME")
    _add_downtime(benchmarks)
    _add_faults(benchmarks)
    _add_validator(benchmarks)
    _add_ab(benchmarks)


def _add_downtime(benchmarks: Any) -> None:
    parser = benchmarks.add_parser(
        "downtime",
        help="what saving a guest costs it, by RAM size and way of saving",
        **help_text(
            "Saves guests of several sizes in several ways while they write, and measures how long they "
            "are stopped and how much slower they are during the save: all sizes by all ways with one writer "
            "and sink, and all writers and sinks at the size nearest to 512 MiB.",
            "bench downtime --quick",
            "bench downtime --plan",
            "bench downtime --ram 512 --ways background-exec,savevm --writers all,idle",
            exit_codes="0 measured, 1 a save failed or was wrong, or --max-growth was exceeded, 2 error, "
            "3 nothing was measured",
            more="docs/bench.md explains the figures.",
        ),
    )
    _add_cases(parser)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="samples of each (default: 5)")
    parser.add_argument("--quick", action="store_true", help="three sizes, two ways, one writer and sink")
    parser.add_argument("--plan", action="store_true", help="print what would be measured, and stop")
    parser.add_argument(
        "--results", type=named_path, metavar="DIR", help="new folder (default: results/bench-TIME)"
    )
    parser.add_argument("--seed", type=SEED, metavar="N", help="seed of the orders of samples and of writes")
    add_json_argument(parser, f"write a copy of {BENCH_FILE} there")
    parser.add_argument(
        "--max-growth",
        type=float,
        metavar="FACTOR",
        help="fail if the stun by background-exec grows by more from the smallest to the largest guest",
    )
    add_stack_arguments(parser)
    parser.set_defaults(run=later("snapproof.cli.bench:downtime"))


def _add_cases(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose what is measured."""
    parser.add_argument(
        "--ram",
        metavar="MIB,...",
        help=f"guest sizes (default: those of {','.join(map(str, RAM_MIB))} that fit)",
    )
    parser.add_argument("--ways", metavar="WAY,...", help=f"of {', '.join(way.value for way in Way)}")
    # One writer is called "10%", and argparse formats help texts.
    writers = ", ".join(one.value for one in Writer).replace("%", "%%")
    parser.add_argument("--writers", metavar="WRITER,...", help=f"of {writers}")
    parser.add_argument("--sinks", metavar="SINK,...", help="of unlimited, throttled")
    parser.add_argument(
        "--throttle",
        type=float,
        default=100.0,
        metavar="MIB",
        help="MiB/s of the throttled sink (default: 100)",
    )


def _add_faults(benchmarks: Any) -> None:
    parser = benchmarks.add_parser(
        "faults",
        help="how long writes to protected pages wait, seen from the host",
        **help_text(
            "Times the userfaultfd faults of each thread of a QEMU by the host kernel's tracefs, in "
            "microseconds: of a running QEMU (--pid), or of one that is started here and takes a background "
            "snapshot. Needs root on the host, and a kernel with kprobes.",
            "bench faults --pid 4711 --seconds 60",
            "bench faults --host ssh://root@lab --pid 4711",
            "bench faults --host vm:debian-12",
            exit_codes="0 measured, 2 error, 3 no fault was seen, 4 this host cannot be traced",
        ),
    )
    parser.add_argument("--pid", type=int, metavar="N", help="a QEMU that runs here, or on --host")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="how long to watch --pid (default: 30)"
    )
    parser.add_argument(
        "--host", metavar="SPEC", help=f"where that QEMU runs, or where to save a guest: {HOST_HELP}"
    )
    parser.add_argument(
        "--ram", type=int, default=512, metavar="MIB", help="RAM of the guest here (default: 512)"
    )
    parser.add_argument(
        "--writer",
        choices=[one.value for one in Writer],
        default="all",
        help="writer in the guest here (default: all)",
    )
    parser.add_argument(
        "--qemu", metavar="PATH|NAME", help="QEMU for the guest; on a host one of the catalogue"
    )
    parser.add_argument("--host-qemu", metavar="PATH", help="QEMU that is on a lab machine")
    parser.add_argument(
        "--accel", choices=ACCELERATORS, default=ACCELERATORS[0], help="accelerator of the guest here"
    )
    parser.add_argument("--guest", default="default", metavar="NAME", help="guest here, from the catalogue")
    parser.add_argument("--results", type=named_path, metavar="DIR", help="new folder for logs")
    add_json_argument(parser, "write the histograms there")
    add_host_arguments(parser)
    parser.set_defaults(run=later("snapproof.cli.bench:faults"))


def _add_validator(benchmarks: Any) -> None:
    parser = benchmarks.add_parser(
        "validator",
        help="the validators' speed against a plain read of the same file",
        **help_text(
            "Times check, extract and golden comparison of a file against 'cat FILE > /dev/null' and any "
            "other reader. Each is run once to warm up, then all of them in turn, N times. Each run is a "
            "process of its own, whose start is timed too; its input is read before it, so that it is "
            "cached. Without FILE, files are made by saving bare guests, one after another, and removed "
            "again; they lie in TMPDIR, which needs up to 18 GB.",
            "bench validator --make 512M,1.3G --repeat 9",
            "bench validator vmstate --golden golden/ --versus 'python3 analyze-migration.py -f {file}'",
        ),
    )
    parser.add_argument("file", type=named_path, nargs="?", metavar="FILE", help="a vmstate file")
    parser.add_argument("--golden", type=named_path, metavar="RAM", help="its golden image")
    parser.add_argument(
        "--make",
        metavar="NAME,...",
        help=f"files to make without FILE: {', '.join(one.name for one in FILES)}",
    )
    parser.add_argument(
        "--versus",
        action="append",
        default=[],
        metavar="COMMAND",
        help="another reader, with {file} for the file; may be given several times",
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="timed runs of each (default: 5)")
    add_json_argument(parser, "write every figure there")
    add_stack_arguments(parser, own_guest=False)
    parser.set_defaults(run=later("snapproof.cli.bench:validator"))


def _add_ab(benchmarks: Any) -> None:
    parser = benchmarks.add_parser(
        "ab",
        help="whether the snapshots of QEMU or host B cost more than those of A, with an exit code",
        **help_text(
            "Saves a small guest with two QEMUs or on two hosts alternately, each time in a new process "
            "(on a host that is a VM: after a new boot). Gives the ratio of B to A with an interval that "
            "holds the true ratio in 95 of 100 cases, and goes on until the interval decides.",
            "bench ab --a debian-13 --b build/qemu-system-x86_64 --max-regression 10%",
            "bench ab --a build/qemu-system-x86_64 --plant-slowdown 20%",
            "bench ab --a build/qemu-system-x86_64 --self-check 20",
            "bench ab --a vm:debian-13 --b vm:/path/to/bzImage --metric stun",
            exit_codes="0 better or same, 1 worse, 2 undecided or error, 3 nothing was measured",
            more="docs/ab-gate.md says more.",
        ),
    )
    _add_ab_sides(parser)
    _add_ab_gate(parser)
    _add_ab_guest(parser)
    parser.add_argument(
        "--seed",
        type=SEED,
        default=1,
        metavar="N",
        help="seed of the orders of runs and of writes (default: 1)",
    )
    add_bisect_argument(parser)
    add_json_argument(parser, "write figures and verdict there")
    parser.add_argument(
        "--results", type=named_path, metavar="DIR", help=f"new folder for {AB_FILE} and logs"
    )
    add_stack_arguments(parser, qemu=False)
    parser.set_defaults(run=later("snapproof.cli.bench:ab"))


def _add_ab_sides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--a",
        metavar="QEMU|HOST",
        help="the fixed baseline: an executable, a name from 'snapproof images list', or a host: local, "
        "vm:NAME, vm:/path/to/bzImage or ssh://[user@]address (default: a QEMU as for 'run')",
    )
    parser.add_argument(
        "--b", metavar="QEMU|HOST", help="the side that is judged, likewise (default: A again)"
    )
    hosts = parser.add_argument_group("hosts", "--ssh-key and --ssh-host-key open a lab machine")
    hosts.add_argument("--qemu", metavar="PATH|NAME", help="the QEMU for VMs (default: debian-13)")
    hosts.add_argument("--host-qemu", metavar="PATH", help="QEMU that is on a lab machine")
    hosts.add_argument(
        "--host-accel",
        choices=HOST_ACCELERATORS,
        help=f"accelerator of x86 VMs (default: {HOST_ACCELERATORS[0]})",
    )


def _add_ab_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric", choices=tuple(METRICS), default="total", help="figure to compare (default: total)"
    )
    parser.add_argument(
        "--max-regression",
        type=value_of(percent, "a share such as 10%, up to 1000%"),
        default=percent("10%"),
        metavar="N%",
        help="how much worse B may be (default: 10%%)",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=_AB_PAIRS,
        metavar="N",
        help="saves of each side before the first look at the interval (default: %(default)s)",
    )
    parser.add_argument(
        "--max-pairs",
        type=int,
        default=_AB_MAX_PAIRS,
        metavar="N",
        help="saves of each side at most (default: %(default)s)",
    )
    parser.add_argument(
        "--plant-slowdown",
        type=value_of(percent, "a share such as 10%, up to 1000%"),
        metavar="N%",
        help="make B worse by this much, to see the gate find it; with the metrics total, stun and downtime",
    )
    parser.add_argument(
        "--self-check",
        type=int,
        metavar="N",
        help="run N gates of A against itself and N with a slowdown (20%%) planted, and count the verdicts",
    )


def _add_ab_guest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--writer",
        choices=[writer.value for writer in Writer],
        help=f"writer in the guest on this host (default: {AB_WRITER.value})",
    )
    parser.add_argument(
        "--ram", type=int, metavar="MIB", help=f"RAM of the guest on this host (default: {AB_RAM_MIB})"
    )


def percent(text: str) -> float:
    """Return the share that a text like ``10%`` names, above 0 and up to 10.

    Raises:
        ValueError: the text is not like that.
    """
    if not text.endswith("%"):
        raise ValueError
    share = float(text[:-1]) / 100
    if not 0 < share <= 10:
        raise ValueError
    return share
