"""Contract: a campaign says whether it has ended, what showed known issues, and what its scripts do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from harness.errors import UsageError
from harness.status import Status
from snapproof.cli.explore import _end
from snapproof.explore import campaign as campaigns
from snapproof.explore.journal import LISTS_FILE, SUMMARY_FILE, read_findings, read_list
from snapproof.explore.results import ENDED, INTERRUPTED, RUNNING, result_of
from tests_functional.kernel.explore.ddmin import Reduced
from tests_functional.kernel.explore.limits import Limits
from tests_unit.snapproof.explore.test_campaigns import (
    _ENTRY,
    _LIMITS,
    _STEPS,
    _campaign,
    _Drawer,
    _summary,
)


@pytest.fixture(autouse=True)
def _no_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(campaigns, "try_script", lambda folder, qemu: f"tried {folder.name} {qemu}")
    yield


def test_a_campaign_says_whether_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be continued before its first list; one that was interrupted has a `run-ended` too."""
    states: list[str] = []
    campaign = _campaign(tmp_path, monkeypatch)
    campaign.options = {"qemu": "debian-13"}
    campaign.say = lambda _line: states.append(json.loads((tmp_path / SUMMARY_FILE).read_text())["state"])

    def killed(_steps: object) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(campaign, "take", killed)
        campaign.explore(cast(Any, _Drawer()), _LIMITS)
    summary = json.loads((tmp_path / SUMMARY_FILE).read_text())
    assert (summary["state"], summary["lists"], summary["options"]) == (RUNNING, 0, {"qemu": "debian-13"})
    _campaign(tmp_path, monkeypatch).go_on()
    _end(campaign)
    assert campaign.state == INTERRUPTED
    (event,) = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["type"], event["status"], event["exit_code"]) == ("run-ended", "ERROR", 2)
    assert event["sentence"] == "The campaign was interrupted."
    again = _campaign(tmp_path, monkeypatch)
    again.say = campaign.say
    again.explore(cast(Any, _Drawer()), _LIMITS)
    assert (states, again.state) == ([RUNNING] * 3, ENDED)
    _end(again)
    assert json.loads((tmp_path / SUMMARY_FILE).read_text())["state"] == ENDED
    event = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert (event["status"], event["exit_code"], event["sentence"]) == ("PASS", 0, "")


def test_a_signal_that_was_swallowed_ends_the_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it raised may have been lost in a list."""
    campaign = _campaign(tmp_path, monkeypatch)
    monkeypatch.setattr(campaigns, "asked_to_stop", lambda: campaign.lists == 2)
    campaign.explore(cast(Any, _Drawer()), _LIMITS)
    assert (campaign.lists, campaign.state) == (2, INTERRUPTED)


def test_the_page_is_written_with_the_first_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then once a minute: a campaign that is killed after seconds has one."""
    written: list[int] = []
    campaign = _campaign(tmp_path, monkeypatch)
    monkeypatch.setattr(
        campaigns, "write_campaign", lambda _folder, summary, _words: written.append(summary["lists"])
    )
    campaign.explore(cast(Any, _Drawer()), _LIMITS)
    assert written == [1]
    campaign.begun -= 61
    campaign.write()
    assert written == [1, 3]


def test_a_known_issue_names_the_list_that_showed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, also after the campaign went on."""
    monkeypatch.setattr(campaigns, "known_issue", lambda steps, *_: "F6" if len(steps.steps) > 1 else "")
    campaign = _campaign(tmp_path, monkeypatch, bad=2)
    campaign.explore(cast(Any, _Drawer()), _LIMITS)
    shown = {"F6": {"list": 2, "folder": "lists/00002"}}
    assert campaign.to_json()["known_shown"] == shown
    again = _campaign(tmp_path, monkeypatch, bad=2)
    again.go_on()
    assert again.to_json()["known_shown"] == shown
    result = result_of({**_summary(1), "known_shown": shown}, [])
    (known,) = [one for one in result.outcomes if one.status is Status.XFAIL]
    assert known.folder == "lists/00002"
    assert known.sentence == "The known issue F6 showed in 1 list, first in list 2 (files in 'lists/00002')."


def test_a_known_issue_of_the_short_list_alone_names_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the reduction has shown what it is."""
    monkeypatch.setattr(campaigns, "known_issue", lambda steps, *_: "F6" if len(steps.steps) < 3 else "")
    monkeypatch.setattr(campaigns, "reduce_steps", lambda *_: Reduced(_STEPS.with_steps([]), 1, 3, 3))
    campaign = _campaign(tmp_path, monkeypatch, bad=3)
    campaign.explore(cast(Any, _Drawer()), _LIMITS)
    shown = {"F6": {"list": None, "folder": "findings/01-save.unfinished"}}
    assert campaign.shown == shown
    again = _campaign(tmp_path, monkeypatch)
    again.go_on()
    assert again.shown == shown


def test_a_script_is_tried_after_the_reduction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it did is in the draft, and read back."""
    campaign = _campaign(tmp_path, monkeypatch, bad=3)
    campaign.explore(cast(Any, _Drawer()), Limits(None, 3, 10.0))
    (found,) = read_findings(tmp_path)
    assert found.script == "tried 01-save.unfinished /qemu"
    assert found.folder is not None
    assert found.script in (found.folder / "finding.md").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("steps.json", ""), ("line.json", ""), ("campaign:2", ""), ("campaign:3", "has no list 3"),
        ("campaign:4", "has no list 4"), ("none:1", "No such file"), ("none", "No such file"),
        ("other.json", "no list of steps"), ("campaign:x", "No such file"),
    ],
)  # fmt: skip
def test_a_list_is_read_from_where_it_is(tmp_path: Path, name: str, said: str) -> None:
    """A file of steps, a line of lists.jsonl, or the number of a list; one that was cut short is none."""
    (tmp_path / "campaign").mkdir()
    second = replace(_ENTRY, number=2, steps=_STEPS)
    first = replace(_ENTRY, steps=_STEPS.with_steps([]))
    lines = "".join(json.dumps(one.to_json()) + "\n" for one in (first, second))
    (tmp_path / "campaign" / LISTS_FILE).write_text(lines + '{"number": 3, "st')
    (tmp_path / "steps.json").write_text(json.dumps(_STEPS.to_json()))
    (tmp_path / "line.json").write_text(json.dumps(second.to_json()))
    (tmp_path / "other.json").write_text('{"steps": []}')
    if said:
        with pytest.raises(UsageError, match=said):
            read_list(tmp_path / name)
    else:
        assert read_list(tmp_path / name) == _STEPS
