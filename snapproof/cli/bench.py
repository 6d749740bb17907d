"""Runs `snapproof bench`: makes the options of a benchmark and starts it."""

from __future__ import annotations

import argparse
from dataclasses import replace

from snapproof.bench.options import AbOptions, DowntimeOptions, FaultsOptions, ValidatorOptions
from snapproof.cli.options import host_options, stack_options


def downtime(arguments: argparse.Namespace) -> int:
    """Run `snapproof bench downtime`."""
    from snapproof.bench.downtime import bench

    return bench(downtime_options(arguments))


def downtime_options(arguments: argparse.Namespace) -> DowntimeOptions:
    """Return the options of `snapproof bench downtime`."""
    return DowntimeOptions(
        stack=stack_options(arguments),
        ram=arguments.ram,
        ways=arguments.ways,
        writers=arguments.writers,
        sinks=arguments.sinks,
        throttle=arguments.throttle,
        repeats=arguments.repeats,
        quick=arguments.quick,
        plan=arguments.plan,
        results=arguments.results,
        seed=arguments.seed,
        json=arguments.json,
        max_growth=arguments.max_growth,
    )


def faults(arguments: argparse.Namespace) -> int:
    """Run `snapproof bench faults`."""
    from snapproof.bench.page_faults import bench

    return bench(
        FaultsOptions(
            stack=stack_options(arguments, own_guest=False),
            hosts=replace(host_options(arguments), tests=False),
            pid=arguments.pid,
            seconds=arguments.seconds,
            host=arguments.host,
            ram=arguments.ram,
            writer=arguments.writer,
            results=arguments.results,
            json=arguments.json,
        )
    )


def validator(arguments: argparse.Namespace) -> int:
    """Run `snapproof bench validator`."""
    from snapproof.bench.validator import bench

    return bench(
        ValidatorOptions(
            file=arguments.file,
            golden=arguments.golden,
            versus=tuple(arguments.versus),
            repeat=arguments.repeat,
            json=arguments.json,
        )
    )


def ab(arguments: argparse.Namespace) -> int:
    """Run `snapproof bench ab`."""
    from snapproof.bench.ab.command import bench

    return bench(
        AbOptions(
            stack=stack_options(arguments, qemu=False),
            a=arguments.a,
            b=arguments.b,
            qemu=arguments.qemu,
            host_qemu=arguments.host_qemu,
            host_accel=arguments.host_accel,
            metric=arguments.metric,
            max_regression=arguments.max_regression,
            pairs=arguments.pairs,
            max_pairs=arguments.max_pairs,
            plant_slowdown=arguments.plant_slowdown,
            self_check=arguments.self_check,
            writer=arguments.writer,
            ram=arguments.ram,
            seed=arguments.seed,
            json=arguments.json,
            results=arguments.results,
        )
    )
