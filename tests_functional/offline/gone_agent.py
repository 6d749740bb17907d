"""Saves a guest whose agent has gone, in each way that it can go, and judges the files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guest_images.agent.bare_agent import BareAgent
from guest_images.agent.format import PAGE_BYTES
from harness.codes import Code
from harness.deadline import Deadline
from harness.qemu import migration
from harness.status import Status
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, writing_guest
from tests_functional.lib.guest import start_writers, way_in
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.time_limits import FILL_SECONDS, SMALL_SAVE_SECONDS
from validators.checks import Problem, judged
from validators.judge import check_file
from validators.oracles.o2_write_order.scan import scan_agent
from validators.verdict import CheckResult, Verdict
from validators.vmstate.containers.opening import open_stream
from validators.vmstate.pages import PageReader
from validators.vmstate.stream.reader import read_index

_NAME = "remains"
_EXPLANATION = "What an agent that had gone leaves in RAM is not blamed on the snapshot; a lost page is."
# QEMU's tests are started with -no-reboot, by which a reset is a power-off.
_REBOOT = ("-action", "reboot=reset")
_SECONDS = 60.0
# Freed memory is used, so that pages of the agent are lost.
_USE_MEMORY = "head -c {bytes} /dev/zero > /tmp/snapproof-memory && rm /tmp/snapproof-memory"


@dataclass(frozen=True)
class Way:
    """How an agent goes.

    Attributes:
        go: makes it go.
        wipes: it wipes its pages, so that none is left.
        needs_linux: it needs processes.
    """

    go: Callable[[Run, Source], None]
    wipes: bool
    needs_linux: bool = False


def _quit(_run: Run, source: Source) -> None:
    source.guest.agent.quit()


def _signal(name: str) -> Callable[[Run, Source], None]:
    def go(_run: Run, source: Source) -> None:
        command = f"kill -{name} $(pidof snapproof-agent) && while pidof snapproof-agent; do sleep 0.1; done"
        source.guest.shell.check(command, Deadline(_SECONDS))

    return go


def _kill(run: Run, source: Source) -> None:
    _signal("KILL")(run, source)
    share = run.stack.writer_plan(run.pattern, run.seed).bytes // 2
    source.guest.shell.check(_USE_MEMORY.format(bytes=share), Deadline(_SECONDS))


def _reset(run: Run, source: Source) -> None:
    """Reset the guest, and wait until it has booted anew."""
    machine, agent = source.guest.machine, source.guest.agent
    before, mark = agent.boot() if isinstance(agent, BareAgent) else 0, machine.qmp.mark()
    machine.qmp.execute("system_reset")
    deadline = run.deadline.at_most(run.stack.image.boot_seconds)
    machine.qmp.wait_event(lambda event: event.name == "RESET", mark, deadline, "send the event RESET")
    if isinstance(agent, BareAgent):
        # Memory keeps the mailbox of before until the program is loaded anew.
        deadline.wait_for(lambda: agent.boot() != before, "The second boot of the guest")
    with way_in(machine, run.stack, deadline):
        pass


WAYS = {
    "quit": Way(_quit, wipes=True),
    "terminated": Way(_signal("TERM"), wipes=True, needs_linux=True),
    "interrupted": Way(_signal("INT"), wipes=True, needs_linux=True),
    "killed": Way(_kill, wipes=False, needs_linux=True),
    # The last one: the guest has no agent any more, and a bare one no second boot.
    "reset": Way(_reset, wipes=False),
}


def gone_agent(run: Run) -> Outcome:
    """Have the agent go in each way that the guest knows, and judge a file of each, and planted faults."""
    begun = time.monotonic()
    bare, problems = run.stack.image.bare, list[Problem]()
    with writing_guest(run.with_arguments(_REBOOT)) as source:
        plan = run.stack.writer_plan(run.pattern, run.seed)
        problems += _judge_lost(run, source)
        first = True
        for name, way in WAYS.items():
            if way.needs_linux and bare:
                continue
            if not first:
                start_writers(source.guest, plan, run.deadline.at_most(FILL_SECONDS * run.stack.slowness))
            first = False
            way.go(run, source)
            problems += judge_remains(name, way, _saved(run, source, name), bare)
    check = judged(_NAME, _EXPLANATION, problems)
    if check.status is Status.PASS:
        run.discard(run.folder)
    return outcome_of(run, [check], time.monotonic() - begun, _EXPLANATION, check.facts)


def _saved(run: Run, source: Source, name: str) -> Path:
    """Save the guest, and return the file."""
    folder = run.folder / name
    folder.mkdir()
    run.say(f"{name}: saving and judging.")
    machine, path = source.guest.machine, folder / "vmstate"
    machine.qmp.execute("stop")
    migration.complete_save(machine, migration.exec_sink(path), run.deadline.at_most(SMALL_SAVE_SECONDS))
    machine.qmp.execute("cont")
    return path


def judge_remains(name: str, way: Way, path: Path, bare: bool) -> list[Problem]:
    """Return what is wrong with the judgement on a file whose agent had gone."""
    fields = {"way": name}
    problems = [
        Problem(Code.REMAINS_BLAMED, f"{name}: the file fails: {violation.sentence}", fields)
        for violation in check_file(path).violations[:1]
    ]
    order = _order(check_file(path, agent_ran=True))
    if way.wipes and order.status is not Status.SKIP:
        sentence = f"{name}: pages of the agent are left in RAM: {_words(order)}"
        problems.append(Problem(Code.REMAINS_BLAMED, sentence, fields))
    if not way.wipes and not bare and order.status is not Status.FAIL:
        sentence = f"{name}: the agent is said to have run, and its lost pages pass: {_words(order)}"
        problems.append(Problem(Code.REMAINS_EXCUSED, sentence, fields))
    return problems


def _judge_lost(run: Run, source: Source) -> list[Problem]:
    """Lose the control page in the file of an agent that writes, and look whether that is seen."""
    path = _saved(run, source, "lost")
    problems = []
    right = check_file(path)
    if right.status is not Status.PASS or _order(right).status is not Status.PASS:
        problems.append(
            Problem(Code.REMAINS_BLAMED, f"The file of an agent that writes fails: {_words(_order(right))}")
        )
    lose_control_page(path)
    for known in (False, True):
        order = _order(check_file(path, agent_ran=known))
        codes = [violation.code for violation in order.violations]
        if codes != [Code.WRITE_ORDER_NO_CONTROL_PAGE]:
            sentence = f"The control page of an agent that writes is lost, and not missed: {_words(order)}"
            problems.append(Problem(Code.REMAINS_EXCUSED, sentence, {"way": "lost"}))
    return problems


def lose_control_page(path: Path) -> None:
    """Overwrite the agent's control pages in a plain stream with zeros."""
    with open_stream(path) as opened:
        index = read_index(opened.source, opened.start, opened.ends_file)
        controls = scan_agent(PageReader(opened.source, index)).controls
        places = [int(index.blocks[page.block].page_source[page.page]) for page in controls]
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(bytes(PAGE_BYTES))


def _order(verdict: Verdict) -> CheckResult:
    order = verdict.check("write-order")
    assert order is not None, "a file is judged by its write order"
    return order


def _words(order: CheckResult) -> str:
    """Return what a check of the write order says, in words."""
    said = order.reason or "; ".join(violation.sentence for violation in order.violations[:1])
    return f"{order.status.value}. {said}".strip()
