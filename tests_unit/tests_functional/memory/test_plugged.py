"""Contract: memory that is plugged in, left out, merged or never touched must be seen to be so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import NotApplicable, SetupBroken, SubjectFailed
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused
from harness.qemu.ram import RamBlock
from harness.status import Status
from tests_functional.lib.cycle import Source
from tests_functional.memory import host_pages, never_touched, plugged, refusal, virtio_mem
from tests_functional.memory.plugged import PLUGGED_KINDS
from tests_unit.support.scenario_values import check, offline, sentences, stack
from validators.verdict import Facts

_BLOCK = RamBlock("0000:00:04.0/mem1", 256 << 20, 4096)


class _Qmp:
    """Answers each command with what is given for it, and raises where that is an error."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def execute(self, command: str, *_arguments: Any, **_more: Any) -> Any:
        """The answer."""
        self.asked.append(command)
        answer = self.answers.get(command.replace("-", "_"), {})
        if isinstance(answer, Exception):
            raise answer
        return answer


def _machine(alive: bool = True, **answers: Any) -> Machine:
    qmp = _Qmp(**answers)
    machine = SimpleNamespace(
        qmp=qmp,
        alive=lambda: alive,
        query_migrate=lambda: qmp.execute("query-migrate"),
        pause=lambda _deadline, _seconds=0.01: None,
        pid=0,
    )
    return cast(Machine, machine)


def _source(machine: Machine, data_pages: int = 0) -> Source:
    guest = SimpleNamespace(machine=machine, shell=SimpleNamespace(check=lambda _command: ""))
    return cast(
        Source, SimpleNamespace(guest=guest, status=SimpleNamespace(data_pages=data_pages), before=None)
    )


def test_guest_is_booted_without_the_dimm_and_restored_with_it(tmp_path: Path) -> None:
    """A restore has on its command line what the guest got by QMP."""
    kind = PLUGGED_KINDS["plugged-memfd-shared"]
    booted, restored = kind.booted(stack(tmp_path)), kind.restored(stack(tmp_path))
    assert not any("mem1" in argument for argument in booted.extra)
    assert "memory-backend-memfd,id=mem1,size=128M,share=on" in restored.extra
    assert booted.total_mib == restored.total_mib == booted.ram_mib + 128
    late = PLUGGED_KINDS["plugged-while-saving"]
    assert late.restored(stack(tmp_path)) == late.booted(stack(tmp_path))


def test_writers_must_reach_into_plugged_memory(tmp_path: Path) -> None:
    """Pages that fit into the memory from boot prove nothing about the rest."""
    given = stack(tmp_path)
    plugged.require_in_use(given, _source(_machine(), data_pages=given.ram_mib * 256 + 256))
    with pytest.raises(SetupBroken, match="may all lie in the"):
        plugged.require_in_use(given, _source(_machine(), data_pages=given.ram_mib * 256))


@pytest.mark.parametrize(
    ("kind", "machine", "plan"),
    [
        ("plugged-anonymous", "pc", (96 << 20, 1 << 32)),
        ("plugged-anonymous", "microvm", (384 << 20, 0)),
        ("plugged-while-saving", "pc", (384 << 20, 0)),
    ],
)
def test_writers_of_a_bare_guest_are_sent_there(
    kind: str, machine: str, plan: tuple[int, int], tmp_path: Path
) -> None:
    """Where the agent reaches it, all pages lie in the plugged memory; elsewhere and otherwise none does."""
    given = stack(tmp_path)
    bare = replace(given, image=replace(given.image, bare=True), machine=machine, ram_mib=512, coverage=0.75)
    found = PLUGGED_KINDS[kind].booted(bare).writer_plan("random", 1)
    assert (found.bytes, found.address) == plan


@pytest.mark.parametrize("place", ["addr", "memaddr"])
def test_plugged_memory_must_lie_where_the_writers_are(place: str, tmp_path: Path) -> None:
    """A bare guest writes to an address; whether that is plugged memory, QEMU says."""
    given = stack(tmp_path)
    bare = replace(given, image=replace(given.image, bare=True))
    there = replace(bare, plugged_at=1 << 32)
    right = _machine(query_memory_devices=[{"type": "x", "data": {place: 1 << 32}}])
    plugged.require_in_use(there, _source(right))
    wrong = _machine(query_memory_devices=[{"type": "x", "data": {place: 2 << 32}}])
    with pytest.raises(SetupBroken, match="was to begin at 0x100000000 and begins at 0x200000000"):
        plugged.require_in_use(there, _source(wrong))
    with pytest.raises(SetupBroken, match="begins at no address"):
        plugged.require_in_use(there, _source(_machine(query_memory_devices=[])))
    plugged.require_in_use(bare, _source(_machine()))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("device_add not allowed while migrating", ""),
        ("Bus is busy", "does not name the save"),
        (None, "accepts new memory while it saves RAM"),
    ],
)
def test_memory_that_comes_during_a_save_is_refused_by_name(words: str | None, problem: str) -> None:
    """QEMU must refuse memory that is plugged during a save, with words that name the save."""
    answer = CommandRefused("device_add", words) if words else None
    machine = _machine(device_add=answer, query_migrate={"status": "active"})
    found = plugged._plug_meanwhile(machine, "x", PLUGGED_KINDS["plugged-while-saving"])
    assert [problem in sentence for sentence in sentences(found)] == ([True] if problem else [])


def test_memory_that_comes_after_the_save_proves_nothing() -> None:
    """A save that was quicker than QMP is a broken set-up."""
    machine = _machine(query_migrate={"status": "completed"})
    with pytest.raises(SetupBroken, match="was over before the memory was plugged in"):
        plugged._plug_meanwhile(machine, "x", PLUGGED_KINDS["plugged-while-saving"])


