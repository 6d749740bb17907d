"""Checks the options of `snapproof explore` against each other, before anything is made or run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import UsageError
from harness.hosts.spec import LOCAL
from harness.plural import counted
from snapproof.runs.defaults import HOST_ACCELERATORS
from snapproof.runs.options import DEFAULT_ACCEL

# Options by name, with their values where they are not given.
_OF_KERNEL: Mapping[str, Any] = {
    "host": LOCAL, "ssh_key": None, "ssh_host_key": "", "host_accel": HOST_ACCELERATORS[0], "prepare": False,
    "ksm": False,
}  # fmt: skip
_OF_QEMU: Mapping[str, Any] = {
    "qemu": None, "accel": DEFAULT_ACCEL, "guest": None, "arch": None, "machine": None, "cpu": None,
    "firmware": None, "firmware_vars": None, "qemu_args": "",
}  # fmt: skip
_OF_CAMPAIGN: Mapping[str, Any] = {"corpus": None, "go_on": None, "jobs": 1}
_OF_LENGTH: Mapping[str, Any] = {"seconds": None, "runs": None}
_KEPT: Mapping[str, Any] = {"results": None}
_WORDS = {"go_on": "--continue"}
# A QEMU that gets less than half of the processor time that it wants leaves its list without a verdict.
_JOBS_FOR_PROCESSOR = 2


def require_fit(arguments: argparse.Namespace) -> None:
    """Check that each option that was given means something beside the others.

    Raises:
        UsageError: one does not; the sentence says what it goes with.
    """
    if arguments.kernel:
        _refuse(
            arguments, _OF_QEMU, "has no meaning with --kernel, which runs no QEMU; leave one of them out"
        )
        if arguments.go_on:
            raise UsageError("A campaign of the kernel is not continued: give its corpus.json with --corpus.")
    else:
        _refuse(
            arguments, _OF_KERNEL, "goes with --kernel, without which lists run with QEMU on this machine"
        )
    if arguments.fault and not arguments.self_check:
        raise UsageError("--fault names what --self-check plants; give both.")
    if arguments.self_check:
        more = {} if arguments.kernel else {"runs": None}
        _refuse(arguments, {**_OF_CAMPAIGN, **more, "replay": None}, "does not go with --self-check")
    if arguments.replay:
        _refuse(arguments, {**_OF_CAMPAIGN, **_OF_LENGTH}, "does not go with --replay, which runs one list")
    if arguments.kernel and (arguments.replay or arguments.self_check):
        _refuse(arguments, _KEPT, "goes with a campaign of the kernel; this writes no results")
    if arguments.go_on:
        _refuse(
            arguments,
            {**_KEPT, "corpus": None},
            "does not go with --continue: a campaign has its own already",
        )
    most = _JOBS_FOR_PROCESSOR * len(os.sched_getaffinity(0))
    if arguments.jobs > most:
        raise UsageError(
            f"--jobs {arguments.jobs} is too much for {counted(most // _JOBS_FOR_PROCESSOR, 'processor')}: "
            f"QEMUs that get less than half of one give no verdict; give at most {most}."
        )


def _refuse(arguments: argparse.Namespace, options: Mapping[str, Any], why: str) -> None:
    for name in _given(arguments, options):
        raise UsageError(f"{name} {why}.")


def _given(arguments: argparse.Namespace, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield those of some options that were given, as the user wrote them."""
    for name, default in options.items():
        if getattr(arguments, name) != default:
            yield _WORDS.get(name, f"--{name.replace('_', '-')}")
