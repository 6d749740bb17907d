"""Begins a background snapshot, ends it, and judges the file, the source, the settings and the host."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from harness.codes import Code, Fields
from harness.errors import NotApplicable, SetupBroken, SubjectFailed
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.messages import said
from harness.qemu.qmp import CommandRefused
from harness.qemu.ram import GoldenImage, dump_golden
from harness.status import Status
from tests_functional.during_save.judge import (
    END,
    GUEST,
    Ending,
    judge_end,
    judge_guest,
    judge_settings,
    once_each,
    without_files_of,
)
from tests_functional.during_save.mid_save import ENDED, await_write, wait_over
from tests_functional.during_save.thing import Thing, nothing
from tests_functional.explore.model import (
    COMPLETED,
    PAUSED,
    RUNNING,
    SUSPENDED,
    Model,
    Writers,
)
from tests_functional.explore.session import Save, Session, host_excused
from tests_functional.explore.sink import Speed, opened_sink
from tests_functional.explore.writers import Watch, should_write, watch_slow
from tests_functional.failures.sinks import open_numbers
from tests_functional.lib.cycle import Source, judge_cycle
from tests_functional.lib.save import Flow, Snapshot, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.refusals.migration_options import settings
from validators.checks import Problem
from validators.judge import check_file
from validators.oracles.o5_source_guest.source_guest import check_unprotected
from validators.oracles.o6_host.host import check_host
from validators.oracles.o6_host.host_state import capture_host_state
from validators.verdict import CheckResult

_END_SECONDS = 30.0
_STALLS = "Steps and a slow sink make writers stall here by design."
_OVERLAP, _STATE, _NOT_EMPTY = "overlap", "restored-state", "ram-not-empty"
_PREFIX = "explore"


def snapshot(session: Session, flow: Flow) -> bool:
    """Take a whole snapshot by a flow and judge it; return False if it does not apply."""
    model = session.model
    if model.save is not None or model.run_state != RUNNING or model.writers is not Writers.ON:
        return False
    try:
        taken(session, flow)
    except NotApplicable:
        # This QEMU does not know the flow's transport.
        return False
    return True


def taken(session: Session, flow: Flow) -> Snapshot | None:
    """Take a whole snapshot of a guest that runs, and judge it; return None if QEMU refuses it.

    Raises:
        NotApplicable: this QEMU does not know the flow's transport.
    """
    folder, source = _folder(session, flow.label), session.with_host_of_now()
    session.note_settings()
    try:
        with host_excused(session.machine):
            found = take(flow, source.guest, source.counters, folder, session.limit(_END_SECONDS))
    except (NotApplicable, CommandRefused) as refused:
        _continue(session, flow)
        if refused.code is Code.FEATURE_ABSENT:
            raise NotApplicable(refused.sentence) from refused
        _refused(session, refused.sentence)
        return None
    except SubjectFailed as error:
        if error.code is not Code.SAVE_FAILED:
            raise
        if not session.may_refuse:
            error.fields = {**error.fields, **_lost_input(session)}
            raise
        _continue(session, flow)
        _refused(session, error.sentence)
        return None
    session.model = replace(session.model, saved=session.model.saved + 1)
    _add(session, judge_source(source.guest, source.before), folder.name)
    found = replace(found, incoming=(*found.incoming, *session.incoming))
    _judge_file(session, source, found, session.restored_arguments, overlap=True)
    return found


def _continue(session: Session, flow: Flow) -> None:
    """Let a guest go on whose save was refused after it had been stopped for T0."""
    if flow not in (Flow.LIVE, Flow.LIVE_FILE):
        session.machine.qmp.execute("cont", deadline=session.limit())


def begin(session: Session, golden: bool, transport: str, early: bool = False) -> bool:
    """Begin a background snapshot through a slow sink; return False if it does not apply.

    Args:
        session: the guest.
        golden: whether a running guest is stopped for a golden image, and continued once RAM is being saved.
        transport: one of TRANSPORTS.
        early: whether the next steps do not wait for T0.
    """
    model = session.model
    if model.save is not None or model.writers is not Writers.ON or model.run_state == SUSPENDED:
        return False
    folder = _folder(session, transport)
    machine = session.machine
    if words := migration.try_set_capability(machine, migration.BACKGROUND_SNAPSHOT, True):
        _refused(session, words)
        return True
    session.note_settings()
    # Before the sink is opened, whose pipe QEMU is given, and closes.
    session.begin_host(folder)
    with ExitStack() as opening:
        sink = opening.enter_context(opened_sink(machine, transport, folder / "vmstate", Speed.SLOW))
        save = Save(
            session.saves, _flow(model, golden), folder / "vmstate", sink, opening.pop_all(),
            machine.qmp.mark(), session.counters.steps(), (), None, session.source,
            arguments=session.restored_arguments, incoming=session.incoming,
        )  # fmt: skip
    session.save = save
    if early and model.run_state == RUNNING:
        _start_early(session, save)
    else:
        _start(session, save, golden and model.run_state == RUNNING)
    return True


def _flow(model: Model, golden: bool) -> Flow:
    if model.run_state != RUNNING:
        return Flow.STOPPED
    return Flow.STOP_MIGRATE_CONT if golden else Flow.LIVE


def _start(session: Session, save: Save, stops: bool) -> None:
    """Start a save whose sink is open; the model knows it from then on, unless QEMU refuses."""
    machine, before = session.machine, session.model
    if stops:
        machine.qmp.execute("stop")
    state = PAUSED if stops else before.run_state
    if save.flow.golden:
        save.golden = _golden(machine, save.path.parent)
    try:
        with host_excused(machine):
            migration.begin_save(machine, save.sink.uri, session.limit())
    except (CommandRefused, SubjectFailed) as error:
        if not isinstance(error, CommandRefused) and error.code is not Code.SAVE_FAILED:
            raise
        _refused(session, error.sentence)
        session.close_save()
        migration.try_set_capability(machine, migration.BACKGROUND_SNAPSHOT, False)
        if stops:
            machine.qmp.execute("cont")
        return
    session.model = before.begun(state)
    if stops and not machine.qmp.execute("query-status")["running"]:
        machine.qmp.execute("cont")
    save.after = save.before
    if before.run_state == RUNNING:
        try:
            save.after = await_write(machine, session.counters, session.limit())
        except SetupBroken:
            # All was saved before a page was written: the file is judged all the same.
            save.overlap = False


def _start_early(session: Session, save: Save) -> None:
    """Start a save of a running guest, and do not wait for T0."""
    words = migration.try_start_save(session.machine, save.sink.uri)
    if words:
        _refused(session, words)
        session.close_save()
        migration.try_set_capability(session.machine, migration.BACKGROUND_SNAPSHOT, False)
        return
    session.model = session.model.begun(RUNNING, early=True)
    # Nobody knows whether the guest wrote between T0 and the end.
    save.flow, save.after, save.overlap, save.state_known = Flow.LIVE, save.before, False, False


def _golden(machine: Machine, folder: Path) -> GoldenImage:
    return dump_golden(machine, folder / "golden")


def finish(session: Session) -> bool:
    """Let the save go on to its end and judge all of it; return False if none goes on."""
    save, model = session.save, session.model
    if save is None or model.save is None:
        return False
    machine = session.machine
    session.settle()
    model = session.model
    assert model.save is not None
    watch_slow(session)
    save.sink.set_speed(Speed.FAST)
    with host_excused(machine):
        ending = _wait_ending(session)
    if ending.status not in ENDED:
        _unfinished(session, ending)
        return True
    completed = session.counters.steps() if model.save.same_guest else save.after
    session.model = model.ended()
    session.close_save()
    thing = Thing("a list of steps", nothing, ends=model.save.ends, state=model.run_state)
    checks = [judge_end(thing, ending), judge_guest((model.run_state,), ending)]
    before, now = session.settings, settings(machine)
    checks.append(judge_settings(thing, before, before, now))
    migration.set_capability(machine, migration.BACKGROUND_SNAPSHOT, False)
    session.note_settings()
    checks.append(check_unprotected(machine))
    if not save.touched:
        folder = str(save.path.parent)
        after = without_files_of(capture_host_state(machine), folder)
        checks.append(check_host(session.host_before, after))
    label = save.path.parent.name
    session.reached.add(f"end {ending.status} of {model.save_words}/{model.run_state}")
    _add(session, checks, label)
    if model.run_state == RUNNING and session.model.writers is Writers.ON:
        # The host was judged above.
        _add(session, judge_source(save.source.guest, save.source.before)[:-1], label)
    if ending.status == COMPLETED:
        made = _made(save, model, completed)
        _judge_file(
            session,
            save.source,
            made,
            save.arguments,
            overlap=save.overlap and model.save.ran,
            state_known=save.state_known,
        )
    session.serve_again()
    return True


def _unfinished(session: Session, ending: Ending) -> None:
    """Note a save that does not end although its sink is fast, and whether it has saved any RAM."""
    ram = session.machine.query_migrate().get("ram", {})
    pages = ram.get("normal", 0) + ram.get("duplicate", 0)
    sentence = f"With a fast sink the save is '{ending.status}' for {_END_SECONDS:.0f} s, at {pages} pages."
    fields = {"status": ending.status, "pages": "some" if pages else "none"}
    session.note(END, Problem(Code.SAVE_UNFINISHED, sentence, fields))


def _wait_ending(session: Session) -> Ending:
    """Wait until the save has ended, QEMU has cleaned up, and the guest is in the model's run state."""
    limit = session.limit(_END_SECONDS)
    if should_write(session):
        watch = Watch(session)
        while session.machine.query_migrate().get("status") == "active" and not limit.expired:
            if watch.look():
                break
            session.machine.pause(limit)
    status, error = wait_over(session.machine, limit)
    if status in ENDED:
        migration.wait_cleaned_up(session.machine, session.limit())
    return Ending(status, error, session.await_model_state())


