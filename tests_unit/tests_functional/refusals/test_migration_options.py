"""Contract: options come from QEMU's own schema, and each verdict on one is seen to go both ways."""

from __future__ import annotations

from typing import Any, cast

import pytest

from harness.codes import Code
from harness.qemu.machine import Machine
from harness.qemu.qapi_schema import Member, QapiSchema
from harness.qemu.qmp import CommandRefused
from harness.status import Status
from tests_functional.refusals import each_option
from tests_functional.refusals.each_option import Order
from tests_functional.refusals.migration_options import (
    Option,
    capability_options,
    parameter_options,
    put_back,
    settings,
)

# In the form of `query-qmp-schema` (QEMU 10.0): an enum as objects, and the older plain list of names.
_ANSWER: list[dict[str, Any]] = [
    {"name": "migrate-set-capabilities", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
    {"name": "1", "meta-type": "object", "members": [{"name": "capabilities", "type": "[2]"}]},
    {"name": "[2]", "meta-type": "array", "element-type": "2"},
    {
        "name": "2",
        "meta-type": "object",
        "members": [{"name": "capability", "type": "3"}, {"name": "state", "type": "bool"}],
    },
    {
        "name": "3",
        "meta-type": "enum",
        "members": [{"name": "xbzrle"}, {"name": "background-snapshot"}, {"name": "mapped-ram"}],
    },
    {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
    {"name": "int", "meta-type": "builtin", "json-type": "int"},
    {"name": "7", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "null"}]},
    {"name": "8", "meta-type": "enum", "values": ["normal", "cpr-reboot"]},
    {"name": "[int]", "meta-type": "array", "element-type": "int"},
    {"name": "migrate-set-parameters", "meta-type": "command", "arg-type": "5", "ret-type": "0"},
    {
        "name": "5",
        "meta-type": "object",
        "members": [
            {"name": "level", "type": "int"},
            {"name": "share", "type": "int"},
            {"name": "limit", "type": "int"},
            {"name": "direct-io", "type": "bool"},
            {"name": "tls-creds", "type": "7"},
            {"name": "mode", "type": "8"},
            {"name": "mapping", "type": "[int]"},
        ],
    },
]
_SCHEMA = QapiSchema(_ANSWER)
_XBZRLE = Option("xbzrle", capability="xbzrle")


class _Qmp:
    """A QEMU's settings, with a rule that refuses some of them."""

    def __init__(self) -> None:
        self.capabilities = {"xbzrle": False, "background-snapshot": False, "mapped-ram": False}
        self.parameters: dict[str, Any] = {"level": 1, "mode": "normal"}
        self.words = ""
        self.stuck = False
        self.commands: list[str] = []

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        self.commands.append(command)
        if command == "query-migrate-capabilities":
            return [{"capability": name, "state": on} for name, on in self.capabilities.items()]
        if command == "query-migrate-parameters":
            return self.parameters
        if command == "migrate-set-parameters":
            self.parameters |= arguments or {}
            return {}
        new = self.capabilities | {c["capability"]: c["state"] for c in (arguments or {})["capabilities"]}
        refused = self.words and new["xbzrle"] and new["background-snapshot"]
        if not refused or self.stuck:
            self.capabilities = new
        if refused:
            raise CommandRefused(command, self.words)
        return {}


class _Machine:
    def __init__(self) -> None:
        self.qmp = _Qmp()

    def failure(self, sentence: str, _code: Code) -> Exception:
        return AssertionError(sentence)


@pytest.fixture
def machine() -> Machine:
    """A QEMU that takes everything until `qmp.words` says otherwise."""
    return cast(Machine, _Machine())


def test_schema_is_followed_by_type_names() -> None:
    """Members keep their kind; an enum's values come from either form."""
    members = {member.name: member for member in _SCHEMA.arguments("migrate-set-parameters")}
    assert members["level"] == Member("level", "builtin", "int")
    assert members["mode"].values == ("normal", "cpr-reboot")
    assert _SCHEMA.arguments("no-such-command") == ()
    (capability, _state) = _SCHEMA.element_members("migrate-set-capabilities", "capabilities")
    assert capability.values == ("xbzrle", "background-snapshot", "mapped-ram")


