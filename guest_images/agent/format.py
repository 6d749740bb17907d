"""The words of the agent's pages, format version 2. docs/agent-format.md describes them.

core/format.h has the same names and numbers for the agent itself; a unit test compares them. A page has
PAGE_WORDS little-endian words of 64 bits.
"""

from __future__ import annotations

from enum import IntEnum

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, FORMAT_VERSION)
"""Those of agents whose pages are judged; version 1 had no COUNTER, no NS_PER_TICK, and no state ENDING."""

PAGE_BYTES = 4096
WORD_BYTES = 8
PAGE_WORDS = 512
DIRECTORY_ENTRIES = 500
"""Most data pages that one directory page lists."""

LONG_GAP_NS = 50_000_000
"""A gap between two steps of a writer counts as long from here on."""

LONG_GAPS_KEPT = 16
"""The last long gaps that a thread page has the times of."""

HISTOGRAM_BUCKETS = 32
FINE_BUCKET_BITS = 3
FINE_BUCKETS = 280

MISMATCH_WORDS = 8
"""Words of one wrong page in a report page."""

REPORT_DETAILS = 60
"""Most wrong pages that a report page describes."""

DATA_MAGIC = int.from_bytes(b"SNAPPAGE", "little")
DIRECTORY_MAGIC = int.from_bytes(b"SNAPDIRY", "little")
CONTROL_MAGIC = int.from_bytes(b"SNAPCTRL", "little")
THREAD_MAGIC = int.from_bytes(b"SNAPTHRD", "little")
REPORT_MAGIC = int.from_bytes(b"SNAPRPRT", "little")
MAILBOX_MAGIC = int.from_bytes(b"SNAPMAIL", "little")

BODY_STRIDE = 0x9E3779B97F4A7C15
"""What each word of a data page's body adds to the page's key."""


class PageWord(IntEnum):
    """Words of every kind of page.

    MAGIC is the kind of the page, NONCE a random number of this agent.
    """

    MAGIC = 0
    NONCE = 1


class DataWord(IntEnum):
    """Words of a data page, which only its thread writes."""

    THREAD = 2
    """Number of the thread that owns the page."""
    INDEX = 3
    """Number of the page in its thread, from 0."""
    GENERATION = 4
    """How many times the page has been written."""
    STEP = 5
    """Number of the write that made this content, from 0 in each thread."""
    BODY = 6
    """First word of the body: word i is key + i * BODY_STRIDE."""
    CHECKSUM = 511
    """`mix` of the sum of all words before it."""


class ThreadWord(IntEnum):
    """Words of a thread page: what one writer has done."""

    NUMBER = 2
    """From 0."""
    PAGES = 3
    """Its data pages."""
    STEPS = 4
    """Page writes completed."""
    ERRORS = 5
    """Pages found wrong before they were overwritten."""
    FIRST_ERROR = 6
    """Index of the first of these pages."""
    STATE = 7
    """A WriterState."""
    LONGEST_WRITE_NS = 8
    """Longest single page write."""
    WRITES_TIMED = 9
    """Page writes counted in the histograms."""
    LONGEST_GAP_NS = 10
    """Longest time between the ends of two page writes."""
    LONG_GAPS = 11
    """Gaps of LONG_GAP_NS and more."""
    MONOTONIC_NS = 12
    """CLOCK_MONOTONIC when the writer last renewed the control page's clocks."""
    COUNTER = 13
    """The processor's counter then; 0 where it is not known, and in guests without an operating system."""
    NS_PER_TICK = 14
    """Times 2^32: how long a tick of it is."""
    LONG_GAP_TIMES = 16
    """Of each of the last LONG_GAPS_KEPT long gaps: its end by CLOCK_MONOTONIC and its length, in ns."""
    HISTOGRAM = 64
    """HISTOGRAM_BUCKETS words: bucket b counts writes that took [2^b, 2^(b+1)) microseconds."""
    FINE_HISTOGRAM = 128
    """FINE_BUCKETS words: the same writes in the buckets of `fine_bucket_ns`."""


class WriterState(IntEnum):
    """Values of ThreadWord.STATE."""

    NOT_STARTED = 0
    WRITING = 1
    PARKED = 2


class ControlWord(IntEnum):
    """Words of the control page, of which an agent has one.

    Those from MAILBOX on are the mailbox of an agent without an operating system, and zero in others.
    """

    VERSION = 2
    """FORMAT_VERSION."""
    PATTERN = 3
    """A guest_images.agent.pages.Pattern."""
    SEED = 4
    """Of the random pattern's order."""
    THREADS = 5
    """Number of writers."""
    PAGE_SIZE = 6
    """PAGE_BYTES."""
    DATA_PAGES = 7
    """Of all threads together."""
    MONOTONIC_NS = 8
    """CLOCK_MONOTONIC, renewed every 10 ms and by writers."""
    REALTIME_NS = 9
    """CLOCK_REALTIME, likewise."""
    HEARTBEATS = 10
    """One every 10 ms."""
    STATE = 11
    """An AgentState."""
    GUEST_RAM = 12
    """In bytes, as told by the host."""
    LONGEST_GAP_NS = 13
    """Longest time between two heartbeats."""
    COUNTER = 14
    """The processor's counter, renewed with the clocks; 0 as in ThreadWord."""
    NS_PER_TICK = 15
    """Times 2^32: how long a tick of it is."""
    MAILBOX = 16
    """MAILBOX_MAGIC: the agent takes commands."""
    REQUEST = 17
    """Raised by the host: COMMAND and ARGUMENTS are complete."""
    ANSWER = 18
    """The last REQUEST that has been carried out."""
    COMMAND = 19
    """A BareCommand."""
    RESULT = 20
    """A BareResult, of the last command."""
    TICKS = 21
    """The processor's counter when the last command was answered."""
    BOOT_TICKS = 22
    """The same when the agent was booted."""
    META = 23
    """Address of the first thread page, before its report page."""
    ARGUMENTS = 32
    """Arguments of COMMAND: one word for each ServeArgument."""


