"""Stable codes for what can be wrong: of violations and errors, for known issues, control flow and reports.

A code is `<check-or-subject>.<what>`. Sentences are for people and may change; a code keeps its meaning. What
differs from case to case (a run state, an errno, a QMP command) is in the fields beside it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Self

Fields = Mapping[str, int | str]
"""Named values that tell apart what one code stands for, e.g. ``{"state": "running"}``."""


class Code(enum.StrEnum):
    """A code, and its meaning in one line. docs/codes.md has the same as a table."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Self:
        """Make a member whose value is its code alone."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    @classmethod
    def of(cls, value: str) -> Self:
        """Return the code that is written so.

        Raises:
            ValueError: there is none.
        """
        return cls(value)  # type: ignore[call-arg]  # mypy takes it for the making of a member

    @property
    def subject(self) -> str:
        """What comes before the dot: for rules of the stream, the name of the check."""
        return self.value.partition(".")[0]

    # Errors: our own set-up, QEMU, its monitor, and the guest.
    SETUP_BROKEN = "setup.broken", "The test's own set-up failed."
    SETUP_LIMIT = "setup.limit", "A limit of the machine was reached: memory, disk, descriptors, CPU time."
    SETUP_MISSING = "setup.missing", "A program, package or permission is not there."
    SETUP_UNREADABLE = "setup.unreadable", "A disk or file system cannot read a file at an offset."
    SETUP_USAGE = "setup.usage", "The user's input cannot be used as given."
    FEATURE_ABSENT = "feature.absent", "The QEMU or the host has no such feature."
    WAIT_EXPIRED = "wait.expired", "A wait ran out of time."
    SNAPSHOT_WRONG = "snapshot.wrong", "The snapshot is not the guest at T0, or cannot be read."
    QEMU_FAILED = "qemu.failed", "QEMU broke its own interface in a way that has no code of its own."
    QEMU_ENDED = "qemu.ended", "QEMU ended while it was needed."
    QEMU_ENDED_BY_ITSELF = "qemu.ended-by-itself", "QEMU has ended after a save that failed."
    QEMU_MEMORY_UNREADABLE = "qemu.memory-unreadable", "QEMU's memory can no longer be read from outside."
    QMP_CLOSED = "qmp.closed", "QEMU closed its QMP connection while it ran."
    QMP_NO_GREETING = "qmp.no-greeting", "QEMU did not greet over QMP in time."
    QMP_NO_ANSWER = "qmp.no-answer", "QEMU did not answer a QMP command in time."
    QMP_NO_EVENT = "qmp.no-event", "QEMU did not send a QMP event in time."
    QMP_REFUSED = "qmp.refused", "QEMU answered a QMP command with an error."
    GUEST_NO_ANSWER = "guest.no-answer", "The guest did not answer in time."
    GUEST_COMMAND_UNFINISHED = "guest.command-unfinished", "A command in the guest did not end in time."
    GUEST_WRONG_STATE = "guest.wrong-state", "The guest did not get into the awaited run state in time."
    GUEST_NOT_RESUMED = "guest.not-resumed", "The guest does not run after a save that failed or was refused."
    GUEST_WRITERS_STALLED = "guest.writers-stalled", "A guest that is said to run writes too little."

    # Saves, restores and capabilities.
    CAPABILITY_REFUSED = "capability.refused", "QEMU refuses a migration capability on this host."
    SAVE_FAILED = "save.failed", "A save ended as failed or cancelled."
    SAVE_UNFINISHED = "save.unfinished", "A save did not end, or did not begin to send, in time."
    SAVE_NOT_CLEANED_UP = "save.not-cleaned-up", "QEMU has ended a save and does not clean up after it."
    SAVE_NO_STUN = "save.no-stun", "QEMU did not send STOP and RESUME around T0."
    SAVE_WRONG_END = "save.wrong-end", "A save that was broken ended in another way than it had to."
    SAVE_REFUSED_BUT_ACTIVE = "save.refused-but-active", "QEMU refused a save and keeps a migration active."
    SAVE_NO_REASON = "save.no-reason", "A save failed or was refused, and QEMU does not say why."
    SAVE_GUEST_SILENT = (
        "save.guest-silent",
        "After a completed save the guest does not answer; field `error`.",
    )
    RESTORE_FAILED = "restore.failed", "QEMU does not take a snapshot."

    # Oracle 1, golden image.
    GOLDEN_DIFFERS = "golden.differs", "A page differs from the golden image; field `block`."
    GOLDEN_PAGE_MISSING = "golden.page-missing", "A page of the golden image is not in the stream."
    GOLDEN_BLOCK_NOT_IN_IMAGE = "golden.block-not-in-image", "A RAMBlock is not in the golden image."
    GOLDEN_BLOCK_NOT_IN_STREAM = "golden.block-not-in-stream", "A RAMBlock is not in the stream."
    GOLDEN_BLOCK_LENGTH = "golden.block-length", "A RAMBlock has another length in the golden image."

    # RAM of a machine, by its kinds.
    RAM_BLOCKS_UNKNOWN_KIND = (
        "ram-blocks.unknown-kind",
        "A machine has RAM of a kind that has no test; field `kind`.",
    )
    RAM_BLOCKS_NOT_SAVED = "ram-blocks.not-saved", "The guest has RAM that is in no stream; field `kind`."
    RAM_BLOCKS_UNPROTECTED = (
        "ram-blocks.unprotected",
        "RAM that is written directly is not write-protected while it is saved; field `kind`.",
    )

    MEMORY_PROTECTION_LOST = (
        "memory.protection-lost",
        "A page is no longer write-protected after the host's kernel made its entry anew; field `way`.",
    )

    # Oracle 2, write order.
    WRITE_ORDER_NEWER = "write-order.newer", "An agent page is from after T0."
    WRITE_ORDER_OLDER = "write-order.older", "An agent page is from before its last write at T0."
    WRITE_ORDER_TORN = "write-order.torn", "An agent page is a mixture of two writes; field `age`."
    WRITE_ORDER_CORRUPT = "write-order.corrupt", "An agent page holds what the agent never wrote."
    WRITE_ORDER_ZERO = "write-order.zero", "An agent page is zero and should not be."
    WRITE_ORDER_MISSING = "write-order.missing", "An agent page is not in the stream."
    WRITE_ORDER_MISPLACED = "write-order.misplaced", "Another agent page is in the place of this one."
    WRITE_ORDER_OTHER_AGENT = "write-order.other-agent", "A page of an earlier agent is in this place."
    WRITE_ORDER_WRONG_GENERATION = (
        "write-order.wrong-generation",
        "A page has the right step and a wrong generation.",
    )
    WRITE_ORDER_NOT_FOUND = "write-order.not-found", "No directory page lists an agent page."
    WRITE_ORDER_NO_CONTROL_PAGE = "write-order.no-control-page", "There are agent pages and no control page."
    WRITE_ORDER_BAD_CONTROL_PAGE = "write-order.bad-control-page", "The control page holds impossible values."
    WRITE_ORDER_BAD_DIRECTORY_PAGE = "write-order.bad-directory-page", "A directory page is corrupt."
    WRITE_ORDER_NO_DIRECTORY_PAGE = (
        "write-order.no-directory-page",
        "A directory page of the agent is not in RAM.",
    )
    WRITE_ORDER_LOST_THREAD = (
        "write-order.lost-thread",
        "The control page counts other threads or data pages than the thread pages.",
    )
    WRITE_ORDER_OTHER_MOMENT = (
        "write-order.other-moment",
        "By their clocks a thread page and the control page are of different moments.",
    )
    WRITE_ORDER_AGENT_ERRORS = (
        "write-order.agent-errors",
        "The agent had found wrong pages in the source guest before T0.",
    )
    WRITE_ORDER_NO_THREAD_PAGE = "write-order.no-thread-page", "A thread page of the agent is not in RAM."
    WRITE_ORDER_BAD_THREAD_PAGE = "write-order.bad-thread-page", "An agent thread has no usable thread page."
    WRITE_ORDER_WRONG_COUNTER = (
        "write-order.wrong-counter",
        "The step counter of a thread disagrees with its pages.",
    )

    # Oracle 3, the restored guest.
    RESTORED_RUN_STATE = "restored.run-state", "The restored guest is in another run state than at T0."
    RESTORED_BOOT_ID = "restored.boot-id", "The restored guest is another boot than the source."
    RESTORED_AGENT = "restored.agent", "The restored guest runs another agent than the source."
    RESTORED_WRITERS_STATE = "restored.writers-state", "The restored guest's writers do not run."
    RESTORED_NO_T0 = "restored.no-t0", "The file does not say the guest's time at T0."
    RESTORED_CLOCK_BACK = "restored.clock-back", "The restored guest's clock is behind T0."
    RESTORED_CLOCK_AHEAD = "restored.clock-ahead", "The restored guest's clock is too far past T0."
    RESTORED_WALL_CLOCK = "restored.wall-clock", "The restored guest's wall clock moved against its uptime."
    RESTORED_WRONG_PAGE = "restored.wrong-page", "The agent found a wrong page in the restored guest."
    RESTORED_OVERWRITTEN_PAGE = (
        "restored.overwritten-page",
        "A writer found a page wrong before overwriting it.",
    )
    RESTORED_UNCHECKED_PAGE = "restored.unchecked-page", "Not all of the restored guest's pages were checked."
    RESTORED_WRITERS_STALLED = "restored.writers-stalled", "A writer of the restored guest does not go on."
    RESTORED_TIMER_LOST = (
        "restored.timer-lost",
        "The restored guest's timer expired long ago and raises no interrupt.",
    )

    # Oracle 4, structure. What comes before the dot is the name of the check.
    HEADER_VERSION = "header.version", "The stream has a version that QEMU does not write."
    CONFIGURATION_MACHINE = "configuration.machine", "The machine name has an impossible length or byte."
    CONFIGURATION_SUBSECTION = "configuration.subsection", "A configuration subsection is unknown."
    CONFIGURATION_SUBSECTIONS = "configuration.subsections", "There are too many configuration subsections."
    CONFIGURATION_PAGE_BITS = "configuration.page-bits", "The target page size is impossible."
    CONFIGURATION_CAPABILITIES = "configuration.capabilities", "The number of capabilities is impossible."
    CONFIGURATION_CAPABILITY = "configuration.capability", "A capability has a name that QEMU does not know."
    CONFIGURATION_ABSENT = "configuration.absent", "The stream has footers and no configuration."
    CONFIGURATION_PLACE = "configuration.place", "A configuration is not the first element of the stream."
    CONFIGURATION_SUBSECTION_VERSION = (
        "configuration.subsection-version",
        "A configuration subsection has an unknown version.",
    )
    BLOCK_LIST_SECOND = "block-list.second", "The stream has a second list of RAMBlocks."
    BLOCK_LIST_SUM = "block-list.sum", "The RAMBlocks do not add up to the announced RAM."
    BLOCK_LIST_TOO_MANY = "block-list.too-many", "There are too many RAMBlocks."
    BLOCK_LIST_TWICE = "block-list.twice", "A RAMBlock is in the list twice."
    BLOCK_LIST_NO_NAME = "block-list.no-name", "A RAMBlock has no name."
    BLOCK_SIZE_EMPTY = "block-size.empty", "A RAMBlock has no bytes."
    BLOCK_SIZE_TOO_LARGE = "block-size.too-large", "The RAMBlocks have more bytes than this program reads."
    BLOCK_SIZE_NOT_WHOLE = "block-size.not-whole", "A RAMBlock is no whole number of pages."
    UNKNOWN_BLOCK_NAMED = "unknown-block.named", "A page record names a RAMBlock that is not in the list."
    PAGE_OUTSIDE_BLOCK_RECORD = "page-outside-block.record", "A page record lies outside of its RAMBlock."
    PAGE_OUTSIDE_BLOCK_BITMAP = (
        "page-outside-block.bitmap",
        "A bitmap has bits behind its RAMBlock's last page.",
    )
    PAGE_FLAGS_UNSUPPORTED = "page-flags.unsupported", "A RAM record has flags that have no place in a file."
    PAGE_FLAGS_MEANINGLESS = "page-flags.meaningless", "A RAM record has flags that mean nothing."
    PAGE_FLAGS_SMALL_RECORDS = "page-flags.small-records", "There are too many records without a page."
    PAGE_FLAGS_NO_BLOCK = "page-flags.no-block", "A record goes on with a RAMBlock, but none was named."
    ZERO_FILL_NOT_ZERO = "zero-fill.not-zero", "A zero-page record carries another fill byte than 0."
    MAPPED_RAM_VERSION = "mapped-ram.version", "A mapped-ram header has an unknown version."
    MAPPED_RAM_PAGE_SIZE = "mapped-ram.page-size", "A mapped-ram header and the stream differ in page size."
    MAPPED_RAM_OVERLAP = "mapped-ram.overlap", "Bitmap or pages of a RAMBlock lie on top of other things."
    MAPPED_RAM_BITMAP_PLACE = "mapped-ram.bitmap-place", "A bitmap is not right behind its header."
    MAPPED_RAM_LIST_LOST = "mapped-ram.list-lost", "Behind the pages of a RAMBlock the list does not go on."
    MAPPED_RAM_BEYOND_END = "mapped-ram.beyond-end", "The pages of a RAMBlock lie behind the file's end."
    MAPPED_RAM_UNALIGNED = "mapped-ram.unaligned", "The pages of a RAMBlock start at an unaligned offset."
    MAPPED_RAM_EMPTY_BITMAP = "mapped-ram.empty-bitmap", "A bitmap is empty, but its pages are in the file."
    PAGE_TWICE_SENT_AGAIN = "page-twice.sent-again", "A page is in the stream twice."
    PAGE_MISSING_NOT_IN_STREAM = "page-missing.not-in-stream", "A page is not in the stream."
    PAGE_UNPLUGGED_IN_STREAM = "page-unplugged.in-stream", "A page that is not plugged in is in the stream."
    SECTIONS_TOO_MANY = "sections.too-many", "There are too many sections."
    SECTIONS_TOO_MANY_DEVICES = "sections.too-many-devices", "There are too many devices."
    SECTIONS_UNKNOWN_TYPE = "sections.unknown-type", "A section type is unknown."
    SECTIONS_UNKNOWN_COMMAND = "sections.unknown-command", "A command is unknown."
    SECTIONS_COMMAND_LENGTH = "sections.command-length", "A command has another length than QEMU takes."
    SECTIONS_COMMAND_PLACE = "sections.command-place", "A command is in a file that only a socket can carry."
    SECTIONS_UNKNOWN_NUMBER = "sections.unknown-number", "A section has a number that was not started."
    SECTIONS_NUMBER_TWICE = "sections.number-twice", "A section number is used twice."
    SECTIONS_RAM_VERSION = "sections.ram-version", "The RAM section has an unknown version."
    SECTIONS_RAM_INSTANCE = "sections.ram-instance", "The RAM section has another instance than 0."
    SECTION_ORDER_NO_RAM = "section-order.no-ram", "The stream has no RAM section."
    SECTION_ORDER_AFTER_DEVICE = "section-order.after-device", "A RAM section follows device state."
    SECTION_ORDER_STARTED_AGAIN = "section-order.started-again", "RAM is started twice."
    SECTION_ORDER_AFTER_END = "section-order.after-end", "RAM goes on behind its END section."
    SAVED_AFTER_T0_ITERABLE = (
        "saved-after-t0.iterable",
        "A background snapshot has iterable state besides RAM, saved after T0; field `section`.",
    )
    FOOTER_NOT_FOUND = "footer.not-found", "The end of a section cannot be found."
    FOOTER_WRONG = "footer.wrong", "A section ends with other bytes than its own footer."
    FOOTER_ABSENT = "footer.absent", "The stream has a configuration and no footers."
    TRUNCATED_ELEMENT = "truncated.element", "The file ends in the middle of an element."
    TRUNCATED_RECORD = "truncated.record", "The file ends in the middle of a page record."
    TRUNCATED_SECTION = "truncated.section", "The file ends before the footer of a section."
    TRUNCATED_BITMAP = "truncated.bitmap", "The file ends before the bitmap of a RAMBlock."
    TRUNCATED_PAGES = "truncated.pages", "The file ends before pages of a RAMBlock that it must have."
    TRUNCATED_TOO_SHORT = "truncated.too-short", "The file is too short for the pages of a RAMBlock."
    TRUNCATED_SHRANK = "truncated.shrank", "The file became shorter while it was being read."
    TRAILING_BYTES_FOUND = "trailing-bytes.found", "Bytes follow the end of the stream."
    CONTAINER_UNFINISHED = "container.unfinished", "A libvirt save image says that it is unfinished."
    CONTAINER_DAMAGED = "container.damaged", "Compressed data around a stream cannot be read to its end."
    CONTAINER_TRAILING = "container.trailing", "Bytes follow the end of compressed data."
    VMDESC_PAGE_SIZE = "vmdesc.page-size", "Configuration and vmdesc have different page sizes."
    VMDESC_LENGTH = "vmdesc.length", "The vmdesc has an impossible length."
    VMDESC_ABSENT = "vmdesc.absent", "No vmdesc follows the end marker."
    VMDESC_UNUSABLE = "vmdesc.unusable", "The vmdesc cannot be used."
    VMDESC_UNDECODABLE = "vmdesc.undecodable", "The state of a device does not fit its description."
    VMDESC_DEVICE_ABSENT = "vmdesc.device-absent", "A device is described, but not there."
    VMDESC_DEVICE_UNDESCRIBED = "vmdesc.device-undescribed", "A device is there, but not described."
    VMDESC_DEVICE_ORDER = "vmdesc.device-order", "Devices stand in another order than they are described."
    VMDESC_DEVICE_COUNT = "vmdesc.device-count", "The number of devices is not the one described."
    VMDESC_DEVICE_SIZE = (
        "vmdesc.device-size",
        "A device has another size than its description; field `device`.",
    )
    VMDESC_DEVICE_VERSION = "vmdesc.device-version", "A device has another version than its description."
    VMDESC_SUBSECTION = "vmdesc.subsection", "A subsection is not where it is described."
    VMDESC_SUBSECTION_VERSION = (
        "vmdesc.subsection-version",
        "A subsection has another version than its description.",
    )
    RUN_STATE_UNKNOWN = "run-state.unknown", "The guest has a run state that QEMU does not know."
    RAM_NOT_EMPTY_ALL_ZERO = "ram-not-empty.all-zero", "All of main RAM is zero pages."
    PIPE_BACKWARDS = "pipe.backwards", "The reader needs an offset of a pipe again."
    PIPE_MAPPED_RAM = "pipe.mapped-ram", "A mapped-ram file comes from a pipe."

    # That the oracles looked at all there is, and that something was at stake.
    ORACLES_NO_AGENT = "oracles.no-agent", "The agent was writing, and its pages are not in the file."
    ORACLES_AGENT_PAGES = "oracles.agent-pages", "Not all of the agent's pages were verified."
    ORACLES_GOLDEN_PAGES = "oracles.golden-pages", "Not all pages of the golden image were compared."
    OVERLAP_NOTHING_WRITTEN = "overlap.nothing-written", "No page was written during the save."
    OVERLAP_T0_TOO_EARLY = "overlap.t0-too-early", "T0 in the file is before the save was asked for."
    OVERLAP_THREADS = "overlap.threads", "File and guest have different numbers of writer threads."

    # Oracle 5, the source guest.
    SOURCE_SILENT = "source.silent", "The source guest is said to run and does not answer; field `error`."
    SOURCE_WRONG_PAGES = "source.wrong-pages", "The source guest's writers found wrong pages."
    SOURCE_WRITERS_STATE = "source.writers-state", "The source guest's writers do not run after the snapshot."
    SOURCE_WRITE_PROTECTED = "source.write-protected", "Pages of guest RAM are still write-protected."
    SOURCE_SLOWER = "source.slower", "Writes take much longer after the snapshot than before it."
    WRITE_STALL_TOO_LONG = "write-stall.too-long", "A writer stalled for a large part of the save."
    RUN_STATE_CHANGED = "run-state.changed", "A guest's run state is another one after the save."
    RUN_STATE_WROTE = "run-state.wrote", "The writers of a guest that should be stopped went on."
    FOREIGN_WRITER_NEWER = "foreign-writer.newer", "A page has what a foreign writer wrote after T0."
    FOREIGN_WRITER_LOST = "foreign-writer.lost", "A page lacks what a foreign writer wrote before T0."
    FOREIGN_WRITER_TWICE = "foreign-writer.twice", "Two pages have the mark of the same page."
    FOREIGN_WRITER_SILENT = "foreign-writer.silent", "The restored guest's foreign writer does not go on."
    BESIDE_RAM_NEWER = (
        "beside-ram.newer",
        "State beside RAM in the restored guest is of after T0; field `state`.",
    )
    BESIDE_RAM_LOST = (
        "beside-ram.lost",
        "State beside RAM in the restored guest is neither of T0 nor of after it; field `state`.",
    )
    BESIDE_RAM_SOURCE = (
        "beside-ram.source",
        "The source guest does not find the state beside RAM that it has stored last; field `state`.",
    )
    BESIDE_RAM_STUCK = (
        "beside-ram.stuck",
        "The restored guest does not find the state beside RAM that it has stored last; field `state`.",
    )
    BESIDE_RAM_UNTESTED = (
        "beside-ram.untested",
        "A file has an iterable section with state that no test covers; field `section`.",
    )
    IN_FLIGHT_LOST = "in-flight.lost", "What was in flight at T0 does not arrive."
    IN_FLIGHT_TWICE = "in-flight.twice", "What was in flight at T0, or had arrived, arrives again."
    IN_FLIGHT_DISORDER = "in-flight.disorder", "What was in flight at T0 arrives in another order."
    IN_FLIGHT_AFTER_T0 = (
        "in-flight.after-t0",
        "What was sent to the source after T0 arrives in the restored guest.",
    )
    IN_FLIGHT_UNKNOWN = "in-flight.unknown", "What arrives was never sent."
    IN_FLIGHT_UNSEEN = (
        "in-flight.unseen",
        "A fault that was planted in what arrives was not seen; field `fault`.",
    )
    VMGENID_FILE = "vmgenid.file", "The file has another generation ID than the guest at T0."
    VMGENID_SOURCE = "vmgenid.source", "The source guest has another generation ID after the save."
    VMGENID_STALE = "vmgenid.stale", "A restored guest has not got the generation ID of its QEMU."
    VMGENID_SAME = "vmgenid.same", "Two guests have the same generation ID."
    IN_FLIGHT_SILENT = "in-flight.silent", "The device does not go on after T0."
    IN_FLIGHT_BROKEN = "in-flight.broken", "QEMU has given up a virtio device; field `device`."
    DURING_SAVE_ACCEPTED = (
        "during-save.accepted",
        "QEMU accepts in mid-save what it must refuse; field `command`.",
    )
    DURING_SAVE_REFUSED = (
        "during-save.refused",
        "QEMU refuses in mid-save what harms no save; field `command`.",
    )
    DURING_SAVE_SETTINGS = "during-save.settings", "A save has changed a migration setting; field `setting`."
    DURING_SAVE_RUNS_ON = "during-save.runs-on", "QEMU was to end in mid-save, and runs on."
    STUN_RATIO_TOO_SMALL = "stun-ratio.too-small", "A background snapshot stuns for too long."
    TIMERS_STOOD_STILL = "timers.stood-still", "The guest's timers stopped during the save."
    TIMERS_SAVE_FAILED = "timers.save-failed", "A save of a guest whose timers are watched failed."

    # Oracle 6, the host.
    HOST_TAINTED = "host.tainted", "The host kernel's taint changed."
    HOST_SPLAT = "host.splat", "The host kernel logged a warning."
    HOST_FILE_LEFT_OPEN = "host.file-left-open", "QEMU has a file open that it had not; field `name`."
    HOST_FILE_CLOSED = "host.file-closed", "QEMU has closed a file of its own; fields `number`, `name`."
    HOST_PROCESS_LEFT = "host.process-left", "A process that QEMU started is left over; field `program`."
    SINK_LEFT = "sink.left", "The sink's processes still run after the end of the save."
    KILLED_PROCESSES_LEFT = "killed.processes-left", "Processes of a killed QEMU still run."
    KILLED_FILE_GROWS = "killed.file-grows", "The file of a killed save grows after its sink was gone."
    KILLED_FILE_PASSES = "killed.file-passes", "The file of a killed save passes every offline check."

    # Refusals and settings.
    REFUSAL_ABSENT = "refusal.absent", "QEMU accepts what it must refuse."
    REFUSAL_UNNEEDED = "refusal.unneeded", "QEMU refuses what the host's kernel can do."
    REFUSAL_UNCLEAR = "refusal.unclear", "QEMU's words do not say what it refuses, or what is missing."
    REFUSAL_OTHER_REASON = "refusal.other-reason", "QEMU gives another reason than the true one."
    REFUSAL_BLAMES_KERNEL = (
        "refusal.blames-kernel",
        "The kernel only forbids userfaultfd, and QEMU says that the host kernel has no support.",
    )
    REFUSAL_CALLED_UNSUPPORTED = "refusal.called-unsupported", "The same, with another message of QEMU."
    REFUSAL_CHANGED_SETTING = "refusal.changed-setting", "A refusal has changed a setting."
    REFUSAL_GUEST_STATE = "refusal.guest-state", "After a refusal the guest does not run."
    REFUSAL_PROBE_UNCLEAR = "refusal.probe-unclear", "Our own probe does not name what forbids userfaultfd."
    SETTING_ORDER = "setting.order", "QEMU takes two settings in one order and refuses them in another."
    TRACE_NO_DEVICE = "trace.no-device", "QEMU's trace does not say that it used /dev/userfaultfd."
    TRACE_NO_ERRNO = "trace.no-errno", "QEMU's trace does not give the errno of the refusal."
    PLUG_ACCEPTED = "plug.accepted", "QEMU takes new memory while it saves RAM."
    PLUG_UNCLEAR = "plug.unclear", "QEMU refuses new memory with words that do not name the save."
    VIRTIO_MEM_LEFT_OUT = (
        "virtio-mem.left-out",
        "The file leaves out more or less than what is not plugged in.",
    )
    VIRTIO_MEM_TOUCHED = "virtio-mem.touched", "A save took host memory for what is not plugged in."

    # The guest's disk.
    DISK_LOOP_FAILED = "disk-loop.failed", "The loop that writes to the guest's disk failed."
    DISK_LOOP_SLOW = "disk-loop.slow", "The loop that writes to the guest's disk does not go on."
    DISK_FILES_COMPLAINT = "disk-files.complaint", "The guest complains about its file system."
    DISK_FILES_WRONG = "disk-files.wrong", "A file is not as memory remembers it."
    DISK_FILES_GONE = "disk-files.gone", "A file is gone from the disk."
    DISK_FILES_UNKNOWN = "disk-files.unknown", "A file is on the disk that memory knows nothing of."
    DISK_FILES_LOG = "disk-files.log", "The log that was held open lacks lines."
    DISK_BASE_CHANGED = "disk-base.changed", "The disk of T0 was written to."
    DISK_SAME_T0_OTHER_FILE = (
        "disk-same-t0.other-file",
        "A file from before T0 is another one after a restore.",
    )
    DISK_FILE_SYSTEM_ERROR = "disk-file-system.error", "e2fsck found an error."
    WRONG_DISK_UNSEEN = "wrong-disk.unseen", "No check saw a disk that is newer or older than the memory."

    # Devices, each put into a guest that is saved, restored and saved again; field `device`.
    DEVICES_NOT_BOOTED = "devices.not-booted", "A guest does not boot with a device."
    DEVICES_NOT_SAVED = "devices.not-saved", "The save of a guest with a device fails."
    DEVICES_LOST = "devices.lost", "QEMU ends while it saves a guest with a device."
    DEVICES_STANDS_STILL = "devices.stands-still", "A guest with a device does not go on."
    DEVICES_NOT_RESTORED = "devices.not-restored", "QEMU does not load the state that it has saved."
    DEVICES_NOT_SAVED_AGAIN = "devices.not-saved-again", "A restored guest cannot be saved, or go on."
    DEVICES_NOT_AT_T0 = (
        "devices.not-at-t0",
        "A device that nobody uses has other state in the file than in the source guest; field `field`.",
    )
    DEVICES_DIFFERS = (
        "devices.differs",
        "A restored guest, saved again, has other device state; field `field`.",
    )
    DEVICES_RAM_DIFFERS = (
        "devices.ram-differs",
        "A restored guest, saved again, has other memory; field `block`.",
    )
    DEVICES_FAULT_UNSEEN = "devices.fault-unseen", "The device sweep did not see a planted fault."

    # Extraction, reproducers, feature tests.
    EXTRACTED_RAM_BLOCK_MISSING = "extracted-ram.block-missing", "A RAMBlock is in QEMU and not in the file."
    EXTRACTED_RAM_DIFFERS = "extracted-ram.differs", "Extracted RAM is not what QEMU has after a restore."
    EXTRACTED_RAM_NOTHING = "extracted-ram.nothing", "No RAMBlock could be compared."
    CONTAINERS_DIFFER = "containers.differ", "A stream in a container is not judged as the plain file is."
    RAM_IMAGE_BLAMED = (
        "ram-image.blamed",
        "A RAM image of a stopped guest fails, or is not judged; field `image`.",
    )
    RAM_IMAGE_EXCUSED = (
        "ram-image.excused",
        "A RAM image of many moments does not fail for a page of another one.",
    )
    REMAINS_BLAMED = (
        "remains.blamed",
        "A right file fails for pages of an agent that had gone; field `way`.",
    )
    REMAINS_EXCUSED = (
        "remains.excused",
        "Wrong pages of an agent that ran pass for those of one that had gone; field `way`.",
    )
    REPRODUCER_SHOWS = "reproducer.shows", "A known issue shows."
    REPRODUCER_SHOWS_WHERE_ABSENT = (
        "reproducer.shows-where-absent",
        "A known issue shows on a version said to be free.",
    )
    REPRODUCER_SHOWS_AT_TIMES = "reproducer.shows-at-times", "A known issue shows in some of the runs only."
    ATTACH_LEFT = "attach.left", "After an attachment was killed the VM is not as it was; field `what`."
    ATTACH_LIBVIRT_FLOW = "attach.libvirt-flow", "What libvirt has saved is no guest of one T0; field `what`."
    ATTACH_UNSEEN = (
        "attach.unseen",
        "A planted fault, a foreign writer or an act of the VM's owner was not seen; field `what`.",
    )
    KERNEL_TEST_FAILED = "kernel.test-failed", "A feature test of the kernel failed."
