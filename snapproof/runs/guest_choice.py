"""Finds the guest of a run, and its architecture, from `--guest`, `--arch` and the user's own files."""

from __future__ import annotations

from guest_images.catalogue import BARE_GUESTS, GUESTS, guest_spec
from harness.errors import UsageError
from harness.qemu.architectures import Architecture, find_architecture
from snapproof.runs.options import DEFAULT_GUEST, StackOptions
from snapproof.runs.own_kernel import own_architecture
from tests_functional.lib.profile_row import QUICK_GUEST


def chosen_guest(options: StackOptions) -> str:
    """Return the guest of the catalogue that options mean: with `--arch`, the first one of that processor.

    Raises:
        UsageError: the catalogue has no such guest, or the one that is named is for another processor.
    """
    name = options.guest or DEFAULT_GUEST
    if options.arch is None:
        return guest_spec(name).name
    architecture = find_architecture(options.arch)
    if options.guest == QUICK_GUEST:
        return _first("bare", bare_guest(architecture), architecture)
    if options.guest is None:
        linux = (spec.name for spec in GUESTS if spec.architecture == architecture)
        return _first("Linux", next(linux, ""), architecture)
    found = guest_spec(name).architecture
    if found != architecture:
        raise UsageError(
            f"The guest '{name}' is for {found.name}, and --arch says {architecture.name}; leave one of the "
            "options out."
        )
    return name


def guest_architecture(options: StackOptions) -> Architecture:
    """Return the processor of the guest that options mean.

    Raises:
        UsageError: there is no such guest; a file of the user's own is for another processor than --arch.
    """
    wanted = find_architecture(options.arch) if options.arch else None
    return own_architecture(options.own, wanted) or guest_spec(chosen_guest(options)).architecture


def bare_guest(architecture: Architecture) -> str:
    """Return the name of the bare guest for a processor, "" where there is none."""
    return next((spec.name for spec in BARE_GUESTS if spec.architecture == architecture), "")


def _first(kind: str, name: str, architecture: Architecture) -> str:
    if name:
        return name
    specs = BARE_GUESTS if kind == "bare" else GUESTS
    known = ", ".join(sorted({spec.architecture.name for spec in specs}))
    raise UsageError(f"There is no {kind} guest for {architecture.name} here, only for {known}.")
