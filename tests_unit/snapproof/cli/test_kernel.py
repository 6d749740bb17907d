"""`snapproof kernel`: KTAP as it comes, one JSON document, and a runner that breaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from snapproof.cli import kernel
from snapproof.cli.command import main
from snapproof.runs import feature_runner
from tests_functional.kernel import prepare
from tests_functional.kernel.ktap import KtapWriter
from tests_functional.kernel.prepare import KSM, Preparation, write_swap_header


def _test(suite: str, memory: str, test: str) -> dict[str, Any]:
    return {"suite": suite, "memory": memory, "test": test, "recipe": "R01", "contract": "It must."}


def _result(identity: dict[str, Any], status: str, reason: str = "", *notes: str) -> dict[str, Any]:
    return {
        "event": "result",
        **identity,
        "status": status,
        "reason": reason,
        "checks": 1,
        "seconds": 0.1,
        "notes": list(notes),
    }


_ONE, _TWO, _THREE, _FOUR = (
    _test("api", "any", "one"),
    _test("api", "anon", "two"),
    _test("swap", "anon", "three"),
    _test("swap", "anon", "four"),
)
_EVENTS: list[dict[str, Any]] = [
    {"event": "host", "kernel": "6.18", "features": ["SIGBUS", "MOVE"]},
    {"event": "plan", "tests": [_ONE, _TWO, _THREE, _FOUR]},
    _result(_ONE, "PASS"),
    _result(_TWO, "FAIL", "Page #3 is\nwrong.", "at oracle.py:1"),
    _result(_THREE, "SKIP", "The host has no swap space."),
    _result(_FOUR, "SKIP", "The host has no swap space."),
    {"event": "end", "tests": 4},
]
_KTAP = """\
KTAP version 1
# kernel: 6.18
# features: SIGBUS MOVE
1..2
  KTAP version 1
  1..2
    KTAP version 1
    1..1
    ok 1 one
  ok 1 any
    KTAP version 1
    1..1
    # at oracle.py:1
    # It must.
    # Page _3 is wrong.
    not ok 1 two
  not ok 2 anon
not ok 1 api
  KTAP version 1
  1..1
    KTAP version 1
    1..2
    ok 1 three # SKIP The host has no swap space.
    ok 2 four # SKIP The host has no swap space.
  ok 1 anon # SKIP all of its tests were skipped
ok 2 swap # SKIP all of its tests were skipped
# 1 FAIL, 1 PASS, 2 SKIP
# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:2 error:0
"""


def test_ktap_is_nested_and_planned() -> None:
    """Suite, memory, test; each level with its own plan and numbers, a group as bad as the worst in it."""
    text: list[str] = []
    writer = KtapWriter(text.append)
    for event in _EVENTS:
        writer.event(event)
    text.append(writer.summary())
    assert "".join(text) == _KTAP


def test_ktap_without_a_test() -> None:
    """The plan says why it is empty, the last line how to find names; a fact without a value is left out."""
    text: list[str] = []
    writer = KtapWriter(text.append)
    writer.event({"event": "host", "kernel": "6.18", "reason": "", "words": []})
    writer.event({"event": "plan", "tests": []})
    text.append(writer.summary())
    assert text == [
        "KTAP version 1\n",
        "# kernel: 6.18\n",
        "1..0 # SKIP no test matches\n",
        "# nothing ran: no test matches; --list names all\n",
    ]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("TIMEOUT", "not ok 1 one # TIMEOUT x"),
        ("ERROR", "not ok 1 one # ERROR x"),
        ("XFAIL", "ok 1 one # XFAIL x"),
    ],
)
def test_ktap_directives(status: str, line: str) -> None:
    """Those that KTAP knows."""
    text: list[str] = []
    writer = KtapWriter(text.append)
    for event in (_EVENTS[0], {"event": "plan", "tests": [_ONE]}, _result(_ONE, status, "x")):
        writer.event(event)
    assert f"    {line}\n" in text


def _fake_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]) -> None:
    package = tmp_path / "fake_runner.py"
    package.write_text("".join(f"print({json.dumps(event)!r})\n" for event in events))
    monkeypatch.setattr(kernel, "_RUNNER", "fake_runner")
    monkeypatch.setattr(feature_runner, "_ROOT", tmp_path)
    monkeypatch.setattr(kernel, "tracker_library", lambda *_: None)


def test_command_renders_and_keeps_what_the_runner_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """KTAP on standard output, one document in the file, 1 for a failure."""
    _fake_runner(tmp_path, monkeypatch, _EVENTS)
    assert main(["kernel", "--json", str(tmp_path / "out.json")]) == 1
    assert capsys.readouterr().out == _KTAP
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["schema"], found["host"]["kernel"], len(found["results"])) == (1, "6.18", 4)


def test_runner_that_ends_early_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A runner that ends before its last test gives exit code 2 and a sentence, also after passes."""
    _fake_runner(tmp_path, monkeypatch, _EVENTS[:3])
    assert main(["kernel"]) == 2
    assert "before the tests were done" in capsys.readouterr().err


