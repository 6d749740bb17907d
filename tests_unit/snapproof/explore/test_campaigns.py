"""Contract: a killed campaign is read back whole; campaigns are merged; results say what was found."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.errors import UsageError
from harness.status import Status
from snapproof.explore import campaign as campaigns
from snapproof.explore.campaign import Campaign
from snapproof.explore.findings import FINDING_FILE, Finding, signature, write_finding
from snapproof.explore.jobs import Jobs, job_commands, without_options
from snapproof.explore.journal import LISTS_FILE, SUMMARY_FILE, Entry, read_entries, read_findings
from snapproof.explore.merge import is_campaign, merge_campaigns, read_part
from snapproof.explore.results import INTERRUPTED, RUNNING, result_of
from snapproof.explore.self_check import HANG, hanging_qemu, names_fault
from snapproof.report.html.explored import explored_beside, explored_view
from tests_functional.explore.executor import Record
from tests_functional.explore.steps import GuestChoice, Step, StepList
from tests_functional.kernel.explore.ddmin import Reduced
from tests_functional.kernel.explore.limits import Limits
from validators.checks import Problem, judged
from validators.verdict import Violation

_STEPS = StepList(GuestChoice(ram="memfd"), (Step("stop"), Step("freeze", {"seconds": 0.5})))
_BAD = judged(
    "explore/end", "It ends.", [Problem(Code.SAVE_UNFINISHED, "It does not end.", {"status": "active"})]
)
_ENTRY = Entry(1, 2.5, 2.0, "PASS", (), "", "", _STEPS, ("stop in before/running/on",), 2, 30, 4)
_LIMITS = Limits(None, 3, 10.0)


def _run(folder: Path) -> Any:
    stack = SimpleNamespace(executable=Path("/qemu"))
    return SimpleNamespace(
        folder=folder, stack=stack, host_environment={"qemu": "10.0.13", "host_kernel": "6.1"}
    )


def _record(steps: StepList, reached: str = "x", bad: bool = False) -> Record:
    checks = (_BAD if bad else judged("check", "It holds.", []),)
    return Record(steps, checks, len(steps.steps), frozenset({reached}), proofs=1, pages=10, written_pages=3)


class _Drawer:
    """Draws lists of one step more each time."""

    def draw(self, seed: str, _coverage: object, _avoid: bool) -> StepList:
        return _STEPS.with_steps([Step("stop")] * (1 + int(seed.partition(":")[2])))


def _campaign(folder: Path, monkeypatch: pytest.MonkeyPatch, bad: int = 0) -> Campaign:
    """Return a campaign whose lists reach their length; the one of `bad` steps and longer ones fail."""

    def tried(_self: Campaign, steps: StepList, place: Path) -> Record:
        place.parent.mkdir(parents=True, exist_ok=True)
        return _record(steps, f"{len(steps.steps)} steps", bad=0 < bad <= len(steps.steps))

    monkeypatch.setattr(Campaign, "tried", tried)
    monkeypatch.setattr(campaigns, "write_campaign", lambda *_: None)
    return Campaign(_run(folder), 7, lambda _line: None)


def test_each_list_is_a_line_that_is_read_back(tmp_path: Path) -> None:
    """A last line that was cut short by a kill is left out, and the next one is not appended to it."""
    other = replace(_ENTRY, number=2, signature=("qemu.ended",), known="F1", error="busy")
    lines = "".join(json.dumps(one.to_json()) + "\n" for one in (_ENTRY, other))
    path = tmp_path / LISTS_FILE
    path.write_text(lines + '{"number": 3, "at')
    assert read_entries(tmp_path) == [_ENTRY, other]
    assert path.read_text() == lines


@pytest.mark.parametrize("content", ["{}\n", "[]\n", "5\n", "x\n"])
def test_lists_of_another_form_are_refused(tmp_path: Path, content: str) -> None:
    """They are another version's, or the user's."""
    (tmp_path / LISTS_FILE).write_text(content)
    with pytest.raises(UsageError):
        read_entries(tmp_path)


def test_a_folder_without_a_campaign_cannot_be_continued(tmp_path: Path) -> None:
    """The sentence names it."""
    with pytest.raises(UsageError, match="no campaign"):
        read_entries(tmp_path)


def test_a_cause_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Before its reduction, and after it."""
    violations = _record(_STEPS, bad=True).violations
    finding = Finding(signature(violations), _STEPS, violations)
    write_finding(finding, tmp_path / "findings" / "01-x", "10.0", "/qemu")
    (found,) = read_findings(tmp_path)
    assert (found.signature, found.first, found.reduced, found.known) == (finding.signature, _STEPS, None, "")
    assert found.violations[0].code is Code.SAVE_UNFINISHED
    finding.reduced, finding.known = Reduced(_STEPS.with_steps([Step("stop")]), 9, 2, 3), "F6"
    write_finding(finding, tmp_path / "findings" / "01-x", "10.0", "/qemu")
    (found,) = read_findings(tmp_path)
    assert (found.reduced, found.known) == (finding.reduced, "F6")


