"""Contract: each known issue is recognised in all that it causes, and in nothing that only looks like it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guest_images.catalogue import HOSTS
from harness.codes import Code, Fields
from harness.errors import Evidence, NotApplicable, SnapproofError
from harness.guest.shell import GuestUnreachable
from harness.linux.kernel_log import Ours
from harness.linux.uffd_waiters import Waiters
from harness.qemu import migration, spawned_machine
from harness.qemu.architectures import find_architecture
from harness.qemu.configuration import MachineConfig
from harness.qemu.machine import Machine
from harness.qemu.messages import MESSAGES, said
from harness.qemu.qmp import CommandRefused
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.failures.cases import Case
from tests_functional.failures.ending import Ending, judge_ending, resumed_problems
from tests_functional.lib import source_checks
from tests_functional.lib.known_issues import KnownIssue, known_on_host, load_known_issues
from tests_functional.lib.source_checks import Baseline, judge_source
from tests_functional.lib.symptoms import Symptom
from tests_functional.refusals.denied import judge_reason
from tests_functional.run_states import stopped_guests
from tests_functional.run_states.states import RUN_STATES
from tests_unit.support.scenario_values import snapshot, stand_in_guest
from validators.checks import Problem, judged
from validators.oracles.o3_restored_guest.restored_guest import check_run_state
from validators.oracles.o5_source_guest import source_guest
from validators.oracles.o6_host.host_state import HostState, Started
from validators.verdict import CheckResult, Violation

Blame = Callable[..., SnapproofError]
Found = Problem | CheckResult | SnapproofError

_NO_ANSWER = GuestUnreachable("The guest did not answer over SSH within 10 s (last error: None).")
_UNFINISHED = GuestUnreachable("The guest did not finish 'x': timed out.", code=Code.GUEST_COMMAND_UNFINISHED)
_CPU = "qemu: error while loading state for instance 0x0 of device 'cpu'"
_YANK = "duplicate yank instance: migration"
_VIRTIO = "error while loading state: Failed to load element of type virtio for virtio"
_SETUP = "qemu-system-x86_64: ram_save_setup failed: Input/output error"
_INCOMPATIBLE = "Background-snapshot is not compatible with guest memory configuration"
_NO_NAME = "ram, of backend, private, not saved"
_HOST = HostState(
    0, (), ((0, "/dev/null"), (1, "/dev/null"), (2, "pipe:[7]")), (), Ours(frozenset(), frozenset())
)


def _silent(command: str, **more: Any) -> Callable[[Blame], Found]:
    """QEMU does not answer a command, as QmpSession blames it."""
    return lambda blame: blame(
        f"QEMU did not answer '{command}' within 5 s", Code.QMP_NO_ANSWER, {"command": command}, **more
    )


def _ended(*last: str) -> Callable[[Blame], Found]:
    return lambda blame: blame("QEMU ended before it answered 'migrate'", Code.QEMU_ENDED, last=last)


def _restore(words: str) -> Callable[[Blame], Found]:
    """A restore that fails with words of QEMU's."""

    def fail(blame: Blame) -> SnapproofError:
        stub = SimpleNamespace(failure=blame, query_migrate=lambda: {"status": "failed", "error-desc": words})
        stub.qmp = SimpleNamespace(execute=lambda *_: None)
        stub.wait_status = lambda wanted, *_: wanted("inmigrate")
        with pytest.raises(SnapproofError) as caught:
            migration.restore(cast(Machine, stub), "exec:cat x", cast(Any, None))
        return caught.value

    return fail


def _capability(words: str) -> Callable[[Blame], Found]:
    """A capability that QEMU refuses on this host."""

    def refuse(_blame: Blame) -> SnapproofError:
        def execute(command: str, _arguments: object = None) -> object:
            if command == "query-migrate-capabilities":
                return [{"capability": "background-snapshot", "state": False}]
            raise CommandRefused(command, words)

        stub = SimpleNamespace(qmp=SimpleNamespace(execute=execute))
        with pytest.raises(NotApplicable) as caught:
            migration.require_capability(cast(Machine, stub), "background-snapshot")
        return caught.value

    return refuse


def _host(**changes: Any) -> Callable[[Blame], Found]:
    """Return a function that gives the findings of judge_source on a host with these changes."""
    return lambda _blame: _source(stand_in_guest(_UNFINISHED), HostState(**{**vars(_HOST), **changes}))[-1]


def _source(guest: Any, now: HostState = _HOST) -> Sequence[CheckResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_checks, "capture_host_state", lambda _machine: now)
        patch.setattr(source_guest, "write_protected_pages", lambda _machine: 3)
        patch.setattr(source_guest, "unlocated_blocks", lambda _machine: ())
        return judge_source(guest, Baseline(1, _HOST))


def _silent_source(error: SnapproofError, *held: str, faults: int = 0) -> Callable[[Blame], Found]:
    def judge(_blame: Blame) -> CheckResult:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source_guest, "find_waiters", lambda _pid: Waiters(held, faults))
            return _source(stand_in_guest(error))[0]

    return judge


