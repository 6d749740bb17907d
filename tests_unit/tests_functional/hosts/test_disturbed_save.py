"""Contract: what a host's kernel does to guest RAM during a save is counted and judged."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guest_images.agent.format import BareCommand
from harness.codes import Code
from harness.errors import SetupBroken
from harness.qemu.configuration import MIB
from harness.status import Status
from tests_functional.hosts import disturbed_save, examine, on_host_memory
from tests_functional.hosts.disturbed_save import judge_disturbed
from tests_functional.hosts.examination import DISTURBED, OFFLINE, POISONED, SINKS, Examination, HostPlan
from tests_functional.hosts.feature_tests import HostFeatures
from tests_functional.hosts.on_host_memory import PAGE, CannotAct, Disturbance, HostMemory, Mailbox, Pages
from tests_functional.hosts.on_host_qemu import HostFailure, Qemu
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.hosts.snapshots import Report
from tests_functional.lib.outcome import Outcome
from tests_unit.support.host_values import STARTED, host_plan, saved
from tests_unit.support.scenario_values import SOURCE, stack
from validators.verdict import Violation

# virtio-blk has serial numbers of 20 bytes (include/uapi/linux/virtio_blk.h VIRTIO_BLK_ID_BYTES).
_SERIAL_BYTES = 20
_PRESENT, _PROTECTED, _LARGE, _ANON = 1 << 63, 1 << 57, 1 << 15, 1 << 12
_MET = {"stopped": 600, "running": 600}


def _plan(folder: Path) -> HostPlan:
    sparse = PortableWarmGuest(
        stack(folder),
        folder / "vmstate",
        1000,
        folder / "boot",
        (64,),
        0x2000,
        replace(SOURCE, data_pages=96),
    )
    return host_plan(folder, sparse=sparse, own=True)


def _judged(folder: Path, event: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Judge the first disturbed flow by an event about it; files and a restore are never looked at."""
    flow = DISTURBED[0]
    plan = _plan(folder)
    plan.sink(flow).write_bytes(bytes(4096))
    plan.golden(flow).write_bytes(bytes(4096))
    monkeypatch.setattr(disturbed_save, "judge_snapshot", lambda *_: [])
    others = [
        {"event": "cannot", "flow": other, "text": "No.", "blames_host": True} for other in DISTURBED[1:]
    ]
    report = Report((STARTED, {**event, "flow": flow}, *others))
    outcomes = judge_disturbed(plan, Examination("made"), report)
    assert [outcome.name for outcome in outcomes] == [f"hosts.made.{name}" for name in DISTURBED]
    return outcomes[0]


def _acts(**changes: Any) -> dict[str, Any]:
    return {"lost": [], "lost_pages": 0, "met": _MET, "holes": 24, **changes}


def test_disks_can_be_told_apart() -> None:
    """A longer serial number is cut, and the disk is not found in the VM."""
    assert all(len(f"disk-{name}") <= _SERIAL_BYTES for name in SINKS)


def test_undisturbed_protection_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has the counts, the files are removed, and RAM at T0 was cut to its length."""
    outcome = _judged(tmp_path, saved(acts=_acts()), monkeypatch)
    assert outcome.status is Status.PASS
    assert "600 pages with QEMU stopped, 600 while it ran" in outcome.sentence
    assert not list(tmp_path.glob("vmstate-*"))


def test_ram_at_t0_is_cut_to_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk is longer than RAM."""
    outcome = _judged(tmp_path, saved(acts=_acts(lost=[4096], lost_pages=1)), monkeypatch)
    assert outcome.status is Status.FAIL
    assert _plan(tmp_path).golden(DISTURBED[0]).stat().st_size == stack(tmp_path).ram_mib * MIB


def test_lost_protection_names_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most eight of them, with the number of all."""
    lost = [number * 4096 for number in range(20)]
    outcome = _judged(tmp_path, saved(acts=_acts(lost=lost, lost_pages=300)), monkeypatch)
    assert outcome.status is Status.FAIL
    kept = next(check for check in outcome.checks if check.name.endswith("protection-kept"))
    assert {violation.code for violation in kept.violations} == {Code.MEMORY_PROTECTION_LOST}
    assert (len(kept.violations), kept.facts["pages unprotected"]) == (8, 300)
    assert "0x1000" in kept.violations[1].sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"met": {"stopped": 511, "running": 600}},
        {"met": {"stopped": 600, "running": 511}},
        {"holes": 23},
    ],
)
def test_a_save_that_met_too_few_pages_proves_nothing(
    changes: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an ERROR: neither the kernel nor QEMU has done wrong."""
    assert _judged(tmp_path, saved(acts=_acts(**changes)), monkeypatch).status is Status.ERROR


