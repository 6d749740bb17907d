"""Contract: the command line in results and reproduce.sh makes the same run again; tests get the cache."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, replace
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.deadline import PATIENCE_VARIABLE, patience
from snapproof.cli import run as run_module
from snapproof.cli.command import main, make_parser, with_dashes
from snapproof.cli.options import run_options
from snapproof.report.run_result import OutcomeRecord
from snapproof.runs.matrix import Leg
from snapproof.runs.options import OwnGuestOptions, RunOptions, StackOptions
from snapproof.runs.profiles import PROFILES
from snapproof.runs.stack import patience_environment
from tests_unit.support.scenario_values import stack

# They say where results go, in which form, and how fast: none of it changes a test's outcome.
_ABOUT_RESULTS = {"--results", "--format", "--events", "--keep", "--jobs", "--bisect", "--list", "--help"}
_VALUES = {
    "--profile": "nightly",
    "--filter": "memory.*",
    "--seed": "7",
    "--repeat": "3",
    "--shard": "2/3",
    "--patience": "2.5",
    "--qemu": "debian-12",
    "--accel": "tcg",
    "--guest": "debian-13",
    "--arch": "aarch64",
    "--machine": "q35,hpet=off",
    "--cpu": "max",
    "--firmware": "/code.fd",
    "--firmware-vars": "/variables.fd",
    "--qemu-args": "-device 'virtio-serial-pci,id=a b'",
    "--cache": "/a cache",
    "--mirror": "http://mirror.example/debian",
    "--disk": "/disk.qcow2",
    "--kernel": "/vmlinuz",
    "--initrd": "/initrd",
    "--cmdline": "quiet root=/dev/vda",
    "--ssh-user": "admin",
    "--ssh-key": "/key",
    "--ssh-host-key": "ssh-ed25519 AAAA",
    "--guest-needs": "200",
}


def _parsed(words: list[str]) -> RunOptions:
    return run_options(make_parser(["run"]).parse_args(words))


def _options_of_run() -> dict[str, argparse.Action]:
    commands = next(a for a in make_parser(["run"])._actions if isinstance(a, argparse._SubParsersAction))
    return {
        next(name for name in action.option_strings if name.startswith("--")): action
        for action in commands.choices["run"]._actions
    }


@pytest.mark.parametrize("option", sorted(set(_options_of_run()) - _ABOUT_RESULTS))
def test_option_is_in_the_command(option: str) -> None:
    """An option that changes a run is in its command, and means the same there."""
    options = _parsed(["run", option, _VALUES[option]])
    assert options != _parsed(["run"])
    assert _parsed(options.as_command()) == options


def test_all_options_together_are_in_the_command() -> None:
    """The command has all options if all are given, and each QEMU."""
    words = [word for option, value in _VALUES.items() for word in (option, value)]
    options = _parsed(["run", *words, "--qemu", "/usr/bin/qemu-system-x86_64"])
    assert options.qemus == ("debian-12", "/usr/bin/qemu-system-x86_64")
    assert _parsed(options.as_command()) == options


def test_every_option_has_a_field() -> None:
    """Each field is set by some option, and no value of the parser's is lost on the way."""
    everything = {**_VALUES, "--results": "/r", "--format": "lava", "--events": "-", "--jobs": "2"}
    words = [word for option, value in everything.items() for word in (option, value)]
    options = _parsed(["run", *words, "--keep", "--bisect", "--list"])
    assert set(everything) | {"--keep", "--bisect", "--list", "--help"} == set(_options_of_run())
    usual = RunOptions()
    unset = [one.name for one in fields(RunOptions) if getattr(options, one.name) == getattr(usual, one.name)]
    assert not unset
    stack, own = options.stack, options.stack.own
    assert [one.name for one in fields(StackOptions) if getattr(stack, one.name) is None] == ["qemu"]
    assert len(own.given()) == len(fields(OwnGuestOptions))


@pytest.mark.parametrize(
    ("words", "bare"),
    [
        (["--profile", "premerge"], True),
        (["--profile", "premerge", "--guest-needs", "200"], False),
        (["--profile", "premerge", "--guest", "default"], False),
        (["--profile", "premerge", "--ssh-key", "/key"], False),
        (["--profile", "premerge", "--firmware", "uefi"], False),
        (["--profile", "premerge", "--machine", "q35"], True),
        (["--profile", "nightly"], False),
        (["--profile", "smoke"], False),
    ],
)
def test_when_tests_get_bare_guests(words: list[str], bare: bool) -> None:
    """Premerge is the quick profile; a guest that the user asks for is the guest of every test."""
    assert _parsed(["run", *words]).prefers_bare is bare


def test_defaults_of_parser_and_value_are_the_same() -> None:
    """A value that is made without the command line is the run without options."""
    assert _parsed(["run"]) == RunOptions()


