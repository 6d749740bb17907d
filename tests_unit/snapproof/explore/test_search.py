"""Contract: what was reached is counted, what is new is kept, lists are drawn by seed, causes told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.codes import Code, Fields
from harness.errors import UsageError
from harness.status import Status
from snapproof.explore.coverage import Coverage, load_corpus
from snapproof.explore.draw import Drawer
from snapproof.explore.findings import Finding, Findings, same_failure, signature
from tests_functional.explore.executor import Record
from tests_functional.explore.known import AT_LEAST, LEADS_TO, known_issue, leads_to_known
from tests_functional.explore.steps import GuestChoice, Step, StepList
from tests_functional.lib.known_issues import load_known_issues
from tests_unit.tests_functional.explore.test_commands import _SCHEMA
from validators.checks import Problem, judged
from validators.verdict import Violation

_EMPTY = StepList(GuestChoice(), ())
_STALL = Step("sink", {"speed": "stalled"})
_OF_10 = "10.0.13 (Debian)"


def _violation(code: Code, fields: Fields | None = None) -> Violation:
    return Violation("check", code, "A sentence.", fields=fields or {})


def _drawer(avoids: bool = False) -> Drawer:
    return Drawer(_SCHEMA, ("kvm", "tcg"), lambda _steps: avoids)


def test_new_things_are_kept_as_a_corpus(tmp_path: Path) -> None:
    """A list that reaches something new is in the corpus; one that does not is counted alone."""
    coverage, other = Coverage(), _EMPTY.with_steps([Step("stop")])
    assert coverage.add(_EMPTY, ["stop in before", "cont in before"]) == 2
    assert coverage.add(other, ["stop in before"]) == 0
    assert coverage.corpus == [_EMPTY]
    assert coverage.add(other, ["stop in after"]) == 1
    assert coverage.corpus == [_EMPTY, other]
    assert coverage.to_json() == {"cont in before": 1, "stop in after": 1, "stop in before": 2}
    coverage.save(tmp_path / "corpus.json")
    assert load_corpus(tmp_path / "corpus.json") == [_EMPTY, other]


def test_what_was_taken_seldom_is_drawn_more() -> None:
    """A kind that was never taken weighs more than one that was taken in any state of the save."""
    coverage = Coverage()
    coverage.add(_EMPTY, ["stop in before", "stop in after"])
    coverage.add(_EMPTY, ["cont in before"])
    assert coverage.rarity("reset") > coverage.rarity("cont") > coverage.rarity("stop")


def test_lists_are_drawn_by_seed() -> None:
    """The same seed gives the same list, others give others, and the corpus is used too."""
    coverage = Coverage()
    lists = [_drawer().draw(f"1:{number}", coverage, avoid=False) for number in range(40)]
    assert lists == [_drawer().draw(f"1:{number}", coverage, avoid=False) for number in range(40)]
    assert len({steps.words for steps in lists}) > 35
    assert {steps.guest.accel for steps in lists} == {"kvm", "tcg"}
    coverage.add(_EMPTY.with_steps([Step("marked")]), ["x"])
    drawn = [_drawer().draw(f"2:{number}", coverage, avoid=False) for number in range(40)]
    assert any(Step("marked") in steps.steps for steps in drawn)


def test_memory_is_first_used_right_after_some_saves_begin() -> None:
    """Later it has been saved, and would not show; half of the guests have such memory."""
    lists = [_drawer().draw(f"5:{number}", Coverage(), avoid=False) for number in range(200)]
    begun = [
        [step.kind for step in steps.steps[at + 1 : at + 3]] == ["cont", "untouched"]
        for steps in lists
        for at, step in enumerate(steps.steps)
        if step.kind == "begin"
    ]
    assert 0.3 < sum(begun) / len(begun) < 0.5
    assert 0.4 < sum(steps.guest.pattern == "sparse" for steps in lists) / len(lists) < 0.6


@pytest.mark.parametrize(
    ("name", "on", "leads"), [("block", True, True), ("block", False, False), ("xbzrle", True, False)]
)
def test_the_capability_block_leads_to_f50(name: str, on: bool, leads: bool) -> None:
    """Only that capability does, and only if it is switched on."""
    arguments = {"capabilities": [{"capability": name, "state": on}]}
    step = Step("qmp", {"command": "migrate-set-capabilities", "arguments": arguments})
    assert LEADS_TO["F50"](_EMPTY.with_steps([step])) is leads


def _set(arguments: dict[str, object]) -> Step:
    return Step("qmp", {"command": "migrate-set-parameters", "arguments": arguments})


def _give(command: str, **arguments: object) -> Step:
    return Step("qmp", {"command": command, "arguments": arguments})


def _ignore(on: bool) -> Step:
    capabilities = [{"capability": "x-ignore-shared", "state": on}]
    return Step("qmp", {"command": "migrate-set-capabilities", "arguments": {"capabilities": capabilities}})


_EARLY, _CONT = Step("begin", {"early": True}), Step("cont")


@pytest.mark.parametrize(
    ("issue", "steps", "leads"),
    [
        ("F52", [_EARLY, _CONT], True),
        ("F52", [Step("begin"), _CONT], False),
        ("F52", [_CONT, _EARLY], False),
        ("F53", [Step("begin"), Step("load-inside")], True),
        ("F53", [Step("load-inside"), Step("begin")], False),
        ("F52", [_EARLY, Step("finish"), _CONT], False),
        ("F52", [_EARLY, Step("plug"), Step("begin"), _CONT], False),
        ("F52", [_EARLY, Step("wait"), _CONT], True),
        ("F10", [Step("begin-starved", {"left": 1})], True),
        ("F58", [Step("save-nowhere", {"destination": "empty-rdma"})], True),
        ("F58", [Step("save-nowhere", {"destination": "no-arguments"})], False),
        ("F59", [Step("save-nowhere", {"destination": "no-arguments"})], True),
        ("F59", [Step("save-nowhere", {"destination": "empty-rdma"})], False),
        ("F60", [Step("cancel-unconnected")], True),
        ("F60", [Step("begin"), Step("cancel")], False),
        ("F61", [Step("begin"), Step("limit-bandwidth", {"bytes": 1})], True),
        ("F61", [Step("limit-bandwidth", {"bytes": 1}), Step("begin")], False),
        ("F61", [Step("begin"), _set({"max-bandwidth": 1})], True),
        ("F61", [Step("begin"), _set({"downtime-limit": 1})], False),
        ("F61", [_set({"max-bandwidth": 1}), Step("begin")], False),
        ("F10", [Step("begin")], False),
        ("F47", [_give("x-query-virtio-status")], True),
        ("F47", [_give("x-query-virtio")], False),
        ("F66", [_give("transaction", actions=[{"type": "block-dirty-bitmap-enable"}])], True),
        ("F66", [_give("transaction", actions=[{"type": "block-dirty-bitmap-disable"}])], False),
        ("F66", [_give("block-dirty-bitmap-enable", node="disk", name="a")], False),
        ("F67", [_give("blockdev-reopen", options=[])], True),
        ("F67", [_give("blockdev-reopen", options=[{"node-name": "disk"}])], False),
        ("F67", [_give("blockdev-reopen")], False),
        ("F68", [_give("netdev_add", type="hubport", netdev="net")], True),
        ("F68", [_give("netdev_add", type="hubport")], False),
        ("F68", [_give("netdev_add", type="user", netdev="net")], False),
        ("F69", [_give("object-add", **{"qom-type": "colo-compare"})], True),
        ("F69", [_give("qom-list-properties", typename="colo-compare")], True),
        ("F69", [_give("object-add", **{"qom-type": "filter-mirror"})], False),
        ("F71", [_give("blockdev-add", **{"driver": "file", "pr-manager": "a"})], True),
        ("F71", [_give("blockdev-add", driver="file", filename="a")], False),
        ("F72", [_give("qom-list-properties", typename="x-remote-object")], True),
        ("F72", [_give("qom-list-properties", typename="device")], False),
        ("F73", [_give("object-add", **{"qom-type": "filter-dump"})], True),
        ("F73", [_give("object-add", **{"qom-type": "filter-mirror"})], False),
        ("F75", [_give("object-add", **{"qom-type": "memory-backend-memfd"})], True),
        ("F75", [_give("object-add", **{"qom-type": "memory-backend-ram"})], False),
        ("F74", [Step("sleep", {}), _give("xen-save-devices-state", filename="a")], True),
        ("F74", [_give("xen-save-devices-state", filename="a")], False),
        ("F70", [_give("object-add", **{"qom-type": "acpi-generic-initiator"})], True),
        ("F69", [_give("device-list-properties", typename="colo-compare")], False),
    ],
)
def test_what_leads_to_an_issue(issue: str, steps: list[Step], leads: bool) -> None:
    """The order counts: what comes before the save does not lead there."""
    assert LEADS_TO[issue](_EMPTY.with_steps(steps)) is leads


@pytest.mark.parametrize(
    ("ram", "states", "kind", "leads"),
    [
        ("memfd", [True], "begin", True),
        ("memfd", [True], "snapshot", True),
        ("memfd", [True], "stop", False),
        ("memfd", [False], "begin", False),
        ("memfd", [True, False], "begin", False),
        ("memfd", [False, True], "begin", True),
        ("anonymous", [True], "begin", False),
    ],
)
def test_saving_a_guest_whose_shared_ram_is_ignored_leads_to_f54(
    ram: str, states: list[bool], kind: str, leads: bool
) -> None:
    """Only RAM that is shared is left out of a file, and only of one that is saved while it is on."""
    switched = [_ignore(on) for on in states]
    assert LEADS_TO["F54"](StepList(GuestChoice(ram=ram), (*switched, Step(kind)))) is leads


@pytest.mark.parametrize(("kind", "leads"), [("save-inside", True), ("stop", False)])
def test_multifd_and_an_internal_snapshot_lead_to_f55(kind: str, leads: bool) -> None:
    """The capability alone does not."""
    arguments = {"capabilities": [{"capability": "multifd", "state": True}]}
    set_on = Step("qmp", {"command": "migrate-set-capabilities", "arguments": arguments})
    assert LEADS_TO["F55"](_EMPTY.with_steps([set_on, Step(kind)])) is leads


@pytest.mark.parametrize("content", ["[]", "{}", '{"lists": 5}', '{"lists": [5]}'])
def test_a_file_that_is_no_corpus_is_refused(tmp_path: Path, content: str) -> None:
    """It is the user's mistake, which a sentence names."""
    path = tmp_path / "corpus.json"
    path.write_text(content)
    with pytest.raises(UsageError):
        load_corpus(path)


