"""Puts every device that a QEMU has through a background snapshot, and compares with the baseline."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from harness.codes import Code
from harness.errors import NotApplicable, SetupBroken
from harness.qemu import migration
from harness.qemu.configuration import type_of
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.devices.backends import Candidate, candidates, wanted
from tests_functional.devices.baseline import Baseline, load_baseline
from tests_functional.devices.creation import create
from tests_functional.devices.listing import ALL, Listing, TypeUnusable, list_devices
from tests_functional.devices.passage import MACHINE_ALONE, End, Passage, put_through
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.known_issues import load_known_issues
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_RIGHT = "A guest with the device is saved, restored, has the same device state, and goes on."
_SWEEP = "The sweep creates the devices that QEMU has."
_HOLDS = "A background snapshot keeps the state of every device that could be put into the guest."

# RAM of the guest in MiB, and the share of it that is written: the agent itself takes a few MiB.
_RAM_MIB, _COVERAGE = 32, 0.5
# Devices in one guest. A machine has about 30 PCI slots, of which a device with its controller takes two.
_TOGETHER = 8
_PASSAGE_SECONDS = 120.0
# Of the devices that the machine has a bus for; the least that was measured is 0.7.
_LEAST_CREATED = 0.3

DEVICES_FILE = "devices.json"
"""What became of each device, in the test's folder."""


def sweep(pattern: str) -> Callable[[Run], Outcome]:
    """Return the scenario that puts the devices whose name matches a shell pattern through a snapshot."""
    return lambda run: _Sweep(run, pattern).outcome()


