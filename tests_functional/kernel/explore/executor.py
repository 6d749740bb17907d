"""Takes a list of memory operations and returns what it found."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Callable

from .acts import ACTS
from .memory import Page
from .session import Binding, NoVerdict, Session, Wrong
from .steps import MemoryList
from .watch import Watch

_SAMPLES = 12

Progress = Callable[[int], None]
"""Called with the number of a step before it is taken."""


@dataclass(frozen=True)
class Setting:
    """What lists run with on this host, beside what they say themselves.

    Attributes:
        kernel_faults: whether accesses in the kernel can be answered.
        binding: makes the userfaultfd, None for the real one.
        watcher: answers events.
    """

    kernel_faults: bool = True
    binding: Binding | None = None
    watcher: type[Watch] = Watch


@dataclass
class Record:
    """What a list has shown.

    Attributes:
        code: of what is wrong, empty for nothing.
        sentence: says it, or why there is no verdict.
        fields: what belongs to the code.
        at: number of the step after which it showed; the number of steps for the checks at the end.
        checked: comparisons of pages with the model.
        seconds: how long it took.
        reached: what its steps have reached.
        error: whether there is no verdict.
    """

    code: str = ""
    sentence: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    at: int = -1
    checked: int = 0
    seconds: float = 0.0
    reached: list[str] = field(default_factory=list)
    error: bool = False

    @property
    def signature(self) -> str:
        """What tells one cause from another: code and kind of memory."""
        return " ".join(filter(None, (self.code, str(self.fields.get("kind", "")))))

    def to_json(self) -> dict[str, Any]:
        """Return its JSON form, which the constructor takes."""
        return asdict(self)


def run_list(steps: MemoryList, setting: Setting, progress: Progress = lambda _: None) -> Record:
    """Take the steps of a list in this process, checking all pages after each of them.

    Only the kernel's faults and limits become a record; an error of our own is raised.
    """
    begun, record, session = time.monotonic(), Record(), None
    try:
        session = Session(
            steps.monitor,
            kernel_faults=setting.kernel_faults,
            binding=setting.binding,
            watcher=setting.watcher,
        )
        for number, step in enumerate(steps.steps):
            progress(number)
            record.at = number
            session.begin(step.kind, session.pages(step.arguments) if "on" in step.arguments else ())
            ACTS[step.kind](session, step.arguments)
            session.check()
            record.checked += sum(map(len, session.memory.kinds.values()))
        progress(len(steps.steps))
        record.at = len(steps.steps)
        session.finish(_samples(steps, session))
    except Wrong as wrong:
        record.code, record.sentence, record.fields = wrong.code, str(wrong), wrong.fields
    except NoVerdict as reason:
        record.sentence, record.error = str(reason), True
    finally:
        if session is not None:
            session.close()
            record.reached = sorted(session.reached)
    record.seconds = time.monotonic() - begun
    return record


def _samples(steps: MemoryList, session: Session) -> Sequence[Page]:
    """Return pages to write to at the end: ends of the ranges of steps, their neighbours, and others."""
    chosen: list[Page] = []
    for name, pages in session.memory.kinds.items():
        edges = {
            edge
            for step in steps.steps
            if step.arguments.get("on") == name
            for first in [step.arguments.get("first", 0)]
            for last in [first + step.arguments.get("count", len(pages)) - 1]
            for edge in (first - 1, first, last, last + 1)
        }
        near = [page for page in pages if page.number in edges]
        chance = random.Random(len(steps.steps))
        chosen += chance.sample(near, min(_SAMPLES, len(near)))
        others = [page for page in pages if page.number not in edges]
        chosen += chance.sample(others, min(_SAMPLES // 3, len(others)))
    return chosen
