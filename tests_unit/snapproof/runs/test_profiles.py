"""Contract: a profile's rows are the tests that run, each exactly once, and a vanished test is no pass."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tests_functional
from harness.errors import SetupBroken, UsageError
from harness.status import Status
from snapproof.runs import avocado_job, interruption
from snapproof.runs.avocado_job import run_plan
from snapproof.runs.profiles import PROFILES, select
from snapproof.runs.side_by_side import Plan
from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.profile_row import ANY_GUEST, LINUX, ProfileRow
from tests_functional.lib.stack_file import save_stack
from tests_unit.support.scenario_values import stack

_PREMERGE = {
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
    "offline.extract-mapped-ram",
    "repetition.at-once",
    "repetition.with-disk",
    "failures.cancel",
    "refusals.no-userfaultfd-seccomp-eperm",
    "run-states.paused",
    "planted.drop-protection",
    "planted.lose-events",
    "findings.f2",
}
_COMMON: dict[str, str | int | float] = {
    "seed": 9,
    "repeat": 1,
    "keep": 0,
    "cache": "/c",
    "mirror": "http://m",
}
_HOME = Path(tests_functional.__file__).parent
_ROWS = sorted({(row.name, row.test) for rows in PROFILES.values() for row in rows})

# As `snapproof run` starts them: one kills itself, one reports what it was given.
_THROWAWAY = '''
"""Throwaway tests."""
import os, signal, time
from pathlib import Path
from avocado import Test
from harness.status import Status
from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.lib.outcome import Outcome

class Vanishing(Test):
    """Gone without a word, its snapshot left behind."""
    def test_vanish(self):
        """Kill itself."""
        folder = Path(self.params.get("folder"))
        folder.mkdir(parents=True)
        (folder / "vmstate").write_text("heavy")
        (folder / "test.log").write_text("said so far")
        os.kill(os.getpid(), signal.SIGKILL)

class Stopping(Test):
    """Whoever runs the command asks it to stop."""
    def test_stop(self):
        """Ask, and wait to be ended."""
        folder = Path(self.params.get("folder"))
        folder.mkdir(parents=True)
        figures = {"01/pages_in_stream": 5}
        Outcome("t.stop", Status.PASS, "Two are right.", figures=figures).save_so_far(folder)
        os.kill(int(self.params.get("parent_pid")), signal.SIGTERM)
        time.sleep(60)

class Reporting(SnapshotTest):
    """Lives on."""
    def test_report(self):
        """Say what it was given."""
        def scenario(run):
            given = run.provisioning
            said = f"{run.pattern} {run.seed} {run.stack.vcpus} {given.cache.folder} {given.mirror}"
            return Outcome(run.name, Status.PASS, said)
        self.judge(scenario)
    def test_report_more(self):
        """Its name begins like that of another test."""
'''


@pytest.mark.parametrize("profile", PROFILES)
def test_names_are_unique(profile: str) -> None:
    """Results, `--filter` and folders go by name; every row says why it is there."""
    rows = PROFILES[profile]
    assert len({row.name for row in rows}) == len(rows) > 0
    assert all(row.reason and row.seconds > 0 for row in rows)


def test_premerge_has_one_of_each_kind() -> None:
    """A condition in a row that no longer holds would make the profile shorter in silence."""
    assert {row.name for row in PROFILES["premerge"]} == _PREMERGE


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


def test_name_that_begins_another(tmp_path: Path) -> None:
    """`test_report` is one test although there is a `test_report_more`."""
    file = tmp_path / "test_throwaway.py"
    file.write_text(_THROWAWAY)
    row = ProfileRow("a", f"{file}:Reporting.test_report", "reason")
    (runnable,) = avocado_job._resolve(row, {"name": "a"})
    assert str(getattr(runnable, "uri", "")).endswith(":Reporting.test_report")


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


def test_vanished_test_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test killed by SIGKILL ends as ERROR in time, without its snapshot, and takes no other along."""
    # The time-out is all that ends it, and counts from before its interpreter has started.
    monkeypatch.setattr(avocado_job, "_TASK_GRACE_SECONDS", 10)
    file = tmp_path / "test_throwaway.py"
    file.write_text(_THROWAWAY)
    folder = tmp_path / "results"
    folder.mkdir()
    save_stack(stack(tmp_path), {"host_kernel": "6.18"}, folder)
    rows = [
        ProfileRow("t.vanish", f"{file}:Vanishing.test_vanish", "reason", seconds=1),
        # On a busy machine its interpreter alone takes longer than the other's whole time-out.
        ProfileRow("t.report", f"{file}:Reporting.test_report", "reason", {"vcpus": 2}, seconds=60),
    ]
    plan = Plan(together=tuple(rows[:1]), alone=tuple(rows[1:]), workers=1)
    outcomes = list(run_plan(plan, _COMMON, folder).values())
    # It names the time that has passed, whatever the test had.
    sentence, seconds = re.subn(r"after \d+ s", "after N s", outcomes[0].sentence)
    assert seconds == 1
    assert [(found.name, found.status) for found in outcomes[:1]] == [("t.vanish", Status.ERROR)]
    assert sentence.startswith(
        "The test did not report; it had 1 s, and the run of the tests ended after N s."
    )
    assert [(found.name, found.status, found.sentence) for found in outcomes[1:]] == [
        ("t.report", Status.PASS, "random 9 2 /c http://m"),
    ]
    assert [found.folder for found in outcomes] == ["tests/t.vanish", "tests/t.report"]
    assert [path.name for path in (folder / "tests/t.vanish").iterdir()] == ["test.log"]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [(event["type"], event["test"]) for event in events] == [
        ("test-started", "t.report"),
        ("test-ended", "t.report"),
    ]
    assert (events[1]["status"], events[1]["sentence"]) == ("PASS", "random 9 2 /c http://m")


