"""Contract: `snapproof bench faults` reads any trace, and reports what it could not see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest_images.agent.format import FINE_BUCKETS, fine_bucket_ns
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.hosts.link import script_of
from snapproof.bench import page_fault_lines, page_fault_trace, tracefs
from snapproof.bench.page_fault_lines import Faults, bucket_of
from snapproof.bench.page_fault_watch import order, report_of
from snapproof.bench.page_faults import table_lines
from snapproof.cli.command import main

Capture = pytest.CaptureFixture[str]

KPROBES = """\
# tracer: nop
       CPU 0/TCG-1234    [001] d..2.  1234.000100: uffd_in: (handle_userfault+0x4/0x8f0)
 qemu-system-x86-1230    [000] d..2.  1234.000150: uffd_in: (handle_userfault+0x4/0x8f0)
       CPU 0/TCG-1234    [001] d..2.  1234.000600: uffd_out: (do_wp_page+0x2e8/0x3a0 <- handle_userfault)
 qemu-system-x86-1230    [001] d..2.  1235.000150: uffd_out: (do_wp_page+0x2e8/0x3a0 <- handle_userfault)
"""


def _read(text: str) -> Faults:
    faults = Faults()
    for line in text.splitlines():
        faults.line(line)
    faults.end()
    return faults


def _counts(faults: Faults) -> tuple[int, int, int]:
    return faults.lost, faults.unpaired, faults.unread


def test_entry_and_return_are_paired_by_thread() -> None:
    """Faults of two threads overlap, and each has its own time."""
    faults = _read(KPROBES)
    assert _counts(faults) == (0, 0, 0)
    assert faults.threads == {
        1234: {"name": "CPU 0/TCG", "max_us": 500, "buckets": {bucket_of(500): 1}},
        1230: {"name": "qemu-system-x86", "max_us": 1_000_000, "buckets": {bucket_of(1_000_000): 1}},
    }


def test_lost_events_and_halves_are_counted() -> None:
    """Faults that were not seen are counted, and never guessed."""
    first, second, *_ = KPROBES.splitlines()[1:]
    lone = KPROBES.splitlines()[3].replace("1234 ", "999 ")
    faults = _read("\n".join([first, "CPU:1 [LOST 4711 EVENTS]", first, second, lone]))
    # One entered twice, two never returned, one returned without an entry.
    assert _counts(faults) == (4711, 4, 0)
    assert faults.threads == {}


def test_time_that_runs_backwards_is_no_fault() -> None:
    """A return before its entry is unpaired."""
    faults = _read(
        "\n".join([KPROBES.splitlines()[3], KPROBES.splitlines()[1].replace("1234.0001", "1300.0001")])
    )
    assert faults.threads == {}


@pytest.mark.parametrize(
    "line",
    [
        "x" * 10_000,
        "\0\x1b[2J",
        "   a-1 [0] ....  1.000000: uffd_in: (h)",
        "   a-99999999999999999999 [000] ....  1.000000: uffd_in: (h)",
        "   a-1 [000] ....  99999999999999999999.000000: uffd_in: (h)",
        "   sixteen-and-more-letters-1 [000] ....  1.000000: uffd_in: (h)",
        "   a-1 [000] ....  1.000000: something_else: (h)",
        "   a-1 [000] ....  1.000000: uffd_in",
        "   a-1 [000] .....  1.000000: handle_userfault <-do_wp_page",
    ],
)
def test_other_lines_are_counted_and_harm_nothing(line: str) -> None:
    """Lines of other events and with unusual names are counted as unread."""
    assert _read(line).unread == 1
    assert _read(line).threads == {}


def test_name_cannot_pretend_to_be_another_thread() -> None:
    """A name of the greatest length that looks like a line is read as a name."""
    line = "-7 [000] .... 1-1234    [001] d..2.  1234.000100: uffd_in: (h)"
    faults = Faults()
    faults.line(line)
    faults.line(line.replace("1234.000100: uffd_in", "1234.000200: uffd_out"))
    assert list(faults.threads) == [1234]


@settings(deadline=None)
@given(st.lists(st.text(max_size=80), max_size=20))
def test_any_text_is_taken(lines: list[str]) -> None:
    """The parser raises no error for any line."""
    faults = Faults()
    for line in lines:
        faults.line(line)


def test_buckets_are_those_of_the_agent() -> None:
    """The host's script imports none of our modules, so it has its own copy of the rule, which agrees."""
    for bucket in range(FINE_BUCKETS):
        first, end = fine_bucket_ns(bucket)
        assert bucket_of(first) == bucket_of(end - 1) == bucket


def _told(**further: Any) -> list[str]:
    done = {
        "event": "done", "seconds": 2.5, "lost": 0, "missed": 0, "unpaired": 1, "unread": 0, "removed": True,
        "threads": {
            "1234": {"name": "CPU 0\x1b[2J", "max_us": 505, "buckets": {str(bucket_of(500)): 99, "3": 1}},
            "9": {"name": "worker", "max_us": 7, "buckets": {"7": 1}},
        },
    }  # fmt: skip
    attached = {"event": "attached", "pid": 1230, "kernel": "6.1.0"}
    return [json.dumps(attached), json.dumps({**done, **further})]


