"""Contract: time limits grow with the patience asked for, nested ones once; a wrong factor is an error."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from harness.deadline import PATIENCE_VARIABLE, Deadline, more_patience, patience, patient, read_patience
from harness.errors import DeadlineExpired, UsageError


@pytest.fixture(autouse=True)
def _usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PATIENCE_VARIABLE, raising=False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stop the clock of deadlines at the only number in the list."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_usual_limits(clock: list[float]) -> None:
    """Without a factor a deadline takes the seconds that it was given."""
    limit = Deadline(10)
    clock[0] += 4
    assert (limit.seconds, limit.remaining(), limit.expired) == (10, 6, False)
    clock[0] += 6
    assert (limit.remaining(), limit.expired) == (0, True)


def test_limits_grow(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor multiplies a limit once, however deep it is handed down."""
    monkeypatch.setenv(PATIENCE_VARIABLE, "3")
    whole = Deadline(10)
    assert (whole.seconds, whole.remaining(), patient(7)) == (30, 30, 21)
    step = whole.at_most(2)
    assert (step.seconds, step.remaining()) == (6, 6)
    clock[0] += 1
    inner = step.at_most(100)
    assert (inner.seconds, inner.remaining()) == (5, 5)
    assert inner.at_most(1).seconds == 3
    clock[0] += 5
    assert (inner.expired, step.expired, whole.remaining()) == (True, True, 24)


@pytest.mark.parametrize("factor", ["", "1"])
def test_steps_end_with_the_whole(factor: str, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes no longer than what it is a step of."""
    monkeypatch.setenv(PATIENCE_VARIABLE, factor)
    whole = Deadline(10)
    clock[0] += 7
    assert [(step.seconds, step.remaining()) for step in (whole.at_most(2), whole.at_most(8))] == [
        (2, 2),
        (3, 3),
    ]
    clock[0] += 7
    assert whole.at_most(2).expired


def test_sentence_says_how_long_it_was(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to a person is the time that has passed."""
    monkeypatch.setenv(PATIENCE_VARIABLE, "4")
    limit = Deadline(5)
    clock[0] += 20
    with pytest.raises(DeadlineExpired, match=r"The boot did not happen within 20 s\."):
        limit.check("The boot")


@pytest.mark.parametrize("factor", ["fast", "0", "0.99", "-2", "nan", "inf", "1001"])
def test_wrong_factor(factor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor that is none, or would make limits shorter or endless, is the user's error."""
    monkeypatch.setenv(PATIENCE_VARIABLE, factor)
    with pytest.raises(UsageError, match=f"SNAPPROOF_PATIENCE is '{factor}'.* from 1 to 1000") as caught:
        Deadline(1)
    assert caught.value.status.value == "ERROR"
    with pytest.raises(ValueError):
        read_patience(factor)


@pytest.mark.parametrize("factor", ["1", "2.5", "1000"])
def test_right_factor(factor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both bounds can be given."""
    monkeypatch.setenv(PATIENCE_VARIABLE, factor)
    assert patience() == read_patience(factor) == float(factor)


def test_factor_holds_in_processes_and_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run in processes of their own, which have it too; afterwards all is as before."""
    program = "from harness.deadline import patience; print(patience())"
    with more_patience(2.5):
        inside = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert (inside.stdout, patience()) == ("2.5\n", 2.5)
    assert PATIENCE_VARIABLE not in os.environ
    monkeypatch.setenv(PATIENCE_VARIABLE, "7")
    with pytest.raises(KeyError), more_patience(2):
        assert patience() == 2
        raise KeyError
    with more_patience(None):
        assert patience() == 7
    assert os.environ[PATIENCE_VARIABLE] == "7"
