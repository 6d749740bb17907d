"""Contract: campaigns side by side end with their parent, are merged as they ended, and are told with it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SetupBroken, UsageError
from snapproof.cli import explore_jobs
from snapproof.cli.command import main, make_parser
from snapproof.explore.jobs import run_jobs, running_line
from snapproof.explore.journal import SUMMARY_FILE
from snapproof.explore.results import INTERRUPTED, RUNNING, result_of
from tests_unit.snapproof.explore.test_campaigns import _part, _summary


def _job(folder: Path, seed: int, program: str) -> list[str]:
    """Return a job's command line, which has its folder where those of campaigns have it."""
    return [sys.executable, "-c", program, "--seed", str(seed), "--results", str(folder / f"job-{seed}")]


def _run(folder: Path, *programs: str, write: Sequence[int] = (1, 2), **more: Any) -> dict[str, Any]:
    for seed in write:
        _part(folder / f"job-{seed}", _summary(seed, findings=[], known_issues={}, **more), [])
    return run_jobs(
        [_job(folder, seed, text) for seed, text in enumerate(programs, 1)], folder, lambda _line: None
    )


@pytest.mark.parametrize(
    ("programs", "codes", "exit_code"),
    [
        (("", ""), [0, 0], 0),
        (("", "raise SystemExit(2)"), [0, 2], 2),
        (("raise SystemExit(3)", ""), [3, 0], 2),
        (("", "import os; os.kill(os.getpid(), 9)"), [0, -9], 2),
    ],
)
def test_a_job_that_fails_is_told(
    tmp_path: Path, programs: tuple[str, ...], codes: list[int], exit_code: int
) -> None:
    """The merged results have an ERROR for each, with its log."""
    summary = _run(tmp_path, *programs)
    assert [job["exit_code"] for job in summary["jobs"]] == codes
    result = result_of(summary, [])
    assert result.exit_code == exit_code
    failed = [one for one in result.outcomes if one.name.startswith("explore.job-")]
    assert [(one.status.value, one.folder) for one in failed] == [
        ("ERROR", f"job-{number}") for number, code in enumerate(codes, 1) if code
    ]
    assert all(f"'{one.folder}.log' says why" in one.sentence for one in failed)
    assert json.loads((tmp_path / SUMMARY_FILE).read_text())["jobs"] == summary["jobs"]


def test_jobs_that_leave_nothing_are_an_error(tmp_path: Path) -> None:
    """The log of the first is named."""
    with pytest.raises(SetupBroken, match=r"None of 2 jobs has run a list; see '.*job-1.log'"):
        _run(tmp_path, "print('no')", "", write=())
    assert (tmp_path / "job-1.log").read_text() == "no\n"


def test_campaigns_are_merged_again(tmp_path: Path) -> None:
    """What an earlier merge has left does not stay, nor stops the next one."""
    old = tmp_path / "findings" / "01-qemu.ended"
    old.mkdir(parents=True)
    (old / "old").touch()
    _part(tmp_path / "job-1", _summary(1), [])
    run_jobs([_job(tmp_path, 1, "")], tmp_path, lambda _line: None)
    assert old.is_dir()
    assert not (old / "old").exists()


def test_an_interruption_ends_the_jobs_and_keeps_what_they_have(tmp_path: Path) -> None:
    """They are told by SIGTERM, and merged."""
    for seed in (1, 2):
        _part(tmp_path / f"job-{seed}", _summary(seed, findings=[], state=INTERRUPTED), [])
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(130)); time.sleep(60)"

    def say(_line: str) -> None:
        time.sleep(0.5)
        raise KeyboardInterrupt

    begun = time.monotonic()
    summary = run_jobs([_job(tmp_path, seed, program) for seed in (1, 2)], tmp_path, say)
    assert time.monotonic() - begun < 30
    assert (summary["state"], summary["lists"]) == (INTERRUPTED, 6)
    assert [job["exit_code"] for job in summary["jobs"]] in ([130, 130], [-15, -15], [130, -15], [-15, 130])