def _after(name: str, state: str, *, wrote: bool = False) -> Callable[[Blame], Found]:
    """Return a function that gives the findings on a guest that was stopped before the save."""
    qmp = SimpleNamespace(execute=lambda _command: {"status": state})
    window = SimpleNamespace(steps=lambda: (700, 901 if wrote else 900))
    return lambda _blame: stopped_guests._judge_after(
        cast(Machine, SimpleNamespace(qmp=qmp)),
        cast(Any, window),
        snapshot(),
        RUN_STATES[name],
    )


def _restored(state: str, at_t0: str) -> Callable[[Blame], Found]:
    return lambda _blame: check_run_state(state, at_t0)


def _end(ending: Ending, *expected: str) -> Callable[[Blame], Found]:
    return lambda _blame: judge_ending(Case("x", "reason", "", frozenset(expected or {"failed"})), ending)


def _resumed(status: str, written: int, *held: str, faults: int = 0) -> Callable[[Blame], Found]:
    return lambda _blame: resumed_problems(status, written, Waiters(held, faults))[0]


def _next(words: str, *lost: str) -> Callable[[Blame], Found]:
    """Return a function that gives the finding of a failed next save, with the descriptors lost before it."""
    fields = {"status": "failed", **said(words), **({"lost_descriptors": ", ".join(lost)} if lost else {})}
    return _code(Code.SAVE_FAILED, fields)


def _error(error: SnapproofError) -> Callable[[Blame], Found]:
    return lambda _blame: error


def _code(code: Code, fields: Fields | None = None) -> Callable[[Blame], Found]:
    return lambda _blame: Problem(code, "It is so.", fields or {})


_FAILED = "failures/reports-failure"
_STALLED = "failures/cancel-stalled"
_CALL = "failures/call-create-1-eperm"
_FILES = "failures/descriptors-exec-0-free"
_LSI = "lsi53c895a-failed"
_AHCI = "ahci-waiting"
_BLOCK = "block-capability/01-live"
_AT_TERMINAL = "during-save/then-save-into-disk-left-on-at-terminal"
_INACTIVE = (
    "bdrv_co_write_req_prepare: Assertion `!(bs->open_flags & BDRV_O_INACTIVE)' failed.",
    "bdrv_co_write_req_prepare: Assertion `child->perm & BLK_PERM_WRITE' failed.",
)
_PORT = "virtio-serial-out/02-seeds"
_VHOST = "vhost-user-blk"
_EJECTED = "during-save/eject"
_TRANSFER = "during-save/mode-cpr-transfer"
_LOCK = "system/memory.c:1154: memory_region_transaction_commit: Assertion"
_VHOST_STATE = (
    f"qemu: error while loading state for instance 0x0 of device '0000:00:02.0/vhost-user-blk': {_VIRTIO}"
)
_TABLES = "firmware-tables/01-seeds"
_MERGED = "memory/merged-while-saving"

