"""A runner that is interrupted, by one signal or several, leaves the host's settings as they were."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_functional.kernel import prepare
from tests_functional.kernel.explore import __main__ as lists
from tests_functional.kernel.interruption import SIGNALS, held, interrupt_once
from tests_functional.kernel.prepare import KSM, Preparation


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # A CI system may run the tests below `nohup`.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two settings that stand for those of the host, both 0."""
    found = [tmp_path / "one", tmp_path / "two"]
    for path in found:
        path.write_text("0")
    monkeypatch.setattr(prepare, "_SETTINGS", {"hugetlb": (found[0], "32"), KSM: (found[1], "1")})
    return found


def _after_writes(monkeypatch: pytest.MonkeyPatch, value: str, *numbers: int) -> None:
    """Send this process signals whenever a file has got a value."""
    write = Path.write_text

    def then_signals(path: Path, data: str) -> int:
        written = write(path, data)
        if data == value:
            for number in numbers:
                os.kill(os.getpid(), number)
        return written

    monkeypatch.setattr(Path, "write_text", then_signals)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_second_signal_does_not_stop_the_restoring(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    """Ctrl-C comes to the runner, and SIGTERM from its parent in the midst of restoring."""
    interrupt_once()
    _after_writes(monkeypatch, "0", second)
    with pytest.raises(KeyboardInterrupt), Preparation({"hugetlb", KSM}, print):
        assert [path.read_text() for path in files] == ["32", "1"]
        os.kill(os.getpid(), first)
    assert [path.read_text() for path in files] == ["0", "0"]


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_during_the_end_of_a_whole_run(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """All is restored before it interrupts."""
    interrupt_once()
    _after_writes(monkeypatch, "0", number)
    with pytest.raises(KeyboardInterrupt), Preparation({"hugetlb", KSM}, print):
        pass
    assert [path.read_text() for path in files] == ["0", "0"]


@pytest.mark.parametrize("value", ["32", "1"])
def test_signal_during_the_setting_up(files: list[Path], monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """What was set is set back, though the block was never entered."""
    interrupt_once()
    _after_writes(monkeypatch, value, signal.SIGTERM, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Preparation({"hugetlb", KSM}, print):
        pytest.fail("It was entered.")
    assert [path.read_text() for path in files] == ["0", "0"]


def test_error_during_the_setting_up(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of our own leaves nothing changed either."""

    def broken(_self: Preparation) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(Preparation, "_swap_on", broken)
    with pytest.raises(ValueError, match="broken"), Preparation({"hugetlb", KSM, "swap"}, print):
        pytest.fail("It was entered.")
    assert [path.read_text() for path in files] == ["0", "0"]


def test_setting_that_cannot_be_restored_is_said(files: list[Path]) -> None:
    """The others are restored."""
    told: list[str] = []
    with Preparation({"hugetlb", KSM}, told.append):
        files[0].unlink()
        files[0].mkdir()
    assert files[1].read_text() == "0"
    assert len(told) == 1
    assert "cannot be set back to '0'" in told[0]


def test_held_signal_comes_afterwards() -> None:
    """It is neither lost nor early, and one that is ignored stays ignored."""
    interrupt_once()
    done = False
    with pytest.raises(KeyboardInterrupt), held():
        os.kill(os.getpid(), signal.SIGHUP)
        done = True
    assert done
    with held():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_nohup_stays() -> None:
    """A runner that was started with SIGHUP ignored goes on ignoring it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt_once()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


@pytest.mark.parametrize(("prepare_it", "ksm"), [(False, False), (True, False), (True, True), (False, True)])
def test_pace_of_ksm_changes_with_ksm_alone(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare_it: bool, ksm: bool
) -> None:
    """A host on which KSM runs keeps its pace without --ksm; with it, the pace goes down and comes back."""
    pace = tmp_path / "sleep_millisecs"
    pace.write_text("20")
    monkeypatch.setattr(lists, "_FAST_KSM", {pace: "1"})
    monkeypatch.setattr(lists, "_PREPARED", ("hugetlb",))
    files[1].write_text("1")
    with lists.preparation(prepare_it, ksm):
        assert pace.read_text() == ("1" if ksm else "20")
        assert files[0].read_text() == ("32" if prepare_it or ksm else "0")
    assert (pace.read_text(), files[1].read_text()) == ("20", "1")
