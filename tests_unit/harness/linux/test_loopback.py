"""Contract: a loopback that is down is said at once, by `doctor` and by `run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.linux.loopback import loopback_refusal

_NAMESPACE = ("unshare", "--net", "--map-root-user")


def test_loopback_works_here() -> None:
    """Else no test of a guest could run."""
    assert loopback_refusal() == ""


@pytest.mark.parametrize(("command", "said"), [("doctor", "BAD  No connection"), ("run", "127.0.0.1")])
def test_loopback_is_down(tmp_path: Path, command: str, said: str) -> None:
    """In a network namespace of its own the loopback is down: exit code 2 and a sentence, in seconds."""
    if subprocess.run([*_NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("This environment forbids network namespaces.")
    words = [sys.executable, "-m", "snapproof.cli.command", command]
    words += ["--results", str(tmp_path / "results")] if command == "run" else []
    ended = subprocess.run([*_NAMESPACE, *words], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert said in ended.stdout + ended.stderr
    assert "Set the loopback up" in ended.stdout + ended.stderr
