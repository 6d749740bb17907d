"""Contract: a host as a side of the A/B gate gives the figures of a right snapshot, or says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from guest_images.agent.format import FINE_BUCKETS
from harness.errors import NotApplicable, SetupBroken, SubjectFailed
from harness.hosts.host import Host
from harness.hosts.link import LocalLink
from harness.hosts.spec import LOCAL
from snapproof.bench import host_side
from snapproof.bench.host_side import HostSide, figures_of
from snapproof.bench.sides import METRICS
from snapproof.cli.command import main
from tests_functional.hosts.examination import HostPlan
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.hosts.snapshots import HostSaves, Report
from tests_unit.support.host_values import STARTED, host_plan, refused, saved
from tests_unit.support.scenario_values import SOURCE, stack
from validators.faults.preload.acts import VARIABLE, ActsPage
from validators.faults.slow.wrapper import Slowdown

# 98 writes of 128 to 144 ns, and 2 of 160 to 176 (docs/agent-format.md).
_STALLS = [0] * 40 + [98, 0, 2] + [0] * (FINE_BUCKETS - 43)
_GOOD = Report((STARTED, saved(stalls=_STALLS)))

Saver = Callable[..., Report]


def _side(folder: Path, save: Saver, monkeypatch: pytest.MonkeyPatch) -> HostSide:
    """Return this host as a side, with a function in place of a QEMU."""
    monkeypatch.setattr(host_side, "save_on_host", save)
    warm = PortableWarmGuest(stack(folder), folder / "vmstate", 1000, folder / "boot", (64,), 0, SOURCE)
    sink = folder / "vmstate-background"
    sink.write_bytes(b"no stream")

    def opened() -> tuple[HostPlan, AbstractContextManager[Host]]:
        return host_plan(folder, warm=warm, sinks={"background": sink}), Host(LOCAL, LocalLink())

    return HostSide(LOCAL, opened, lambda _: None)


def test_every_metric_has_a_figure() -> None:
    """The figures have the gate's names and units."""
    found = figures_of(_GOOD)
    assert set(found) == set(METRICS)
    assert (found["total"], found["downtime"], found["size"]) == (900.0, 62.0, 1000.0)
    assert found["stun"] == pytest.approx(62.0)
    assert found["stall-p99"] == pytest.approx(0.168)


@pytest.mark.parametrize("stalls", [[], [-1] * FINE_BUCKETS, [1 << 64] * FINE_BUCKETS])
def test_counters_that_make_no_sense_are_an_error(stalls: list[int]) -> None:
    """Counters that cannot be right are an error: they come from a guest's memory."""
    with pytest.raises(SetupBroken, match="histogram of its writes cannot be right"):
        figures_of(Report((STARTED, saved(stalls=stalls))))


def test_save_tells_the_host_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save reports kernel and QEMU, which may differ after each boot, and leaves no file."""
    side = _side(tmp_path, lambda *_, **__: _GOOD, monkeypatch)
    save = side.save()
    assert (save.qemu, save.figures["total"]) == ("10.0.13", 900.0)
    assert save.kernel
    assert not (tmp_path / "vmstate-background").exists()
    assert side.figure("total", tmp_path) == 900.0


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (refused(), "refuses: Background-snapshot is not supported by host kernel"),
        (Report((STARTED,)), "QEMU 10.0.13 on the host 'local' has no background snapshots"),
    ],
)
def test_host_without_background_snapshots(
    report: Report, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host without background snapshots is NotApplicable."""
    with pytest.raises(NotApplicable, match=said):
        _side(tmp_path, lambda *_, **__: report, monkeypatch).save()


def test_wrong_snapshot_has_no_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong snapshot is an error if it is judged, as the first one of each side is."""
    side = _side(tmp_path, lambda *_, **__: _GOOD, monkeypatch)
    with pytest.raises(SetupBroken, match="is wrong, so its cost means nothing"):
        side.save(judge=True)


def test_failed_save_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed save is an error and not the verdict WORSE, which would name no cause."""

    def fails(*_: Any, **__: Any) -> Report:
        raise SubjectFailed("QEMU ended.")

    with pytest.raises(SetupBroken, match="nothing can be compared: QEMU ended"):
        _side(tmp_path, fails, monkeypatch).save()


def test_missing_figure_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing figure is an error."""
    still = Report((STARTED, saved(stalls=_STALLS, events=[])))
    with pytest.raises(SetupBroken, match="gave no figure for --metric stun"):
        _side(tmp_path, lambda *_, **__: still, monkeypatch).figure("stun", tmp_path)


def test_slowdown_goes_there_and_its_count_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's counts come back from the host, and the next save goes on from them."""
    slowdown = Slowdown(tmp_path / "slow.so", ActsPage.blank(tmp_path / "acts"), 200, 0)
    slowdown.library.write_bytes(b"library")

    def counts(host: Host, _warm: Any, _places: Any, saves: HostSaves, *_: Any) -> Report:
        environment = saves.environment
        assert environment["SNAPPROOF_SLOW_SAVE_PER_MILLE"] == "200"
        assert Path(environment["LD_PRELOAD"]).read_bytes() == b"library"
        page = ActsPage(Path(environment[VARIABLE]))
        assert page.path.is_relative_to(str(host.folder))
        page.path.write_bytes((page.acts + 3).to_bytes(8, "little") + bytes(4088))
        return _GOOD

    side = _side(tmp_path, counts, monkeypatch).slowed(slowdown, tmp_path)
    side.save()
    side.save()
    assert slowdown.acts == 6


@pytest.mark.vm
@pytest.mark.timeout(900)
def test_this_host_against_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The gate for the size says SAME for real saves, whose files differ by a few pages."""
    words = ["--a", LOCAL, "--b", LOCAL, "--metric", "size", "--pairs", "8", "--max-pairs", "8"]
    assert main(["bench", "ab", *words, "--results", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("SAME: ")
    found = json.loads((tmp_path / "results/ab.json").read_text())
    assert found["a"] == found["b"]
    assert found["a"]["host"] == LOCAL
    assert len(found["result"]["a"]) == 8
