"""Judges the run state in the section `globalstate`: QEMU refuses a stream in which it is no run state.

QEMU 6.0 to 11.1 migration/global_state.c, vmstate_globalstate and global_state_post_load().
"""

from __future__ import annotations

from harness.codes import Code
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.collector import Collector
from validators.vmstate.stream.cursor import readable
from validators.vmstate.stream.index import Section
from validators.vmstate.stream.source import Source

_DEVICE = "globalstate"
# A 32-bit length comes first. The text had 100 bytes before QEMU 9.0, has 32 since, and ends with a NUL.
_TEXT_AT = 4
_TEXT_BYTES = 32
# qapi/run-state.json, RunState, of all versions from 6.0 to 11.1.
_RUN_STATES = frozenset(
    (
        *("colo", "debug", "finish-migrate", "guest-panicked", "inmigrate", "internal-error", "io-error"),
        *("paused", "postmigrate", "preconfig", "prelaunch", "restore-vm", "running", "save-vm"),
        *("shutdown", "suspended", "watchdog"),
    )
)


def judge_run_state(source: Source, section: Section, collector: Collector) -> None:
    """Note a run state that QEMU does not know, if the section is the one that has it."""
    if section.idstr != _DEVICE or section.kind != fmt.FULL:
        return
    length = min(_TEXT_AT + _TEXT_BYTES, section.data_end - section.data_offset)
    text, end, _ = source.read(section.data_offset, length)[_TEXT_AT:].partition(b"\0")
    state = readable(text)
    if not end or state not in _RUN_STATES:
        collector.anomaly(
            Code.RUN_STATE_UNKNOWN,
            f"The guest has the run state '{state}', which QEMU does not know and refuses to load.",
            section.data_offset + _TEXT_AT,
        )
