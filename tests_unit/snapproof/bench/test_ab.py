"""Contract: the A/B gate stops as soon as it can decide, says what it found, and has exit codes for it."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken, UsageError
from snapproof.bench.ab import self_check as self_check_module
from snapproof.bench.ab.compared import Compared
from snapproof.bench.ab.gate import GatePlan, GateResult, run_gate
from snapproof.bench.ab.pairs import balanced_orders
from snapproof.bench.ab.statistics import RatioVerdict
from snapproof.bench.sides import TwoSides, comparable
from snapproof.cli.arguments.bench import percent
from snapproof.cli.command import main
from tests_unit.support.scenario_values import stack
from validators.faults.slow.wrapper import Slowdown, plant_slowdown, slow_qemu


@pytest.fixture(autouse=True)
def _restore_signals() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM, which the command replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


Measure = Callable[[int], tuple[float, float]]


def _pairs(ratio: float, spread: float, seed: int = 1) -> Measure:
    """Return pairs of a ratio whose logarithms have this standard deviation."""
    chance = random.Random(seed)
    return lambda _: (400.0, 400.0 * ratio * math.exp(chance.gauss(0, spread)))


@pytest.mark.parametrize(
    ("ratio", "spread", "verdict", "pairs", "code"),
    [
        (1.2, 0.02, RatioVerdict.WORSE, 10, 1),
        (1.0, 0.02, RatioVerdict.SAME, 10, 0),
        (0.8, 0.02, RatioVerdict.BETTER, 10, 0),
        (1.1, 0.02, RatioVerdict.UNDECIDED, 40, 2),
        (1.0, 0.15, RatioVerdict.SAME, 32, 0),
        (1.0, 0.0, RatioVerdict.SAME, 10, 0),
    ],
)
def test_gate(ratio: float, spread: float, verdict: RatioVerdict, pairs: int, code: int) -> None:
    """The gate measures more pairs only while the interval does not decide."""
    told: list[str] = []
    result = run_gate(GatePlan(1.1, 10, 40), _pairs(ratio, spread), told.append)
    assert (result.verdict, result.found.pairs, result.exit_code) == (verdict, pairs, code)
    assert len(result.a) == len(result.b) == pairs
    assert told[-1].endswith(f"{verdict.value}.")
    assert result.to_json()["verdict"] == verdict.value


def test_undecided_says_what_would_decide() -> None:
    """The sentence gives the number of further pairs; none if the ratio is at the limit."""
    result = run_gate(GatePlan(1.1, 10, 10), _pairs(1.05, 0.1))
    assert result.verdict is RatioVerdict.UNDECIDED
    assert "more pairs (--max-pairs" in result.sentence()
    result = run_gate(GatePlan(1.1, 10, 10), lambda pair: (1.0, 1.0 if pair % 2 else 1.21))
    assert "not even 500 pairs are likely to decide" in result.sentence()


def test_seldom_but_much_slower_is_told() -> None:
    """Single slow saves of B do not change the verdict, but there is a warning."""
    result = run_gate(GatePlan(1.1, 20, 20), lambda pair: (100.0, 600.0 if pair == 5 else 100.0))
    assert result.verdict is RatioVerdict.SAME
    assert "took 25.0 % more than A in all" in result.warning()
    assert run_gate(GatePlan(1.1, 10, 10), _pairs(1.0, 0.02)).warning() == ""
    assert run_gate(GatePlan(1.1, 10, 10), _pairs(1.5, 0.02)).warning() == ""


def test_pairs_are_kept_whatever_ends_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the tenth save fails, ab.json has four pairs and no verdict."""
    figures = iter([*[100.0] * 9, None])

    class Failing:
        def figure(self, _metric: str, _folder: Path) -> float:
            value = next(figures)
            if value is None:
                raise SetupBroken("The save failed.")
            return value

    compared = Compared(TwoSides(Failing(), Failing(), common=True), {}, {}, {}, "A", "B", "guest")  # type: ignore[arg-type]
    monkeypatch.setattr("snapproof.bench.ab.command.compared_qemus", lambda *_: nullcontext(compared))
    assert main(["bench", "ab", "--results", str(tmp_path / "results")]) == 2
    assert "The save failed." in capsys.readouterr().err
    found = json.loads((tmp_path / "results" / "ab.json").read_text())
    assert found["ended_by"] == "The save failed."
    assert found["pairs_taken"] == [[0, 100.0, 100.0]] * 4
    assert "result" not in found


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_figure_without_a_ratio(value: float) -> None:
    """A figure of 0, such as QEMU's downtime in whole milliseconds, is refused."""
    assert comparable(0.5, "downtime") == 0.5
    with pytest.raises(SetupBroken, match="'stun' is measured in microseconds"):
        comparable(value, "downtime")