def test_known_issues_are_avoided_as_far_as_possible() -> None:
    """A list that leads to a known issue is drawn anew if it is to be avoided."""
    drawer = Drawer(_SCHEMA, ("tcg",), lambda steps: any(step.kind == "stop" for step in steps.steps))
    for number in range(30):
        steps = drawer.draw(f"3:{number}", Coverage(), avoid=True)
        assert all(step.kind != "stop" for step in steps.steps)
    assert _drawer(avoids=True).draw("4", Coverage(), avoid=True).steps


def test_causes_are_told_apart_by_code_and_fields() -> None:
    """Two hangs of different commands are two causes; the order and number of violations do not count."""
    one = _violation(Code.QMP_NO_ANSWER, {"command": "cont", "seconds": 3})
    same = _violation(Code.QMP_NO_ANSWER, {"command": "cont", "seconds": 9})
    other = _violation(Code.QMP_NO_ANSWER, {"command": "stop"})
    assert signature([one, same]) == signature([same]) == ("qmp.no-answer command=cont",)
    assert signature([one]) != signature([other])
    assert same_failure([one, other], [other])
    assert not same_failure([one], [other])


def test_a_cause_is_reported_once() -> None:
    """A list that fails as an earlier one did is the same finding."""

    def record(code: Code) -> Record:
        return Record(_EMPTY, (judged("check", "Demands.", [Problem(code, "A sentence.")]),))

    first = record(Code.QEMU_ENDED)
    findings = Findings([Finding(signature(first.violations), first.steps, first.violations)])
    assert findings.seen_before(record(Code.QEMU_ENDED)) is findings.found[0]
    assert findings.seen_before(record(Code.QMP_CLOSED)) is None
    assert record(Code.QEMU_ENDED).status is Status.FAIL
    assert Record(_EMPTY).status is Status.ERROR
    assert Record(_EMPTY, (judged("check", "Demands.", []),)).status is Status.PASS
    assert Record(_EMPTY, (judged("check", "Demands.", []),), error="busy").status is Status.ERROR