def test_jobs_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A parent that gets SIGKILL can end nothing itself."""
    marker = tmp_path / "pid"
    program = f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(120)"
    parent = (
        "import sys, json\nfrom pathlib import Path\nfrom snapproof.explore.jobs import run_jobs\n"
        "run_jobs([json.loads(sys.argv[1])], Path(sys.argv[2]), lambda line: None)\n"
    )
    words = [sys.executable, "-c", parent, json.dumps(_job(tmp_path, 1, program)), str(tmp_path)]
    with subprocess.Popen(words) as process:
        until = time.monotonic() + 60
        while not (marker.is_file() and marker.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        job = int(marker.read_text())
        process.kill()
    until = time.monotonic() + 30
    while _lives(job) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _lives(job)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_the_running_line_says_what_reduces(tmp_path: Path) -> None:
    """Figures stand still meanwhile; a list that runs again is no reduction."""
    places = [_part(tmp_path / f"job-{seed}", _summary(seed), []) for seed in (1, 2)]
    logs = [tmp_path / f"job-{seed}.log" for seed in (1, 2)]
    logs[0].write_text("12:00:00 3 lists; reducing /x/findings/01-a, run 4, 1 step\n12:00:01 4 lists\n")
    logs[1].write_text("12:00:00 4 lists\n12:00:00 3 lists; reducing /x/01-a, run 12, 5 steps\n")
    line = running_line(places, logs)
    assert line == "2 jobs: 6 lists, 8 proofs, 2 causes; job-2 reduces a cause (run 12, 5 steps)"
    assert running_line(places[:1], [tmp_path / "none"]) == "1 job: 3 lists, 4 proofs, 1 cause"


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ([0, 0], 0), ([0, 3], 3), ([3, 130], 130), ([130, 2], 2), ([2, 1], 1), ([0, -9], 2),
        ([4, 0], 4), ([None, 0], 0),
    ],
)  # fmt: skip
def test_the_worst_job_gives_the_exit_code(codes: list[int | None], worst: int) -> None:
    """Evidence is worse than an error, and a signal is one."""
    assert explore_jobs.worst_code(codes) == worst


@pytest.mark.parametrize(
    ("more", "jobs", "code", "said"),
    [
        ({"findings": []}, [0, 0], 0, "PASS: nothing was found"),
        ({}, [1, 0], 1, "FAIL: found 1 cause outside of the baseline."),
        ({"findings": []}, [0, 2], 2, "ERROR: a job ended with an error."),
        ({"findings": [], "state": INTERRUPTED}, [130, 130], 2, "ERROR: the campaigns were interrupted."),
    ],
)
def test_campaigns_are_summed_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: Any, jobs: list[int], code: int, said: str
) -> None:
    """The last line is that of the worst; seeds and QEMU are named, and a log where one is needed."""
    ended = [
        {"folder": f"job-{number}", "exit_code": one, "log": f"job-{number}.log", "kept": True}
        for number, one in enumerate(jobs, 1)
    ]
    shown = {"F6": {"list": 6, "seed": 1, "folder": "job-1/lists/00006"}}
    summary = {
        **_summary(1, **more),
        "seeds": [1, 2],
        "jobs": ended,
        "known_shown": shown,
        "without_verdict": [],
    }
    summary = {"state": "ended", **summary}
    assert explore_jobs._summarise(summary, tmp_path, result_of(summary, []).exit_code) == code
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(said)
    assert "seeds 1, 2, QEMU 10.0.13." in out
    assert (
        "The known issue F6 showed in 1 list, first in list 6 of seed 1 (files in 'job-1/lists/00006')."
        in out
    )
    for number, one in enumerate(jobs, 1):
        assert (f"job-{number} ended with exit code {one}: {tmp_path}/job-{number}.log" in out) == (
            one not in (0, 1)
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jobs", "3"], "has 2 campaigns side by side, and not 3: give --jobs 2"),
        (["--jobs", "2", "--seed", "5"], "seed 7"),
    ],
)
def test_campaigns_go_on_as_they_were(tmp_path: Path, words: list[str], said: str) -> None:
    """As many, and with their seeds."""
    for seed in (7, 8):
        _part(tmp_path / f"job-{seed - 6}", _summary(seed), [])
    parser = make_parser(["explore"])
    with pytest.raises(UsageError, match=said):
        explore_jobs._earlier_seed(parser.parse_args(["explore", "--continue", str(tmp_path), *words]))
    right = parser.parse_args(["explore", "--continue", str(tmp_path), "--jobs", "2"])
    assert explore_jobs._earlier_seed(right) == 7
    # The first was killed before it had begun.
    (tmp_path / "job-1" / SUMMARY_FILE).unlink()
    assert explore_jobs._earlier_seed(right) == 7


def test_unmerged_campaigns_are_merged_by_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of a parent that was killed; the report says which of them has not ended, and is no PASS."""
    for seed, state in ((1, "ended"), (2, RUNNING)):
        _part(tmp_path / "jobs" / f"job-{seed}", _summary(seed, findings=[], state=state), [])
    output = tmp_path / "out"
    assert main(["report", "merge", str(tmp_path / "jobs"), "--output", str(output)]) == 2
    captured = capsys.readouterr()
    assert f"The campaign in '{tmp_path / 'jobs' / 'job-2'}' runs still, or was killed." in captured.err
    assert "job-1" not in captured.err
    assert "from 2 campaigns" in captured.out
    assert json.loads((output / "results.json").read_text())["exit_code"] == 2


def test_a_job_that_failed_is_told_after_another_merge(tmp_path: Path) -> None:
    """A merge of merged campaigns is no PASS either, and has a test for each of both jobs."""
    for name, seed in (("one", 1), ("two", 2)):
        ended = {"folder": "job-1", "exit_code": 2, "log": "job-1.log", "kept": True}
        _part(tmp_path / name, _summary(seed, findings=[], jobs=[ended]), [])
    output = tmp_path / "out"
    words = [str(tmp_path / name) for name in ("one", "two")]
    assert main(["report", "merge", *words, "--output", str(output)]) == 2
    tests = {one["name"]: one for one in json.loads((output / "results.json").read_text())["tests"]}
    assert f"'{tmp_path}/two/job-1.log' says why" in tests["explore.2-job-1"]["sentence"]
    assert tests["explore.1-job-1"]["folder"] == ""


def test_campaigns_of_the_kernel_are_told_from_those_of_qemu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is a QEMU called None; no folder is made."""
    _part(tmp_path / "one", _summary(1), [])
    _part(tmp_path / "two", _summary(2, environment={"kernel_lists": True}), [])
    words = [str(tmp_path / name) for name in ("one", "two")]
    assert main(["report", "merge", *words, "--output", str(tmp_path / "out")]) == 2
    assert f"'{tmp_path}/two' is a campaign of the kernel, and '{tmp_path}/one' one of QEMU 10.0.13" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