def test_a_campaign_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has what the first part had, begins at the next list, and ends as one that was never killed."""
    _campaign(tmp_path / "whole", monkeypatch).run.folder.mkdir()
    whole = _campaign(tmp_path / "whole", monkeypatch)
    whole.explore(cast(Any, _Drawer()), Limits(None, 5, 1.0))
    (tmp_path / "parts").mkdir()
    _campaign(tmp_path / "parts", monkeypatch).explore(cast(Any, _Drawer()), _LIMITS)
    left = tmp_path / "parts" / "lists" / "00004"
    left.mkdir(parents=True)
    second = _campaign(tmp_path / "parts", monkeypatch)
    second.go_on()
    assert (second.lists, second.proofs, second.pages, second.written_pages) == (3, 3, 30, 9)
    assert not left.exists()
    second.explore(cast(Any, _Drawer()), Limits(None, 5, 1.0))
    one, other = whole.to_json(), second.to_json()
    for name in ("lists", "proofs", "pages_compared", "reached", "findings", "known_issues", "seeds"):
        assert one[name] == other[name], name
    assert whole.coverage.corpus == second.coverage.corpus


def test_a_cause_is_written_before_it_is_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign that is killed in a reduction has the cause, and reduces it when it goes on."""

    def killed(*_: object) -> Any:
        raise KeyboardInterrupt

    first = _campaign(tmp_path, monkeypatch, bad=2)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(campaigns, "reduce_steps", killed)
        first.explore(cast(Any, _Drawer()), _LIMITS)
    (found,) = read_findings(tmp_path)
    assert found.reduced is None
    second = _campaign(tmp_path, monkeypatch, bad=2)
    second.go_on()
    second.explore(cast(Any, _Drawer()), Limits(None, 4, 10.0))
    (found,) = second.findings.found
    assert found.reduced is not None
    assert len(found.steps.steps) == 2
    assert found.times == 3
    summary = json.loads((tmp_path / SUMMARY_FILE).read_text())
    assert [one["folder"] for one in summary["findings"]] == ["01-save.unfinished"]
    assert (tmp_path / "findings" / "01-save.unfinished" / "runs" / "runs.jsonl").is_file()