def test_report_has_quantiles_by_thread() -> None:
    """Threads with most faults come first, no quantile is above the longest, and names are escaped."""
    report = report_of(_told())
    assert [thread.tid for thread in report.threads] == [1234, 9]
    assert report.threads[0].count == 100
    assert 480 <= report.threads[0].quantiles()["p50"] <= 505
    assert report.threads[0].quantiles()["p99.9"] <= 505
    text = "\n".join(table_lines(report))
    assert "\x1b" not in text
    assert "there were more faults" not in text
    assert json.loads(json.dumps(report.to_json()))["threads"][1]["histogram"] == [[7.0, 8.0, 1]]
    assert "KVM" not in text
    assert "12 events were lost and 3 returns missed" in "\n".join(
        table_lines(report_of(_told(lost=12, missed=3)))
    )


def test_what_the_table_lacks_is_told() -> None:
    """Notes name faults without a return, lost lines, and vCPUs under KVM, for which a worker waits."""
    text = "\n".join(table_lines(report_of(_told(unpaired=1, threads={}))))
    assert "1 halves of faults" in text
    assert "No fault was seen" not in text
    assert "2 lines of the trace" in "\n".join(table_lines(report_of(_told(unread=2))))
    vcpu = {"7": {"name": "CPU 0/KVM", "max_us": 1, "buckets": {"1": 100}}}
    assert "need not be waits" in "\n".join(table_lines(report_of(_told(threads=vcpu))))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["nonsense"],
        ["[]"],
        _told()[:1],
        _told(threads=[]),
        _told(threads={"1": {"name": "a", "max_us": 1, "buckets": {"100000": 1}}}),
        _told(threads={"1": {"name": "a", "max_us": 1, "buckets": {"1": -1}}}),
        _told(lost="many"),
        _told(removed=False),
    ],
)
def test_report_that_is_none_is_our_failure(lines: list[str]) -> None:
    """A broken report is an error."""
    with pytest.raises(SetupBroken):
        report_of(lines)


def test_host_that_cannot_be_traced_is_no_failure() -> None:
    """The watcher's reason is passed on."""
    with pytest.raises(NotApplicable, match="Only root"):
        report_of([json.dumps({"event": "unavailable", "reason": "Only root may trace the kernel."})])


def test_script_runs_by_itself_and_explains() -> None:
    """The script runs from its text, without our modules; here its process does not exist."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script_of(page_fault_trace, tracefs, page_fault_lines)],
        input=order(1 << 30, 5.0),
        capture_output=True,
        check=True,
    )
    (line,) = done.stdout.decode().splitlines()
    assert json.loads(line)["event"] == "unavailable"
    assert done.stderr == b""


def test_nobody_but_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user other than root is refused before anything is mounted."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(tracefs.Unavailable, match="root"):
        tracefs.find_tracefs()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pid", "1", "--host", "vm:debian-12"], "the VM that --host names is booted only now"),
        (["--pid", "0"], "number of a process"),
        (["--pid", "1", "--seconds", "0"], "--seconds takes"),
        (["--host", "nowhere"], "is not a host"),
    ],
)
def test_wrong_arguments_get_a_sentence(words: list[str], said: str, capsys: Capture) -> None:
    """Wrong arguments give exit code 2 and start nothing."""
    assert main(["bench", "faults", *words]) == 2
    assert said in capsys.readouterr().err


def test_process_that_is_not_there(capsys: Capture) -> None:
    """The sentence is the same whether or not this host can be traced."""
    assert main(["bench", "faults", "--pid", str(1 << 30), "--seconds", "1"]) == 2
    assert capsys.readouterr().err == f"snapproof: There is no process {1 << 30} for --pid.\n"


_KILLED = """
import os
base = find_tracefs()
guard(base)
os.mkdir(Tracer(base).instance)
print(os.path.basename(Tracer(base).instance), flush=True)
os.kill(os.getpid(), 9)
"""
_LISTED = """
import os
print("\\n".join(os.listdir(find_tracefs() + "/instances")))
"""
_LEFT = """
import os
base = find_tracefs()
os.mkdir(Tracer(base).instance)
print(os.path.basename(Tracer(base).instance), flush=True)
"""
_SWEPT = """
sweep(find_tracefs())
"""


def _as_script(body: str) -> list[str]:
    """Run a text with the functions of `tracefs`, and return what it prints."""
    script = script_of(tracefs, page_fault_lines) + body
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    return done.stdout.split()


@pytest.mark.skipif(bool(os.geteuid()), reason="only root has tracefs")
def test_killed_watcher_leaves_nothing_in_tracefs() -> None:
    """The second process removes the instance; if both were killed, the next run removes it."""
    if not _as_script("find_tracefs(); print('there')"):
        pytest.skip("this kernel has no tracefs, or does not let us mount it")
    (name,) = _as_script(_KILLED)
    limit = Deadline(20)
    limit.wait_for(lambda: name not in _as_script(_LISTED), "The end of the instance")
    (left,) = _as_script(_LEFT)
    assert left in _as_script(_LISTED)
    _as_script(_SWEPT)
    assert left not in _as_script(_LISTED)
