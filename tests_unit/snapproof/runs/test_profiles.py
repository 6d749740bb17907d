"""Contract: a profile's rows are the tests that run, each exactly once, and a vanished test is no pass."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace
from pathlib import Path

import pytest

import tests_functional
from harness.errors import SetupBroken, UsageError
from snapproof.runs import avocado_job
from snapproof.runs.profiles import PROFILES, select
from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.lib.profile_row import ANY_GUEST, LINUX, ProfileRow

_PREMERGE = {
    "attach.once",
    "attach.libvirt-11",
    "bare.live",
    "bare.live-kvm",
    "snapshot.main-job",
    "snapshot.live-2-vcpus",
    "snapshot.live-hot-set",
    "snapshot.live-zero",
    "snapshot.seeds-sparse",
    "snapshot.seeds-file",
    "snapshot.live-and-network-receive",
    "memory.memfd-shared",
    "memory.numa-refused-last",
    "memory.plugged-anonymous",
    "memory.virtio-mem",
    "offline.extract-plain",
    "offline.gone-agent-bare",
    "offline.extract-mapped-ram",
    "repetition.at-once",
    "repetition.with-disk",
    "devices.few",
    "failures.cancel",
    "refusals.no-userfaultfd-seccomp-eperm",
    "run-states.paused",
    "during-save.stop-cont",
    "planted.drop-protection",
    "planted.lose-events",
    "findings.f2",
}
_HOME = Path(tests_functional.__file__).parent
_ROWS = sorted({(row.name, row.test) for rows in PROFILES.values() for row in rows})


@pytest.mark.parametrize("profile", PROFILES)
def test_names_are_unique(profile: str) -> None:
    """Results, `--filter` and folders go by name; every row says why it is there."""
    rows = PROFILES[profile]
    assert len({row.name for row in rows}) == len(rows) > 0
    assert all(row.reason and row.seconds > 0 for row in rows)


def test_premerge_has_one_of_each_kind() -> None:
    """A condition in a row that no longer holds would make the profile shorter in silence."""
    assert {row.name for row in PROFILES["premerge"]} == _PREMERGE


def test_premerge_boots_no_linux() -> None:
    """Each of its tests gets a bare guest, which is what makes the profile quick."""
    rows = [row.quick() for row in PROFILES["premerge"]]
    assert [row.name for row in rows if row.parameters.get("guest") != "bare"] == []


def test_quick_rows_have_a_small_bare_guest() -> None:
    """A row that may have a bare guest gets a small one, and all else about it stays as it was."""
    row = ProfileRow("a", "t", "why", {"ram_mib": 256, "coverage": 0.7}, kinds=ANY_GUEST)
    assert row.quick() == replace(row, parameters={"ram_mib": 128, "coverage": 0.7, "guest": "bare"})


@pytest.mark.parametrize(
    ("parameters", "kinds"),
    [({"ram_mib": 256}, LINUX), ({"guest": "debian-11"}, ANY_GUEST), ({"guest": "bare"}, ANY_GUEST)],
)
def test_rows_that_stay_with_their_guest(
    parameters: dict[str, str | int | float], kinds: tuple[str, ...]
) -> None:
    """A test that runs commands in its guest keeps an operating system, one that names a guest keeps that."""
    row = ProfileRow("a", "t", "why", parameters, kinds=kinds)
    assert row.quick() == row


def test_row_that_proves_more_with_linux_keeps_it() -> None:
    """It runs with a bare guest only where one is asked for."""
    row = ProfileRow("a", "t", "why", kinds=ANY_GUEST, why_linux="a device writes as well")
    assert row.quick() == row


def test_rows_that_need_linux_say_why() -> None:
    """A row that is closed to bare guests without a reason has only been forgotten."""
    rows = [row for profile in PROFILES.values() for row in profile]
    assert [row.name for row in rows if "bare" not in row.kinds and not row.why_linux] == []


def test_rows_name_profiles_that_there_are() -> None:
    """A row whose profile is misspelt would be run by none but the nightly one."""
    assert {name for row in PROFILES["nightly"] for name in row.profiles} <= set(PROFILES)


@pytest.mark.parametrize(("name", "test"), _ROWS, ids=[name for name, _ in _ROWS])
def test_every_reference_is_a_method(name: str, test: str) -> None:
    """A row names a method that exists, on a class that is bound to its command's life."""
    file, _, method = test.partition(":")
    module = importlib.import_module(f"tests_functional.{file.removesuffix('.py').replace('/', '.')}")
    class_name, _, method_name = method.partition(".")
    found = getattr(module, class_name)
    assert issubclass(found, SnapshotTest), name
    assert inspect.isfunction(getattr(found, method_name)), name


