"""Contract: the numbers of the stream are those of QEMU, migration/savevm.c and migration/ram.c."""

from __future__ import annotations

import pytest

from validators.vmstate.stream import format as fmt

_NUMBERS = {
    "MAGIC": int.from_bytes(b"QEVM", "big"),
    "VERSION": 3,
    "EOF": 0,
    "START": 1,
    "PART": 2,
    "END": 3,
    "FULL": 4,
    "SUBSECTION": 5,
    "VMDESC": 6,
    "CONFIGURATION": 7,
    "COMMAND": 8,
    "FOOTER": 0x7E,
    "FLAG_FULL": 0x01,
    "FLAG_ZERO": 0x02,
    "FLAG_MEM_SIZE": 0x04,
    "FLAG_PAGE": 0x08,
    "FLAG_EOS": 0x10,
    "FLAG_CONTINUE": 0x20,
    "FLAG_XBZRLE": 0x40,
    "FLAG_HOOK": 0x80,
    "FLAG_COMPRESS_PAGE": 0x100,
    "FLAG_MULTIFD_FLUSH": 0x200,
    "COMMAND_OPEN_RETURN_PATH": 1,
    "COMMAND_PING": 2,
    "COMMAND_POSTCOPY_ADVISE": 3,
    "CONFIGURATION_SUBSECTION_VERSION": 1,
    "RAM_VERSION": 4,
    "MAPPED_RAM_VERSION": 1,
    # Version, page size, offset of the bitmap, offset of the pages.
    "MAPPED_RAM_HEADER_BYTES": 4 + 8 + 8 + 8,
    # A zero page: its word and the byte that it is filled with.
    "LEAST_RECORD_BYTES": 8 + 1,
    "DEFAULT_PAGE_SIZE": 4096,
}


@pytest.mark.parametrize(("name", "value"), _NUMBERS.items())
def test_number_is_that_of_qemu(name: str, value: int) -> None:
    """A reader and a test that share a wrong number would agree."""
    assert getattr(fmt, name) == value


def test_commands_are_those_of_qemu() -> None:
    """They are in enum qemu_vm_cmd of QEMU 11.0, and their lengths in mig_cmd_args."""
    assert {number: name for number, name in fmt.COMMAND_NAMES.items() if number in fmt.COMMAND_LENGTHS} == {
        1: "OPEN_RETURN_PATH",
        2: "PING",
        3: "POSTCOPY_ADVISE",
        11: "SWITCHOVER_START",
    }
    assert list(fmt.COMMAND_NAMES) == list(range(1, 12))
    assert fmt.COMMAND_LENGTHS == {1: (0,), 2: (4,), 3: (0, 16), 11: (0,)}