def _made(save: Save, model: Model, completed: tuple[int, ...]) -> Snapshot:
    assert model.save is not None
    steps = (save.before, completed)
    made = Snapshot.unmeasured(save.flow, save.path, save.golden, model.save.state_at_t0, steps)
    return replace(made, incoming=save.incoming)


def _judge_file(
    session: Session,
    source: Source,
    made: Snapshot,
    arguments: tuple[str, ...],
    *,
    overlap: bool,
    state_known: bool = True,
) -> None:
    """Judge a file by all oracles, restored too; `arguments` are those of the restored guest's QEMU alone."""
    folder = made.path.parent
    run = replace(session.run, folder=folder).with_arguments(arguments)
    by_test = _STALLS if not made.figures.total_ms else ""
    found: Sequence[CheckResult]
    if session.foreign:
        found = check_file(made.path, golden=made.golden.folder if made.golden else None).checks
    else:
        found = judge_cycle(run, source, made, folder.name, [], stalls_by_test=by_test).verdict.checks
    left_out = {*((_OVERLAP,) if not overlap else ()), *((_STATE,) if not state_known else ())}
    if "-object" in arguments or "virtio-mem" in session.guest.devices:
        # Memory that was plugged in is used by nobody.
        left_out.add(_NOT_EMPTY)
    checks = [once_each(check) for check in found if check.name not in left_out]
    _add_judged(session, made, checks)


