"""Models a guest and its QEMU: what run state, end of a save and settings each step implies.

The model is changed by the steps alone, never by what QEMU does.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

RUNNING, PAUSED, PRELAUNCH = "running", "paused", "prelaunch"
PANICKED, SHUTDOWN, SUSPENDED = "guest-panicked", "shutdown", "suspended"
"""Run states, as `query-status` names them."""

COMPLETED, CANCELLED, FAILED = "completed", "cancelled", "failed"
"""How a save may end, as `query-migrate` names it."""

SAVEABLE = (RUNNING, PAUSED)
"""Run states in which a background snapshot can be taken; in others it aborts QEMU (F24)."""


class Writers(enum.Enum):
    """What the guest's writers do."""

    ON = "on"
    GONE = "gone"
    """The guest was reset, or has ended them: its agent waits for commands."""


@dataclass(frozen=True)
class SaveModel:
    """A background snapshot that has been begun.

    Attributes:
        state_at_t0: the guest's run state then.
        ends: how it may end.
        stalled: whether its sink stands still.
        same_guest: whether the guest's writers have gone on since T0.
        ran: whether the guest may have run after T0.
        early: whether T0 may not be past yet, so that what is done may be before it.
    """

    state_at_t0: str
    ends: frozenset[str] = frozenset({COMPLETED})
    stalled: bool = False
    same_guest: bool = True
    ran: bool = True
    early: bool = False


@dataclass(frozen=True)
class Model:
    """A guest and its QEMU, as they must be.

    Attributes:
        run_state: of the guest.
        writers: of the guest.
        save: the background snapshot that has been begun and not been waited for, None without one.
        saved: how many saves have ended before.
    """

    run_state: str = RUNNING
    writers: Writers = Writers.ON
    save: SaveModel | None = None
    saved: int = 0

    @property
    def save_words(self) -> str:
        """The state of the save in one word, for coverage."""
        if self.save is None:
            return "after" if self.saved else "before"
        if self.save.stalled:
            return "stalled"
        if self.save.early:
            return "early"
        if self.save.ends != {COMPLETED}:
            return "ending"
        return "saving" if self.save.state_at_t0 == RUNNING else "saving-stopped"

    @property
    def words(self) -> str:
        """The whole state in a few words, for coverage."""
        return f"{self.save_words}/{self.run_state}/{self.writers.value}"

    def stopped(self) -> Model:
        """Return the model after QMP `stop`: it stops a guest that runs, and leaves others as they are."""
        return replace(self, run_state=PAUSED) if self.run_state == RUNNING else self

    def continued(self) -> Model:
        """Return the model after QMP `cont`; QEMU refuses it for a guest that is off."""
        return self if self.run_state == SHUTDOWN else self._now(RUNNING)

    def reset(self) -> Model:
        """Return the model after `system_reset`.

        A guest that does not run is `prelaunch` afterwards (QEMU system/runstate.c, main_loop_should_exit()).
        """
        after = self if self.run_state == RUNNING else self._now(PRELAUNCH)
        save = replace(after.save, same_guest=False) if after.save else None
        return replace(after, writers=Writers.GONE, save=save)

    def in_state(self, run_state: str) -> Model:
        """Return the model after the guest itself has got into a run state."""
        return self._now(run_state)

    def woken(self) -> Model:
        """Return the model after a guest was woken up from S3: its processors begin as after a reset."""
        save = replace(self.save, same_guest=False) if self.save else None
        return replace(self._now(RUNNING), writers=Writers.GONE, save=save)

    def begun(self, run_state: str, early: bool = False) -> Model:
        """Return the model once a save has begun of a guest that was in a run state.

        Args:
            run_state: of the guest at T0.
            early: whether T0 may not be past yet.
        """
        runs = self.run_state == RUNNING
        return replace(self, save=SaveModel(run_state, ran=runs, early=early))

    def moving(self) -> Model:
        """Return the model once RAM is being saved, so that T0 is past."""
        return replace(self, save=replace(self.save, early=False)) if self.save else self

    def may_end(self, *ends: str) -> Model:
        """Return the model in which the save may end in these ways, besides having completed before."""
        assert self.save is not None
        return replace(self, save=replace(self.save, ends=frozenset({COMPLETED, *ends})))

    def stalled(self, stalled: bool) -> Model:
        """Return the model after the sink of the save has begun or ceased to stand still."""
        assert self.save is not None
        return replace(self, save=replace(self.save, stalled=stalled))

    def ended(self) -> Model:
        """Return the model once a save has ended."""
        return replace(self, save=None, saved=self.saved + 1)

    def other_writers(self) -> Model:
        """Return the model once the guest has ended its writers, to start others."""
        save = replace(self.save, same_guest=False) if self.save else None
        return replace(self, save=save)

    def ended_writers(self) -> Model:
        """Return the model once the guest has ended its writers; others start when nothing is saved."""
        return replace(self.other_writers(), writers=Writers.GONE)

    def served(self) -> Model:
        """Return the model once the guest's writers write again."""
        return replace(self, writers=Writers.ON)

    def _now(self, run_state: str) -> Model:
        ran = run_state == RUNNING
        save = replace(self.save, ran=self.save.ran or ran) if self.save else None
        return replace(self, run_state=run_state, save=save)
