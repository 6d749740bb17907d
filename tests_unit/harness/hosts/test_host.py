"""A host's folder and programs end with it, whatever happens in between; here on this machine."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.hosts import streams, supervisor
from harness.hosts.host import Host
from harness.hosts.link import LocalLink, Stream, script_of
from snapproof.bench import page_fault_lines, page_fault_trace, tracefs
from tests_functional.hosts import on_host, on_host_balance, on_host_memory, on_host_qemu

# What is carried together.
_CARRIED = (
    (supervisor,),
    (on_host, on_host_balance, on_host_memory, on_host_qemu),
    (page_fault_trace, tracefs, page_fault_lines),
)


# A program of another run of these tests is none of ours.
_DAEMON, _PROGRAM = f"3604.{os.getpid()}", f"3605.{os.getpid()}"
# Is a supervisor with one child, which the first list of its children lacks.
_MISSED = """\
import subprocess
from harness.hosts import streams, supervisor
child, real, lists = subprocess.Popen(["sleep", "1000"]), supervisor._children, [[]]
supervisor._children = lambda: lists.pop() if lists else real()
left = supervisor._end_descendants()
try:
    supervisor.os.kill(child.pid, 9)
    print(left, "alive")
except ProcessLookupError:
    print(left, "gone")
"""


def _here() -> Host:
    return Host("here", LocalLink(), sys.executable)


def _alive(word: str) -> bool:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def test_folder_is_private_and_goes() -> None:
    """The folder on the host has mode 0700, and is removed also after an error inside the `with`."""
    with pytest.raises(ValueError, match="of the test"), _here() as host:
        folder = Path(host.folder)
        host.put({"deep/er/file": b"x"}, Deadline(20))
        assert folder.stat().st_mode & 0o777 == 0o700
        raise ValueError("of the test")
    assert not folder.exists()


def test_streams_and_exit_codes() -> None:
    """Input, both outputs, environment, signals; output can be had as it comes."""
    with _here() as host:
        done = host.run(["sh", "-c", "cat; echo $WORD; kill -9 $$"], Deadline(20), stdin=b"in ",
                        environment={"WORD": "out"})  # fmt: skip
        assert (done.exit_code, done.stdout) == (137, b"in out\n")
        pieces: list[bytes] = []
        assert (
            host.run(["head", "-c", "200000", "/dev/zero"], Deadline(20), on_output=pieces.append).stdout
            == b""
        )
        assert sum(map(len, pieces)) == 200_000


def test_files_arrive_as_they_are(tmp_path: Path) -> None:
    """Small ones, an empty one, and one of several pieces, with what their owner may do with them."""
    large, program = tmp_path / "large", tmp_path / "program"
    large.write_bytes(random.Random(3).randbytes((5 << 19) + 7))
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o755)
    with _here() as host:
        there = Path(host.folder)
        host.put({"empty": b"", "a/large": large, "a/program": program, "last": b"end"}, Deadline(20))
        assert (there / "a/large").read_bytes() == large.read_bytes()
        assert [(there / name).read_bytes() for name in ("empty", "a/program", "last")] == [
            b"",
            program.read_bytes(),
            b"end",
        ]
        modes = [(there / name).stat().st_mode & 0o777 for name in ("last", "a/program")]
        assert modes == [0o600, 0o700]


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host does not take what there is of it for the file."""
    monkeypatch.setattr(streams, "_pieces", lambda _: [b"12345"])
    (tmp_path / "file").write_bytes(b"1234567")
    with _here() as host, pytest.raises(SetupBroken, match=r"The input ended within a/file\."):
        host.put({"a/file": tmp_path / "file"}, Deadline(20))


def test_input_that_nobody_reads_is_no_error() -> None:
    """A program may end without having read what it was given."""
    with _here() as host:
        assert host.run(["true"], Deadline(20), stdin=bytes(5_000_000)).exit_code == 0


def test_daemons_end_with_their_command() -> None:
    """A daemon ends with its command even if it left the session and its parent has ended."""
    with _here() as host:
        script = f"(setsid sleep {_DAEMON} >/dev/null 2>&1 </dev/null &) ; true"
        assert host.run(["sh", "-c", script], Deadline(20)).exit_code == 0
        assert not _alive(_DAEMON)