@dataclass
class _Sweep:
    """A sweep under way."""

    run: Run
    pattern: str
    passages: list[Passage] = field(default_factory=list)
    # Of no single device: of the machine alone, and of devices that are wrong only together.
    others: list[Passage] = field(default_factory=list)
    explained: Counter[str] = field(default_factory=Counter)
    guests: int = 0
    sections: frozenset[str] = frozenset()

    def outcome(self) -> Outcome:
        begun = time.monotonic()
        if not self.run.stack.image.bare:
            raise NotApplicable("Devices are swept in bare guests, hundreds of which boot in minutes.")
        stack = replace(self.run.stack, ram_mib=_RAM_MIB, coverage=_COVERAGE, vcpus=1)
        self.run = replace(self.run, stack=stack)
        listing = self._list()
        found = [one for one in candidates(listing) if fnmatchcase(one.label, self.pattern)]
        self.run.say(f"{len(found)} devices; trying which of them QEMU creates.")
        created = [one for one in found if self._created(one)]
        self._require_enough(created)
        self.run.say(f"{len(created)} can be created and saved; putting them into guests.")
        self._judge_machine()
        for devices in self._batches(created):
            self._judge(devices)
        return self._finish(begun)

    def _list(self) -> Listing:
        config = replace(self.run.stack, extra=(*self.run.stack.extra, "-S")).machine_config()
        unusable: set[str] = set()
        ask = wanted(self.pattern)
        while True:
            folder = self.run.folder / f"listing-{len(unusable)}"
            try:
                with SpawnedMachine(config, folder) as machine:
                    migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
                    listing = list_devices(machine, lambda name: ask(name) and name not in unusable)
                    machine.quit()
                return listing
            except TypeUnusable as error:
                # It is tried as it is: QEMU says then why it does not create it.
                unusable.add(error.name)

    def _created(self, one: Candidate) -> bool:
        """Return whether a device can be put into a guest that is saved; note why, if not."""
        if one.impossible:
            self.passages.append(Passage(one.label, End.IMPOSSIBLE, one.impossible))
            return False
        folder = self.run.folder / "creation" / one.label
        result = create(self.run.stack, one, folder)
        shutil.rmtree(folder)
        if not result.created:
            self.passages.append(Passage(one.label, End.NOT_CREATED, result.words))
        elif result.refusal:
            self.passages.append(Passage(one.label, End.REFUSED, result.refusal))
        return result.created and not result.refusal

    def _require_enough(self, created: Sequence[Candidate]) -> None:
        """Check that the sweep itself works.

        Raises:
            SetupBroken: QEMU creates too few of the devices that the machine has a bus for.
        """
        ends = Counter(passage.end for passage in self.passages)
        made = len(created) + ends[End.REFUSED]
        tried = made + ends[End.NOT_CREATED]
        if not made or made < tried * _LEAST_CREATED:
            words = next((one.words for one in self.passages if one.end is End.NOT_CREATED), "no device")
            raise SetupBroken(
                f"QEMU creates {made} of the {tried} devices that its machine has a bus for, so this sweep "
                f"shows nothing; the first that it did not create: {words}"
            )

    def _batches(self, created: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
        """Yield devices that share a guest; one of which a defect is known has a guest of its own."""
        issues = [issue for issue in load_known_issues() if issue.listed_seen(self.version)]
        known = {one.label for one in created if any(issue.concerns(_check(one.label)) for issue in issues)}
        yield from ([one] for one in created if one.label in known)
        others = [one for one in created if one.label not in known]
        batches = -(-len(others) // _TOGETHER)
        # Neighbours in the list are alike, and claim the same names, ports and slots.
        yield from (others[number::batches] for number in range(batches))

    def _judge_machine(self) -> None:
        """Put a guest without further devices through, whose sections are the machine's own.

        Raises:
            SetupBroken: it did not get to its end, so no device would.
        """
        _, passage = self._put_through([], background=True)
        wrong = self.baseline.unexplained(passage.problems)
        if not passage.sections:
            words = passage.words or _sentences(passage)
            raise SetupBroken(f"A guest of this machine without further devices is not saved: {words}")
        self._note_explained(passage.problems)
        self.others.append(replace(passage, end=End.WRONG if wrong else End.RIGHT, problems=wrong))
        self.sections = passage.sections

    def _judge(self, devices: Sequence[Candidate]) -> None:
        """Put devices into one guest; if something is wrong, halve them until one is left."""
        folder, passage = self._put_through(devices, background=True)
        wrong = self.baseline.unexplained(passage.problems)
        if passage.end in (End.RIGHT, End.WRONG) and not wrong:
            self._note_explained(passage.problems)
            self.passages += [Passage(device.label) for device in devices]
            return
        if len(devices) == 1:
            self._note_single(devices[0], passage, wrong)
            return
        before = self._count_wrong()
        middle = len(devices) // 2
        self._judge(devices[:middle])
        self._judge(devices[middle:])
        if wrong and before == self._count_wrong():
            # Each half is right, and together they are not.
            self.others.append(replace(passage, end=End.WRONG, problems=wrong))
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def _count_wrong(self) -> int:
        return sum(one.end is End.WRONG for one in (*self.passages, *self.others))

    def _note_single(self, device: Candidate, passage: Passage, wrong: list[Problem]) -> None:
        """Note what became of a device; compare with an ordinary save if it is wrong."""
        self._note_explained(one for one in passage.problems if one not in wrong)
        if wrong:
            _, control = self._put_through([device], background=False)
            wrong = [_with_control(problem, control) for problem in wrong]
            for problem in wrong:
                self.run.say(f"{device.label}: {problem.code}: {problem.sentence}")
        self.passages.append(replace(passage, problems=wrong))

    def _put_through(self, devices: Sequence[Candidate], *, background: bool) -> tuple[Path, Passage]:
        """Return the folder of a passage, which is there if something is wrong, and what it came to."""
        self.guests += 1
        folder = self.run.folder / (f"guest-{self.guests}" if devices else MACHINE_ALONE)
        limit = self.run.deadline.at_most(_PASSAGE_SECONDS)
        passage = put_through(
            self.run.stack,
            devices,
            folder,
            self.run.seed,
            limit,
            background=background,
            machine=self.sections,
        )
        right = passage.end is not End.WRONG or not self.baseline.unexplained(passage.problems)
        if right and not self.run.keep:
            shutil.rmtree(folder)
        return folder, passage

    def _note_explained(self, problems: Iterable[Problem]) -> None:
        """Count a guest for each reason of the baseline that explains one of its differences."""
        reasons = {found.name for one in problems if (found := self.baseline.reason(one))}
        self.explained.update(reasons)

    def _finish(self, begun: float) -> Outcome:
        """Write what became of each device, compare with the baseline, and return the outcome."""
        ends = Counter(passage.end for passage in self.passages)
        lines = [
            {"device": one.label, "end": one.end.value, "words": one.words or _sentences(one)}
            for one in sorted((*self.passages, *self.others), key=lambda one: one.label)
        ]
        (self.run.folder / DEVICES_FILE).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
        created = sum(ends[end] for end in (End.RIGHT, End.WRONG, End.REFUSED))
        said = self._compared(created)
        for sentence in said:
            self.run.say(sentence)
        counts: dict[str, int | float | str] = {end.name.lower(): ends[end] for end in End}
        reasons = {f"explained: {name}": count for name, count in sorted(self.explained.items())}
        facts = {**counts, **reasons, **{f"said {n}": text for n, text in enumerate(said, 1)}}
        checks = [judged("devices/sweep", _SWEEP, [], facts)]
        checks += [
            _judged(one) for one in (*self.others, *self.passages) if one.end in (End.RIGHT, End.WRONG)
        ]
        figures = {**counts, "created": created, "guests": self.guests}
        return outcome_of(self.run, checks, time.monotonic() - begun, _HOLDS, figures)

    def _compared(self, created: int) -> list[str]:
        """Return what a whole sweep has to say about the baseline."""
        if self.pattern != ALL:
            return []
        said = [
            f"The baseline's reason '{one.name}' explained nothing here; it is stale."
            for one in self.baseline.explained
            if not one.sometimes and one.name not in self.explained
        ]
        expected = self.baseline.created
        if expected is not None and created != expected:
            said.append(f"QEMU creates {created} devices, {expected} by the baseline.")
        return said

    @property
    def version(self) -> str:
        """The version of QEMU, as `query-version` has it."""
        return str(self.run.host_environment.get("qemu", ""))

    @cached_property
    def baseline(self) -> Baseline:
        """The part of the baseline that applies to this QEMU and machine type."""
        return load_baseline(self.version, type_of(self.run.stack.machine), self.run.stack.accel)


def _with_control(problem: Problem, control: Passage) -> Problem:
    """Return a problem with what an ordinary save of the same guest shows: the same, or not."""
    if problem.code is Code.DEVICES_NOT_AT_T0:
        # It compares a background snapshot with an ordinary save.
        return problem
    same = any(_about(one) == _about(problem) for one in control.problems)
    words = "An ordinary save shows the same." if same else "An ordinary save does not show it."
    fields = {**problem.fields, "control": "same" if same else "right"}
    return Problem(problem.code, f"{problem.sentence} {words}", fields)


def _about(problem: Problem) -> tuple[str, ...]:
    return (problem.code, *(str(problem.fields.get(name, "")) for name in ("field", "block")))


def _sentences(passage: Passage) -> str:
    return " ".join(problem.sentence for problem in passage.problems)


def _check(label: str) -> str:
    """Return the name of the check of a device, by which known issues have it."""
    return f"devices/{label}"


def _judged(passage: Passage) -> CheckResult:
    return judged(_check(passage.label), _RIGHT, passage.problems)
