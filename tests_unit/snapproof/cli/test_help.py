"""Contract: every command's --help has a description, examples that work, and a text for each option."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapproof.cli.arguments.shared import named_path, output_path, vmstate_path
from snapproof.cli.command import make_parser
from tests_unit.support.shell_commands import our_calls, parse_call


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """All parsers of commands that do something themselves."""
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not actions:
        yield parser
    for action in actions:
        for inner in dict.fromkeys(action.choices.values()):
            yield from _leaves(inner)


_COMMANDS = pytest.mark.parametrize("parser", list(_leaves(make_parser())), ids=lambda parser: parser.prog)


@_COMMANDS
def test_options_are_explained(parser: argparse.ArgumentParser) -> None:
    """Each option and argument says what it is for."""
    assert [action.dest for action in parser._actions if not action.help] == []


@_COMMANDS
def test_examples_parse(parser: argparse.ArgumentParser) -> None:
    """There is a description and an example, and each example is one that the parser takes."""
    assert parser.description
    told = parser.format_help()
    assert "Example" in told
    for line in re.findall(r"^  (snapproof .*)$", told, re.MULTILINE):
        (call,) = our_calls(line)
        parse_call(call)


def test_overview_parses() -> None:
    """The parser accepts the examples of `snapproof --help`."""
    examples = re.findall(r"^  (snapproof .*)$", make_parser().format_help(), re.MULTILINE)
    assert len(examples) > 2
    for line in examples:
        for call in our_calls(line):
            parse_call(call)


def test_unknown_option_is_explained_by_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    """What a command does not know is answered with that command's usage, not with that of all commands."""
    with pytest.raises(SystemExit) as ended:
        make_parser(["selftest"]).parse_args(["selftest", "--no-such-option", "X"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: snapproof selftest ")
    assert said.endswith("snapproof selftest: error: unrecognized arguments: --no-such-option\n")


@_COMMANDS
def test_no_path_may_be_empty(parser: argparse.ArgumentParser) -> None:
    """An empty one, as of a shell variable that is not set, would be the current folder."""
    # Private, and the only way to see all arguments.
    for action in parser._actions:
        assert action.type is not Path, action.dest


@pytest.mark.parametrize("argument_type", [named_path, vmstate_path, output_path])
def test_an_empty_path_is_refused(argument_type: Callable[[str], Path]) -> None:
    """By each type of an argument that is a path."""
    assert argument_type("a") == Path("a")
    with pytest.raises(argparse.ArgumentTypeError, match="the path is empty"):
        argument_type("")