def test_one_outlier_does_not_decide() -> None:
    """A single save that took ten times as long does not change the verdict."""
    even = _pairs(1.0, 0.02)
    result = run_gate(GatePlan(1.1, 10, 40), lambda pair: (400.0, 4000.0) if pair == 3 else even(pair))
    assert result.verdict is RatioVerdict.SAME


@pytest.mark.parametrize(("first", "last"), [(10, 9), (5, 40), (0, 3)])
def test_plans_that_cannot_work(first: int, last: int) -> None:
    """Fewer pairs than an interval needs are refused before anything is booted."""
    with pytest.raises(UsageError):
        GatePlan(1.1, first, last)


def test_orders_are_balanced() -> None:
    """Two successive pairs begin one with A and one with B, in random order."""
    orders = list(islice(balanced_orders(random.Random(3)), 40))
    assert all(one != other for one, other in zip(orders[::2], orders[1::2], strict=True))
    assert len(set(orders[::2])) == 2
    assert orders == list(islice(balanced_orders(random.Random(3)), 40))


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("2.5%", 0.025), ("100%", 1.0)])
def test_percent(text: str, share: float) -> None:
    """A share is given in percent."""
    assert percent(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["10", "0%", "-5%", "nan%", "inf%", "%", "1e9%", "ten%"])
