"""Time limits that several tests share, in seconds; a limit of one test alone stays beside that test.

They allow for an emulated guest (TCG) on a busy host, so that only a guest or a QEMU that hangs reaches them.
Those of tests with any guest are longer for one that boots slowly (`Stack.slowness`).
"""

from __future__ import annotations

BOOT_SECONDS = 120.0
"""From QEMU's start to the agent's first answer, for the small guests that are saved for hosts."""

FILL_SECONDS = 90.0
"""Until the agent's writers have written each of their pages once."""

SAVE_SECONDS = 120.0
"""One save of a guest with the default RAM, with a golden dump or a slow sink."""

SMALL_SAVE_SECONDS = 60.0
"""One save of a small guest (`SMALL` in `lib/profile_row.py`), and one restore of it."""

RESTORE_SECONDS = 90.0
"""One restore of a guest with the default RAM, until its agent answers."""

COPY_SECONDS = 60.0
"""Copying a guest's disk, or a few files into a guest."""

HOST_SAVES_SECONDS = 400.0
"""All saves on a test host, and fetching one of the files; a VM host is emulated itself."""
