"""Contract: each obstacle is told in one sentence, and each change of the VM is named."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.attach.guard import WENT_ON
from harness.attach.ledger import Before
from harness.attach.virsh import Domain
from harness.codes import Code
from harness.errors import MachineryMissing, NotApplicable, SetupBroken, SubjectFailed
from harness.qemu.qmp import CommandRefused, Event
from harness.status import Status
from tests_functional.attach import look as looked
from tests_functional.attach import save
from tests_functional.attach.look import GoldenWay, Look, Obstacle
from tests_functional.attach.look_libvirt import JOB, job
from tests_functional.attach.prove import require_fit, what_holds
from tests_functional.lib.run import free_mib
from validators.verdict import CheckResult

_ON = [{"capability": "background-snapshot", "state": True}]


class _Vm:
    """Answers what `look` asks."""

    process = None
    way: Any = Path("/run/vm.qmp")

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.before = Before("running", {"xbzrle": True}, {})
        self.qmp = self

    def execute(self, command: str, _arguments: object = None) -> Any:
        return self.answers.get(command, [])

    def hmp(self, command: str) -> str:
        return str(self.answers.get(command, ""))

    def query_migrate(self) -> dict[str, Any]:
        return dict(self.answers.get("query-migrate", {}))


def _told(function: Any, **answers: Any) -> str:
    return " ".join(
        one.sentence for one in function(_Vm(**{k.replace("_", "-"): v for k, v in answers.items()}))
    )


def test_busy_vms() -> None:
    """A migration, a job, and a capability that is on already."""
    assert looked._busy(_Vm()) == []  # type: ignore[arg-type]
    assert looked._busy(_Vm(**{"query-migrate": {"status": "completed"}})) == []  # type: ignore[arg-type]
    assert "A migration is 'active'" in _told(looked._busy, query_migrate={"status": "active"})
    assert "(backup0)" in _told(looked._busy, query_jobs=[{"id": "backup0"}])
    assert "is on already" in _told(looked._busy, query_migrate_capabilities=_ON)


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        ({"info qtree": "  bus: pci.0\n    dev: vhost-user-blk-pci, id \"d\""}, "vhost-user-blk-pci"),
        ({"info qtree": "dev: ivshmem-plain, id \"\""}, "ivshmem-plain"),
        ({"info network": "net0: index=0,type=vhost-user,vhost-user0 to c (raw)"}, "vhost-user"),
        ({"query-named-block-nodes": [{"drv": "virtio-blk-vhost-user"}]}, "virtio-blk-vhost-user"),
    ],
)  # fmt: skip
def test_foreign_writers(answers: dict[str, Any], name: str) -> None:
    """Devices, networks and disk drivers, wherever QEMU shows them."""
    (found,) = looked._foreign_writers(_Vm(**answers))  # type: ignore[arg-type]
    assert f" {name}:" in found.sentence
    assert found.status is Status.SKIP


def test_usual_devices_are_no_foreign_writers() -> None:
    """A network of QEMU's own and an ordinary disk."""
    vm = _Vm(
        **{
            "info qtree": "dev: virtio-net-pci, id \"\"\n dev: virtio-blk-pci, id \"\"",
            "info network": "net0: index=0,type=user,net=10.0.2.0",
            "query-named-block-nodes": [{"drv": "qcow2"}, {"drv": "file"}, {"drv": "io_uring"}],
        }
    )  # fmt: skip
    assert looked._foreign_writers(vm) == []  # type: ignore[arg-type]


def test_what_lifts_a_refusal() -> None:
    """Memory, another capability, and rights are told apart."""
    vm: Any = _Vm()
    memory = "Background-snapshot is not compatible with guest memory configuration"
    assert "memory of this kind" in looked._lift(vm, memory)
    assert "Capabilities that are on: xbzrle" in looked._lift(vm, "not compatible with xbzrle")
    assert "vm.unprivileged_userfaultfd" in looked._lift(vm, "Background-snapshot is not supported by host")
    assert "qemu.conf" not in looked._lift(vm, "Background-snapshot is not supported by host")
    vm.way = Domain("vm")
    assert "'user = \"root\"' in libvirt's qemu.conf" in looked._lift(vm, "not supported by host")


def test_job_of_libvirt() -> None:
    """It is told, with what ends it."""
    assert looked._libvirt_job({}) == looked._libvirt_job({JOB: "none"}) == []
    (told,) = looked._libvirt_job({JOB: "Unbounded"})
    assert told.status is Status.ERROR
    assert "Unbounded" in told.sentence
    assert "domjobabort" in told.sentence


