"""Finds the calls of our own commands in shell text (templates, documentation) and parses their arguments."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import PurePath
from string import Template

from snapproof.cli.command import make_parser

_SEPARATORS = set("();<>|&")
# What may stand before a command and is none itself.
_BEFORE = ("sudo", "exec", "time", "!", "if", "then", "else", "do", "while", "until", "{")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_DESCRIPTOR = re.compile(r"(?<=\s)\d(?=[<>])")
_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
# `ci/smoke ARGUMENTS` is the second of these with ARGUMENTS behind it.
_OURS = {"snapproof": (), "smoke": ("run", "--profile", "smoke")}


class WrongCall(Exception):
    """A call of ours that our own parser does not take; says which, and why."""


def simple_commands(script: str, values: Mapping[str, str]) -> Iterator[list[str]]:
    """The words of each simple command in a shell script, variables replaced where their value is given.

    Raises:
        WrongCall: quotes are not closed.
    """
    for whole in script.replace("\\\n", " ").splitlines():
        for inner in _SUBSTITUTION.findall(whole):
            yield from simple_commands(inner, values)
        # Whatever it says: a number is as good as any other word.
        line = _DESCRIPTOR.sub("", _SUBSTITUTION.sub("1", whole))
        lexer = shlex.shlex(Template(line).safe_substitute(values), posix=True, punctuation_chars=True)
        lexer.wordchars += ":@%^,+!{}$[]"
        lexer.commenters = "" if "#}" in line or "${" in line else "#"
        try:
            words = list(lexer)
        except ValueError as error:
            raise WrongCall(f"{line}: {error}") from error
        command: list[str] = []
        for word in words:
            if word and set(word) <= _SEPARATORS:
                yield command
                command = []
            else:
                command.append(word)
        yield command


def our_calls(script: str, values: Mapping[str, str] | None = None) -> Iterator[list[str]]:
    """The arguments of each call of `snapproof` or `ci/smoke`, as `snapproof` gets them."""
    for command in simple_commands(script, values or {}):
        while command and (command[0] in _BEFORE or _ASSIGNMENT.match(command[0])):
            command = command[1:]
        # `git bisect run COMMAND` runs it too.
        if command[:3] == ["git", "bisect", "run"]:
            command = command[3:]
        if command and PurePath(command[0]).name in _OURS:
            yield [*_OURS[PurePath(command[0]).name], *command[1:]]


def parse_call(arguments: list[str]) -> Namespace:
    """Parse the arguments as the command does; run nothing.

    Raises:
        WrongCall: there is no such command or option, or a value of another kind is wanted.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return _parser().parse_args(arguments)
    except SystemExit as end:
        if end.code == 0:
            return Namespace()
        reason = said.getvalue().strip().splitlines()[-1]
        raise WrongCall(f"snapproof {shlex.join(arguments)}: {reason}") from end


@cache
def _parser() -> ArgumentParser:
    return make_parser()