def test_qemu_that_does_not_survive_a_save_is_a_failed_check() -> None:
    """Named after the kind of memory, so that the baseline can tell one from another."""
    (found,) = refusal.judge_given_up(_source(_machine(alive=False)), SubjectFailed("It is gone."), "x")
    assert found.name == "memory/x/save"
    assert sentences(found) == ["It is gone."]


def test_qemu_that_dies_a_moment_after_its_save_failed_is_the_same() -> None:
    """It says "failed", and ends before it has answered the next question."""
    lives = iter((True, False))
    machine = _machine(query_migrate={"status": "failed"}, query_status=SubjectFailed("It ended."))
    machine.alive = lambda: next(lives)  # type: ignore[method-assign]
    (found,) = refusal.judge_given_up(_source(machine), SubjectFailed("It failed."), "x")
    assert sentences(found) == ["It ended."]


def test_save_that_was_not_given_up_is_passed_on() -> None:
    """A save that hangs is no refusal."""
    with pytest.raises(SubjectFailed, match="hangs"):
        refusal.judge_given_up(
            _source(_machine(query_migrate={"status": "active"})), SubjectFailed("It hangs."), "x"
        )


@pytest.mark.parametrize(
    ("words", "state", "failed"),
    [
        ("Failed to write-protect memory", "running", []),
        ("", "running", ["memory/x/save"]),
        ("Bad luck", "running", ["memory/x/save"]),
        ("Failed to write-protect memory", "paused", ["memory/x/resumed"]),
    ],
)
def test_save_that_is_given_up(
    monkeypatch: pytest.MonkeyPatch, words: str, state: str, failed: list[str]
) -> None:
    """It says why, and the guest runs on; one that is stopped is made to go on."""
    monkeypatch.setattr(refusal, "judge_source", lambda *_rest: [])
    monkeypatch.setattr(refusal, "LIMIT_SECONDS", 0.05)
    ending = {"status": "failed", "error-desc": words}
    machine = _machine(query_migrate=ending, query_status={"status": state})
    checks = refusal.judge_given_up(_source(machine), SubjectFailed("It failed."), "x")
    assert [found.name for found in checks if found.status is Status.FAIL] == failed
    assert ("cont" in cast(Any, machine.qmp).asked) == (state == "paused")


def test_file_must_leave_out_what_the_device_has_not_plugged_in() -> None:
    """More, less, or a device that the file does not know."""
    fact = f"not plugged in: {_BLOCK.idstr}"
    for left_out, right in ((96 << 20, True), (95 << 20, False), (None, False)):
        facts: Facts = {} if left_out is None else {fact: left_out}
        verdict = offline(check("page-missing", facts=facts))
        found = virtio_mem._judge_left_out(verdict, "x", _BLOCK, 160 << 20)
        assert (found.status is Status.PASS) == right


def test_save_must_not_touch_what_is_not_plugged_in() -> None:
    """A save that touches one page more than is plugged in fails."""
    assert virtio_mem._judge_untouched("x", 5 << 20, 160 << 20, 160 << 20).status is Status.PASS
    found = virtio_mem._judge_untouched("x", 5 << 20, (160 << 20) + 4096, 160 << 20)
    assert "in place for the device" in sentences(found)[0]


def _counts(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, *values: int) -> None:
    left: Iterator[int] = iter(values)
    monkeypatch.setattr(where, name, lambda *_rest: next(left))


def test_untouched_pages_must_be_written_during_the_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages written before the first look, or after the end, do not count."""
    untouched = never_touched._Untouched(_BLOCK, cast(Any, None))
    _counts(monkeypatch, never_touched, "_written", 500, 520, 700)
    never_touched._look_on(_machine(query_migrate={"status": "active"}), untouched)
    assert untouched.met == 200
    _counts(monkeypatch, never_touched, "_written", 500, 700)
    with pytest.raises(SetupBroken, match="when 0 pages"):
        never_touched._look_on(
            _machine(query_migrate={"status": "completed"}), never_touched._Untouched(_BLOCK, cast(Any, None))
        )


def test_merged_pages_must_be_written_during_the_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is written to is no longer merged; what stays merged was not at stake."""
    monkeypatch.setattr(host_pages, "main_block", lambda _machine: _BLOCK)
    _counts(monkeypatch, host_pages, "mapped_bytes", 16 << 20, 16 << 20, 15 << 20)
    host_pages.part_merged(_source(_machine(query_migrate={"status": "active"})), 1)
    _counts(monkeypatch, host_pages, "mapped_bytes", 16 << 20, 15 << 20)
    with pytest.raises(SetupBroken, match=r"when 0\.0 MiB of merged pages"):
        host_pages.part_merged(_source(_machine(query_migrate={"status": "completed"})), 1)


def test_pages_of_the_other_size_are_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Huge pages that a host does not give are a skip; small ones that are none after all a broken set-up."""
    monkeypatch.setattr(host_pages, "main_block", lambda _machine: _BLOCK)
    monkeypatch.setattr(host_pages, "mapped_bytes", lambda *_rest: 2 << 20)
    with pytest.raises(NotApplicable, match="gave 2 MiB of huge pages"):
        host_pages._in_huge_pages(_source(_machine()))
    with pytest.raises(SetupBroken, match="in huge pages that were switched off"):
        host_pages._in_small_pages(_source(_machine()))


def test_host_that_gives_no_huge_pages_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The skip names the host's setting."""
    monkeypatch.setattr(host_pages, "huge_pages_setting", lambda: "never")
    with pytest.raises(NotApplicable, match="'never' is set in"):
        host_pages._require_huge()