@pytest.mark.parametrize(("blames_host", "status"), [(True, Status.SKIP), (False, Status.ERROR)])
def test_what_a_host_cannot_do_is_skipped(
    blames_host: bool, status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason; a save that ended too early is an ERROR."""
    event = {"event": "cannot", "text": "It has no huge pages.", "blames_host": blames_host}
    outcome = _judged(tmp_path, event, monkeypatch)
    assert (outcome.status, outcome.sentence) == (status, "It has no huge pages.")


@pytest.mark.parametrize(
    ("shows", "blames_host", "flow", "status", "words"),
    [
        (False, False, POISONED, Status.SKIP, "pagemap does not show"),
        (True, False, POISONED, Status.ERROR, "None was protected."),
        (False, True, POISONED, Status.SKIP, "None was protected."),
        (False, False, OFFLINE, Status.ERROR, "None was protected."),
    ],
)
def test_a_kernel_that_does_not_show_protection_has_no_page_to_poison(
    shows: bool, blames_host: bool, flow: str, status: Status, words: str, tmp_path: Path
) -> None:
    """On any other kernel a missing page is an ERROR, and so is another save that was not possible."""
    features = HostFeatures("system call", "", 0x1FF, ("PAGEFAULT_FLAG_WP",), "", "", shows)
    event = {"event": "cannot", "flow": flow, "text": "None was protected.", "blames_host": blames_host}
    found = Examination("made", features=features)
    outcome = disturbed_save._judge(_plan(tmp_path), found, Report((STARTED, event)), flow)
    assert outcome.status is status
    assert words in outcome.sentence


@pytest.mark.parametrize(
    ("code", "sentences", "status"),
    [
        (-signal.SIGBUS, ["It has no end."], Status.PASS),
        (-signal.SIGBUS, [], Status.FAIL),
        (-signal.SIGABRT, ["It has no end."], Status.PASS),
        (-signal.SIGSEGV, ["It has no end."], Status.FAIL),
        (1, ["It has no end."], Status.FAIL),
    ],
)
def test_a_poisoned_page_ends_qemu_by_a_signal_with_a_file_that_is_refused(
    code: int, sentences: list[str], status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another end of QEMU is wrong, and so is a file that passes for whole."""
    violations = [Violation("truncated", Code.GOLDEN_DIFFERS, text) for text in sentences]
    monkeypatch.setattr(
        disturbed_save, "check_file", lambda _, **_known: SimpleNamespace(violations=violations)
    )
    outcome = _judged(tmp_path, {"event": "ended", "exit_code": code, "bytes": 100, "log": []}, monkeypatch)
    assert outcome.status is status


def test_the_program_gets_the_mailbox_and_the_last_holes(tmp_path: Path) -> None:
    """Addresses are those of the control page's words, and no hole is written to twice."""
    sparse = _plan(tmp_path).sparse
    assert sparse is not None
    order = disturbed_save._disturb(sparse)
    assert order["mailbox"]["request"] == 0x2000 + 17 * 8
    assert order["mailbox"]["arguments"] == 0x2000 + 32 * 8
    assert order["mailbox"]["hole"] == BareCommand.CORRUPT
    assert order["holes"][0] == 95
    assert len(set(order["holes"])) == len(order["holes"]) == 24


def test_an_error_of_these_saves_leaves_the_others_to_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an outcome of its own; the saves before are on their disks already."""

    def broken(*_: object) -> Report:
        raise SetupBroken("The program ended early.")

    monkeypatch.setattr(examine, "save_disturbed", broken)
    found, unused = Examination("made"), cast("Any", None)
    assert examine._disturbed(_plan(tmp_path), found, unused, unused, unused, print) is None
    assert [(one.name, one.status) for one in found.outcomes] == [("hosts.made.split", Status.ERROR)]


class _Memory:
    """Two pieces of two pages; an act changes the state of a piece to another one."""

    address = 0x10000

    def __init__(self, before: Pages, after: Pages) -> None:
        self._states = (before, after)
        self._acted = False

    def pieces(self) -> list[tuple[int, int]]:
        return [(self.address + 2 * PAGE, 2 * PAGE), (self.address, 2 * PAGE)]

    def pages(self, _address: int, _length: int) -> Pages:
        return self._states[self._acted]

    def advise(self, _address: int, _length: int, _advice: int) -> None:
        self._acted = True

    def entries(self, _address: int, _length: int) -> list[int]:
        return self._states[0].entries[:1]

    @contextmanager
    def held(self) -> Iterator[None]:
        self._acted = False
        yield


class _Holes:
    def __init__(self) -> None:
        self.flipped: list[int] = []

    def flip_holes(self, indices: list[int]) -> None:
        self.flipped += indices


def _split(before: Pages, after: Pages, saves: bool = True) -> Disturbance:
    acts = Disturbance(cast("HostMemory", _Memory(before, after)), cast("Mailbox", _Holes()), lambda: saves)
    acts.split([5, 3])
    return acts


def test_a_split_is_counted_and_lost_protection_is_found() -> None:
    """Only what was done while QEMU was stopped is evidence; the addresses are the guest's."""
    here = _PRESENT | _PROTECTED
    before = Pages([here, here], [_LARGE, _LARGE])
    right = _split(before, Pages([here, here], [_ANON, _ANON])).facts()
    assert (right["lost_pages"], right["met"]["stopped"], right["holes"]) == (0, 2, 2)
    wrong = _split(before, Pages([here, _PRESENT], [_ANON, _ANON])).facts()
    assert (wrong["lost"], wrong["lost_pages"]) == ([3 * PAGE], 1)
    still = _split(before, before).facts()
    assert still["met"]["stopped"] == 0


def test_a_save_that_has_ended_is_said() -> None:
    """It is no limit of the host."""
    with pytest.raises(CannotAct) as caught:
        _split(Pages([], []), Pages([], []), saves=False)
    assert not caught.value.blames_host


def test_a_kernel_that_takes_no_frame_out_of_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It cannot be tested on that host; one that takes some, or pages that are not there, are judged."""
    pages = Pages([_PRESENT, _PRESENT], [_ANON, _ANON])

    def offlined(found: Pages, where: str) -> Disturbance:
        memory = cast("HostMemory", _Memory(found, found))
        acts = Disturbance(memory, cast("Mailbox", _Holes()), lambda: True)
        monkeypatch.setattr(on_host_memory, "_OFFLINE", where)
        acts.soft_offline(2)
        return acts

    with pytest.raises(CannotAct, match="took no frame out of use: Is a directory") as caught:
        offlined(pages, str(tmp_path))
    assert caught.value.blames_host
    (tmp_path / "soft").touch()
    assert offlined(pages, str(tmp_path / "{}")).met == {"stopped": 0, "running": 0}
    assert offlined(Pages([0, 0], [_ANON, _ANON]), str(tmp_path)).met == {"stopped": 0, "running": 0}


class _Agent:
    """A guest's memory whose agent answers a request at once, with a result."""

    def __init__(self, result: int) -> None:
        self.words = {100: 7, 108: 7, 116: 0, 124: result, 132: 0}
        self.asked: list[list[int]] = []

    def read(self, at: int) -> int:
        return self.words[at]

    def write(self, at: int, words: list[int]) -> bool:
        self.asked.append([at, *words])
        if at == 100:
            self.words[108] = words[0]
        return True


class _Waits:
    def wait(self, condition: Any, _what: str) -> None:
        assert condition()


_NUMBERS = {"request": 100, "answer": 108, "command": 116, "result": 124, "arguments": 132,
            "pause": 3, "resume": 2, "hole": 6}  # fmt: skip


def test_the_mailbox_pauses_flips_and_resumes() -> None:
    """The request is raised last, since it completes the others."""
    agent = _Agent(0)
    Mailbox(cast("Qemu", _Waits()), cast("HostMemory", agent), _NUMBERS).flip_holes([9])
    assert agent.asked == [
        [132], [116, 3], [100, 8],
        [132, 0, 9, 1], [116, 6], [100, 9],
        [132], [116, 2], [100, 10],
    ]  # fmt: skip


def test_a_command_that_the_agent_refuses_is_our_fault() -> None:
    """It is no failure of QEMU."""
    with pytest.raises(HostFailure, match="refused the command 3") as caught:
        Mailbox(cast("Qemu", _Waits()), cast("HostMemory", _Agent(2)), _NUMBERS).flip_holes([9])
    assert not caught.value.blames_qemu