@pytest.mark.parametrize(
    ("text", "found"),
    [("Job type:         None", ""), ("Job type:         Unbounded\nOperation: Save", "Unbounded"), ("", "")],
)
def test_job_in_the_words_of_virsh(text: str, found: str) -> None:
    """As libvirt 9.0 and 11.3 print them."""
    assert job(text) == found


def test_blockers_and_states() -> None:
    """QEMU's reason is passed on; a guest that is off is not saved."""
    assert "cannot save this VM: no way." in _told(
        looked._blockers, query_migrate={"blocked-reasons": ["no way."]}
    )
    assert looked._state("running") == looked._state("paused") == []
    assert looked._state("shutdown")[0].status is Status.ERROR


def test_worst_obstacle_decides() -> None:
    """Nothing in the way is no error; one that can be waited for is worse than one that cannot."""
    require_fit(Look())
    unfit, busy, right = (Obstacle(f"{one}.", one) for one in (Status.SKIP, Status.ERROR, Status.MISS))
    for obstacles, error in (
        ((unfit,), NotApplicable),
        ((right, unfit), MachineryMissing),
        ((unfit, busy), SetupBroken),
    ):
        with pytest.raises(error) as raised:
            require_fit(Look(obstacles=obstacles))
        assert raised.type is error
        assert all(one.sentence in raised.value.sentence for one in obstacles)


def test_structure_alone_is_not_called_a_proof() -> None:
    """Only the golden image and the write order look at pages; skipped, they prove nothing."""
    structure = CheckResult("header", "", Status.PASS)
    assert "was not judged" in what_holds([structure, CheckResult("write-order", "", Status.SKIP)])
    for name in ("golden", "write-order"):
        assert "is the guest at T0" in what_holds([structure, CheckResult(name, "", Status.PASS)])


@pytest.mark.parametrize(
    ("state", "golden", "events", "refused", "wrong"),
    [
        ("running", True, ("STOP",), "", False),
        ("running", True, ("STOP", "RESUME"), "", True),
        ("running", True, ("STOP",), WENT_ON, True),
        ("running", False, ("STOP", "RESUME"), "", False),
        ("paused", True, ("RESUME",), "", True),
        ("paused", False, ("RESUME",), "", True),
    ],
)
def test_guest_that_goes_on_before_the_save(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    state: str,
    golden: bool,
    events: tuple[str, ...],
    refused: str,
    wrong: bool,
) -> None:
    """It is a set-up that is broken, and not a snapshot that is wrong, also if it was paused."""

    def begin(*_arguments: object) -> None:
        if refused:
            raise CommandRefused("migrate", refused)

    monkeypatch.setattr(save, "dump_golden", lambda *_arguments: None)
    monkeypatch.setattr("harness.qemu.migration.begin_save", begin)
    vm: Any = _Vm(**{"query-status": {"status": "running"}})
    vm.before, vm.max_stop = Before(state, {}, {}), 1.0
    vm.wait_status = lambda *_arguments: "paused"
    vm.events_since = lambda _mark: [Event(name, {}, 0.0) for name in events]
    with pytest.raises(SetupBroken, match="went on before") if wrong else contextlib.nullcontext():
        way = GoldenWay.MEMORY if golden else GoldenWay.NONE
        save._begin(vm, tmp_path, "fd:x", way, 0, 1.0)


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("state", ["running", "paused"])
def test_disks_are_pinned_while_the_guest_stands_still(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, refused: bool
) -> None:
    """After `stop`, before `migrate`; where QEMU refuses it, the save goes on without, and says why."""
    done: list[str] = []

    def pin(*_arguments: object) -> str:
        done.append("pin")
        if refused:
            raise CommandRefused("nbd-server-start", "NBD server already running.")
        return "pins"

    vm: Any = _Vm(**{"query-status": {"status": "paused"}})
    answer = vm.execute
    vm.before, vm.max_stop = Before(state, {}, {}), 1.0
    vm.wait_status, vm.events_since = (lambda *_arguments: "paused"), lambda _mark: []
    vm.unpin = lambda: done.append("unpin")

    def execute(command: str, *_: object) -> Any:
        done.append(command)
        return answer(command)

    vm.execute = execute
    monkeypatch.setattr(save, "dump_golden", lambda *_arguments: None)
    monkeypatch.setattr(save, "pin_disks", pin)
    monkeypatch.setattr("harness.qemu.migration.begin_save", lambda *_arguments: done.append("migrate"))
    plan: Any = "plan"
    begun = save._begin(vm, tmp_path, "fd:x", GoldenWay.MEMORY, 0, 1.0, (plan, tmp_path / "nbd"))
    ours = [word for word in done if word in ("stop", "pin", "unpin", "migrate", "cont")]
    stops, goes = (["stop"], ["cont"]) if state == "running" else ([], [])
    assert ours == [*stops, "pin", *(["unpin"] if refused else []), "migrate", *goes]
    assert begun.unpinned == ("QEMU refuses it: NBD server already running" if refused else "")
    assert (begun.pins == "pins") is not refused  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    ("readable", "formats", "way"),
    [
        (True, ["elf"], GoldenWay.MEMORY),
        (False, ["elf", "kdump-zlib"], GoldenWay.DUMP),
        (False, ["kdump-zlib"], GoldenWay.NONE),
        (None, ["elf"], GoldenWay.DUMP),
    ],
)
def test_way_to_a_golden_image(readable: bool | None, formats: list[str], way: GoldenWay) -> None:
    """QEMU's memory where it can be read, else QEMU's own dump; the note says which."""
    process: Any = None if readable is None else SimpleNamespace(readable=readable, pid=0)
    vm: Any = _Vm(**{"query-dump-guest-memory-capability": {"formats": formats}, "query-memdev": []})
    assert looked._golden_way(vm, process) is way
    notes = " ".join(looked._notes(vm, process, way))
    assert ("QEMU dumps it" in notes) == (way is GoldenWay.DUMP)
    assert ("there is no golden image" in notes) == (way is GoldenWay.NONE)


