"""Runs `snapproof bench`: makes the options of a benchmark and starts it."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from typing import Any, TypeVar

from snapproof.bench.options import AbOptions, DowntimeOptions, FaultsOptions, ValidatorOptions
from snapproof.cli.options import host_options, stack_options

_O = TypeVar("_O", DowntimeOptions, FaultsOptions, ValidatorOptions, AbOptions)


def downtime(arguments: argparse.Namespace) -> int:
    """Run `snapproof bench downtime`."""
    from snapproof.bench.downtime import bench

    return bench(downtime_options(arguments))


def downtime_options(arguments: argparse.Namespace) -> DowntimeOptions:
    """Return the options of `snapproof bench downtime`."""
    return _options(DowntimeOptions, arguments, stack=stack_options(arguments))


def faults(arguments: argparse.Namespace) -> int:
    """Run `snapproof bench faults`."""
    from snapproof.bench.page_faults import bench

    stack = stack_options(arguments, own_guest=False)
    hosts = replace(host_options(arguments), tests=False)
    return bench(_options(FaultsOptions, arguments, stack=stack, hosts=hosts))


def validator(arguments: argparse.Namespace) -> int:
    """Run `snapproof bench validator`."""
    from snapproof.bench.validator import bench

    return bench(
        _options(
            ValidatorOptions,
            arguments,
            versus=tuple(arguments.versus),
            stack=stack_options(arguments, own_guest=False),
        )
    )


def ab(arguments: argparse.Namespace) -> int:
    """Run `snapproof bench ab`."""
    from snapproof.bench.ab.command import bench

    return bench(_options(AbOptions, arguments, stack=stack_options(arguments, qemu=False)))


def _options(kind: type[_O], arguments: argparse.Namespace, **made: Any) -> _O:
    """Return options of a kind: each field is the argument of the same name, unless it is made here."""
    taken = {one.name: getattr(arguments, one.name) for one in fields(kind) if one.name not in made}
    return kind(**{**taken, **made})
