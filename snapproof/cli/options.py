"""Makes frozen options from the parsed command line; snapproof.runs defines what they are."""

from __future__ import annotations

import argparse
from dataclasses import fields

from snapproof.runs.options import HostOptions, OwnGuestOptions, RunOptions, StackOptions


def stack_options(
    arguments: argparse.Namespace, *, qemu: bool = True, own_guest: bool = True
) -> StackOptions:
    """Return the values of the arguments that `add_stack_arguments` added.

    Args:
        arguments: the parsed command line.
        qemu: whether the command takes a single QEMU.
        own_guest: whether it takes a guest of the user's own.
    """
    own = {one.name: getattr(arguments, one.name) for one in fields(OwnGuestOptions)} if own_guest else {}
    return StackOptions(
        qemu=arguments.qemu if qemu else None,
        accel=arguments.accel,
        guest=arguments.guest,
        arch=getattr(arguments, "arch", None),
        # `bench faults` has none of these: its guest on a host is made for hosts.
        machine=getattr(arguments, "machine", None),
        cpu=getattr(arguments, "cpu", None),
        firmware=getattr(arguments, "firmware", None),
        firmware_vars=getattr(arguments, "firmware_vars", None),
        qemu_args=getattr(arguments, "qemu_args", ""),
        own=OwnGuestOptions(**own),
        cache=arguments.cache,
        mirror=arguments.mirror,
    )


def host_options(arguments: argparse.Namespace) -> HostOptions:
    """Return the values of the arguments that `add_host_arguments` added, and of `--qemu` if there is one."""
    return HostOptions(
        qemu=getattr(arguments, "qemu", None),
        host_qemu=getattr(arguments, "host_qemu", None),
        accel=arguments.host_accel,
        ssh_key=arguments.ssh_key,
        ssh_host_key=arguments.ssh_host_key,
        mirror=arguments.mirror,
        cache=arguments.cache,
    )


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """Return the options of `snapproof run`."""
    return RunOptions(
        profile=arguments.profile,
        filters=tuple(arguments.filter),
        seed=arguments.seed,
        repeat=arguments.repeat,
        shard=arguments.shard,
        jobs=arguments.jobs,
        qemus=tuple(arguments.qemu or ()),
        stack=stack_options(arguments, qemu=False),
        keep=arguments.keep,
        results=arguments.results,
        formats=tuple(arguments.format),
        events=arguments.events,
        bisect=arguments.bisect,
        patience=arguments.patience,
    )