def test_a_known_issue_needs_its_steps_and_its_code() -> None:
    """A QEMU that hangs is known only if a sink stood still: the code alone would hide any other hang."""
    issues = load_known_issues()
    hang = _violation(Code.QMP_NO_ANSWER, {"command": "query-status"})
    stalled = _EMPTY.with_steps([Step("begin"), _STALL])
    assert known_issue(stalled, [hang], issues, _OF_10) == "F6"
    assert known_issue(_EMPTY.with_steps([Step("begin")]), [hang], issues, _OF_10) == ""
    reset: dict[str, int | str] = {"command": "system_reset", "seconds": 20}
    waits: Fields = {**reset, "waiting_threads": "qemu", "waiting_faults": 1}
    assert known_issue(stalled, [_violation(Code.QMP_NO_ANSWER, waits)], issues, _OF_10) == "F6"
    assert known_issue(stalled, [_violation(Code.QMP_NO_ANSWER, reset)], issues, _OF_10) == ""
    wrong = _violation(Code.GOLDEN_DIFFERS)
    assert known_issue(stalled, [wrong], issues, _OF_10) == ""
    assert known_issue(stalled, [hang, wrong], issues, _OF_10) == ""
    assert known_issue(stalled, [], issues, _OF_10) == ""


@pytest.mark.parametrize(
    ("issue", "steps", "wrong", "sure"),
    [
        (
            "F52",
            [Step("begin", {"early": True}), Step("cont")],
            Code.RESTORED_OVERWRITTEN_PAGE,
            Code.RESTORED_CLOCK_BACK,
        ),
        ("F54", [_ignore(True), Step("begin")], Code.SETUP_BROKEN, Code.ORACLES_NO_AGENT),
        ("F54", [_ignore(True), Step("begin")], Code.RAM_NOT_EMPTY_ALL_ZERO, Code.GOLDEN_PAGE_MISSING),
    ],
)
def test_what_may_come_with_an_issue_is_none_alone(
    issue: str, steps: list[Step], wrong: Code, sure: Code
) -> None:
    """A wrong page, or a guest that does not answer, is explained only beside what the issue always shows."""
    issues, taken = load_known_issues(), StepList(GuestChoice(ram="memfd"), tuple(steps))
    alone, together = [_violation(wrong)], [_violation(wrong), _violation(sure)]
    assert known_issue(taken, alone, issues, "7.2.22") == ""
    assert known_issue(taken, together, issues, "7.2.22") == issue


def test_each_issue_that_needs_a_code_has_it() -> None:
    """It is one of those that the baseline has for the issue."""
    issues = {issue.id: issue for issue in load_known_issues()}
    for name, codes in AT_LEAST.items():
        found = {symptom.code for symptom in issues[name].codes}
        assert {*codes} <= found


def test_a_known_issue_is_not_one_of_a_version_without_it() -> None:
    """After a cancelled save 7.2 hangs (F9), and 10.0 must not."""
    issues, steps = load_known_issues(), _EMPTY.with_steps([Step("begin"), Step("cancel")])
    hang = [_violation(Code.QMP_NO_ANSWER, {"command": "migrate"})]
    assert known_issue(steps, hang, issues, "7.2.22") == "F9"
    assert known_issue(steps, hang, issues, _OF_10) == ""
    assert leads_to_known(steps, issues, "7.2.22")
    assert not leads_to_known(steps, issues, _OF_10)


def test_each_trigger_is_of_an_issue_of_the_baseline_and_says_no_to_nothing() -> None:
    """A trigger without an issue would never be used, and one that fits every list would hide all."""
    assert set(LEADS_TO) <= {issue.id for issue in load_known_issues()}
    assert not any(leads(_EMPTY) for leads in LEADS_TO.values())