def _add_judged(session: Session, made: Snapshot, checks: Sequence[CheckResult]) -> None:
    """Note the checks of a file, and count it."""
    _add(session, checks, made.path.parent.name)
    session.proofs += 1
    session.pages += sum(_pages(check) for check in checks)
    session.written_pages += sum(made.steps_completed) - sum(made.steps_before)


def _pages(check: CheckResult) -> int:
    names = ("pages compared", "pages verified", "pages")
    return next((int(check.facts[name]) for name in names if name in check.facts), 0)


def _refused(session: Session, words: str) -> None:
    """Note that QEMU refused a save, or failed it at once: wrong, unless a setting explains it."""
    session.reached.add(f"refused save: {words[:120]}")
    if not session.may_refuse:
        sentence = f"QEMU refuses a background snapshot that nothing excludes: {words}"
        fields = {"status": "refused", **said(words), **_lost_input(session)}
        session.note(END, Problem(Code.SAVE_FAILED, sentence, fields))
    elif not words.strip():
        session.note(END, Problem(Code.SAVE_NO_REASON, "QEMU does not say why it refuses the save."))


def _lost_input(session: Session) -> Fields:
    """Return a field that says that QEMU has closed its own standard input, which F5 does; empty if not."""
    pid = session.machine.pid
    if pid is None or not session.machine.alive() or 0 in open_numbers(pid):
        return {}
    return {"lost_descriptors": "0"}


def _add(session: Session, checks: Sequence[CheckResult], label: str) -> None:
    session.checks += [replace(check, name=f"{_PREFIX}/{label}/{check.name}") for check in checks]
    for check in checks:
        if check.status is Status.SKIP and check.name not in (GUEST,):
            session.reached.add(f"skipped {check.name}")


def _folder(session: Session, word: str) -> Path:
    session.saves += 1
    folder = session.run.folder / f"{session.saves:02d}-{word}"
    folder.mkdir(parents=True)
    return folder
