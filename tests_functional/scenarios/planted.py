"""Live planted faults: a QEMU that breaks the promise, and the run that must catch it."""

from __future__ import annotations

from dataclasses import replace

from guest_images.cache import Cache, default_cache_folder
from harness.status import Status
from tests_functional.scenarios.main_job import one_flow
from tests_functional.scenarios.outcome import Outcome
from tests_functional.scenarios.run import Run
from tests_functional.scenarios.snapshot import Flow
from validators.live_faults.wrapper import faulty_qemu

_CATCHING_CHECK = "write-order"


def planted_drop_protection(run: Run) -> Outcome:
    """Let write protection fail silently for a part of RAM; the write-order oracle must see it."""
    wrapper = faulty_qemu("drop_protection", run.stack.executable, Cache(default_cache_folder()), run.say)
    faulty = replace(run, stack=replace(run.stack, executable=wrapper))
    outcome = one_flow(Flow.LIVE)(faulty)
    violations = [
        violation
        for check in outcome.checks
        if check["name"].endswith(_CATCHING_CHECK)
        for violation in check["violations"]
    ]
    newer = [violation for violation in violations if "newer" in violation["sentence"]]
    if outcome.status is Status.FAIL and newer:
        run.discard(run.folder)
        sentence = f"The planted fault was caught: {newer[0]['sentence']}"
        return replace(outcome, status=Status.PASS, sentence=sentence, checks=())
    sentence = (
        f"The planted fault went unseen: with write protection dropped the run ended as "
        f"{outcome.status.value}, without naming a page from after T0 ({outcome.sentence})"
    )
    return replace(outcome, status=Status.FAIL, sentence=sentence)