def test_percent_refuses(text: str) -> None:
    """A text that is not a share in percent, or is out of range, is refused."""
    with pytest.raises(ValueError, match=r".*"):
        percent(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metric", "size", "--plant-slowdown", "20%"], "No slowdown can be planted for --metric size"),
        (["--self-check", "0"], "--self-check compares A with itself: give it a number above 0"),
        (["--self-check", "2", "--b", "qemu"], "leave --b out"),
        (["--pairs", "4"], "too few pairs for an interval; give --pairs"),
        (["--a", "/none/such"], "does not exist"),
        (["--results", "/proc/none"], "cannot be written"),
        (["--a", "vm:debian-12", "--b", "debian-13"], "A host cannot be compared with a QEMU"),
        (["--b", "local"], "A host cannot be compared with a QEMU"),
        (["--a", "vm:"], "names no VM"),
        (["--a", "local", "--ram", "512"], "--ram is about the guest on this host"),
        (["--a", "local", "--guest-needs", "100"], "--guest-needs is about the guest on this host"),
        (["--qemu", "debian-13"], "--qemu, --host-qemu and --host-accel are for hosts"),
        (["--host-accel", "kvm"], "name two QEMUs with --a and --b"),
        (["--max-pairs", "1100"], "give 500 at most"),
        (["--json", "/none/such/ab.json"], "There is no folder '/none/such'"),
        (["--a", "local", "--b", "vm:none-such"], "none-such"),
    ],
)
def test_wrong_arguments(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments are one sentence, before anything is booted."""
    assert main(["bench", "ab", *words]) == 2
    assert said in capsys.readouterr().err


def _prepared(accels: Iterator[str], capabilities: tuple[str, ...]) -> Callable[..., object]:
    """Return a stand-in for `prepare_stack` that fetches nothing."""

    def prepare(_arguments: object, folder: Path, _log: object) -> object:
        known = replace(stack(folder), accel=next(accels), capabilities=capabilities)
        return known, {"qemu": "1.2.3", "qemu_executable": "qemu"}

    return prepare


def test_qemu_without_background_snapshots(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If nothing can be measured, the exit code is 3."""
    monkeypatch.setattr("snapproof.bench.ab.compared.prepare_stack", _prepared(iter(["tcg"]), ("events",)))
    assert main(["bench", "ab"]) == 3
    said = capsys.readouterr()
    assert "Nothing was measured: QEMU 1.2.3 has no capability 'background-snapshot'." in said.err
    assert said.out == ""


def test_two_accelerators_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A QEMU under KVM is not compared with one under TCG."""
    accels = iter(["kvm", "tcg"])
    monkeypatch.setattr(
        "snapproof.bench.ab.compared.prepare_stack", _prepared(accels, ("background-snapshot",))
    )
    assert main(["bench", "ab", "--b", "other"]) == 2
    assert "A runs under kvm and B under tcg" in capsys.readouterr().err


def test_guest_too_small_for_writers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence says how much RAM is enough."""
    monkeypatch.setattr("snapproof.bench.ab.compared.prepare_stack", _prepared(iter(["tcg"]), ()))
    assert main(["bench", "ab", "--ram", "64"]) == 2
    assert "--ram 64 is too little for this guest; give" in capsys.readouterr().err


@pytest.mark.vm
@pytest.mark.timeout(1800)
def test_planted_slowdown_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The gate says WORSE and writes its figures for a real QEMU that sleeps as long as it works."""
    words = ["--plant-slowdown", "100%", "--pairs", "8", "--max-pairs", "8", "--ram", "128"]
    assert main(["bench", "ab", *words, "--results", str(tmp_path / "results")]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith("WORSE: ")
    found = json.loads((tmp_path / "results/ab.json").read_text())
    assert found["result"]["verdict"] == "worse"
    assert found["result"]["ratio"] == pytest.approx(2, rel=0.25)
    assert found["slept"]["share"] == pytest.approx(1, rel=0.05)


class _Compared:
    """A comparison whose gates have prescribed ratios."""

    class progress:  # noqa: N801
        """Do nothing."""

        done = staticmethod(lambda: None)

    def __init__(self, *ratios: tuple[float, float]) -> None:
        self._gates = [ratio for pair in ratios for ratio in pair]

    def slowed(self, _share: float) -> object:
        """Return a side without figures."""
        return _Slowed()

    def gate(self, _slow: object = None, number: int = 0) -> GateResult:
        """Return the result of the next gate."""
        return run_gate(GatePlan(1.1, 10, 10), _pairs(self._gates[number - 1], 0.01))


class _Slowed:
    def text(self) -> str:
        return "planted"

    def slept(self) -> dict[str, float]:
        return {"times": 3, "share": 0.2}


@pytest.mark.parametrize(
    ("ratios", "code", "last"),
    [
        ([(1.0, 1.2)] * 3, 0, "PASS: 0 false alarms in 3 gates of A against itself"),
        ([(1.0, 1.2), (1.2, 1.2)], 1, "FAIL: 1 false alarms in 2"),
        ([(1.0, 1.2), (1.0, 1.0)], 1, "slowdown was found in 1 of 2."),
    ],
)
def test_self_check(
    ratios: list[tuple[float, float]], code: int, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single false alarm or missed slowdown makes the self-check fail."""
    found, exit_code = self_check_module.self_check(_Compared(*ratios), len(ratios), 0.2)  # type: ignore[arg-type]
    assert exit_code == code
    assert last in capsys.readouterr().out.splitlines()[-1]
    assert len(found["same"]) == len(found["slowed"]) == len(ratios)


_WRITER = """
import os, time
out = os.open("/dev/null", os.O_WRONLY)
os.writev(out, [b"{magic}"])
begun = time.monotonic()
while time.monotonic() < begun + 0.3:
    os.writev(out, [bytes(1000)])
"""

_SENDER = """
import socket, threading, time
near, far = socket.socketpair()
def take():
    while far.recv(100_000):
        pass
threading.Thread(target=take, daemon=True).start()
near.sendmsg([b"{magic}"])
begun = time.monotonic()
while time.monotonic() < begun + 0.3:
    near.sendmsg([bytes(1000)])
"""


def _slept(folder: Path, magic: str, percent_more: int, program: str = _WRITER) -> Slowdown:
    """Run a program that writes for a moment, with the library preloaded."""
    slow = plant_slowdown(
        folder, Provisioning(Cache(folder / "cache"), lambda _: None), per_mille=10 * percent_more
    )
    wrapper = slow_qemu(Path(sys.executable), slow, folder)
    subprocess.run([wrapper, "-c", program.format(magic=magic)], check=True)
    return slow


@pytest.mark.parametrize("program", [_WRITER, _SENDER])
@pytest.mark.parametrize("percent_more", [20, 50])
def test_slow_save_sleeps_its_share(percent_more: int, program: str, tmp_path: Path) -> None:
    """The library sleeps for a share of the time in which a stream is written.

    A program that was held up for most of its 0.3 s has slept three times at most, and counts as none.
    """
    shares: list[float] = []
    for _ in range(8):
        slow = _slept(tmp_path, "QEVM", percent_more, program)
        shares += [slow.slept_share] if slow.acts > 3 else []
        if shares and min(shares) < 1.02 * percent_more / 100:
            break
    assert min(shares, default=0.0) == pytest.approx(percent_more / 100, rel=0.02)


@pytest.mark.parametrize(("magic", "percent_more"), [("other", 20), ("QEVM", 0)])
def test_slow_save_lets_others_be(magic: str, percent_more: int, tmp_path: Path) -> None:
    """Other files, and a stream where nothing is planted, are written at full speed."""
    slow = _slept(tmp_path, magic, percent_more)
    assert slow.slept_share == slow.acts == 0
