"""Contract: a process that had to wait for the processor is told from one that did not want it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness.linux.run_queue import (
    ProcessorTime,
    processor_time,
    sampled_threads,
    thread_times,
)


def test_times_of_all_threads_are_added(tmp_path: Path) -> None:
    """A thread that has ended while the others are read is left out."""
    for thread, text in (("7", "100 300 5\n"), ("8", "20 80 1\n")):
        (tmp_path / "7" / "task" / thread).mkdir(parents=True)
        (tmp_path / "7" / "task" / thread / "schedstat").write_text(text)
    (tmp_path / "7" / "task" / "9").mkdir()
    assert processor_time(7, tmp_path) == ProcessorTime(120, 380)


def test_a_kernel_that_does_not_count_gives_zeros(tmp_path: Path) -> None:
    """CONFIG_SCHED_INFO may be off; then nothing can be said, and nobody is called starved."""
    assert processor_time(7, tmp_path) == ProcessorTime(0, 0)
    assert ProcessorTime(0, 0).granted == 1


def test_share_is_that_of_the_time_between_two_readings() -> None:
    """What was before does not count, and a thread that has ended takes its times with it."""
    before, after = ProcessorTime(1000, 0), ProcessorTime(1100, 300)
    assert after.since(before) == ProcessorTime(100, 300)
    assert after.since(before).granted == 0.25
    assert before.since(after) == ProcessorTime(0, 0)


def test_two_programs_on_one_processor_wait_for_each_other() -> None:
    """Two busy programs that share a processor get about half of what they want; one that sleeps gets all."""
    cpu = min(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(cpu), "sh", "-c", "while :; do :; done"]
    with subprocess.Popen(command) as one, subprocess.Popen(command) as two:
        try:
            time.sleep(1)
            shares = [processor_time(process.pid).granted for process in (one, two)]
        finally:
            one.kill()
            two.kill()
    if processor_time(os.getpid()) == ProcessorTime(0, 0):
        pytest.skip("the kernel does not count it")
    assert max(shares) < 0.75


def test_threads_are_read_all_through_a_block() -> None:
    """Readings come until the block ends, each with its moment; a thread that waited shows in them."""
    if not thread_times(os.getpid()):
        pytest.skip("the kernel does not count it")
    begun = time.time()
    with sampled_threads(os.getpid()) as readings:
        while len(readings) < 3:
            time.sleep(0.005)
    count = len(readings)
    assert threading.get_native_id() in readings[-1].times
    assert begun <= readings[0].moment < readings[1].moment < readings[2].moment <= time.time()
    time.sleep(0.1)
    assert len(readings) == count


def test_no_process_to_read() -> None:
    """A QEMU whose process is not known gives no readings."""
    with sampled_threads(None) as readings:
        time.sleep(0.1)
    assert readings == []