# What is found, in which check, and the issues that explain it.
_SEEN: Sequence[tuple[str, Callable[[Blame], Found], str]] = [
    ("run-states/paused/after", _after("paused", "running"), "F1"),
    ("run-states/paused/after", _after("paused", "shutdown"), ""),
    ("run-states/paused/after", _after("paused", "paused", wrote=True), ""),
    ("run-states/shutdown/after", _after("shutdown", "running"), "F1"),
    ("run-states/io-error/after", _after("io-error", "running"), ""),
    ("run-states/io-error/after", _ended("invalid runstate transition: 'io-error' -> 'paused'"), "F24"),
    ("run-states/io-error/after", _ended("Segmentation fault"), ""),
    ("run-states/io-error/restore", _ended("invalid runstate transition: 'io-error' -> 'paused'"), ""),
    ("run-states/suspended/after", _after("suspended", "running"), "F13"),
    ("run-states/suspended/after", _after("suspended", "paused"), ""),
    ("run-states/suspended/restored-state", _restored("running", "suspended"), "F13"),
    ("run-states/suspended/restored-state", _restored("paused", "suspended"), ""),
    ("run-states/suspended/restored-state", _restored("running", "paused"), ""),
    ("run-states/paused/restored-state", _restored("running", "suspended"), ""),
    ("run-states/suspended/restore", _error(_NO_ANSWER), "F13"),
    ("run-states/suspended/restore", _error(_UNFINISHED), ""),
    ("run-states/paused/restore", _error(_NO_ANSWER), ""),
    ("refusals/mapped-ram/file", _code(Code.MAPPED_RAM_EMPTY_BITMAP), "F2"),
    ("refusals/mapped-ram/file", _code(Code.MAPPED_RAM_OVERLAP), ""),
    ("refusals/mapped-ram/file", _code(Code.RAM_NOT_EMPTY_ALL_ZERO), ""),
    ("refusals/mapped-ram/exec", _code(Code.MAPPED_RAM_EMPTY_BITMAP), ""),
    ("succession/next-save", _error(CommandRefused("migrate", _YANK)), "F3"),
    ("succession/next-save", _error(CommandRefused("migrate", "There's a migration process")), ""),
    ("succession/next-save", _ended("qemu: starting", _YANK), "F3"),
    ("succession/next-save", _ended(_YANK, "qemu: terminating on signal 15"), ""),
    ("succession/host", _host(descriptors=(*_HOST.descriptors, (9, "pipe:[8]"))), "F3"),
    ("succession/host", _host(descriptors=(*_HOST.descriptors, (9, "/tmp/x"))), ""),
    ("succession/host", _host(processes=(Started(71, "cat", reads_from_qemu=True),)), "F3"),
    ("succession/host", _host(processes=(Started(71, "sh", reads_from_qemu=True),)), "F3"),
    ("succession/host", _host(processes=(Started(71, "cat"),)), ""),
    ("succession/host", _host(processes=(Started(71, "dd", reads_from_qemu=True),)), ""),
    ("failures/x/host", _host(processes=(Started(71, "cat", reads_from_qemu=True),)), ""),
    ("01-live/restore", _code(Code.RESTORED_TIMER_LOST), "F27"),
    ("run-states/paused/restore", _code(Code.RESTORED_TIMER_LOST), "F27"),
    ("newer/debian-13/restore", _code(Code.RESTORED_TIMER_LOST), ""),
    ("01-live/restore", _error(_NO_ANSWER), ""),
    ("newer/debian-13/restore", _restore(_VIRTIO), "F4"),
    ("newer/debian-13/restore", _restore("VQ 0 vring.num 1024 exceeds allocated max 8"), "F4"),
    ("newer/debian-13/restore", _ended(_VIRTIO), "F4"),
    ("newer/debian-13/restore", _restore("Failed to load element of type bool for x"), ""),
    ("01-live/restore", _restore(_VIRTIO), ""),
    ("newer/debian-13/restore", _ended(_CPU, "qemu: load of migration failed: Invalid argument"), "F21 F22"),
    ("newer/debian-13/restore", _ended(f"qemu: load of migration failed: x: {_CPU}"), "F21 F22"),
    ("newer/debian-13/restore", _ended(_CPU, "qemu: terminating on signal 15"), ""),
    ("01-live/restore", _ended(_CPU, "qemu: load of migration failed: Invalid argument"), ""),
    ("01-live/vmdesc", _code(Code.VMDESC_DEVICE_SIZE, {"device": "s390_css"}), "F23"),
    ("01-live/vmdesc", _code(Code.VMDESC_DEVICE_SIZE, {"device": "cpu"}), ""),
    ("failures/x/host", _host(descriptors=_HOST.descriptors[1:]), "F5"),
    ("denied/eperm/late/host", _host(descriptors=_HOST.descriptors[1:]), "F5"),
    ("failures/x/host", _host(descriptors=(_HOST.descriptors[0], _HOST.descriptors[2])), ""),
    ("01-live/host", _host(descriptors=_HOST.descriptors[1:]), ""),
    ("failures/x/next", _next(_SETUP, "0"), "F5"),
    ("failures/x/next", _next(_SETUP, "1"), ""),
    ("failures/x/next", _next(_SETUP), ""),
    ("failures/x/next", _next("Unable to write to command: Broken pipe", "0"), ""),
    ("01-live/next", _next(_SETUP, "0"), ""),
    (f"{_STALLED}/end", _silent("query-migrate"), "F6 F9"),
    (f"{_STALLED}/end", _silent("query-migrate", held=["CPU 0/TCG"]), "F6 F9"),
    (f"{_STALLED}/end", _silent("query-status"), "F6 F9"),
    (f"{_STALLED}/end", _silent("migrate_cancel"), "F6 F9"),
    (f"{_STALLED}/end", _silent("cont"), "F9"),
    (f"{_STALLED}/alive", _error(_NO_ANSWER), "F6 F9"),
    (f"{_STALLED}/alive", _error(_UNFINISHED), ""),
    (f"{_STALLED}/end", _end(Ending("cancelling"), "cancelled"), "F6"),
    (f"{_STALLED}/end", _end(Ending("active"), "cancelled"), ""),
    (f"{_STALLED}/resumes", _resumed("running", 3, "CPU 0/TCG"), "F6 F9"),
    (f"{_STALLED}/resumes", _resumed("running", 3, faults=1), "F6 F9"),
    (f"{_STALLED}/resumes", _resumed("running", 3), "F9"),
    (f"{_STALLED}/resumes", _resumed("paused", 3), ""),
    (f"{_STALLED}/source-guest", _silent_source(_NO_ANSWER), "F6 F9"),
    ("failures/closes-but-stays/end", _silent("query-migrate"), "F7 F9"),
    ("failures/closes-but-stays/end", _silent("query-status"), "F7 F9"),
    ("failures/closes-but-stays/alive", _silent("query-yank"), "F7 F9"),
    ("failures/closes-but-stays/end", _silent("migrate_cancel"), "F9"),
    (f"{_FAILED}/end", _end(Ending("completed")), "F8"),
    (f"{_FAILED}/end", _end(Ending("completed"), "cancelled"), ""),
    (f"{_FAILED}/end", _end(Ending("active")), ""),
    ("failures/full-device/end", _end(Ending("completed")), ""),
    ("failures/x/end", _silent("query-block"), "F9"),
    ("failures/x/end", lambda blame: blame("QEMU did not greet over QMP", Code.QMP_NO_GREETING), ""),
    ("failures/x/source-guest", _silent_source(_UNFINISHED), ""),
    ("failures/x/source-guest", _silent_source(_UNFINISHED, "CPU 0/TCG"), "F9"),
    ("failures/x/source-guest", _silent_source(_UNFINISHED, faults=2), "F9"),
    ("failures/x/source-unprotected", lambda _blame: _source(stand_in_guest(_UNFINISHED))[1], "F9"),
    ("failures/x/next", _capability(_INCOMPATIBLE), "F9"),
    ("failures/x/next", _capability("Background-snapshot is not supported by host kernel"), ""),
    (
        "failures/x/host",
        _host(descriptors=(*_HOST.descriptors, (9, "anon_inode:[userfaultfd]"))),
        "F9",
    ),
    ("failures/x/host", _host(descriptors=(*_HOST.descriptors, (9, "pipe:[8]"))), ""),
    ("during-save/cancel-twice/source-guest", _silent_source(_UNFINISHED, faults=2), "F9"),
    ("during-save/stop-cancel/end", _silent("query-migrate"), "F9"),
    ("during-save/stop/end", _silent("query-migrate"), ""),
    (
        "failures/x/alive",
        lambda blame: blame("The save is still 'active'", Code.SAVE_UNFINISHED, held=["CPU 0"]),
        "",
    ),
    ("memory/x/source-unprotected", lambda _blame: _source(stand_in_guest(_UNFINISHED))[1], ""),
    (f"{_FILES}/end", _end(Ending("failed")), "F10"),
    (f"{_FILES}/end", _end(Ending("completed")), ""),
    (f"{_FILES}/resumes", _resumed("paused", 0), "F10"),
    (f"{_FILES}/resumes", _resumed("prelaunch", 0), ""),
    (f"{_FILES}/alive", _error(_NO_ANSWER), "F9 F10"),
    (f"{_FILES}/source-guest", _silent_source(_NO_ANSWER), "F9 F10"),
    ("failures/full-device/end", _end(Ending("failed")), ""),
    ("denied/eperm/late/resumes", _resumed("paused", 0), "F10"),
    ("failures/call-register-1-enomem/end", _ended("uffd_close_fd: Assertion `uffd_fd >= 0' failed."), "F11"),
    ("failures/call-register-1-enomem/end", _ended("Segmentation fault"), ""),
    ("failures/call-protect-1-enomem/resumes", _code(Code.QEMU_ENDED_BY_ITSELF), "F11"),
    ("failures/call-unprotect-1-enomem/resumes", _code(Code.QEMU_ENDED_BY_ITSELF), ""),
    ("memory/plugged-unprotectable/save", _ended("uffd_close_fd: Assertion `uffd_fd >= 0' failed."), "F11"),
    ("memory/plugged-unprotectable/save", _ended("Segmentation fault"), ""),
    ("refusals/block/alive", _silent("query-migrate"), "F12"),
    ("refusals/block/alive", _silent("query-status"), ""),
    ("refusals/xbzrle/alive", _silent("query-migrate"), ""),
    (
        "denied/eperm/reason",
        lambda _blame: judge_reason("Background-snapshot is not supported by host kernel", errno.EPERM),
        "F14",
    ),
    ("denied/eperm/reason", lambda _blame: judge_reason("It is not supported.", errno.EPERM), ""),
    (
        "denied/enosys/reason",
        _code(Code.REFUSAL_BLAMES_KERNEL),
        "",
    ),
    (f"{_MERGED}/write-order", _code(Code.WRITE_ORDER_NEWER), "F15"),
    (f"{_MERGED}/write-order", _code(Code.WRITE_ORDER_OLDER), ""),
    (f"{_MERGED}/write-order", _code(Code.WRITE_ORDER_TORN, {"age": "newer"}), ""),
    (f"{_MERGED}/golden", _code(Code.GOLDEN_DIFFERS), "F15"),
    (f"{_MERGED}/golden", _code(Code.GOLDEN_PAGE_MISSING), ""),
    ("memory/hugetlb/write-order", _code(Code.WRITE_ORDER_NEWER), ""),
    (f"{_CALL}/end", _end(Ending("failed")), "F10 F16"),
    ("failures/call-unprotect-1-enoent/end", _end(Ending("failed")), "F16"),
    ("failures/call-unprotect-1-enoent/resumes", _resumed("paused", 0), ""),
    ("timers/file", _code(Code.TIMERS_STOOD_STILL), "F18"),
    ("timers/file", _code(Code.TIMERS_SAVE_FAILED), ""),
    ("timers/exec", _code(Code.TIMERS_STOOD_STILL), ""),
    ("01-live/saved-after-t0", _code(Code.SAVED_AFTER_T0_ITERABLE, {"section": "spapr/htab"}), "F19"),
    ("01-live/saved-after-t0", _code(Code.SAVED_AFTER_T0_ITERABLE, {"section": "vfio"}), ""),
    ("01-live/saved-after-t0", _code(Code.SAVED_AFTER_T0_ITERABLE, {"section": "block"}), ""),
    ("hash-table/03-live/restored-beside-ram", _code(Code.BESIDE_RAM_NEWER, {"state": "hash-table"}), "F19"),
    ("hash-table/03-live/source-beside-ram", _code(Code.BESIDE_RAM_SOURCE, {"state": "hash-table"}), "F19"),
    ("hash-table/03-live/restored-beside-ram", _code(Code.BESIDE_RAM_LOST, {"state": "hash-table"}), ""),
    (
        "hash-table/01-stop-and-save/restored-beside-ram",
        _code(Code.BESIDE_RAM_NEWER, {"state": "hash-table"}),
        "",
    ),
    ("storage-keys/03-live/restored-beside-ram", _code(Code.BESIDE_RAM_NEWER, {"state": "storage-keys"}), ""),
    ("02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "system.flash1"}), "F20"),
    ("02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "system.flash0"}), ""),
    ("02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "pc.ram"}), ""),
    ("01-live/write-order", _code(Code.GOLDEN_DIFFERS, {"block": "system.flash1"}), ""),
    (f"{_VHOST}/03-live/foreign-writer", _code(Code.FOREIGN_WRITER_NEWER), "F26"),
    (f"{_VHOST}/03-live/foreign-writer", _code(Code.FOREIGN_WRITER_LOST), ""),
    ("ivshmem/01-stop-and-save/foreign-writer", _code(Code.FOREIGN_WRITER_NEWER), "F41"),
    ("ivshmem/02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "0000:00:09.0/foreign-memory"}), "F41"),
    ("ivshmem/02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "pc.ram"}), ""),
    ("shared-ram/03-live/foreign-writer", _code(Code.FOREIGN_WRITER_NEWER), "F41"),
    (f"{_PORT}/restored-in-flight", _code(Code.IN_FLIGHT_BROKEN, {"device": "virtio-serial"}), "F45"),
    ("user-net-in/01-stop-and-save/restored-in-flight", _code(Code.IN_FLIGHT_LOST), "F51"),
    ("user-net-in/03-live/restored-in-flight", _code(Code.IN_FLIGHT_TWICE), "F51"),
    ("user-net-in/03-live/restored-in-flight", _code(Code.IN_FLIGHT_AFTER_T0), ""),
    ("user-net-in/03-live/source-in-flight", _code(Code.IN_FLIGHT_LOST), ""),
    ("user-net-in-queued/03-live/restored-in-flight", _code(Code.IN_FLIGHT_LOST), ""),
    ("user-net-out/03-live/restored-in-flight", _code(Code.IN_FLIGHT_LOST), ""),
    (f"{_LSI}-read/01-stop-and-save/source", _code(Code.QEMU_ENDED, {"qemu_said": "lsi-assertion"}), "F46"),
    (f"{_LSI}/03-live/restore", _code(Code.QEMU_ENDED), "F46"),
    (f"{_LSI}/01-stop-and-save/restore", _code(Code.GUEST_NO_ANSWER), "F46"),
    (f"{_LSI}/03-live/restore", _code(Code.RESTORED_CLOCK_BACK), ""),
    (f"{_AT_TERMINAL}/into-disk", _silent("snapshot-save"), "F25"),
    (f"{_BLOCK}/saved-after-t0", _code(Code.SAVED_AFTER_T0_ITERABLE, {"section": "block"}), "F50"),
    (f"{_BLOCK}/saved-after-t0", _code(Code.SAVED_AFTER_T0_ITERABLE, {"section": "dirty-bitmap"}), ""),
    (f"{_BLOCK}/write-order", _code(Code.WRITE_ORDER_NEWER), ""),
    (f"{_AT_TERMINAL}/into-disk", _silent("query-jobs"), "F25"),
    (f"{_AT_TERMINAL}/into-disk", _silent("query-status"), ""),
    (f"{_AT_TERMINAL}/into-disk", _ended("Segmentation fault"), ""),
    ("during-save/then-save-into-disk-left-on/into-disk", _silent("snapshot-save"), ""),
    (f"{_AHCI}/01-live/restored-in-flight", _code(Code.IN_FLIGHT_LOST), "F48"),
    (f"{_AHCI}/02-stop-and-save/restored-in-flight", _code(Code.IN_FLIGHT_LOST), "F48"),
    (f"{_AHCI}/02-stop-and-save/restored-in-flight", _code(Code.IN_FLIGHT_UNKNOWN), "F48"),
    (f"{_AHCI}/02-stop-and-save/source", _ended(_INACTIVE[0]), "F48"),
    (f"{_AHCI}/02-stop-and-save/restore", _ended(_INACTIVE[1]), "F48"),
    (f"{_AHCI}/02-stop-and-save/restore", _ended("Segmentation fault"), ""),
    (f"{_AHCI}/01-live/restored-in-flight", _code(Code.IN_FLIGHT_TWICE), ""),
    (f"{_AHCI}/01-live/source-in-flight", _code(Code.IN_FLIGHT_LOST), ""),
    ("ahci-ncq/03-live/restored-in-flight", _code(Code.IN_FLIGHT_LOST), ""),
    ("lsi53c895a-long/01-live/restored-in-flight", _code(Code.IN_FLIGHT_LOST), "F64"),
    ("usb-storage-long/01-live/restored-in-flight", _code(Code.IN_FLIGHT_LOST), "F64"),
    ("usb-storage-long/01-live/restored-in-flight", _code(Code.IN_FLIGHT_TWICE), ""),
    ("usb-storage-long/01-live/source-in-flight", _code(Code.IN_FLIGHT_LOST), ""),
    ("usb-storage/03-live/restored-in-flight", _code(Code.IN_FLIGHT_LOST), ""),
    ("usb-ehci-long/01-live/restored-in-flight", _code(Code.IN_FLIGHT_LOST), "F64"),
    ("usb-ehci-long/02-stop-and-save/restored-in-flight", _code(Code.IN_FLIGHT_SILENT), "F64"),
    ("lsi53c895a-long/02-stop-and-save/source", _ended(_INACTIVE[0]), "F64"),
    ("lsi53c895a-long/02-stop-and-save/source", _ended("Segmentation fault"), ""),
    ("am53c974/01-stop-and-save/restored-in-flight", _code(Code.IN_FLIGHT_LOST), "F65"),
    ("am53c974/03-live/restored-in-flight", _code(Code.IN_FLIGHT_AFTER_T0), ""),
    ("am53c974/03-live/source-in-flight", _code(Code.IN_FLIGHT_LOST), ""),
    (f"{_LSI}/03-live/golden", _code(Code.GOLDEN_DIFFERS, {"block": "pc.ram"}), ""),
    (f"{_LSI}/03-live/source-in-flight", _code(Code.QEMU_ENDED), ""),
    (f"{_PORT}/restored-in-flight", _code(Code.IN_FLIGHT_BROKEN, {"device": "virtio-net"}), ""),
    (f"{_PORT}/restored-in-flight", _code(Code.IN_FLIGHT_LOST), ""),
    ("shared-ram/03-live/foreign-writer", _code(Code.FOREIGN_WRITER_LOST), ""),
    ("shared-ram/02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "mem0"}), "F41"),
    (f"{_VHOST}/01-stop-and-save/foreign-writer", _code(Code.FOREIGN_WRITER_NEWER), ""),
    ("sd-card/01-stop-and-save/restored-foreign-writer", _code(Code.FOREIGN_WRITER_SILENT), "F56"),
    ("sd-card/03-live/restored-foreign-writer", _code(Code.FOREIGN_WRITER_LOST), ""),
    ("sd-card/03-live/foreign-writer", _code(Code.FOREIGN_WRITER_SILENT), ""),
    ("usb-ehci/03-live/restored-foreign-writer", _code(Code.FOREIGN_WRITER_SILENT), ""),
    ("run-states/woken/after", _after("suspended", "running"), "F13"),
    ("run-states/woken/after", _ended("Segmentation fault"), ""),
    ("run-states/woken/restored-state", _restored("running", "suspended"), ""),
    ("run-states/woken-control/restored-state", _restored("running", "suspended"), "F13"),
    ("run-states/woken-control/asleep", _code(Code.RESTORED_WRONG_PAGE, {"block": "pc.ram"}), ""),
    ("run-states/woken/asleep", _code(Code.RESTORED_WRONG_PAGE, {"block": "pc.ram"}), ""),
    ("virtio-blk/03-live/foreign-writer", _code(Code.FOREIGN_WRITER_NEWER), ""),
    (f"{_VHOST}/02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "mem0"}), "F26"),
    (f"{_VHOST}/02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "vga.vram"}), ""),
    ("virtio-blk/02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "mem0"}), ""),
    (f"{_VHOST}/03-live/restore", _ended(_VHOST_STATE, "qemu: load of migration failed: x"), "F26"),
    (f"{_VHOST}/03-live/restore", _ended(f"load of migration failed: x: {_VHOST_STATE}"), "F26"),
    (f"{_VHOST}/03-live/restore", _ended(_CPU, "qemu: load of migration failed: x"), ""),
    (f"{_VHOST}/03-live/write-order", _code(Code.WRITE_ORDER_NEWER), ""),
    ("02-flash/golden", _code(Code.GOLDEN_DIFFERS, {"block": "virt.flash0"}), "F20"),
    (f"{_TABLES}/golden", _code(Code.GOLDEN_DIFFERS, {"block": "/rom@etc/acpi/tables"}), "F28"),
    (f"{_TABLES}/golden", _code(Code.GOLDEN_DIFFERS, {"block": "/rom@etc/table-loader"}), "F28"),
    (f"{_TABLES}/golden", _code(Code.GOLDEN_DIFFERS, {"block": "pc.ram"}), ""),
    ("run-states/woken/golden", _code(Code.GOLDEN_DIFFERS, {"block": "/rom@etc/acpi/tables"}), "F28"),
    ("run-states/woken/golden", _code(Code.GOLDEN_DIFFERS, {"block": "pc.ram"}), ""),
    ("02-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "/rom@etc/acpi/tables"}), ""),
    ("device-rom/01-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "0000:00:04.0/qxl.vrom"}), "F49"),
    ("device-rom/01-seeds/golden", _code(Code.GOLDEN_DIFFERS, {"block": "0000:00:04.0/qxl.vram"}), ""),
    ("01-bus/golden", _code(Code.GOLDEN_DIFFERS, {"block": "0000:00:04.0/qxl.vrom"}), ""),
    ("03-debugger/golden", _code(Code.GOLDEN_DIFFERS, {"block": "pc.bios"}), "F39"),
    ("03-debugger/golden", _code(Code.GOLDEN_DIFFERS, {"block": "pc.ram"}), ""),
    ("01-bus/golden", _code(Code.GOLDEN_DIFFERS, {"block": "pc.bios"}), ""),
    ("01-bus/ram-saved", _code(Code.RAM_BLOCKS_NOT_SAVED, {"kind": _NO_NAME}), "F40"),
    (
        "01-bus/ram-saved",
        _code(Code.RAM_BLOCKS_NOT_SAVED, {"kind": "rom, of device, private, not saved"}),
        "",
    ),
    ("01-bus/ram-kinds", _code(Code.RAM_BLOCKS_UNKNOWN_KIND, {"kind": _NO_NAME}), ""),
    ("devices/pci-serial-2x", _code(Code.DEVICES_LOST, {"device": "pci-serial-2x"}), "F29"),
    ("devices/pci-serial-2x", _code(Code.DEVICES_DIFFERS, {"device": "pci-serial-2x", "field": "x"}), ""),
    ("devices/vmbus-bridge", _code(Code.DEVICES_LOST, {"device": "vmbus-bridge"}), "F30"),
    ("devices/vmbus-bridge", _code(Code.DEVICES_NOT_RESTORED, {"device": "vmbus-bridge"}), ""),
    ("devices/sd-card-spi", _code(Code.DEVICES_NOT_RESTORED, {"device": "sd-card-spi"}), "F31"),
    ("devices/sd-card-spi", _code(Code.DEVICES_LOST, {"device": "sd-card-spi"}), ""),
    ("devices/isa-vga", _code(Code.DEVICES_NOT_RESTORED, {"device": "isa-vga"}), "F32"),
    ("devices/isa-vga", _code(Code.DEVICES_RAM_DIFFERS, {"device": "isa-vga", "block": "vga.vram"}), ""),
    ("devices/isa-cirrus-vga", _code(Code.DEVICES_NOT_RESTORED, {"device": "isa-cirrus-vga"}), "F32"),
    ("devices/uefi-vars-x64", _code(Code.DEVICES_NOT_RESTORED, {"device": "uefi-vars-x64"}), "F33"),
    ("devices/uefi-vars-x64", _code(Code.DEVICES_LOST, {"device": "uefi-vars-x64"}), ""),
    ("devices/nvme-ns", _code(Code.DEVICES_LOST, {"device": "nvme-ns"}), "F34"),
    ("devices/nvme-ns", _code(Code.DEVICES_LOST, {"device": "nvme"}), ""),
    ("devices/isa-cirrus-vga", _code(Code.DEVICES_NOT_BOOTED, {"device": "isa-cirrus-vga"}), ""),
    (f"{_EJECTED}-device-with-memory/end", _ended(f"qemu: {_LOCK} `bql_locked()' failed."), "F36"),
    (f"{_EJECTED}-device-with-memory/end", _ended("Segmentation fault"), ""),
    (f"{_EJECTED}-device/end", _ended(f"qemu: {_LOCK} `bql_locked()' failed."), ""),
    (f"{_EJECTED}-dimm/page-missing", _code(Code.PAGE_MISSING_NOT_IN_STREAM), "F37"),
    (f"{_EJECTED}-dimm/write-order", _code(Code.WRITE_ORDER_MISSING), ""),
    (f"{_EJECTED}-dimm/page-missing", _code(Code.PAGE_TWICE_SENT_AGAIN), ""),
    (f"{_TRANSFER}/page-missing", _code(Code.PAGE_MISSING_NOT_IN_STREAM), "F38"),
    (f"{_TRANSFER}/write-order", _code(Code.WRITE_ORDER_NO_DIRECTORY_PAGE), "F38"),
    (f"{_TRANSFER}/write-order", _code(Code.WRITE_ORDER_NEWER), ""),
    (f"{_TRANSFER}/restore", _ended("warning: a feature is missing"), "F38"),
    (f"{_TRANSFER}/restored-memory", _code(Code.RESTORED_OVERWRITTEN_PAGE), "F38"),
    (f"{_TRANSFER}/end", _ended("block pc.ram should not be migrated !"), ""),
    (f"{_TRANSFER}/golden/page-missing", _code(Code.PAGE_MISSING_NOT_IN_STREAM), ""),
]


@pytest.fixture(name="blame")
def _blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blame:
    """Machine.failure of a QEMU that runs or has ended, with the given last lines and threads in a fault."""
    config = MachineConfig(tmp_path / "qemu", tmp_path / "kernel", tmp_path / "initrd", "quiet", accel="tcg")
    stub = SpawnedMachine(config, tmp_path)

    def blame(
        sentence: str,
        code: Code = Code.QEMU_FAILED,
        fields: Fields | None = None,
        *,
        last: Sequence[str] = (),
        held: Sequence[str] = (),
    ) -> SnapproofError:
        stub._process = cast(
            Any,
            SimpleNamespace(
                pid=1,
                exit_code=lambda: -6 if last else None,
                evidence=lambda *_paths: Evidence(log_tail="\n".join(last)),
            ),
        )
        monkeypatch.setattr(spawned_machine, "find_waiters", lambda _pid: Waiters(tuple(held)))
        return stub.failure(sentence, code, fields)

    return blame


def _checked(check: str, found: Found) -> CheckResult:
    """A failed check that found just this."""
    if isinstance(found, CheckResult):
        problems = [Problem.of_violation(violation) for violation in found.violations]
    else:
        problems = [found if isinstance(found, Problem) else Problem.of_error(found)]
    assert problems
    return judged(check, "It holds.", problems)


@pytest.mark.parametrize(("check", "make", "issues"), _SEEN)
def test_issue_explains_what_it_causes_and_no_near_miss(
    blame: Blame, check: str, make: Callable[[Blame], Found], issues: str
) -> None:
    """An issue explains its own violations only, on any QEMU: another test checks versions."""
    found = _checked(check, make(blame))
    explaining = {issue.id for issue in load_known_issues() if issue.explains(found, _of_its_guest(issue))}
    assert explaining == set(issues.split())


def _of_its_guest(issue: KnownIssue) -> dict[str, str]:
    """Return the environment of a result with a guest that the issue applies to."""
    return {"guest_architecture": issue.architectures[0]} if issue.architectures else {}


def test_issue_of_an_architecture(blame: Blame) -> None:
    """It explains nothing of any other guest, is not expected there, and its names are right."""
    found = _checked("vmdesc", _code(Code.VMDESC_DEVICE_SIZE, {"device": "s390_css"})(blame))
    (issue,) = (issue for issue in load_known_issues() if issue.id == "F23")
    for architecture, concerned in (("s390x", True), ("x86_64", False)):
        environment = {"qemu": "7.2.22", "guest_architecture": architecture}
        assert issue.explains(found, environment) == concerned
        assert issue.expected("vmdesc", environment) == concerned
    for one in load_known_issues():
        for name in one.architectures:
            assert find_architecture(name).name == name


def test_page_size_of_a_host(blame: Blame) -> None:
    """A file of a host with pages of 16 KiB is refused on this one; F44 is nobody else's excuse."""
    (issue,) = (issue for issue in load_known_issues() if issue.id == "F44")
    state = "qemu: error while loading state for instance 0x0 of device 'ram'"
    refused = _checked("restore", _ended(state, "qemu: load of migration failed: x")(blame))
    ended = _checked("restore", _ended("Segmentation fault")(blame))
    for host, found, explained in [
        ("debian-13-arm64-16k", refused, True),
        ("debian-13-arm64-16k", ended, False),
        ("debian-13-arm64", refused, False),
    ]:
        assert issue.explains(found, {"host": host}) is explained
    assert issue.expected("restore", {"host": "debian-13-arm64-16k", "qemu": "10.0.13"})
    assert not issue.expected("restore", {"qemu": "10.0.13"})


def test_every_issue_is_recognised_and_has_a_near_miss() -> None:
    """Each issue is in the tables above, and one of its checks has a violation that it must not explain."""
    for issue in load_known_issues():
        # An issue without a check is shown by its reproducer alone.
        if issue.checks and not issue.hosts:
            assert any(issue.id in issues.split() for _, _, issues in _SEEN), issue.id
            assert any(issue.concerns(c) and issue.id not in issues.split() for c, _, issues in _SEEN), (
                issue.id
            )


@pytest.mark.parametrize(
    ("host", "check", "code", "known"),
    [
        ("debian-11", "hosts/balanced/write-order", Code.WRITE_ORDER_NEWER, True),
        ("debian-12", "hosts/balanced/write-order", Code.WRITE_ORDER_NEWER, False),
        ("bzImage", "hosts/balanced/write-order", Code.WRITE_ORDER_NEWER, False),
        ("debian-11", "hosts/background/write-order", Code.WRITE_ORDER_NEWER, False),
        ("debian-11", "hosts/balanced/write-order", Code.WRITE_ORDER_OLDER, False),
        ("debian-11", "hosts/balanced/write-order", Code.WRITE_ORDER_TORN, False),
    ],
)
def test_issue_of_a_host_is_of_one_host_one_check_and_one_kind(
    host: str, check: str, code: Code, known: bool
) -> None:
    """Anything else stays a failure; a newer kernel, or one of the user's own, gets no pardon."""
    violation = Violation("write-order", code, "It is so.", fields={"age": "newer"})
    assert bool(known_on_host(host, check, violation)) == known
    (issue,) = (issue for issue in load_known_issues() if issue.id == "F17")
    found = judged(check, "It holds.", [Problem.of_violation(violation)])
    assert issue.explains(found, {"host": host}) == known
    assert not issue.explains(found, {})
    assert set(issue.hosts) <= {spec.name for spec in HOSTS}


def test_baseline_names_what_there_is() -> None:
    """Fields and QEMU's messages of the baseline are those that the code makes."""
    known = {"command", "qemu_said", "waiting_threads", "error", "state", "before", "status", "expected"}
    known |= {"waiting_faults", "lost_descriptors", "pages", "step", "asserted"}
    known |= {"errno", "age", "number", "name", "program", "reads", "section", "block", "device", "kind"}
    for issue in load_known_issues():
        for symptom in issue.codes:
            assert set(symptom.fields) <= known
            assert set(symptom.fields.get("qemu_said", ())) <= set(MESSAGES)


@pytest.mark.parametrize("entry", ["golden.differ", {"code": "golden.differ"}, {}])
def test_symptom_that_fits_nothing_or_everything_is_refused(entry: Any) -> None:
    """A mistyped code would explain nothing, and an empty table would explain all."""
    with pytest.raises(ValueError, match=r"golden\.differ|fit everything"):
        Symptom.parse(entry)