def test_guest_that_wrote_nothing_is_told() -> None:
    """Such a proof says little about protection."""
    golden = [CheckResult("golden", "", Status.PASS)]
    assert "not put to the test" in what_holds(golden, 0)
    assert "not put to the test" not in what_holds(golden, 1)
    assert "not put to the test" not in what_holds(golden, None)


@pytest.mark.parametrize(
    ("code", "seconds", "error"),
    [
        (Code.SAVE_UNFINISHED, 1.0, SetupBroken),
        (Code.SAVE_UNFINISHED, 60.0, SubjectFailed),
        (Code.QEMU_FAILED, 1.0, SubjectFailed),
    ],
)
def test_short_limit_blames_nobody(code: Code, seconds: float, error: type[Exception]) -> None:
    """A save that does not end within a second is no evidence; another failure is."""
    found = save._short_limit(SubjectFailed("The save is still 'setup'.", code=code), seconds)
    assert type(found) is error
    assert ("--seconds" in found.sentence) == (error is SetupBroken)


@pytest.mark.parametrize(("events", "error"), [(("STOP", "RESUME"), SetupBroken), (("STOP",), SubjectFailed)])
def test_guest_that_is_continued_before_it_is_seen_stopped(
    events: tuple[str, ...], error: type[Exception]
) -> None:
    """Then the limit was too short; one that does not stop is QEMU's fault."""

    def never(*_arguments: object) -> None:
        raise SubjectFailed("The guest is 'running' and did not become paused in time.")

    vm: Any = _Vm()
    vm.max_stop, vm.wait_status = 0.001, never
    vm.events_since = lambda _mark: [Event(name, {}, 0.0) for name in events]
    with pytest.raises(error):
        save._stop(vm, 0)


def test_room_for_what_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For the snapshot, a golden image and QEMU's dump, in a folder that is not there yet."""
    place = tmp_path / "not" / "there"
    for way, needed in ((GoldenWay.NONE, 164), (GoldenWay.MEMORY, 264), (GoldenWay.DUMP, 364)):
        monkeypatch.setattr(looked, "free_mib", lambda _folder, free=needed: free)
        assert looked._room(100, place, way) == []
        monkeypatch.setattr(looked, "free_mib", lambda _folder, free=needed - 1: free)
        (found,) = looked._room(100, place, way)
        assert f" {needed}; " in found.sentence
        assert ("golden" in found.sentence) == (way is not GoldenWay.NONE)
    assert free_mib(place) > 0


def test_paused_guest_with_the_capability_on() -> None:
    """Command and guard may both have been killed; it is said what puts that right."""
    vm: Any = _Vm(**{"query-jobs": [], "query-migrate-capabilities": _ON})
    for state in ("paused", "running"):
        vm.before = Before(state, {}, {})
        (found,) = looked._busy(vm)
        assert ("'cont'" in found.sentence) == (state == "paused")