class BareCommand(IntEnum):
    """Values of ControlWord.COMMAND."""

    SERVE = 1
    """Lay out and fill the pages; its arguments are in the order of ServeArgument."""
    RUN = 2
    """Let the writers write."""
    PAUSE = 3
    """Park the writers, each between two page writes."""
    VERIFY = 4
    """Check all pages, and fill the report pages."""
    RESET = 5
    """Start the statistics again from zero."""
    CORRUPT = 6
    """Flip one bit; the arguments are thread, index, and 1 for the hole behind the page."""
    QUIT = 7
    """End the agent."""
    TIME = 8
    """Nothing but answer, so that the host can measure the counter."""
    PUT_BESIDE = 9
    """Store state beside RAM; its arguments are in the order of BesideArgument."""
    GET_BESIDE = 10
    """Load it; its value takes the place of that argument."""


class BareResult(IntEnum):
    """Values of ControlWord.RESULT."""

    DONE = 0
    NO_COMMAND = 1
    """There is no such command."""
    WRONG_STATE = 2
    """Not before SERVE, not while the writers run, or the like."""
    WRONG_ARGUMENT = 3
    """A number is out of its range."""
    NO_MEMORY = 4
    """Guest RAM is too small for the plan."""
    NO_STATE = 5
    """This processor or machine has no such state."""


class ServeArgument(IntEnum):
    """Arguments of BareCommand.SERVE, from ControlWord.ARGUMENTS on."""

    NONCE = 0
    """For all pages."""
    PATTERN = 1
    """A guest_images.agent.pages.Pattern."""
    SEED = 2
    """Of the random pattern's order."""
    THREADS = 3
    """Writers, one per vCPU."""
    BYTES = 4
    """Of the written region, holes included."""
    GUEST_RAM = 5
    """In bytes."""
    RATE = 6
    """Pages per second and thread, 0 = unlimited."""
    NS_PER_TICK = 7
    """Times 2^32: how long a tick of the processor's counter is."""
    REALTIME_NS = 8
    """CLOCK_REALTIME when the counter was BOOT_TICKS."""
    DATA = 9
    """Address of the data pages, 0 = behind the others at the end of RAM."""
    LOW_RAM = 10
    """Bytes of RAM from its first address on, up to a hole or its end."""
    HIGH_START = 11
    """Guest-physical address of the rest of RAM, behind a hole; 0 = there is none."""


class BesideArgument(IntEnum):
    """Arguments of BareCommand.PUT_BESIDE and GET_BESIDE, from ControlWord.ARGUMENTS on."""

    PLACE = 0
    """An address, or the number of an entry."""
    VALUE = 1
    """What to store, or what was found."""


class ReportWord(IntEnum):
    """Words of a report page: what a bare agent's last check of a thread's pages found."""

    THREAD = 2
    """Number of the thread."""
    PAGES = 3
    """Data pages checked."""
    HOLES = 4
    """Holes checked."""
    COUNT = 5
    """Wrong pages."""
    KEPT = 6
    """Wrong pages described, at most REPORT_DETAILS."""
    DATA_CHECKSUM = 7
    """Chained over the last words of all data pages, by index."""
    MISMATCHES = 16
    """KEPT times MISMATCH_WORDS words, each in the order of MismatchWord."""


class MismatchWord(IntEnum):
    """Words of one wrong page in a report page."""

    HOLE = 0
    """1: a page to stay untouched."""
    INDEX = 1
    """Index of the data page, or of the one before the hole."""
    FRAME = 2
    """Guest page frame number."""
    EXPECTED_GENERATION = 3
    """0: never written, all zero."""
    FOUND_GENERATION = 4
    """Word DataWord.GENERATION of the page, whatever it is."""
    EXPECTED_STEP = 5
    """Step of the write that was to be there."""
    FOUND_STEP = 6
    """Word DataWord.STEP of the page, likewise."""
    WORD = 7
    """The first word that differs."""


class AgentState(IntEnum):
    """Values of ControlWord.STATE."""

    IDLE = 0
    RUNNING = 1
    PAUSED = 2
    ENDING = 3
    """It wipes its pages, the control page last."""


class DirectoryWord(IntEnum):
    """Words of a directory page: the guest page frames of data pages of one thread."""

    THREAD = 2
    """Number of the thread."""
    FIRST_INDEX = 3
    """Index of the first data page listed."""
    COUNT = 4
    """Data pages listed."""
    FRAMES = 8
    """COUNT guest page frame numbers, 0 = unknown."""
    CHECKSUM = 511
    """As in a data page."""


def fine_bucket_ns(bucket: int) -> tuple[int, int]:
    """Return the least duration in ns that a fine bucket counts, and the least one above it.

    See docs/agent-format.md.
    """
    shift = max(0, (bucket >> FINE_BUCKET_BITS) - 1)
    first = bucket - (shift << FINE_BUCKET_BITS)
    return first << shift, (first + 1) << shift
