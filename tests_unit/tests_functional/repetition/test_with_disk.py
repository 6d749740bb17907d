"""Contract: a disk that is not of the memory's T0 is seen in each of the ways in which it can show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.errors import NotApplicable, SetupBroken
from harness.guest.shell import CommandResult
from tests_functional.lib import disk_loop
from tests_functional.lib.cycle import Source
from tests_functional.lib.disk_loop import DiskLoop, Found, judge_files, judge_loop, parse_record
from tests_functional.repetition import with_disk
from tests_functional.repetition.with_disk import _Taken, judge_same_t0, judge_wrong_disk
from tests_unit.support.scenario_values import SOURCE, check, codes, make_run, sentences, snapshot

_FOUND = Found(
    record={"file-0": "aa", "file-1": "bb"},
    names=frozenset({"file-0", "file-1", "log", "marks", "lost+found"}),
    wrong=(),
    log="pass 0\npass 1\n",
)
_SOURCE = {f"file-{number}": f"d{number}" for number in range(9)}


def test_record() -> None:
    """The record is parsed as sha256sum prints it."""
    assert parse_record("aa  file-0\nbb  file-1\n") == _FOUND.record


def test_right_disk() -> None:
    """All as remembered, nothing more, nobody complains."""
    assert sentences(judge_files(_FOUND, [])) == []


@pytest.mark.parametrize(
    ("change", "trouble", "sentence"),
    [
        ({"wrong": ("file-1: FAILED",)}, [], "A file differs from the record in memory: file-1: FAILED."),
        ({"names": _FOUND.names - {"file-0"}}, [], "'file-0' is gone from the disk."),
        (
            {"names": _FOUND.names | {"file-7"}},
            [],
            "'file-7' is on the disk, but not in the record in memory.",
        ),
        ({"log": "pass 0\n"}, [], "The log that was held open does not have one line for each pass."),
        ({}, ["umount: busy"], "The guest reports an error of its file system: umount: busy"),
        ({}, [""], "The guest reports an error of its file system: no message"),
    ],
)
def test_wrong_disk(change: dict[str, Any], trouble: list[str], sentence: str) -> None:
    """Changed, missing and unknown files, a torn log, and what the guest itself says."""
    assert sentences(judge_files(replace(_FOUND, **change), trouble)) == [sentence]


def test_loop_that_goes_on() -> None:
    """Passes made, ended when told."""
    assert sentences(judge_loop(5, "0")) == []


@pytest.mark.parametrize(
    ("made", "ended", "words"),
    [
        (5, "7", "a mark on the disk is not the one that its memory expects"),
        (5, "6", "could not write to the log that it had open"),
        (5, "137", "exit code 137"),
        (5, "", "it does not end"),
        (4, "0", "made only 4 passes"),
    ],
)
def test_loop_that_does_not(made: int, ended: str, words: str) -> None:
    """Each way in which it can end says which."""
    (found,) = sentences(judge_loop(made, ended))
    assert words in found


def test_same_t0() -> None:
    """Files from before T0 are the source's own; those after it may differ."""
    restored = {**{name: _SOURCE[name] for name in ("file-0", "file-1")}, "file-2": "other"}
    assert sentences(judge_same_t0(_SOURCE, restored, before=2)) == []
    (found,) = sentences(judge_same_t0(_SOURCE, restored, before=3))
    assert found.startswith("'file-2' was written before T0")
    (found,) = sentences(judge_same_t0(_SOURCE, {"file-0": "d0"}, before=2))
    assert found.startswith("'file-1' was written before T0")


def test_source_that_wrote_too_little() -> None:
    """The test breaks if the source wrote so little that no file could be too new."""
    with pytest.raises(SetupBroken, match="could not detect a file that is too new"):
        judge_same_t0(_SOURCE, _SOURCE, before=2)


def test_newer_disk_must_be_seen_by_its_own_checks() -> None:
    """A newer disk is seen if one of its checks fails, and unseen if all pass or none was made."""
    seen = judge_wrong_disk([check("disk-files"), check("disk-loop", "It failed.")], "older")
    assert codes(seen) == []
    assert seen.facts == {"disk-loop": "It failed."}
    for found in ([check("disk-loop"), check("disk-files")], []):
        unseen = judge_wrong_disk(found, "older")
        assert codes(unseen) == [Code.WRONG_DISK_UNSEEN]
        assert "no check of the disk detected it" in sentences(unseen)[0]


def test_guest_that_fails_otherwise_says_nothing_about_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore that fails before the disk is looked at has not seen that it is newer."""
    monkeypatch.setattr(with_disk, "judge_restored", lambda *_: [check("restore", "It died.")])
    taken = _Taken(snapshot(), "", 0, {})
    source = cast(Source, SimpleNamespace(status=SOURCE))
    found = with_disk._wrong_disk(make_run(tmp_path), source, taken, "newer", ())
    assert codes(found) == [Code.WRONG_DISK_UNSEEN]


class _Shell:
    def __init__(self, file_systems: str, mounts: bool) -> None:
        self._file_systems = file_systems
        self._mounts = mounts

    def check(self, command: str) -> str:
        return self._file_systems if command.startswith("cat") else ""

    def run(self, _command: str, stdin: bytes = b"") -> CommandResult:
        assert not stdin
        return CommandResult(0 if self._mounts else 1, "", "mount: no such device\n")


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        (_Shell("nodev\ttmpfs\n\text3\n", mounts=True), "no ext4 built in"),
        (_Shell("nodev\ttmpfs\n\text4\n", mounts=False), "cannot mount its disk: mount: no such device"),
    ],
)
def test_guest_that_cannot(shell: _Shell, words: str) -> None:
    """A kernel without the file system or the driver is a reason to skip."""
    with pytest.raises(NotApplicable, match=words):
        DiskLoop(cast(Any, shell)).start()


class _Recorded:
    """Answers with what the loop has recorded at each question, and how it has ended by then."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked = 0

    def check(self, _command: str) -> str:
        """The next answer; the last one stays."""
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.mark.parametrize(
    ("answers", "made", "asked"),
    [
        (("7", "9\n", "12\n"), 5, 3),
        (("7", "9\n", "9\n7\n"), 2, 3),
        (("7", "15\n0\n"), 8, 2),
        (("7", "9\n"), 2, None),
    ],
)
def test_passes_are_waited_for(
    answers: tuple[str, ...], made: int, asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until there are enough, the loop has ended, or it makes no more; each question is one command."""
    monkeypatch.setattr(disk_loop, "_ASK_SECONDS", 0.001)
    monkeypatch.setattr(disk_loop, "_PATIENCE_SECONDS", 0.2)
    shell = _Recorded(*answers)
    assert DiskLoop(cast(Any, shell)).wait_passes(5) == made
    assert asked is None or shell.asked == asked


def test_writers_rest_while_the_loop_is_waited_for() -> None:
    """And they write again before the save, or a test of memory would be one of a guest that rests."""
    acts: list[str] = []
    agent = SimpleNamespace(pause=lambda: acts.append("pause"), resume=lambda: acts.append("resume"))

    def wait_passes(count: int) -> int:
        acts.append("wait")
        return count

    loop = SimpleNamespace(wait_passes=wait_passes)
    with_disk._require_passes(cast(Any, SimpleNamespace(agent=agent)), cast(Any, loop), 3)
    assert acts == ["pause", "wait", "resume"]
    with pytest.raises(SetupBroken, match="made 2 passes instead of 3"):
        with_disk._require_passes(
            cast(Any, SimpleNamespace(agent=agent)), cast(Any, SimpleNamespace(wait_passes=lambda _: 2)), 3
        )