def test_command_of_one_leg() -> None:
    """A leg is repeated with its own QEMU and all tests, which the reproducer's filter narrows."""
    options = _parsed(["run", "--qemu", "a", "--qemu", "b", "--shard", "1/2", "--filter", "x", "--seed", "3"])
    assert options.filters == ("x",)
    assert options.for_leg("b").as_command() == (
        ["run", "--profile", "smoke", "--seed", "3", "--qemu", "b", "--accel", "auto"]
    )
    assert options.for_leg(None).as_command() == (
        ["run", "--profile", "smoke", "--seed", "3", "--accel", "auto"]
    )


def test_every_filter_counts() -> None:
    """Each pattern is kept, and the command that repeats the run has all of them."""
    options = _parsed(["run", "--filter", "memory.*", "--filter", "bare.live"])
    assert options.filters == ("memory.*", "bare.live")
    assert _parsed(options.as_command()) == options


def test_arguments_of_qemu_begin_with_a_dash() -> None:
    """They are a value also where they are one word, on the command line and in the command."""
    words = with_dashes(["run", "--qemu-args", "-nographic", "--cpu", "max"])
    assert words == ["run", "--qemu-args=-nographic", "--cpu", "max"]
    options = _parsed(words)
    assert options.stack.qemu_args == "-nographic"
    assert _parsed(options.as_command()) == options
    assert with_dashes(["run", "--qemu-args"]) == ["run", "--qemu-args"]


def test_paths_hold_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths become absolute; a QEMU that is no file is a name and stays one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qemu").touch()
    own = OwnGuestOptions(disk=Path("disk"))
    options = replace(RunOptions(), qemus=("qemu", "debian-13"), stack=StackOptions(own=own, cache=Path("c")))
    words = options.as_command()
    assert [str(tmp_path / name) in words for name in ("qemu", "disk", "c")] == [True, True, True]
    assert "debian-13" in words


@pytest.mark.parametrize("given", ["cache", None])
def test_tests_get_the_cache(given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests get an absolute path, since each has its own working folder, or the default if none is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNAPPROOF_CACHE", str(tmp_path / "default"))
    told: list[object] = []

    def run_leg(_leg: Leg, common: Mapping[str, object], *_: object) -> list[OutcomeRecord]:
        told.append((common["cache"], common["mirror"]))
        return []

    monkeypatch.setattr(run_module, "_run_leg", run_leg)
    leg = Leg("", None, tmp_path, stack(tmp_path), {"qemu": "10.0"}, ())
    options = replace(
        RunOptions(), seed=1, stack=StackOptions(cache=Path(given) if given else None, mirror="m")
    )
    run_module._run_legs(options, [leg], cast(Any, None), cast(Any, SimpleNamespace(settle=lambda _: None)))
    assert told == [(str(tmp_path / (given or "default")), "m")]


def test_list_for_a_guest(capsys: pytest.CaptureFixture[str]) -> None:
    """The list says which tests a guest would skip; a guest that does not exist is bad input."""
    main(["run", "--list", "--profile", "nightly", "--guest", "bare", "--filter", "machines.*"])
    assert [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if "skipped: 'bare'" in line
    ] == [
        row.name
        for row in PROFILES["nightly"]
        if fnmatch(row.name, "machines.*") and "firmware" in row.parameters
    ]
    assert main(["run", "--list", "--guest", "no-such-guest"]) == 2
    assert "There is no guest 'no-such-guest'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "variable", "factor", "told"),
    [
        ([], None, 1.0, None),
        ([], "1", 1.0, None),
        ([], "3", 3.0, "3"),
        (["--patience", "2.5"], None, 2.5, "2.5"),
        (["--patience", "2.5"], "3", 2.5, "2.5"),
        (["--patience", "1"], "3", 1.0, "1"),
    ],
)
def test_patience_of_a_run(
    words: list[str], variable: str | None, factor: float, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time limits have the factor during the run, and its command has it wherever it comes from."""
    found: list[tuple[float, list[str]]] = []

    def keep(options: RunOptions, *_: object) -> int:
        found.append((patience(), options.as_command()))
        return 0

    monkeypatch.setattr(run_module, "_run", keep)
    monkeypatch.delenv(PATIENCE_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(PATIENCE_VARIABLE, variable)
    before = patience()
    assert main(["run", *words]) == 0
    ((during, command),) = found
    assert during == factor
    named = [value for option, value in pairwise(command) if option == "--patience"]
    assert named == ([told] if told else [])
    assert patience() == before


@pytest.mark.parametrize("variable", ["0.5", "long"])
def test_wrong_patience_ends_a_run_before_it_begins(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A factor that cannot be used is the user's error, and leaves no results folder."""
    monkeypatch.setenv(PATIENCE_VARIABLE, variable)
    assert main(["run", "--results", str(tmp_path / "results")]) == 2
    assert f"SNAPPROOF_PATIENCE is '{variable}'" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("variable", "told"), [("1", {}), ("2.5", {"patience": 2.5})])
def test_results_have_the_patience(
    variable: str, told: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with longer limits can be told from others; usual results are as they were."""
    monkeypatch.setenv(PATIENCE_VARIABLE, variable)
    assert patience_environment() == told
