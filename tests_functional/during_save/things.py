"""All things that are done while RAM is saved, by their name."""

from __future__ import annotations

from collections.abc import Mapping

from tests_functional.during_save.commands import COMMAND_THINGS
from tests_functional.during_save.disks import DISK_THINGS
from tests_functional.during_save.ejections import EJECTIONS
from tests_functional.during_save.migrations import MIGRATION_THINGS
from tests_functional.during_save.states import STATE_THINGS
from tests_functional.during_save.thing import Thing

THINGS: Mapping[str, Thing] = {
    **STATE_THINGS,
    **COMMAND_THINGS,
    **EJECTIONS,
    **DISK_THINGS,
    **MIGRATION_THINGS,
}
"""The things by their name."""