def test_options_are_all_but_background_snapshot() -> None:
    """Each capability once; each parameter with values other than the one that is set."""
    assert [option.slug for option in capability_options(_SCHEMA)] == ["xbzrle", "mapped-ram"]
    now = {"level": 1, "share": 99, "limit": 134217728, "direct-io": False, "mode": "normal", "tls-creds": ""}
    tried = {option.slug: dict(option.parameters) for option in parameter_options(_SCHEMA, now)}
    assert tried == {
        "parameter-level": {"level": 2},
        "parameter-share": {"share": 49},
        "parameter-limit": {"limit": 268435456},
        "parameter-direct-io": {"direct-io": True},
        "parameter-tls-creds": {"tls-creds": "snapproof-none"},
        "parameter-mode-cpr-reboot": {"mode": "cpr-reboot"},
        "parameter-mapping": {"mapping": []},
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("Background-snapshot is not compatible with xbzrle", True),
        ("XBZRLE needs a page cache", True),
        ("Operation not permitted", False),
        ("", False),
    ],
)
def test_words_name_the_option(words: str, named: bool) -> None:
    """A user can tell from the words what does not go together."""
    assert _XBZRLE.named_by(words) is named


def test_put_back(machine: Machine) -> None:
    """All that was changed is changed back, and whether that worked is said."""
    before = settings(machine)
    _XBZRLE.set(machine)
    Option("parameter-level", parameters={"level": 2}).set(machine)
    assert settings(machine) != before
    assert put_back(machine, before)
    Option("parameter-mapping", parameters={"mapping": []}).set(machine)
    assert not put_back(machine, before)


def _judged(machine: Machine, option: Option = _XBZRLE) -> tuple[Status, str]:
    words = each_option.words_when_set(machine, option, settings(machine))
    result = each_option.judge_setting(option, words)
    return result.status, " ".join(violation.sentence for violation in result.violations)


def test_clear_refusal_in_every_order(machine: Machine) -> None:
    """The same clear words whatever came first, nothing changed: right."""
    cast(Any, machine).qmp.words = "Background-snapshot is not compatible with xbzrle"
    assert _judged(machine) == (Status.PASS, "")
    assert not any(settings(machine).capabilities.values())


def test_acceptance_in_every_order(machine: Machine) -> None:
    """An accepted option gives no words in any order, and is switched off before the next one."""
    words = each_option.words_when_set(machine, _XBZRLE, settings(machine))
    assert words == dict.fromkeys(Order, "")
    assert not any(settings(machine).capabilities.values())


def test_unclear_refusal(machine: Machine) -> None:
    """Words that name nothing are a failure of their own."""
    cast(Any, machine).qmp.words = "Operation not permitted"
    status, sentence = _judged(machine)
    assert status is Status.FAIL
    assert "names neither it nor background-snapshot: Operation not permitted" in sentence


def test_refusal_in_one_order_only() -> None:
    """Accepted after, refused before: the check sees it."""
    words = dict.fromkeys(Order, "") | {Order.OPTION_FIRST: "xbzrle is on"}
    result = each_option.judge_setting(_XBZRLE, words)
    assert "refuses it before background-snapshot: xbzrle is on" in result.violations[0].sentence


def test_refusal_for_its_own_reasons() -> None:
    """A refusal that this QEMU gives in any migration says nothing about background snapshots."""
    words = dict.fromkeys(Order, "Needs KVM")
    assert each_option.judge_setting(_XBZRLE, words).status is Status.PASS


def test_refusal_that_changes_a_setting(machine: Machine) -> None:
    """A refused command must leave everything as it was."""
    cast(Any, machine).qmp.words = "Background-snapshot is not compatible with xbzrle"
    cast(Any, machine).qmp.stuck = True
    with pytest.raises(AssertionError, match="refuses 'xbzrle' and yet has changed a setting"):
        _judged(machine)