def test_steps_after_the_one_that_failed_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one in which an error ended the list is kept: it was not counted as taken."""
    campaign = _campaign(tmp_path, monkeypatch, bad=1)
    long = _STEPS.with_steps([Step("stop"), Step("cont"), Step("cancel"), Step("wake")])
    record = replace(_record(long, bad=True), taken=1)
    with monkeypatch.context() as patched:
        patched.setattr(campaigns, "reduce_steps", lambda steps, *_: Reduced(steps, 0, 0, 3))
        campaign._failed(record, _LIMITS)
    assert [step.kind for step in campaign.findings.found[0].first.steps] == ["stop", "cont"]


def _summary(seed: int, **more: Any) -> dict[str, Any]:
    finding = {
        "signature": ["qemu.ended"], "sentence": "QEMU ends.", "times": 2, "stable": "3 of 3",
        "folder": "01-qemu.ended", "steps": _STEPS.to_json(),
        "violations": [{"check": "c", "code": "qemu.ended", "sentence": "QEMU ends.", "fields": {}}],
    }  # fmt: skip
    return {
        "version": 1, "environment": {"qemu": "10.0.13", "host_cpus": seed}, "seed": seed, "seeds": [seed],
        "started": f"2026-01-0{seed}T00:00:00+00:00", "seconds": 10.0, "lists": 3, "proofs": 4,
        "pages_compared": 50, "pages_written_during_saves": 6, "without_verdict": ["busy"],
        "known_issues": {"F6": 1}, "findings": [finding], "growth": [], "kinds": ["stop", "cont"],
        "reached": {"stop in saving/running/on": seed, "stop accepted in saving/running/on": 1},
        **more,
    }  # fmt: skip


def _part(folder: Path, summary: Mapping[str, Any], corpus: list[Any]) -> Path:
    (folder / "findings" / "01-qemu.ended" / "runs").mkdir(parents=True)
    (folder / "findings" / "01-qemu.ended" / FINDING_FILE).write_text("{}")
    (folder / SUMMARY_FILE).write_text(json.dumps(summary))
    (folder / "corpus.json").write_text(json.dumps({"version": 1, "lists": corpus}))
    return folder


def test_campaigns_are_merged(tmp_path: Path) -> None:
    """Figures are added, a cause and a list of the corpus are there once, and the shortest list is kept."""
    short = {**_summary(2)["findings"][0], "steps": _STEPS.with_steps([]).to_json()}
    one = _part(tmp_path / "one", _summary(1), [{"a": 1}, {"b": 2}])
    two = _part(tmp_path / "two", _summary(2, findings=[short]), [{"b": 2}, {"c": 3}])
    assert is_campaign(one)
    assert not is_campaign(tmp_path)
    (tmp_path / "out").mkdir()
    merged = merge_campaigns([read_part(one), read_part(two)], tmp_path / "out")
    assert (merged["lists"], merged["proofs"], merged["seconds"], merged["seeds"]) == (6, 8, 20.0, [1, 2])
    assert merged["reached"]["stop in saving/running/on"] == 3
    assert merged["known_issues"] == {"F6": 2}
    assert merged["started"].startswith("2026-01-01")
    assert merged["environment"] == {"qemu": "10.0.13"}
    (finding,) = merged["findings"]
    assert (finding["times"], finding["steps"]["steps"]) == (4, [])
    copied = tmp_path / "out" / "findings" / "01-qemu.ended"
    assert (copied / FINDING_FILE).is_file()
    assert not (copied / "runs").exists()
    corpus = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert corpus["lists"] == [{"a": 1}, {"b": 2}, {"c": 3}]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (_summary(1), "Seed 1"),
        (_summary(2, environment={"qemu": "7.2"}), "different stacks"),
        ({"version": 1}, "has no"),
    ],
)
def test_campaigns_that_do_not_fit_are_not_merged(
    tmp_path: Path, other: Mapping[str, Any], words: str
) -> None:
    """Lists would count twice, or figures of two QEMUs be one."""
    one, two = (_part(tmp_path / name, what, []) for name, what in (("one", _summary(1)), ("two", other)))
    with pytest.raises(UsageError, match=words):
        merge_campaigns([read_part(one), read_part(two)], tmp_path)


def test_results_have_the_lists_the_causes_and_the_known_issues() -> None:
    """A cause is FAIL, a known issue XFAIL; a campaign in which no list has a verdict is ERROR."""
    result = result_of(_summary(1), ["snapproof", "explore"])
    assert {one.name: one.status for one in result.outcomes} == {
        "explore.lists": Status.PASS,
        "explore.known.F6": Status.XFAIL,
        "explore.finding.01-qemu-ended": Status.FAIL,
    }
    assert result.exit_code == 1
    assert result.outcomes[2].folder == "findings/01-qemu.ended"
    assert result_of(_summary(1, findings=[]), []).exit_code == 0
    silent = _summary(1, findings=[], known_issues={}, without_verdict=["busy"] * 3)
    assert result_of(silent, []).exit_code == 2
    assert result_of(_summary(1, lists=0), []).exit_code == 3
    assert result_of(_summary(1, lists=0, findings=[], state=INTERRUPTED), []).exit_code == 2
    for state, words in ((INTERRUPTED, "was interrupted after 3 lists"), (RUNNING, "or was killed")):
        unfinished = result_of(_summary(1, findings=[], state=state), [])
        assert unfinished.exit_code == 2
        assert words in unfinished.outcomes[0].sentence
    totals = result.totals()
    assert (totals["snapshots_proven"], totals["pages_written_during_saves"]) == (4, 6)


def test_the_page_shows_what_was_covered_and_what_not(tmp_path: Path) -> None:
    """Kinds that were never taken have a row; commands of QEMU have none."""
    view = explored_view(_summary(4))
    assert view.states == ["saving"]
    assert [(kind, [cell.times for cell in cells]) for kind, cells in view.rows] == [
        ("stop", [4]),
        ("cont", [0]),
    ]
    assert view.rows[0][1][0].shade == 2
    assert view.rows[1][1][0].shade == 0
    assert view.pairs == (1, 2)
    assert explored_beside(tmp_path) is None
    (tmp_path / SUMMARY_FILE).write_text("{")
    broken = explored_beside(tmp_path)
    assert broken is not None
    assert "could not be read" in broken.problem
    assert explored_view({"reached": 5, "kinds": {}, "seconds": "x"}).rows == []


def test_jobs_have_their_own_seeds_folders_and_shares(tmp_path: Path) -> None:
    """What is not theirs is as it was given; a job without lists is none."""
    words = ["snapproof", "explore", "--jobs", "3", "--seed=5", "--runs", "4", "--qemu", "debian-13"]
    assert without_options(words) == ["snapproof", "explore", "--qemu", "debian-13"]
    commands = job_commands(Jobs(3, 5, 4), tmp_path, words)
    own = [command[4:] for command in commands]
    assert own == [
        ["--seed", str(5 + number), "--results", str(tmp_path / f"job-{number + 1}"), "--runs", runs]
        for number, runs in enumerate(("2", "1", "1"))
    ]
    assert len(job_commands(Jobs(3, 5, 2), tmp_path, words)) == 2
    (tmp_path / "job-1").mkdir()
    (tmp_path / "job-1" / SUMMARY_FILE).touch()
    assert job_commands(Jobs(1, 5, None), tmp_path, words)[0][6] == "--continue"


def test_a_planted_hang_stops_the_process_for_good(tmp_path: Path) -> None:
    """The program runs as the wrapper's own process, is stopped, and that is counted."""
    hanging = hanging_qemu(Path("/bin/sleep"), tmp_path, seconds=1)
    assert hanging.acts == 0
    with subprocess.Popen([hanging.executable, "60"]) as process:
        try:
            until = time.monotonic() + 30
            while hanging.acts == 0 and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(0.2)
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert (hanging.acts, state) == (1, "T")
        finally:
            process.kill()


def test_a_hang_is_named_by_what_did_not_come_in_time() -> None:
    """An end of QEMU is none, and a wrong page neither."""
    assert names_fault(HANG, Violation("c", Code.QMP_NO_ANSWER, "It is so."))
    assert not names_fault(HANG, Violation("c", Code.QEMU_ENDED, "It is so."))
    assert names_fault("skip_release", Violation("c", Code.WRITE_STALL_TOO_LONG, "It is so."))
    assert not names_fault("skip_release", Violation("c", Code.QMP_NO_ANSWER, "It is so."))
