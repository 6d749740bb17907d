"""Runs `snapproof doctor`: examines this host, its kernel and QEMUs, and says what cannot be tested here."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator

from guest_images.agent.build import find_compiler
from guest_images.qemu.builds import provisioned_qemus
from harness.errors import SnapproofError
from harness.hosts.local import local_facts
from harness.limits import short_limits
from harness.linux.cgroup import memory_limits
from harness.linux.kernel_log import ours, read_splats
from harness.linux.kvm import find_kvm
from harness.linux.loopback import loopback_refusal
from harness.qemu.probe import DEFAULT_EXECUTABLE, probe_qemu
from harness.status import EXIT_ERROR, EXIT_PASS
from harness.userfaultfd import probe_userfaultfd
from snapproof.runs.stack import cache_at
from tests_functional.lib.run import free_mib
from validators.native.library import native_core

_TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "setpriv": "util-linux"}
_SMOKE_MIB = 2200
# A snapshot of the default guest.
_SMOKE_FILE_MIB = 540

Finding = tuple[bool | None, str]
"""True for ok, False for BAD, None for a note; and one sentence."""


def doctor(arguments: argparse.Namespace) -> int:
    """Print one line for each finding; return 2 if the smoke profile cannot run here, else 0."""
    healthy = True
    for fine, sentence in _findings(arguments):
        healthy = healthy and fine is not False
        print(f"{ {True: 'ok  ', False: 'BAD ', None: 'note'}[fine] } {sentence}")
    return EXIT_PASS if healthy else EXIT_ERROR


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    facts = local_facts()
    yield True, f"Python {platform.python_version()} at {sys.executable}."
    yield None, f"Linux {facts.kernel} on {facts.architecture}, {facts.cpus} CPUs."
    yield (
        facts.memory_mib > _SMOKE_MIB,
        f"{facts.memory_mib} MiB of memory available; smoke needs {_SMOKE_MIB}.",
    )
    yield from _limits()
    yield _loopback()
    yield _userfaultfd()
    yield _kvm()
    yield from _tools()
    yield from _qemus(arguments)
    folder = cache_at(arguments.cache).folder
    home = next(place for place in (folder, *folder.parents) if place.exists())
    writable = os.access(home, os.W_OK)
    yield (
        writable,
        f"The cache is '{folder}', {free_mib(home)} MiB free{'' if writable else ', not writable'}.",
    )
    readable = os.access("/dev/kmsg", os.R_OK) and read_splats(ours([], [])) is not None
    yield (
        None,
        f"The kernel's log {'can' if readable else 'cannot'} be read, so splats are {_seen(readable)}.",
    )


def _limits() -> Iterator[Finding]:
    """What limits this process beside the host itself: getrlimit(2), and control groups."""
    for sentence in short_limits(_SMOKE_FILE_MIB, _SMOKE_MIB):
        yield False, f"A limit is too low for smoke: {sentence}"
    for limit in memory_limits():
        enough = limit.free_bytes > _SMOKE_MIB << 20
        yield (
            None if enough else False,
            f"The control group's limit '{limit.path}' is {limit.limit_bytes >> 20} MiB, of which "
            f"{limit.free_bytes >> 20} MiB are left; smoke needs {_SMOKE_MIB}.",
        )


def _seen(readable: bool) -> str:
    return "seen" if readable else "not seen; run as root to see them"


def _loopback() -> Finding:
    why = loopback_refusal()
    if why:
        return (
            False,
            f"No connection can be made over 127.0.0.1: {why}. Set the loopback up ('ip link set lo up').",
        )
    return True, "Guests can be reached over 127.0.0.1."


def _userfaultfd() -> Finding:
    support = probe_userfaultfd()
    if support.write_protect:
        return (
            True,
            f"userfaultfd write protection works ({support.opened_by}): {' '.join(support.features)}.",
        )
    why = (
        support.reason
        or "The kernel has no UFFD_FEATURE_PAGEFAULT_FLAG_WP (Linux 5.7 on x86_64, 6.10 on arm64)."
    )
    return False, f"Background snapshots will be refused on this host. {why}"


def _kvm() -> Finding:
    kvm = find_kvm()
    more = " 'run' boots the guest under it to see whether it works." if kvm.usable else ""
    return None, kvm.explained(bare=False) + more


def _tools() -> Iterator[Finding]:
    for program, package in _TOOLS.items():
        found = shutil.which(program)
        yield bool(found), f"{program}: {found or f'missing; install the package {package}'}."
    try:
        yield True, f"C compiler: {find_compiler().version}."
    except SnapproofError as error:
        yield False, error.sentence
    built = (
        "built" if native_core() else "not built; 'snapproof run' builds it, and without it 'check' is slower"
    )
    yield None, f"Native core of the validator: {built}."


def _qemus(arguments: argparse.Namespace) -> Iterator[Finding]:
    for name in dict.fromkeys((DEFAULT_EXECUTABLE, arguments.qemu or DEFAULT_EXECUTABLE)):
        try:
            qemu = probe_qemu(name)
            yield (
                True,
                f"QEMU {qemu.version} at {qemu.executable}, accelerators: {' '.join(qemu.accelerators)}.",
            )
        except SnapproofError as error:
            given = name == arguments.qemu
            yield (
                (False if given else None),
                error.sentence if given else f"No {name} on PATH; 'run' fetches one.",
            )
    for spec, provisioned in provisioned_qemus(cache_at(arguments.cache)).items():
        if provisioned:
            yield None, f"QEMU {provisioned.version} as '{spec.name}', fetched."
