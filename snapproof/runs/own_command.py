"""Returns the command line of this process, for results that say how they are repeated."""

from __future__ import annotations

import sys
from pathlib import Path


def own_command() -> list[str]:
    """Return the words of this command's line, with the path of its program from the root on."""
    return [str(Path(sys.argv[0]).absolute()), *sys.argv[1:]]
