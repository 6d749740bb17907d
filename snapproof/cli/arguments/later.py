"""Delays the import of the function that runs a command until the command runs."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import cast


def later(function: str) -> Callable[[argparse.Namespace], int]:
    """Return a function that imports another one, calls it and returns its exit code.

    Args:
        function: `module:function`, as in an entry point.
    """
    module, _, name = function.partition(":")

    def run(arguments: argparse.Namespace) -> int:
        return cast(int, getattr(importlib.import_module(module), name)(arguments))

    return run
