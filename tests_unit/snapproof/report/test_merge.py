"""Contract: shards and machines become one result that is never greener than its parts, and loses no test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.status import Status
from snapproof.report.merge import Merged, Part, merged
from snapproof.report.run_result import OutcomeRecord, RunResult, Selection
from tests_unit.support.report_results import ENVIRONMENT, result
from tests_unit.support.scenario_values import outcome


def _shard(number: int, count: int, *outcomes: OutcomeRecord, **changes: Any) -> RunResult:
    return result(*outcomes, selection=Selection("premerge", shard=(number, count)), **changes)


def _merge(**parts: RunResult) -> Merged:
    """Merge parts, each in the folder of its name."""
    return merged([Part(Path("/r") / name, part) for name, part in parts.items()], ["snapproof", "report"])


def _statuses(found: Merged) -> dict[str, str]:
    return {one.name: one.status.value for one in found.result.outcomes}


def test_shards_become_the_whole_run() -> None:
    """The result has all tests in the order of the shards under their own names, without a note."""
    found = _merge(
        a=_shard(1, 3, outcome("t.1", Status.PASS)),
        b=_shard(2, 3, outcome("t.2", Status.XFAIL)),
        c=_shard(3, 3, outcome("t.3", Status.SKIP)),
    )
    assert _statuses(found) == {"t.1": "PASS", "t.2": "XFAIL", "t.3": "SKIP"}
    assert (found.notes, found.result.exit_code) == ((), 0)
    assert found.result.selection == Selection("premerge")
    assert found.result.environment == ENVIRONMENT
    assert ("/r/b/tests/t.2", "tests/t.2") in [(str(copy.source), copy.place) for copy in found.folders]


@pytest.mark.parametrize("there", [(1, 2), (1, 3), (2, 3), (2,)])
def test_missing_shard_is_not_green(there: tuple[int, ...]) -> None:
    """A missing shard is a test with status MISS that names its number, and the exit code is 2."""
    parts = {f"s{n}": _shard(n, 3, outcome(f"t.{n}", Status.PASS)) for n in there}
    found = _merge(**parts)
    absent = sorted({1, 2, 3} - set(there))
    assert [one.name for one in found.result.outcomes if one.status is Status.MISS] == [
        f"shards.{number}-of-3" for number in absent
    ]
    assert found.result.exit_code == 2
    assert all(
        f"Shard {number}/3 is missing" in note for number, note in zip(absent, found.notes, strict=True)
    )


def test_failure_outweighs_a_missing_shard() -> None:
    """The worst status wins."""
    assert _merge(a=_shard(2, 2, outcome("t", Status.FAIL))).result.exit_code == 1


def test_shard_given_twice() -> None:
    """The same shard twice on the same host is refused."""
    part = _shard(1, 2, outcome("t.1", Status.PASS))
    with pytest.raises(UsageError, match=r"^Shard 1/2 of the same run is there twice: '/r/a' and '/r/b'\.$"):
        _merge(a=part, b=part, c=_shard(2, 2, outcome("t.2", Status.PASS)))


def test_shards_on_unlike_kernels_are_one_run() -> None:
    """The kernels of the hosts may differ: a note says so, and the shared environment leaves them out."""
    other = ENVIRONMENT | {"host_kernel": "6.8.0", "accelerator": "kvm"}
    found = _merge(
        a=_shard(1, 2, outcome("t.1", Status.PASS)),
        b=_shard(2, 2, outcome("t.2", Status.PASS), environment=other),
    )
    assert _statuses(found) == {"t.1": "PASS", "t.2": "PASS"}
    assert found.notes == (
        "The shards' host_kernel differs: 6.18.44 #1 SMP, 6.8.0.",
        "The shards' accelerator differs: kvm, tcg.",
    )
    assert "host_kernel" not in found.result.environment
    assert found.result.environment["qemu"] == ENVIRONMENT["qemu"]


def test_shards_of_another_qemu_do_not_complete_a_run() -> None:
    """A shard on another QEMU belongs to another run, so both runs lack a shard."""
    other = ENVIRONMENT | {"qemu": "8.2.0"}
    found = _merge(
        a=_shard(1, 2, outcome("t.1", Status.PASS)),
        b=_shard(2, 2, outcome("t.2", Status.PASS), environment=other),
    )
    assert _statuses(found) == {
        "a/t.1": "PASS", "a/shards.2-of-2": "MISS", "b/t.2": "PASS", "b/shards.1-of-2": "MISS",
    }  # fmt: skip
    assert found.result.exit_code == 2


def test_shards_that_were_asked_for_something_else() -> None:
    """Shards with another profile, filter or repeat belong to another run."""
    found = _merge(
        a=_shard(1, 2, outcome("t.1", Status.PASS)),
        b=replace(_shard(2, 2, outcome("t.2", Status.PASS)), selection=Selection("nightly", shard=(2, 2))),
    )
    assert found.result.exit_code == 2
    assert len(found.notes) == 2


def test_two_machines_in_shards() -> None:
    """Six folders of two kernels are two whole runs."""
    other = ENVIRONMENT | {"host_kernel": "5.10"}
    parts = {}
    for name, environment in (("new", ENVIRONMENT), ("old", other)):
        for number in (1, 2, 3):
            one = outcome(f"t.{number}", Status.PASS if name == "new" else Status.SKIP)
            parts[f"{name}{number}"] = _shard(number, 3, one, environment=environment)
    found = _merge(**parts)
    assert _statuses(found) == {
        **{f"new1/t.{n}": "PASS" for n in (1, 2, 3)}, **{f"old1/t.{n}": "SKIP" for n in (1, 2, 3)},
    }  # fmt: skip
    assert found.notes == ()
    assert found.result.environment == {"new1": ENVIRONMENT, "old1": other}
    assert found.result.selection is None
    assert {copy.place for copy in found.folders} >= {"new1/tests/t.1", "old1/tests/t.1"}
    assert found.stacks["new1/stack.json"][0] == Path("/r/new1/stack.json")


def test_same_test_on_two_machines_may_differ() -> None:
    """The same test may end differently on two machines."""
    other = ENVIRONMENT | {"host_kernel": "5.10"}
    found = _merge(
        x86=result(outcome("t", Status.PASS)), old=result(outcome("t", Status.FAIL), environment=other)
    )
    assert _statuses(found) == {"x86/t": "PASS", "old/t": "FAIL"}
    assert found.result.exit_code == 1


def test_same_test_on_one_host_may_not_differ() -> None:
    """A test that ended differently on the same host and QEMU is refused; the sentence names both folders."""
    with pytest.raises(UsageError, match=r"'t' ended as PASS in '/r/a' and as FAIL in '/r/b', on the same"):
        _merge(a=result(outcome("t", Status.PASS)), b=result(outcome("t", Status.FAIL)))


def test_two_parts_of_one_profile_by_filter() -> None:
    """Merge joins whole runs on one host; a test that ended alike in both is there once."""
    found = _merge(
        a=result(outcome("a.x", Status.PASS), outcome("t", Status.PASS), selection=Selection("p", ("a*",))),
        b=result(
            outcome("b.x", Status.PASS), outcome("t", Status.PASS), selection=Selection("p", ("a*", "b*"))
        ),
    )
    assert _statuses(found) == {"a.x": "PASS", "t": "PASS", "b.x": "PASS"}
    assert found.result.selection is None


def test_shards_of_several_qemus() -> None:
    """A shard may have tests of one QEMU only; their labels stay as they are."""
    first = {"d12": ENVIRONMENT | {"qemu": "7.2"}, "d13": ENVIRONMENT}
    found = _merge(
        a=_shard(1, 2, outcome("d12/t", Status.PASS), outcome("d13/t", Status.PASS), environment=first),
        b=_shard(2, 2, outcome("d13/u", Status.PASS), environment={"d13": ENVIRONMENT}),
    )
    assert _statuses(found) == {"d12/t": "PASS", "d13/t": "PASS", "d13/u": "PASS"}
    assert found.result.environment == first


def test_shards_of_several_qemus_that_are_not_the_same() -> None:
    """A label that means different QEMUs in two shards is refused."""
    with pytest.raises(UsageError, match=r"'d13' is not the same in '/r/a' and '/r/b'"):
        _merge(
            a=_shard(1, 2, outcome("d13/t", Status.PASS), environment={"d13": ENVIRONMENT}),
            b=_shard(2, 2, outcome("d13/u", Status.PASS), environment={"d13": ENVIRONMENT | {"qemu": "1"}}),
        )


def test_time_is_that_of_the_whole() -> None:
    """The time is from the first start to the last end, because shards run at the same time."""
    found = _merge(
        a=_shard(1, 2, started="2026-01-02T03:00:00+00:00", seconds=100),
        b=_shard(2, 2, started="2026-01-02T04:01:00+01:00", seconds=90),
    )
    assert (found.result.started, found.result.seconds) == ("2026-01-02T03:00:00+00:00", 150)


def test_labels_are_unique() -> None:
    """Labels of folders of the same name have the names of their parents."""
    other = ENVIRONMENT | {"host_kernel": "5.10"}
    found = merged(
        [Part(Path("/x86/run"), result(outcome("t", Status.PASS))),
         Part(Path("/arm 64/run"), result(outcome("t", Status.PASS), environment=other))],
        ["x"],
    )  # fmt: skip
    assert list(_statuses(found)) == ["x86-run/t", "arm-64-run/t"]


def test_shards_of_unlike_lists_do_not_complete_a_run() -> None:
    """Shards of two versions of snapproof do not complete each other: tests may be in no shard."""
    parts = {
        name: result(
            outcome(f"t.{number}", Status.PASS),
            selection=Selection("premerge", shard=(number, 2), work=work),
        )
        for name, number, work in (("a", 1, "six"), ("b", 2, "seven"))
    }
    found = _merge(**parts)
    assert found.result.exit_code == 2
    assert len([one for one in found.result.outcomes if one.status is Status.MISS]) == 2


def test_test_in_two_shards() -> None:
    """A test in two shards is refused, also in results that have no digest of the tests."""
    with pytest.raises(UsageError, match="'t' is in two shards, '/r/a' and '/r/b': they were divided from"):
        _merge(a=_shard(1, 2, outcome("t", Status.PASS)), b=_shard(2, 2, outcome("t", Status.PASS)))


def test_runs_on_hosts_of_two_machines() -> None:
    """Runs on several hosts are grouped by the environment of their tests, and no test is lost."""
    kernels = {"a": "6.1", "b": "6.12"}
    found = _merge(
        **{
            name: result(
                outcome("hosts.local.features", Status.PASS, environment={"host_kernel": kernel}),
                environment={"hosts": ["local"]},
            )
            for name, kernel in kernels.items()
        }
    )
    assert _statuses(found) == {f"{name}/hosts.local.features": "PASS" for name in kernels}


def test_repeats_that_are_left_out_are_told() -> None:
    """A test that two runs of one stack have is shown once, and a note says so."""
    found = _merge(a=result(outcome("t", Status.PASS)), b=result(outcome("t", Status.PASS)))
    assert _statuses(found) == {"t": "PASS"}
    (note,) = found.notes
    assert note.startswith("1 tests, such as 't', are in several of the folders")


def test_run_without_results_is_not_green() -> None:
    """The folder of a killed shard gives a MISS beside the results of the others."""
    part = Part(Path("/r/a"), result(outcome("t", Status.PASS)))
    found = merged([part], ["x"], {Path("/r/b"): "'/r/b' holds no results.json."})
    assert _statuses(found) == {"t": "PASS", "runs.b": "MISS"}
    assert found.result.exit_code == 2
