"""Takes each kind of step: does it on the guest, tells the model, and notes what is wrong with the answer."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from guest_images.agent.bare_agent import BareAgent
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SubjectFailed
from harness.qemu.acpi_sleep import suspend_to_ram
from harness.qemu.io_ports import write_port
from harness.qemu.machine import known_pid
from harness.qemu.qmp import CommandRefused
from tests_functional.explore import saving
from tests_functional.explore.commands import filled
from tests_functional.explore.model import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PANICKED,
    RUNNING,
    SHUTDOWN,
    SUSPENDED,
    Writers,
)
from tests_functional.explore.session import Session, host_excused
from tests_functional.explore.sink import Speed
from tests_functional.lib.save import Flow
from validators.checks import Problem
from validators.oracles.o6_host.host_state import open_files

Act = Callable[[Session, Mapping[str, Any]], bool]
"""Takes a step; returns False if it does not apply in the model's state, and nothing was done."""

# QEMU hw/misc/pvpanic-isa.c and hw/input/pckbd.c.
_PANIC_PORT, _PANICKED = 0x505, 1
_KEYBOARD_PORT, _RESET = 0x64, 0xFE
_LONGEST_FREEZE_SECONDS, _LONGEST_WAIT_SECONDS = 3.0, 2.0
_HASTEN_SECONDS = 0.7
_FREED_SECONDS = 5.0
SPARSE = "sparse"
"""The pattern that leaves every other page out, which nobody touches then."""
_AFTER_SPARSE, _UNTOUCHED_PAGES = "random", 32
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
_WORDS = 90
# Commands after which nothing that QEMU has open is another than before.
_ONLY_ASK = (
    "query-*",
    "x-query-*",
    "qom-get",
    "qom-list*",
    "device-list-properties",
    "migrate-set-*",
    "trace-event-get*",
)
# Commands after which there may be jobs, exports and nodes in use, or other devices: QEMU may refuse saves.
_BLOCKS = (
    "block*", "job-*", "nbd-*", "drive-*", "transaction", "device_*", "snapshot-delete", "dump-guest-memory",
    "xen-*", "qom-set", "x-blockdev-*", "chardev-*", "netdev_*", "object-*",
)  # fmt: skip
# Commands that may change the machine that a restored guest needs.
_CHANGES = ("device_*", "chardev-*", "qom-set", "xen-*", "netdev_del", "set-numa-node", "set-cpu-topology")
# Commands that set something.
_SETS = {"migrate-set-parameters": "parameters", "migrate-set-capabilities": "capabilities"}


def give(session: Session, command: str, arguments: Mapping[str, Any]) -> str | None:
    """Give a QMP command; return QEMU's refusal, None if it accepts; note what was reached.

    Raises:
        SubjectFailed: QEMU has ended, or does not answer. HostTooBusy: it got no processor.
    """
    state = session.model.words
    refusal: str | None = None
    try:
        with host_excused(session.machine):
            session.machine.qmp.execute(command, arguments, session.limit())
    except CommandRefused as refused:
        refusal = refused.reason
        if not refusal.strip():
            problem = Problem(Code.SAVE_NO_REASON, f"QEMU refuses '{command}' without a reason.")
            session.note("answers", problem)
    if refusal is not None:
        session.reached.add(f"refusal of {command}: {_NUMBER.sub('N', refusal)[:_WORDS]}")
    session.reached.add(f"{command} {'accepted' if refusal is None else 'refused'} in {state}")
    return refusal


def must_accept(session: Session, command: str, arguments: Mapping[str, Any] | None = None) -> bool:
    """Give a command that QEMU must accept; return whether it did."""
    refusal = give(session, command, arguments or {})
    if refusal is None:
        return True
    sentence = f"QEMU refuses '{command}' in a state ({session.model.words}) in which it must not: {refusal}"
    session.note("answers", Problem(Code.DURING_SAVE_REFUSED, sentence, {"command": command}))
    return False


def must_refuse(session: Session, command: str, arguments: Mapping[str, Any]) -> None:
    """Give a command that QEMU must refuse."""
    if give(session, command, arguments) is None:
        sentence = f"QEMU accepts '{command}' in a state ({session.model.words}) in which it must not."
        session.note("answers", Problem(Code.DURING_SAVE_ACCEPTED, sentence, {"command": command}))