def test_parameters_are_read_by_somebody() -> None:
    """A parameter that no test reads would change nothing and look as if it did."""
    base = inspect.getsource(SnapshotTest)
    for rows in PROFILES.values():
        for row in rows:
            own = Path(tests_functional.__file__).parent / row.test.partition(":")[0]
            for parameter in row.parameters:
                read = f'_parameter("{parameter}"' in base or f'option("{parameter}")' in own.read_text()
                assert read, row.name


@pytest.mark.parametrize(("name", "test"), _ROWS, ids=[name for name, _ in _ROWS])
def test_avocado_finds_exactly_one(name: str, test: str) -> None:
    """The expected-count guard: Avocado drops what it cannot import, and patterns find too much."""
    (runnable,) = avocado_job._resolve(ProfileRow(name, test, "reason"), {"name": name})
    assert getattr(runnable, "uri", None) == f"{_HOME}/{test}"


@pytest.mark.parametrize(
    "test", ["snapshot/test_flows.py:SnapshotFlows.test_no_such", "snapshot/test_none.py:None.test_none"]
)
def test_unknown_reference(test: str) -> None:
    """A test that is not there is a broken set-up, not a shorter run."""
    with pytest.raises(SetupBroken, match="found 0 tests"):
        avocado_job._resolve(ProfileRow("a", test, "reason"), {"name": "a"})


def test_base_class_that_cannot_be_imported(tmp_path: Path) -> None:
    """A test whose base class cannot be imported is an error; Avocado would drop it in silence."""
    file = tmp_path / "test_lost.py"
    file.write_text("from no_such_module import Base\nclass Lost(Base):\n    def test_lost(self): pass\n")
    with pytest.raises(SetupBroken, match=r"found 0 tests for '.*test_lost'"):
        avocado_job._resolve(ProfileRow("a", f"{file}:Lost.test_lost", "reason"), {"name": "a"})


def test_select_by_pattern() -> None:
    """A shell pattern chooses by name, in the profile's order."""
    assert [row.name for row in select("premerge", ["snapshot.seeds-*"])] == [
        row.name for row in PROFILES["premerge"] if row.name.startswith("snapshot.seeds-")
    ]
    assert select("smoke", ()) == PROFILES["smoke"]
    both = select("premerge", ["snapshot.seeds-*", "bare.*"])
    assert {row.name.partition(".")[0] for row in both} == {"snapshot", "bare"}
    assert both == tuple(row for row in PROFILES["premerge"] if row in both)


def test_select_errors() -> None:
    """An unknown profile names those there are; a filter that fits nothing is never an empty run."""
    with pytest.raises(UsageError, match=r"no profile 'nihgtly'; choose one of .*premerge.*smoke"):
        select("nihgtly", ())
    with pytest.raises(UsageError, match="matches the filter 'nothing'; see --list"):
        select("smoke", [PROFILES["smoke"][0].name, "nothing"])
    with pytest.raises(UsageError, match=r"'bare\.live'; it matches tests of 'premerge' and 'nightly'\."):
        select("smoke", ["bare.live"])
