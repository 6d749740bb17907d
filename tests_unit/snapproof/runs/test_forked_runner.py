"""Contract: a server forks runners that can be ended, and says how each ended; each has its own session."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from snapproof.runs import forked_runner
from snapproof.runs.forked_runner import ForkedRunner, RunnerServer, runner_server

_SLEEPING = '''
"""A test that takes as long as its runner lives, and says that it has begun."""
import os, time
from pathlib import Path
from avocado import Test

class Sleeping(Test):
    """Begins."""
    def test_sleep(self):
        """Leave a file, and sleep."""
        runner = os.getppid()
        Path(__file__).with_name("begun").write_text("")
        while os.getppid() == runner:
            time.sleep(0.05)
'''

_INTERRUPTING = """
import builtins, os, signal
from pathlib import Path

handed_on = builtins.print

def interrupted(*messages):
    if Path(__file__).with_name("begun").exists():
        builtins.print = handed_on
        os.kill(os.getpid(), signal.SIGTERM)

builtins.print = interrupted
"""


def _served(act: Callable[[RunnerServer], Awaitable[int]], modules: Sequence[str] = ()) -> int:
    with runner_server(modules) as server:
        return asyncio.run(_within(act(server)))


async def _within(awaited: Awaitable[int]) -> int:
    return await asyncio.wait_for(awaited, 120)


async def _sleeping(server: RunnerServer, folder: Path) -> ForkedRunner:
    """Return the runner of a test that has begun to sleep."""
    (folder / "test_sleeping.py").write_text(_SLEEPING)
    uri = f"{folder}/test_sleeping.py:Sleeping.test_sleep"
    runner = await server.start(["-i", "1", "-k", "avocado-instrumented", "-u", uri])
    while not (folder / "begun").exists():
        await asyncio.sleep(0.05)
    return runner


async def _refused(server: RunnerServer) -> int:
    return await (await server.start(["--no-such-option"])).wait()


def test_failing_runner() -> None:
    """A runner that ends by an error has exit code 1, as it would have as a program."""
    assert _served(_refused) == 1


def test_runner_that_has_ended_before_it_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy host it ends before its first message is read; its exit code is still known."""
    at_once = forked_runner._readable

    async def late(channel: socket.socket) -> None:
        await at_once(channel)
        await asyncio.sleep(1)

    monkeypatch.setattr(forked_runner, "_readable", late)
    assert _served(_refused) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_runner(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM makes a runner end its test and then itself; SIGKILL ends it, and is told from an exit code."""

    async def end(server: RunnerServer) -> int:
        runner = await _sleeping(server, tmp_path)
        assert os.getsid(runner.pid) == runner.pid
        assert runner.returncode is None
        (runner.terminate if number is signal.SIGTERM else runner.kill)()
        # Avocado waits in two places at a time.
        first, second = await asyncio.gather(runner.wait(), runner.wait())
        assert first == second == runner.returncode
        with pytest.raises(ProcessLookupError):
            runner.kill()
        return first

    assert _served(end) == (0 if number is signal.SIGTERM else -signal.SIGKILL)


def test_runner_that_is_ended_while_it_hands_on_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM ends its test then too, and the runner ends as it does at any other time."""
    (tmp_path / "interrupting.py").write_text(_INTERRUPTING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def interrupted(server: RunnerServer) -> int:
        return await (await _sleeping(server, tmp_path)).wait()

    assert _served(interrupted, ["interrupting"]) == 0


def test_server_that_was_killed(tmp_path: Path) -> None:
    """A killed server takes neither its runners along nor those that come: a new one forks these."""

    async def start(server: RunnerServer) -> int:
        before = await _sleeping(server, tmp_path)
        first = server.process
        first.kill()
        assert await asyncio.gather(*(_refused(server) for _ in range(3))) == [1, 1, 1]
        assert server.process is not first
        assert before.returncode is None
        before.terminate()
        return await before.wait()

    assert _served(start) == 0


def test_no_server_that_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each server ends before it has forked a runner, starting one is an OSError."""
    (tmp_path / "deadly.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def start(server: RunnerServer) -> int:
        with pytest.raises(OSError):
            await server.start([])
        return 0

    assert _served(start, ["deadly"]) == 0


def test_modules_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No module in the folder of the user is imported, and one that cannot be imported ends nothing."""
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    (tmp_path / "users_own.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.chdir(tmp_path)
    assert _served(_refused, ["users_own", "no.such.module"]) == 1


def test_modules_are_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runners share what the server has imported."""
    log = tmp_path / "imported"
    (tmp_path / "costly.py").write_text(f"open({str(log)!r}, 'a').write('once\\n')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def twice(server: RunnerServer) -> int:
        return await _refused(server) + await _refused(server)

    assert _served(twice, ["costly"]) == 2
    assert log.read_text() == "once\n"
