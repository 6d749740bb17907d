"""Help texts of commands: a description, examples that can be copied, and what the exit codes mean."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

_WIDTH = 79
EXIT_CODES = "0 pass, 1 fail, 2 error or missing machinery, 3 nothing ran, 4 all skipped"
"""What the exit codes of most commands mean."""


def help_text(description: str, *examples: str, exit_codes: str = "", more: str = "") -> dict[str, Any]:
    """Keyword arguments for an argument parser, so that examples keep their lines.

    Args:
        description: what the command does.
        examples: command lines without their `snapproof`; what stands behind `#` explains one.
        exit_codes: what they mean.
        more: where to read on.
    """
    lines = [f"  snapproof {example}" for example in examples]
    parts = ["\n".join(["Examples:", *lines])] if examples else []
    parts += [textwrap.fill(f"Exit codes: {exit_codes}.", _WIDTH)] if exit_codes else []
    parts += [textwrap.fill(more, _WIDTH)] if more else []
    return {
        "description": textwrap.fill(description, _WIDTH),
        "epilog": "\n\n".join(parts),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
