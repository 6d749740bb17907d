"""Contract: the model says what run state and which ends of a save the steps imply, and nothing else."""

from __future__ import annotations

import pytest

from tests_functional.explore.model import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PANICKED,
    PAUSED,
    PRELAUNCH,
    RUNNING,
    SHUTDOWN,
    SUSPENDED,
    Model,
    Writers,
)


@pytest.mark.parametrize(
    ("state", "stopped", "continued", "reset"),
    [
        (RUNNING, PAUSED, RUNNING, RUNNING),
        (PAUSED, PAUSED, RUNNING, PRELAUNCH),
        (PRELAUNCH, PRELAUNCH, RUNNING, PRELAUNCH),
        (PANICKED, PANICKED, RUNNING, PRELAUNCH),
        (SHUTDOWN, SHUTDOWN, SHUTDOWN, PRELAUNCH),
    ],
)
def test_run_states(state: str, stopped: str, continued: str, reset: str) -> None:
    """Each of stop, cont and reset leads from each run state to the one that QEMU's source says."""
    model = Model(run_state=state)
    assert model.stopped().run_state == stopped
    assert model.continued().run_state == continued
    assert model.reset().run_state == reset
    assert model.reset().writers is Writers.GONE


def test_a_save_completes_unless_a_step_lets_it_end_otherwise() -> None:
    """A save may only have completed; a cancel adds one end, and completing before it stays possible."""
    model = Model().begun(RUNNING)
    assert model.save is not None
    assert model.save.ends == {COMPLETED}
    cancelled = model.may_end(*model.save.ends, CANCELLED)
    assert cancelled.save is not None
    assert cancelled.save.ends == {COMPLETED, CANCELLED}
    both = cancelled.may_end(*cancelled.save.ends, FAILED)
    assert both.save is not None
    assert both.save.ends == {COMPLETED, CANCELLED, FAILED}


def test_the_guest_of_t0_is_gone_after_a_reset_or_other_writers() -> None:
    """The writers of T0 go on after stop and cont, and not after a reset or with another pattern."""
    model = Model().begun(RUNNING)
    same = model.stopped().continued()
    assert same.save is not None
    assert same.save.same_guest
    for other in (model.reset(), model.other_writers()):
        assert other.save is not None
        assert not other.save.same_guest
    assert model.other_writers().writers is Writers.ON
    assert model.reset().served().writers is Writers.ON


def test_a_stopped_guest_has_run_once_it_is_continued() -> None:
    """Whether the writers must have written during a save follows from the run states since T0."""
    still = Model(run_state=PAUSED).begun(PAUSED)
    assert still.save is not None
    assert not still.save.ran
    gone_on = still.continued().stopped()
    assert gone_on.save is not None
    assert gone_on.save.ran
    live = Model().begun(RUNNING)
    assert live.save is not None
    assert live.save.ran


def test_a_guest_that_slept_begins_anew() -> None:
    """S3 stops a guest in mid-save, and waking it up is a restart: other writers than those of T0."""
    asleep = Model().begun(RUNNING).in_state(SUSPENDED)
    assert asleep.save is not None
    assert asleep.save.same_guest
    woken = asleep.woken()
    assert (woken.run_state, woken.writers) == (RUNNING, Writers.GONE)
    assert woken.save is not None
    assert not woken.save.same_guest


def test_an_early_save_is_one_until_ram_moves() -> None:
    """What is done before T0 is known to be past is another state than what is done after it."""
    early = Model().begun(RUNNING, early=True)
    assert early.save is not None
    assert early.save.early
    moving = early.moving()
    assert moving.save is not None
    assert not moving.save.early
    assert moving == Model().begun(RUNNING)
    assert Model().moving() == Model()


def test_words_tell_the_states_of_a_save_apart() -> None:
    """Coverage counts a step once for each state of the save, of the guest and of its writers."""
    model = Model()
    saving = model.begun(RUNNING)
    assert saving.save is not None
    states = [
        model,
        saving,
        saving.stalled(True),
        model.begun(RUNNING, early=True),
        saving.may_end(CANCELLED),
        Model(run_state=PAUSED).begun(PAUSED),
        saving.ended(),
        model.stopped(),
        model.reset(),
    ]
    assert len({state.words for state in states}) == len(states)
    assert saving.stalled(True).stalled(False).words == saving.words
    assert saving.ended().save is None
