"""Runs `snapproof run --list`; apart from cli/run.py, whose imports take as long again."""

from __future__ import annotations

import argparse

from snapproof.cli.options import run_options
from snapproof.runs.profiles import select


def list_profile(arguments: argparse.Namespace) -> int:
    """Print the name of each test that would run, and the reason why it is in the profile."""
    options = run_options(arguments)
    for row in select(options.profile, options.filter):
        print(f"{row.name:28} {row.reason}")
    return 0