def test_list_and_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    """A list says name, recipe and contract; nothing to list is 3."""
    assert main(["kernel", "--list", "--filter", "R13"]) == 0
    assert "preserved.anon.changed-permissions-keep-protection-read  R13  " in capsys.readouterr().out
    assert main(["kernel", "--list", "--filter", "none"]) == 3
    assert main(["kernel", "--list", "--filter", "R13", "--filter", "none"]) == 2
    assert "No feature test matches the filter 'none'" in capsys.readouterr().err
    assert main(["hosts", "--filter", "R13", "--filter", "none", "--host", "local"]) == 2
    assert "No feature test matches the filter 'none'" in capsys.readouterr().err
    assert main(["kernel", "--repeat", "0"]) == 2


def test_real_runner_on_this_host(capsys: pytest.CaptureFixture[str]) -> None:
    """Two tests, twice, through a real process."""
    code = main(["kernel", "--filter", "api.any.a-wrong-handshake*", "--filter", "R17", "--repeat", "2"])
    out = capsys.readouterr().out
    assert code in {0, 4}, out
    assert "numa-hints-keep-protection # SKIP" in out


def test_settings_are_lent_and_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only needed settings change, never downwards, and are restored; one that cannot be set is reported."""
    pages, modes, absent = tmp_path / "pages", tmp_path / "modes", tmp_path / "absent" / "x"
    pages.write_text("0\n")
    modes.write_text("always [never] madvise\n")
    settings = {"hugetlb": (pages, "32"), "mthp": (modes, "madvise"), KSM: (absent, "1")}
    monkeypatch.setattr(prepare, "_SETTINGS", settings)
    told: list[str] = []
    with Preparation({"hugetlb", "mthp", KSM}, told.append):
        assert (pages.read_text(), modes.read_text()) == ("32", "madvise")
        with Preparation({"hugetlb"}, told.append):
            pass
        assert pages.read_text() == "32"
    assert (pages.read_text(), modes.read_text()) == ("0", "never")
    assert len(told) == 1
    assert "absent" in told[0]
    with Preparation((), told.append):
        assert pages.read_text() == "0"


def test_swap_header_is_what_the_kernel_reads(tmp_path: Path) -> None:
    """Version 1, the last page's number, and the signature at the end of the first page."""
    device = tmp_path / "device"
    device.write_bytes(bytes(1 << 20))
    write_swap_header(str(device), 1 << 20)
    data = device.read_bytes()
    assert data[1024:1036] == b"\x01\0\0\0\xff\0\0\0\0\0\0\0"
    assert data[4086:4096] == b"SWAPSPACE2"
    assert sys.byteorder == "little"


def test_interruption_leaves_a_document_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was found before Ctrl-C is written, and is not complete; a whole run is."""

    def interrupted(*_: Any) -> Any:
        yield from _EVENTS[:3]
        raise KeyboardInterrupt

    target = tmp_path / "kernel.json"
    for events, complete, count in ((interrupted, False, 1), (lambda *_: iter(_EVENTS), True, 4)):
        monkeypatch.setattr(kernel, "_events", events)
        main(["kernel", "--json", str(target)])
        written = json.loads(target.read_text())
        assert (written["complete"], len(written["results"])) == (complete, count)
    capsys.readouterr()


@pytest.mark.parametrize("number", [None, signal.SIGINT])
def test_runner_undoes_before_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """The command waits for it, though Ctrl-C has come to both."""
    (tmp_path / "slow_runner.py").write_text(
        "import time\n"
        "from tests_functional.kernel.interruption import interrupt_once\n"
        "interrupt_once()\n"
        "try:\n"
        "    print('{}', flush=True)\n"
        "    time.sleep(60)\n"
        "finally:\n"
        "    time.sleep(1)\n"
        "    open('undone', 'x').close()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(feature_runner._ROOT))
    monkeypatch.setattr(feature_runner, "_ROOT", tmp_path)
    started: list[int] = []
    popen = subprocess.Popen

    def noted(*words: Any, **more: Any) -> Any:
        process = popen(*words, **more)
        started.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", noted)
    events = feature_runner.events_here("slow_runner", [])
    assert isinstance(events, Generator)
    assert next(events) == {}
    if number:
        os.kill(started[0], number)
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)
    assert (tmp_path / "undone").exists()
