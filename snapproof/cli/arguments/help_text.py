"""Makes the help texts of commands: a description, examples to copy, and the meaning of the exit codes."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

_WIDTH = 79
EXIT_CODES = "0 pass, 1 fail, 2 error or missing machinery, 3 nothing ran, 4 all skipped"
"""The meaning of the exit codes of most commands."""


def help_text(description: str, *examples: str, exit_codes: str = "", more: str = "") -> dict[str, Any]:
    """Return keyword arguments for an argument parser that keeps the lines of the examples.

    Args:
        description: what the command does.
        examples: command lines without `snapproof`, each with an explanation after `#` if it needs one.
        exit_codes: their meaning.
        more: a sentence that names further documentation.
    """
    lines = [f"  snapproof {example}" for example in examples]
    parts = ["\n".join(["Examples:", *lines])] if examples else []
    codes = f"Exit codes: {exit_codes}, 130 interrupted."
    parts += [textwrap.fill(codes, _WIDTH)] if exit_codes else []
    parts += [textwrap.fill(more, _WIDTH)] if more else []
    return {
        "description": textwrap.fill(description, _WIDTH),
        "epilog": "\n\n".join(parts),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