_FOREIGN = """
import json, sys
from pathlib import Path
from snapproof.runs.avocado_places import own_settings
from snapproof.runs.side_by_side import Plan
from tests_functional.lib.profile_row import ProfileRow
folder = Path(sys.argv[1])
row = ProfileRow("t.report", sys.argv[2], "reason", {"vcpus": 2}, seconds=60)
with own_settings(folder / "avocado"):
    from snapproof.runs.avocado_job import run_plan
    found = run_plan(Plan((row,), (), 1), json.loads(sys.argv[3]), folder)
print(json.dumps([found["t.report"].status.value, found["t.report"].sentence]))
"""


@pytest.mark.parametrize(
    ("settings", "temporary"),
    [("HOME", "t" * 80), ("VIRTUAL_ENV", "a:1")],
    ids=["user's settings, long TMPDIR", "venv's settings, TMPDIR with a colon"],
)
def test_environment_steers_no_run(tmp_path: Path, settings: str, temporary: str) -> None:
    """A run reports whatever spawner avocado.conf names, and whatever the path of TMPDIR is.

    Settings and TMPDIR are read by different parts, and each alone ends the run; so one run has one of each.
    """
    file, folder, home = tmp_path / "test_throwaway.py", tmp_path / "results", tmp_path / "home"
    file.write_text(_THROWAWAY)
    folder.mkdir()
    save_stack(stack(tmp_path), {"host_kernel": "6.18"}, folder)
    place = home / ".config" / "avocado"
    place.mkdir(parents=True)
    settings_file = "[run]\nspawner = podman\n[plugins]\ndisable = ['spawner.process']\n"
    (place / "avocado.conf").write_text(settings_file)
    (tmp_path / temporary).mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"TMPDIR": str(tmp_path / temporary), settings: str(home)}
    words = [sys.executable, "-c", _FOREIGN, str(folder), f"{file}:Reporting.test_report"]
    words.append(json.dumps(_COMMON))
    run = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=100, check=True)
    assert json.loads(run.stdout.splitlines()[-1]) == ["PASS", "random 9 2 /c http://m"]


def test_interrupted_run_begins_no_more(tmp_path: Path) -> None:
    """After SIGTERM the suite that runs is ended and the next one is not begun; each test of it says so."""
    file = tmp_path / "test_throwaway.py"
    file.write_text(_THROWAWAY)
    folder = tmp_path / "results"
    folder.mkdir()
    save_stack(stack(tmp_path), {"host_kernel": "6.18"}, folder)
    stop = ProfileRow("t.stop", f"{file}:Stopping.test_stop", "reason", seconds=60)
    report = ProfileRow("t.report", f"{file}:Reporting.test_report", "reason", seconds=60)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    interruption.listen()
    try:
        found = run_plan(Plan((stop,), (report,), 1), _COMMON, folder)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
        interruption._asked = False
    sentence = "The run was interrupted before this test had reported."
    assert {o.name: (o.status, o.sentence, o.figures) for o in found.values()} == {
        "t.stop": (Status.ERROR, f"{sentence} Until then: Two are right.", {"01/pages_in_stream": 5}),
        "t.report": (Status.ERROR, sentence, {}),
    }
    assert not (folder / "tests/t.report").exists()


def test_wrong_snapshot_of_a_test_that_was_ended(tmp_path: Path) -> None:
    """What was found wrong stays wrong when the test is ended after that."""
    place = tmp_path / "tests/t.stop"
    place.mkdir(parents=True)
    Outcome("t.stop", Status.FAIL, "Page 7 is newer.").save_so_far(place)
    found = avocado_job._collect(ProfileRow("t.stop", "t", "why"), tmp_path, 3.0)
    assert found.status is Status.FAIL
    assert found.sentence.startswith("Page 7 is newer. (The test did not report; it had 300 s, ")


def test_snapshots_of_a_test_that_was_ended_are_put_together(tmp_path: Path) -> None:
    """Each snapshot leaves a line of its own; the last may be cut off, if the test was killed as it wrote."""
    place = tmp_path / "tests/t.stop"
    place.mkdir(parents=True)
    for number in (1, 2):
        Outcome("t.stop", Status.PASS, "It is right.", figures={f"{number:02}-live/a": number}).save_so_far(
            place
        )
    with (place / "so-far.jsonl").open("a") as file:
        file.write('{"name": "t.st')
    found = avocado_job._collect(ProfileRow("t.stop", "t", "why"), tmp_path, 3.0)
    assert (found.status, found.folder) == (Status.ERROR, "tests/t.stop")
    assert found.figures == {"01-live/a": 1, "02-live/a": 2}
    assert found.sentence.endswith(" Until then: It is right.")


def test_outcome_replaces_what_was_so_far(tmp_path: Path) -> None:
    """A test that has reported leaves no second outcome behind."""
    Outcome("a", Status.PASS, "One is right.").save_so_far(tmp_path)
    Outcome("a", Status.PASS, "Two are right.").save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]


def test_select_by_pattern() -> None:
    """A shell pattern chooses by name, in the profile's order."""
    assert [row.name for row in select("premerge", "snapshot.seeds-*")] == [
        row.name for row in PROFILES["premerge"] if row.name.startswith("snapshot.seeds-")
    ]
    assert select("smoke", None) == PROFILES["smoke"]


def test_select_errors() -> None:
    """An unknown profile names those there are; a filter that fits nothing is never an empty run."""
    with pytest.raises(UsageError, match=r"no profile 'nihgtly'; choose one of .*premerge.*smoke"):
        select("nihgtly", None)
    with pytest.raises(UsageError, match="matches the filter 'nothing'"):
        select("smoke", "nothing")