def test_process_that_the_list_misses_is_killed_too() -> None:
    """A process is not in the list when its parent ends while /proc is read; the supervisor looks again."""
    done = subprocess.run(
        [sys.executable, "-c", _MISSED], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[] gone\n"


def test_time_limit() -> None:
    """The error names the program, and nothing of it is left."""
    with _here() as host:
        with pytest.raises(DeadlineExpired, match="'sleep' did not end on the host 'here' within 1 s"):
            host.run(["sleep", _PROGRAM], Deadline(1))
        Deadline(10).wait_for(lambda: not _alive(_PROGRAM), "The end of the program")


def test_failures_are_sentences(tmp_path: Path) -> None:
    """A missing program, a missing file and a copy that fails each give one sentence that names the host."""
    with _here() as host:
        assert host.run(["no-such-program"], Deadline(20)).exit_code == 127
        with pytest.raises(SetupBroken, match="'false' failed on the host 'here' with exit code 1"):
            host.check(["false"], Deadline(20))
        with pytest.raises(SetupBroken, match="'missing' could not be copied from the host 'here'"):
            host.get("missing", tmp_path / "x", Deadline(20))
        host.check(["mkdir", "place"], Deadline(20))
        with pytest.raises(SetupBroken, match="could not be copied to the host 'here'"):
            host.put({"place": b"a file where a folder is"}, Deadline(20))


class _Dying(LocalLink):
    """A host that loses the keeper of our folder in the middle, as a machine that is switched off does."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    def start(self, argv: list[str]) -> Stream:
        stream = super().start(argv)
        self.streams.append(stream)
        return stream


def test_lost_keeper_is_said() -> None:
    """If the keeper of the folder is killed, the error says that the folder may be left on the host."""
    link = _Dying()
    with pytest.raises(SetupBroken, match="may be left on the host"), Host("here", link) as host:
        folder = Path(host.folder)
        keeper = link.streams[0]._process  # type: ignore[attr-defined]
        keeper.kill()
        keeper.wait(10)
    assert folder.exists()
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


@pytest.mark.parametrize("together", _CARRIED, ids=lambda together: together[0].__name__.split(".")[-1])
def test_carried_files_need_python_3_9_only(together: Sequence[ModuleType]) -> None:
    """Their syntax, and what they import: the standard library, and what is carried with them."""
    for number, module in enumerate(together):
        text = Path(str(module.__file__)).read_text()
        tree = ast.parse(text, feature_version=(3, 9))
        imported = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
            if name
        }
        others = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
        assert others <= {part.__name__ for part in together[number + 1 :]}, others
        assert not any(isinstance(node, ast.Match | ast.TryStar) for node in ast.walk(tree))


def test_script_of_modules_needs_none_of_ours(tmp_path: Path) -> None:
    """Modules that import each other run as one text where nothing of ours can be imported."""
    script = script_of(on_host, on_host_balance, on_host_memory, on_host_qemu)
    order = json.dumps({"kinds": {}, "argv": ["no-such-qemu"], "environment": {}, "seconds": 1})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        input=order.encode(),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert "cannot be started there" in json.loads(done.stdout)["sentence"]


def test_folder_is_not_gone_while_a_command_is_left(tmp_path: Path) -> None:
    """A keeper that cannot see the end of a command in its folder does not confirm it."""
    root = str(Path(supervisor.__file__).parents[2])
    program = f"import sys; sys.path.insert(0, {root!r}); from harness.hosts import supervisor\n"
    program += "supervisor._END_SECONDS = 0.3\nsys.exit(supervisor.main())"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdin and keeper.stdout
        keeper.stdin.write(json.dumps({"prefix": str(tmp_path / "kept-")}) + "\n")
        keeper.stdin.flush()
        folder = Path(json.loads(keeper.stdout.readline())["folder"])
        with (folder / supervisor._LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            keeper.stdin.close()
            assert keeper.wait(30) == supervisor.BROKEN


def test_supervisor_without_an_order_fails(tmp_path: Path) -> None:
    """A connection that breaks at once leaves neither a folder nor a process."""
    done = subprocess.run(
        [sys.executable, supervisor.__file__],
        input=b"",
        env={"TMPDIR": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == supervisor.BROKEN
    assert not list(tmp_path.iterdir())
