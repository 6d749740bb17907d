"""Says that a file is read without the native core, where that takes noticeably longer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from validators.native.library import native_core
from validators.native.place import CHOICE, NUMPY

_WORTH_BYTES = 64 << 20


def note_numpy(path: Path) -> None:
    """Print a note if there is no native core, which nobody has chosen, and the file is not small."""
    if (
        os.environ.get(CHOICE) == NUMPY
        or not path.is_file()
        or path.stat().st_size < _WORTH_BYTES
        or native_core() is not None
    ):
        return
    print(
        "snapproof: The native core is not built, so this takes longer, with the same result; "
        "'snapproof images build core' builds it.",
        file=sys.stderr,
    )
