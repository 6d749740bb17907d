"""Constants of QEMU's vmstate stream, and the error for a damaged stream.

Source of the numbers: QEMU 6.0 to 11.0, migration/savevm.c and migration/qemu-file-types.h (section
types, commands), migration/ram.c (RAM flags, mapped-ram header), and scripts/analyze-migration.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.codes import Code

MAGIC = 0x5145564D  # "QEVM"
VERSION = 3

EOF, START, PART, END, FULL, SUBSECTION, VMDESC, CONFIGURATION, COMMAND = range(9)
FOOTER = 0x7E

SECTION_NAMES = {START: "START", PART: "PART", END: "END", FULL: "FULL"}

# Flags share a 64-bit big-endian word with the page-aligned offset inside the RAMBlock.
FLAG_FULL = 0x01
FLAG_ZERO = 0x02
FLAG_MEM_SIZE = 0x04
FLAG_PAGE = 0x08
FLAG_EOS = 0x10
FLAG_CONTINUE = 0x20
FLAG_XBZRLE = 0x40
FLAG_HOOK = 0x80
FLAG_COMPRESS_PAGE = 0x100
FLAG_MULTIFD_FLUSH = 0x200

REFUSED_FLAGS = {
    FLAG_FULL: "the obsolete FULL flag",
    FLAG_XBZRLE: "an XBZRLE (delta-compressed) page",
    FLAG_HOOK: "an RDMA hook, which cannot be in a file,",
    FLAG_COMPRESS_PAGE: "a zlib-compressed page",
}

COMMAND_OPEN_RETURN_PATH, COMMAND_PING, COMMAND_POSTCOPY_ADVISE = 1, 2, 3
COMMAND_NAMES = {
    1: "OPEN_RETURN_PATH",
    2: "PING",
    3: "POSTCOPY_ADVISE",
    4: "POSTCOPY_LISTEN",
    5: "POSTCOPY_RUN",
    6: "POSTCOPY_RAM_DISCARD",
    7: "PACKAGED",
    8: "ENABLE_COLO",
    9: "POSTCOPY_RESUME",
    10: "RECV_BITMAP",
    11: "SWITCHOVER_START",
}

# Bytes that QEMU's loader takes for each command that a file may have (mig_cmd_args, and
# loadvm_postcopy_handle_advise()). All others belong to a migration whose destination answers.
COMMAND_LENGTHS: Mapping[int, tuple[int, ...]] = {
    COMMAND_OPEN_RETURN_PATH: (0,),
    COMMAND_PING: (4,),
    COMMAND_POSTCOPY_ADVISE: (0, 16),
    11: (0,),
}
# QEMU refuses background-snapshot together with the capabilities that write these.
NOT_IN_BACKGROUND = (COMMAND_OPEN_RETURN_PATH, COMMAND_PING, COMMAND_POSTCOPY_ADVISE)

# All migration capabilities of QEMU 4.0 to 11.1. A file names only some of them, and QEMU refuses a name that
# it does not know (migration/savevm.c, get_capability()).
CAPABILITIES = frozenset(
    (
        *("xbzrle", "rdma-pin-all", "auto-converge", "zero-blocks", "compress", "events", "postcopy-ram"),
        *("x-colo", "release-ram", "block", "return-path", "pause-before-switchover", "multifd"),
        *("x-multifd", "dirty-bitmaps", "postcopy-blocktime", "late-block-activate", "x-ignore-shared"),
        *("validate-uuid", "background-snapshot", "zero-copy-send", "postcopy-preempt", "switchover-ack"),
        *("dirty-limit", "mapped-ram"),
    )
)
CONFIGURATION_SUBSECTION_VERSION = 1

RAM_VERSION = 4
MAPPED_RAM_VERSION = 1
MAPPED_RAM_HEADER_BYTES = 28

# Bounds on what a header may claim, far above anything that QEMU writes. They keep a hostile file from making
# the reader allocate memory or loop without end.
MAX_BLOCKS = 4096
MAX_PAGES = 1 << 31
# So many pages (64 GiB of RAM, 128 MiB of index) are accepted whatever the size of the file.
FREE_PAGES = 1 << 24
LEAST_RECORD_BYTES = 9
MAX_SECTIONS = 250_000
MAX_SMALL_RECORDS = 1_000_000
MAX_DEVICES = 65_536
MAX_CAPABILITIES = 256
MAX_MACHINE_NAME = 4096
MAX_DEVICE_BYTES = 64 << 20
MAX_VMDESC_BYTES = 8 << 20
MAX_VMDESC_VALUES = 1_000_000
MAX_SEARCHED_BYTES = 256 << 20
MIN_PAGE_BITS, MAX_PAGE_BITS = 10, 16
DEFAULT_PAGE_SIZE = 4096


class StreamError(Exception):
    """A stream that cannot be read on: what is wrong, and the file offset of the place.

    Attributes:
        code: which structural rule is broken, and how; its subject is the name of the check.
        sentence: one full sentence for a person.
        offset: byte offset in the file.
        block: RAMBlock that it is about, "" if none.
    """

    def __init__(self, code: Code, sentence: str, offset: int, block: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.offset = offset
        self.block = block
