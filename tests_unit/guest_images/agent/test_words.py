"""The agent's memory format is the same in C, in Python and in docs/agent-format.md."""

from __future__ import annotations

import re
from dataclasses import fields
from enum import IntEnum
from pathlib import Path

import pytest

from guest_images.agent import format as af
from guest_images.agent.build import SOURCES
from guest_images.agent.pages import PATTERNS, DataHeader, Pattern

HEADER = (SOURCES / "core/format.h").read_text()
SCHEDULE = (SOURCES / "core/schedule.c").read_text()
DOCUMENT = (Path(__file__).parents[3] / "docs/agent-format.md").read_text()

CLASSES: dict[str, tuple[type[IntEnum], str]] = {
    "page_word": (af.PageWord, "PAGE_"),
    "data_word": (af.DataWord, "DATA_"),
    "thread_word": (af.ThreadWord, "THREAD_"),
    "writer_state": (af.WriterState, "WRITER_"),
    "control_word": (af.ControlWord, "CONTROL_"),
    "agent_state": (af.AgentState, "AGENT_"),
    "pattern": (Pattern, "PATTERN_"),
    "directory_word": (af.DirectoryWord, "DIRECTORY_"),
    "bare_command": (af.BareCommand, "BARE_"),
    "bare_result": (af.BareResult, "BARE_"),
    "serve_argument": (af.ServeArgument, "SERVE_"),
    "beside_argument": (af.BesideArgument, "BESIDE_"),
    "report_word": (af.ReportWord, "REPORT_"),
    "mismatch_word": (af.MismatchWord, "MISMATCH_"),
}
"""The class in Python for each enum in C, and what the names of its constants begin with there."""

WORDS = [name for name in CLASSES if name.endswith("_word")]


def enums(text: str) -> dict[str, dict[str, int]]:
    """The enums of C text: their tags, and their constants with their numbers."""
    found = {}
    for tag, body in re.findall(r"^enum (\w+) \{\n(.*?)^\};", text, re.MULTILINE | re.DOTALL):
        lines = [re.sub(r"/\*.*?\*/", "", line).strip() for line in body.splitlines()]
        constants = [re.fullmatch(r"(\w+) = (\d+),", line) for line in lines]
        assert all(constants), f"enum {tag}: each line must be a constant with a number"
        found[tag] = {match[1]: int(match[2]) for match in constants if match}
    return found


def magics(text: str) -> dict[str, bytes]:
    """The magics of C text by name."""
    found = re.findall(r"#define MAGIC_(\w+) MAGIC\((.+)\)", text)
    return {name: "".join(re.findall("'(.)'", letters)).encode() for name, letters in found}


def documented(prefix: str) -> dict[str, int]:
    """The words of one table of the document by name."""
    table = re.search(rf"^\| word \| `{prefix}` \|.*?\n\n", DOCUMENT + "\n", re.MULTILINE | re.DOTALL)
    assert table is not None
    return {name: int(word) for word, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", table[0], re.MULTILINE)}


def test_header_has_these_enums_and_no_other() -> None:
    """A new enum needs its class in Python."""
    assert set(enums(HEADER)) == {*CLASSES, "format_size"}
    assert len(re.findall(r"\benum\b[^;]*\{", HEADER)) == len(enums(HEADER))


@pytest.mark.parametrize("tag", CLASSES)
def test_enum_is_the_same_in_python(tag: str) -> None:
    """Names and numbers are equal, none is missing on either side."""
    python, prefix = CLASSES[tag]
    assert enums(HEADER)[tag] == {prefix + member.name: member.value for member in python}
    assert list(enums(HEADER)[tag].values()) == sorted(set(enums(HEADER)[tag].values()))


def test_sizes_are_the_same_in_python() -> None:
    """All sizes and limits are constants of the same name."""
    sizes = enums(HEADER)["format_size"]
    assert sizes == {name: getattr(af, name) for name in sizes}
    assert sizes["PAGE_BYTES"] == sizes["PAGE_WORDS"] * af.WORD_BYTES


def test_header_of_a_data_page_has_its_words_in_order() -> None:
    """The class that a header is read into has one field for each word before the body."""
    words = {member.value: member.name.lower() for member in (*af.PageWord, *af.DataWord)}
    assert [field.name for field in fields(DataHeader)] == [words[at] for at in range(af.DataWord.BODY)]


def test_magics_and_stride_are_the_same_in_python() -> None:
    """The kinds of pages are told apart by the same words."""
    found = magics(HEADER)
    assert {kind: int.from_bytes(letters, "little") for kind, letters in found.items()} == {
        "DATA": af.DATA_MAGIC,
        "DIRECTORY": af.DIRECTORY_MAGIC,
        "CONTROL": af.CONTROL_MAGIC,
        "THREAD": af.THREAD_MAGIC,
        "REPORT": af.REPORT_MAGIC,
        "MAILBOX": af.MAILBOX_MAGIC,
    }
    stride = re.search(r"#define BODY_STRIDE UINT64_C\((\w+)\)", HEADER)
    assert stride is not None and int(stride[1], 16) == af.BODY_STRIDE
    assert all(f"`{letters.decode()}`" in DOCUMENT for letters in found.values())


def test_pattern_names_are_the_same_in_python() -> None:
    """The command line's names come from schedule.c, in Python from the class."""
    names = re.findall(r'\[PATTERN_(\w+)\] = "(\w+)"', SCHEDULE)
    assert {Pattern[constant]: name for constant, name in names} == dict(enumerate(PATTERNS))
    rows = re.findall(r"^\| (\d) (\w+) \|", DOCUMENT, re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == list(enumerate(PATTERNS))


@pytest.mark.parametrize("tag", WORDS)
def test_document_has_every_word(tag: str) -> None:
    """Each word stands in the page's table, with its number."""
    python, prefix = CLASSES[tag]
    assert documented(prefix) == {member.name: member.value for member in python}


@pytest.mark.parametrize(
    ("tag", "line", "changed"),
    [
        ("thread_word", "THREAD_STEPS = 4,", "THREAD_STEPS = 5,"),
        ("control_word", "CONTROL_SEED = 4,", "CONTROL_KEY = 4,"),
        ("directory_word", "DIRECTORY_COUNT = 4,", "DIRECTORY_COUNT = 4,\n\tDIRECTORY_MORE = 5,"),
    ],
)
def test_changed_header_is_noticed(tag: str, line: str, changed: str) -> None:
    """Another number, another name and one more word all make a difference."""
    assert line in HEADER
    python, prefix = CLASSES[tag]
    assert enums(HEADER.replace(line, changed))[tag] != {
        prefix + member.name: member.value for member in python
    }


def test_constant_without_a_number_is_noticed() -> None:
    """Numbers are explicit, so that a line more moves no other."""
    with pytest.raises(AssertionError, match="each line"):
        enums(HEADER.replace("CONTROL_SEED = 4,", "CONTROL_SEED,"))
