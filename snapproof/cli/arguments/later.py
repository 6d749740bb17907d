"""Delays the import of the function that runs a command until the command runs."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import cast

from harness.limits import require_import_memory
from snapproof.runs.interruption import listen


def later(function: str, listing: str = "") -> Callable[[argparse.Namespace], int]:
    """Return a function that imports another one, calls it and returns its exit code.

    Args:
        function: `module:function`, as in an entry point.
        listing: the function to import instead if the command has `--list`, empty for the same one.
    """

    def run(arguments: argparse.Namespace) -> int:
        require_import_memory()
        module, _, name = (listing if listing and arguments.list else function).partition(":")
        command = getattr(importlib.import_module(module), name)
        # Only now, since an import may swallow the exception that a signal raises from here on.
        listen()
        return cast(int, command(arguments))

    return run
