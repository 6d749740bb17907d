"""Runs `snapproof run --list`; apart from cli/run.py, whose imports take as long again."""

from __future__ import annotations

import argparse

from guest_images.catalogue import BareSpec, guest_spec
from snapproof.cli.options import run_options
from snapproof.runs.guest_choice import chosen_guest
from snapproof.runs.profiles import select


def list_profile(arguments: argparse.Namespace) -> int:
    """Print the name of each test that would run, and the reason why it is in the profile.

    Raises:
        UsageError: there is no such profile, test or guest.
    """
    options = run_options(arguments)
    guest = chosen_guest(options.stack)
    bare = isinstance(guest_spec(guest), BareSpec)
    for row in select(options.profile, options.filters):
        skipped = f" (skipped: '{guest}' has no operating system)" if bare and "bare" not in row.kinds else ""
        print(f"{row.name:28} {row.reason}{skipped}")
    return 0
