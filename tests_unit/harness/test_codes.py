"""Contract: a code is one word for programs, with one meaning, and docs/codes.md has them all."""

from __future__ import annotations

import re
from pathlib import Path

from harness.codes import Code
from harness.errors import Evidence, SetupBroken, SubjectFailed
from harness.qemu.messages import MESSAGES, said
from harness.qemu.qmp import CommandRefused

_PAGE = Path(__file__).parents[2] / "docs/codes.md"


def test_codes_are_named_after_their_values() -> None:
    """`<check-or-subject>.<what>`, each once, with a meaning that is a sentence."""
    assert len({code.value for code in Code}) == len(Code.__members__)
    for code in Code:
        assert re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", code.value)
        assert code.name == re.sub(r"[.-]", "_", code.value).upper()
        assert code.meaning.endswith(".")


def test_page_has_every_code() -> None:
    """The table of docs/codes.md is that of harness/codes.py, in its order."""
    table = _PAGE.read_text(encoding="utf-8").partition("## All codes")[2]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", table, re.MULTILINE)
    assert rows == [(code.value, code.meaning) for code in Code]


def test_every_code_is_used() -> None:
    """A code that nothing gives would be documented in vain."""
    root = Path(__file__).parents[2]
    packages = ("harness", "guest_images", "validators", "tests_functional")
    files = [path for name in packages for path in (root / name).rglob("*.py") if path.name != "codes.py"]
    used = {name for path in files for name in re.findall(r"\bCode\.([A-Z0-9_]+)", path.read_text("utf-8"))}
    assert set(Code.__members__) <= used


def test_error_has_the_code_of_its_class_or_its_own() -> None:
    """An error has the code of its class, or one of its own with fields."""
    assert SetupBroken("It is so.").code is Code.SETUP_BROKEN
    assert SubjectFailed("It is so.").code is Code.QEMU_FAILED
    failed = SubjectFailed("It is so.", Evidence(), code=Code.QMP_NO_ANSWER, fields={"command": "stop"})
    assert (failed.code, failed.fields) == (Code.QMP_NO_ANSWER, {"command": "stop"})


def test_words_of_qemu_become_a_field() -> None:
    """A refusal names its command, and QEMU's message where it is one that is told apart."""
    assert CommandRefused("migrate", "No.").fields == {"command": "migrate"}
    refused = CommandRefused("migrate", "duplicate yank instance")
    assert refused.fields == {"command": "migrate", "qemu_said": "duplicate-yank"}
    for name, texts in MESSAGES.items():
        assert all(said(f"qemu: {text}, so it was") == {"qemu_said": name} for text in texts)