def begin(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Begin a background snapshot."""
    golden, early = bool(arguments.get("golden")), bool(arguments.get("early"))
    return saving.begin(session, golden, str(arguments.get("transport", "exec")), early)


def finish(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Let the save go on to its end, and judge it."""
    return saving.finish(session)


def snapshot(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Take a whole snapshot by a flow."""
    return saving.snapshot(session, Flow[str(arguments["flow"])])


def cancel(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Cancel the save."""
    if session.model.save is None:
        return False
    if must_accept(session, "migrate_cancel"):
        session.model = session.model.may_end(*session.model.save.ends, CANCELLED)
    return True


def set_sink(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Change what the sink of the save does."""
    if session.save is None:
        return False
    speed = Speed(str(arguments["speed"]))
    assert session.model.save is not None
    if speed is Speed.CLOSED:
        # A background snapshot that has sent all before completes.
        session.model = session.model.may_end(*session.model.save.ends, FAILED)
    session.save.sink.set_speed(speed)
    session.model = session.model.stalled(speed is Speed.STALLED)
    return True


def stop(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Stop the guest."""
    if session.model.run_state == SUSPENDED:
        # What `cont` makes of it depends on the version.
        return False
    if must_accept(session, "stop"):
        session.model = session.model.stopped()
    return True


def cont(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Let the guest go on."""
    if session.model.run_state == SUSPENDED:
        return False
    if session.model.run_state == SHUTDOWN:
        must_refuse(session, "cont", {})
    elif must_accept(session, "cont"):
        session.model = session.model.continued()
        session.serve_again()
    return True


def reset(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Reset the guest, by the monitor or by its keyboard controller, and start its writers again."""
    session.settle()
    machine, agent = session.machine, session.source.guest.agent
    assert isinstance(agent, BareAgent), "only bare guests are explored"
    boot, mark = agent.boot(), machine.qmp.mark()
    by_guest = bool(arguments.get("by_guest")) and session.model.run_state == RUNNING
    if by_guest:
        write_port(machine, _KEYBOARD_PORT, 1, _RESET)
    elif not must_accept(session, "system_reset"):
        return True
    with host_excused(machine):
        machine.qmp.wait_event(lambda event: event.name == "RESET", mark, session.limit(), "the event RESET")
    session.model = session.model.reset()
    session.booted_before = boot
    session.serve_again()
    return True


def panic(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Have the guest panic, which stops it."""
    if "panic" not in session.guest.devices or session.model.run_state != RUNNING:
        return False
    session.settle()
    write_port(session.machine, _PANIC_PORT, 1, _PANICKED)
    session.model = session.model.in_state(PANICKED)
    return True


def sleep(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Have the guest suspend itself to RAM."""
    if session.model.run_state != RUNNING:
        return False
    session.settle()
    suspend_to_ram(session.machine)
    session.model = session.model.in_state(SUSPENDED)
    return True


def wake(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Wake a guest up that sleeps, and start its writers again; QEMU must refuse to wake up another one."""
    agent = session.source.guest.agent
    assert isinstance(agent, BareAgent), "only bare guests are explored"
    if session.model.run_state != SUSPENDED:
        must_refuse(session, "system_wakeup", {})
        return True
    boot = agent.boot()
    if must_accept(session, "system_wakeup"):
        session.model = session.model.woken()
        session.booted_before = boot
        if session.await_model_state() == RUNNING:
            session.serve_again()
    return True


def freeze(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Stop all of QEMU by SIGSTOP for some time."""
    pid = known_pid(session.machine)
    seconds = min(float(arguments["seconds"]), _LONGEST_FREEZE_SECONDS)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    return True


def wait(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Let time pass."""
    seconds = min(float(arguments["seconds"]), _LONGEST_WAIT_SECONDS)
    session.machine.pause(Deadline(seconds), seconds)
    return True


def pattern(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Have the guest write another pattern to another share of its RAM."""
    model = session.model
    if model.run_state != RUNNING or model.writers is not Writers.ON or model.save_words == "stalled":
        return False
    session.settle()
    with _hastened(session):
        session.source.guest.agent.quit()
        session.model = session.model.other_writers()
        session.written = (str(arguments["pattern"]), float(arguments["coverage"]))
        session.start_writers(*session.written)
    return True


@contextmanager
def _hastened(session: Session) -> Iterator[None]:
    """Have a slow sink become fast soon, for a guest that writes to each of its pages.

    Each write waits for the sink: half a minute in all for one that stays slow.
    """
    save = session.save
    if save is None or save.sink.speed is not Speed.SLOW:
        yield
        return
    hasten = threading.Timer(_HASTEN_SECONDS, lambda: save.sink.set_speed(Speed.FAST))
    hasten.start()
    yield
    hasten.cancel()
    save.sink.set_speed(Speed.SLOW)


def untouched(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Have the guest write to memory that nobody has touched before T0, while RAM is being saved.

    Such memory is what the pattern `sparse` leaves out. Its writers would take those pages for wrong from
    then on, so they end here, and others start once the save is over.
    """
    if not _has_untouched(session):
        return False
    session.settle()
    agent = session.source.guest.agent
    agent.pause()
    assert isinstance(agent, BareAgent), "only bare guests are explored"
    status = agent.status()
    count = status.data_pages // len(status.steps)
    for index in range(0, count, max(1, count // _UNTOUCHED_PAGES)):
        agent.write_hole(0, index)
    with _hastened(session):
        agent.quit()
    session.model = session.model.ended_writers()
    session.written = (_AFTER_SPARSE, session.written[1])
    return True


def _has_untouched(session: Session) -> bool:
    """Return whether the writers leave pages out that the guest can write to while a save serves it."""
    model = session.model
    return (
        model.run_state == RUNNING
        and model.writers is Writers.ON
        and session.written[0] == SPARSE
        and model.save is not None
        and model.save.ends == {COMPLETED}
        and not model.save.stalled
    )


def migrate_again(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Ask for a second save at a time."""
    if not session.save_goes_on():
        return False
    must_refuse(session, "migrate", {"uri": "exec:cat > /dev/null"})
    return True


def limit_bandwidth(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Limit the bandwidth of the save that goes on; a background snapshot has no limit, so it goes on."""
    if not session.save_goes_on():
        return False
    if give(session, "migrate-set-parameters", {"max-bandwidth": int(arguments["bytes"])}) is None:
        session.tampered.add("max-bandwidth")
        session.note_settings()
    return True


def info(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Ask by the human monitor."""
    give(session, "human-monitor-command", {"command-line": f"info {arguments['what']}"})
    return True


def _wait_until_freed(session: Session, opened: tuple[tuple[int, str], ...]) -> None:
    """Wait until QEMU has closed the memory of a backend that it has refused.

    It does so a moment later, by RCU (system/physmem.c, reclaim_ramblock()); what stays open after all (F75)
    is found by the check of the host's state.
    """
    limit = session.limit(_FREED_SECONDS)
    while not limit.expired and set(open_files(known_pid(session.machine))) - set(opened):
        limit.nap(0.05)


def qmp(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Give a command of QEMU's schema."""
    command = str(arguments["command"])
    given = filled(dict(arguments["arguments"]), str(session.run.folder))
    saving_now = session.save_goes_on()
    makes_memory = command == "object-add" and str(given.get("qom-type")).startswith("memory-backend-")
    opened = open_files(known_pid(session.machine)) if makes_memory else ()
    refusal = give(session, command, given)
    if refusal is not None:
        if makes_memory:
            _wait_until_freed(session, opened)
        return True
    if command in _SETS:
        _note_set(session, command, given, saving_now)
    if session.save is not None and not _fits(command, _ONLY_ASK):
        session.save.touched = True
    session.blocked = session.blocked or _fits(command, _BLOCKS)
    session.foreign = session.foreign or _fits(command, _CHANGES)
    if command == "yank" and session.model.save is not None and given.get("instances"):
        session.model = session.model.may_end(*session.model.save.ends, FAILED)
    return True


def _fits(command: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(command, pattern) for pattern in patterns)


def _note_set(session: Session, command: str, given: Mapping[str, Any], saving_now: bool) -> None:
    """Note what was set; capabilities must not be set in mid-save."""
    if command == "migrate-set-capabilities":
        names = [entry["capability"] for entry in given.get("capabilities", ())]
        if saving_now and names:
            sentence = f"QEMU sets the capability '{names[0]}' while it saves RAM."
            problem = Problem(Code.DURING_SAVE_ACCEPTED, sentence, {"command": command})
            session.note("answers", problem)
    else:
        names = list(given)
    session.tampered.update(names)
    session.note_settings()


def lost(session: Session, error: SubjectFailed) -> None:
    """Note that QEMU has ended or does not answer."""
    session.note("qemu", Problem.of_error(error))
