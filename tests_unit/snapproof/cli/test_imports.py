"""Contract: a command imports what it uses, and its --help imports no heavy package at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests_unit.support.command_values import right_vmstate
from tests_unit.support.shell_commands import our_calls

# Packages that take long to import.
_HEAVY = {
    "avocado", "cryptography", "jinja2", "matplotlib", "numpy", "paramiko", "pkg_resources", "qemu"
}  # fmt: skip
_PROGRAM = f"""
import json, sys
from snapproof.cli.command import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
packages = {{name.partition(".")[0] for name in sys.modules}}
print("\\n" + json.dumps(sorted(packages & {_HEAVY!r})))
"""
_COMMANDS = (
    "", "doctor", "images", "images build", "run", "hosts", "report", "report render", "report compare",
    "check", "info", "diff", "selftest", "explore", "attach",
    "kernel", "bench", "bench downtime", "bench faults", "bench ab",
)  # fmt: skip


def _imported(words: list[str]) -> list[str]:
    """Heavy packages that a command has imported when it ends."""
    run = subprocess.run([sys.executable, "-c", _PROGRAM, *words], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    """Printing a help text imports none of the packages that running the command may need."""
    (words,) = our_calls(f"snapproof {command} --help")
    assert _imported(words) == []


@pytest.mark.parametrize(
    ("command", "needed"), [("check", ["numpy"]), ("info", ["numpy"]), ("diff", ["numpy"])]
)
def test_commands_that_read_files(tmp_path: Path, command: str, needed: list[str]) -> None:
    """Reading files takes no package that boots guests, logs in or draws."""
    vmstate = str(right_vmstate(tmp_path))
    assert _imported([command, vmstate, *([vmstate] if command == "diff" else [])]) == needed


@pytest.mark.parametrize(("command", "needed"), [("kernel", []), ("run", ["cryptography", "numpy", "qemu"])])
def test_lists_of_tests(command: str, needed: list[str]) -> None:
    """A list of tests takes no package that logs in to a guest."""
    assert _imported([command, "--list"]) == needed


def test_check_imports_only_what_a_right_file_needs(tmp_path: Path) -> None:
    """Check of a right file imports no module that compares, draws, extracts or reads results."""
    unneeded = (
        "validators.oracles.o1_golden.golden",
        "validators.page_map",
        "validators.vmstate.extract",
        "validators.vmstate.elf_core",
    )
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "snapproof.cli.command", "check", right_vmstate(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "validators.judge" in imported
    assert not imported & {*unneeded, "snapproof.report.run_result"}
