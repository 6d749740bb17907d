"""Contract: `snapproof bench downtime` plans, orders and summarises samples, and refuses wrong arguments."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.qmp import Event
from harness.status import Status
from snapproof.bench import downtime
from snapproof.bench.downtime import plan_lines, table_lines
from snapproof.bench.downtime_plan import BenchCase, SamplePlan, make_plan
from snapproof.bench.downtime_summary import stun_growth, summarise
from snapproof.bench.environment import disk_of, require_room
from snapproof.bench.options import DowntimeOptions
from snapproof.cli.bench import downtime_options
from snapproof.cli.command import main, make_parser
from tests_functional.lib.measure import saves, throttle
from tests_functional.lib.measure.cases import UNLIMITED, Way, Writer, throttled, why_not
from tests_functional.lib.measure.memory_use import MemoryUse
from tests_functional.lib.measure.sample import Sample
from tests_functional.lib.measure.write_rate import WriteRate

Capture = pytest.CaptureFixture[str]
SLOW = throttled(100)


def _plan(memory_mib: int = 20_000, ram: tuple[int, ...] = (256, 512, 4096), repeats: int = 3) -> SamplePlan:
    return make_plan(
        ram, list(Way), list(Writer), (UNLIMITED, SLOW), repeats=repeats, seed=1, memory_mib=memory_mib
    )


def _sample(ram_mib: int, way: Way, stun_ms: float, **further: object) -> Sample:
    return replace(
        Sample(ram_mib, way.value, "all", "unlimited", 1, stun_ms=stun_ms, total_ms=100.0),
        **further,  # type: ignore[arg-type]
    )


def test_plan_has_all_sizes_once_and_all_writers_at_one() -> None:
    """The plan is sizes by ways, and writers by sinks by ways at 512 MiB, not the whole product."""
    cases = _plan().cases
    assert len(cases) == len(set(cases))
    for size in (256, 4096):
        assert {case.way for case in cases if case.ram_mib == size} == set(Way)
        assert {(case.writer, case.sink) for case in cases if case.ram_mib == size} == {
            (Writer.ALL, UNLIMITED)
        }
    at_512 = {(case.writer, case.sink) for case in cases if case.ram_mib == 512}
    assert at_512 == {(writer, sink) for writer in Writer for sink in (UNLIMITED, SLOW)}


def test_plan_says_what_it_leaves_out() -> None:
    """A size that does not fit and an impossible sink are left out, each once with its reason."""
    plan = _plan(memory_mib=4000)
    left = dict(plan.left_out)
    assert len(left) == len(plan.left_out)
    assert "4000 are available" in left["4096 MiB"]
    assert set(left) == {"4096 MiB"} | {f"{way.value}, throttled" for way in Way if why_not(way, SLOW)}
    assert all(not why_not(case.way, case.sink) for case in plan.cases)
    assert not [case for case in plan.cases if case.ram_mib == 4096]


def test_plan_without_a_size_that_fits_is_empty() -> None:
    """A plan without a size that fits has no cases, and is not an error."""
    plan = _plan(memory_mib=100)
    assert (plan.cases, plan.guests(), plan.disk_mib) == ((), [], 0)


def test_each_round_has_every_case_once_in_an_order_of_its_own() -> None:
    """Cases are interleaved, and the same seed gives the same order."""
    plan = _plan()
    samples = plan.samples()
    assert samples == plan.samples()
    assert samples != replace(plan, seed=2).samples()
    orders = []
    for repeat in (1, 2, 3):
        part = samples[(repeat - 1) * len(plan.cases) : repeat * len(plan.cases)]
        assert {one.repeat for one in part} == {repeat}
        assert Counter(one.case for one in part) == Counter(plan.cases)
        orders.append([one.case for one in part])
    assert orders[0] != orders[1] != orders[2]


def test_the_usual_plan_is_sane() -> None:
    """The default plan takes about 50 minutes and --quick about 6, on a machine that holds all sizes."""
    parser_arguments = ["bench", "downtime", "--plan"]
    for more, limit in (([], 55), (["--quick"], 7)):
        plan = downtime.planned(_options([*parser_arguments, *more]), 1, 20_000)
        assert plan.seconds / 60 < limit
        assert plan.repeats == 5


def _options(words: list[str]) -> DowntimeOptions:
    return downtime_options(make_parser(["bench"]).parse_args(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ram", "lots"], "--ram takes guest sizes"),
        (["--ram", "0"], "--ram takes guest sizes"),
        (["--ram", "256,,512"], "--ram takes guest sizes"),
        (["--ways", "background"], "none of background-exec"),
        (["--writers", "hot,cold"], "'cold'"),
        (["--sinks", ""], "--sinks has ''"),
        (["--repeats", "0"], "--repeats 0 is too few"),
        (["--throttle", "0"], "--throttle 0 is not from 0.1"),
        (["--throttle", "nan"], "--throttle nan is not from 0.1"),
        (["--ram", ""], "--ram takes guest sizes"),
        (["--max-growth", "nan"], "is not a factor above 0"),
        (["--max-growth", "0"], "is not a factor above 0"),
        (["--max-growth", "3", "--ram", "256"], "only one size would be measured"),
        (["--max-growth", "3", "--ways", "savevm"], "none would be measured"),
    ],
)
def test_wrong_arguments_get_a_sentence(words: list[str], said: str, capsys: Capture) -> None:
    """Wrong arguments give exit code 2 and start nothing."""
    assert main(["bench", "downtime", "--plan", *words]) == 2
    assert said in capsys.readouterr().err


def test_plan_is_printed_and_nothing_runs(capsys: Capture) -> None:
    """--plan lists each case, what is left out, and the estimated time."""
    assert main(["bench", "downtime", "--plan", "--ram", "256", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert "256-stop-and-save-10-percent-throttled" in out
    assert "Left out: savevm, throttled." in out
    assert "seed 5" in out


def test_nothing_that_fits_is_exit_code_3(capsys: Capture) -> None:
    """The exit code is 3 if nothing would be measured."""
    assert main(["bench", "downtime", "--ram", str(1 << 20)]) == 3
    assert "are available" in capsys.readouterr().out


def test_summary_counts_only_what_was_measured() -> None:
    """A failed sample is counted as failed, and no median has its figures."""
    cases = summarise(
        [
            _sample(256, Way.BACKGROUND_EXEC, 1.0),
            _sample(256, Way.BACKGROUND_EXEC, 3.0),
            _sample(256, Way.BACKGROUND_EXEC, 99.0, error="It broke.", status=Status.FAIL),
            Sample(256, "savevm", "all", "unlimited", 1, error="It broke.", status=Status.FAIL),
        ]
    )
    first, second = cases
    assert (first.way, first.n, first.failed) == ("background-exec", 2, 1)
    assert first.stun is not None
    assert (first.stun.median, first.stun.max) == (2.0, 3.0)
    assert (second.n, second.failed, second.stun) == (0, 1, None)
    assert second.to_json()["stun_ms"] is None
    assert "(+1 failed)" in "\n".join(table_lines(cases, None, {}))


def test_wrong_snapshot_voids_its_case() -> None:
    """If the judged file of a case is wrong, the figures of its other files do not count."""
    wrong = {"judged": "Page 7 is newer than T0.", "status": Status.FAIL, "error": "It is wrong."}
    cases = summarise(
        [
            _sample(256, Way.BACKGROUND_EXEC, 1.0, **wrong),
            _sample(256, Way.BACKGROUND_EXEC, 1.0),
            _sample(512, Way.BACKGROUND_EXEC, 1.0),
        ]
    )
    assert [(case.n, case.failed, case.stun is None) for case in cases] == [(0, 2, True), (1, 0, False)]


def test_pages_before_during_and_after() -> None:
    """The mean is over the whole intervals before, during and after the save."""
    rate = WriteRate(100, (-200, -100, 0, 100, 200, 300), (50, 7, 10, 20, 8, 60))
    sample = _sample(256, Way.BACKGROUND_EXEC, 1.0, asked_ms=-5.0, total_ms=250.0, write_rate=rate)
    assert [sample.pages(when) for when in ("before", "during", "after")] == [50, 15, 60]
    assert _sample(256, Way.BACKGROUND_EXEC, 1.0).pages("during") is None
    (row,) = summarise([sample])
    assert row.to_json()["pages_per_100_ms_during"]["median"] == 15


def test_results_of_another_run_are_kept(tmp_path: Path, capsys: Capture) -> None:
    """A folder with results is refused; if nothing was measured, nothing is written and no folder is left."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "bench.json").write_text("precious")
    (tmp_path / "copy.json").write_text("precious")
    words = ["bench", "downtime", "--quick", "--qemu", "/none/such", "--json", str(tmp_path / "copy.json")]
    assert main([*words, "--results", str(tmp_path / "old")]) == 2
    assert "already holds" in capsys.readouterr().err
    assert main([*words, "--results", str(tmp_path / "new")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert (tmp_path / "old" / "bench.json").read_text() == "precious"
    assert (tmp_path / "copy.json").read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_pre_copy_that_was_given_up_is_told() -> None:
    """The table counts pre-copies for which the guest had to be stopped."""
    samples = [
        replace(_sample(512, Way.PRECOPY_FILE, stun), given_up=given_up)
        for stun, given_up in ((300.0, False), (4000.0, True), (5000.0, True))
    ]
    cases = summarise(samples)
    assert (cases[0].n, cases[0].given_up) == (3, 2)
    text = "\n".join(table_lines(cases, None, {}))
    assert "3 (2 given up)" in text
    assert "did not catch up with the guest's writes" in text
    assert "Given up" not in "\n".join(table_lines(summarise(samples[:1]), None, {}))


class _Sending:
    """A QEMU whose pre-copy sends one MiB at each pause, and completes after a number of MiB."""

    def __init__(self, path: Path, ends_at_mib: int) -> None:
        self.config = SimpleNamespace(ram_mib=2)
        self.commands: list[str] = []
        self.exit_code: int | None = None
        self.qmp = SimpleNamespace(events_since=self._events, execute=self.commands.append)
        self._path, self._ends_at = path, ends_at_mib << 20

    def pause(self, _deadline: Deadline) -> int | None:
        """Send one MiB; return an exit code if QEMU is to die."""
        with self._path.open("ab") as file:
            file.write(bytes(1 << 20))
        return self.exit_code

    def _events(self, _mark: int) -> list[Event]:
        over = self._path.exists() and self._path.stat().st_size >= self._ends_at
        return [Event("MIGRATION", {"status": "completed" if over else "active"}, 0.0)]


@pytest.mark.parametrize(("ends_at_mib", "commands", "mib"), [(6, [], 6), (100, ["stop"], 7)])
def test_pre_copy_is_given_up_after_three_times_the_ram(
    ends_at_mib: int, commands: list[str], mib: int, tmp_path: Path
) -> None:
    """The guest is stopped at three times its RAM and not before, so the file does not grow without end."""
    sending = _Sending(tmp_path / "vmstate", ends_at_mib)
    given_up = saves._stop_endless(sending, tmp_path / "vmstate", 0, Deadline(20))  # type: ignore[arg-type]
    assert (given_up, sending.commands) == (bool(commands), commands)
    assert (tmp_path / "vmstate").stat().st_size == mib << 20


def test_pre_copy_that_dies_or_hangs_is_left_to_who_waits_for_its_end(tmp_path: Path) -> None:
    """The wait ends at once if QEMU has ended or the time is over, and nothing is stopped."""
    dying = _Sending(tmp_path / "vmstate", 100)
    dying.exit_code = 134
    assert not saves._stop_endless(dying, tmp_path / "vmstate", 0, Deadline(20))  # type: ignore[arg-type]
    assert (tmp_path / "vmstate").stat().st_size == 1 << 20
    hanging = _Sending(tmp_path / "other", 100)
    assert not saves._stop_endless(hanging, tmp_path / "other", 0, Deadline(0))  # type: ignore[arg-type]
    assert dying.commands == hanging.commands == []


def test_growth_compares_the_largest_with_the_smallest() -> None:
    """The growth of both ways and the gain at the largest size are right."""
    samples = [
        _sample(256, Way.BACKGROUND_EXEC, 2.0),
        _sample(4096, Way.BACKGROUND_EXEC, 5.0),
        _sample(256, Way.STOP_AND_SAVE, 200.0),
        _sample(4096, Way.STOP_AND_SAVE, 4000.0),
        _sample(8192, Way.STOP_AND_SAVE, 9000.0),
    ]
    growth = stun_growth(summarise(samples), "all", "unlimited")
    assert growth is not None
    assert (growth.smallest_mib, growth.largest_mib) == (256, 4096)
    assert (growth.background, growth.stopped, growth.gain) == (2.5, 20.0, 800.0)
    assert "stuns the guest 800.0 times as long" in "\n".join(table_lines([], growth, {}))
    assert growth.again is None
    assert stun_growth(summarise(samples[:1]), "all", "unlimited") is None
    assert stun_growth(summarise(samples), "idle", "unlimited") is None


def test_second_stun_is_told() -> None:
    """The growth of the second stun is shown, although the first one does not grow."""
    samples = [
        replace(_sample(256, Way.BACKGROUND_EXEC, 2.0), again_stun_ms=3.0),
        replace(_sample(4096, Way.BACKGROUND_EXEC, 2.0), again_stun_ms=36.0),
    ]
    cases = summarise(samples)
    growth = stun_growth(cases, "all", "unlimited")
    assert growth is not None
    assert (growth.background, growth.again, growth.again_ms) == (1.0, 12.0, 36.0)
    text = "\n".join(table_lines(cases, growth, {}))
    assert "a second one of the same process grows by 12.00, to 36.0 ms" in text
    assert "2.0, 2.0..2.0      36.0" in text


def test_sample_as_json_has_the_documented_form() -> None:
    """The JSON form has the documented names and units, and null for unknown values."""
    whole = _sample(
        256,
        Way.SAVEVM,
        1.23456,
        memory_before=MemoryUse(1000, 10, 900),
        memory_after=MemoryUse(1500, 12, 800),
        stall_histogram=[(1.0, 1.125, 3)],
        write_rate=WriteRate(100, (-100, 0), (5, 6)),
    ).to_json()
    assert json.loads(json.dumps(whole)) == whole
    assert (whole["rss_growth_kib"], whole["page_tables_growth_kib"]) == (500, 2)
    assert (whole["huge_before_kib"], whole["huge_after_kib"]) == (900, 800)
    assert whole["write_rate"] == {"interval_ms": 100, "t_ms": [-100, 0], "pages": [5, 6]}
    assert whole["stall_histogram"] == [[1.0, 1.125, 3]]
    assert (whole["stun_ms"], whole["error"], whole["downtime_ms"]) == (1.235, None, None)
    empty = Sample(256, "savevm", "all", "unlimited", 1, error="It broke.", status=Status.FAIL).to_json()
    assert (empty["error"], empty["stun_ms"], empty["rss_growth_kib"]) == ("It broke.", None, None)
    assert set(empty) == set(whole)


def test_disk_is_the_deepest_mount() -> None:
    """Names with spaces, lines that are not mounts, and a mount with the same beginning are handled."""
    mounts = (
        "21 1 254:1 / / rw - ext4 /dev/vda rw\n"
        "22 21 0:30 / /work/a\\040b rw shared:1 - tmpfs none rw\n"
        "23 21 0:31 / /work/a rw - xfs /dev/vdb rw\n"
        "nonsense\n"
    )
    assert disk_of(Path("/work/a b/c"), mounts) == "tmpfs on none"
    assert disk_of(Path("/work/abc"), mounts) == "ext4 on /dev/vda"
    assert disk_of(Path("/work/a"), mounts) == "xfs on /dev/vdb"
    assert disk_of(Path("/x"), "") == "unknown"


def test_room_is_checked_before_anything_boots(tmp_path: Path) -> None:
    """A disk that is too small gives a sentence that says what to do."""
    require_room(tmp_path, 1)
    with pytest.raises(SetupBroken, match="--results"):
        require_room(tmp_path, 1 << 40)


def test_throttle_is_steady_and_changes_nothing() -> None:
    """Two MiB at 8 MiB/s take a quarter of a second and arrive unchanged."""
    data = bytes(range(256)) * (8 << 10)
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(throttle.__file__), "8"], input=data, capture_output=True, check=True
    )
    assert done.stdout == data
    assert 0.2 < time.monotonic() - begun < 5


def test_case_names_are_folder_names() -> None:
    """Names have no percent sign and no slash."""
    names = [case.name for case in _plan().cases]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() for name in names)
    assert BenchCase(256, Way.BACKGROUND_EXEC, Writer.ALL).again
    assert not BenchCase(256, Way.BACKGROUND_EXEC, Writer.ALL, SLOW).again
    assert "3 cases" not in plan_lines(_plan(), whole=False)[-1]
