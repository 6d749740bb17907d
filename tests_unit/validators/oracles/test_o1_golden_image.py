"""Contract: a golden image that cannot be used is the user's to mend, and says nothing about the snapshot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.codes import Code
from harness.errors import UsageError
from tests_unit.support.synthetic_stream import Guest, Writer, write_golden
from validators.judge import check_file
from validators.vmstate.diff import diff_files
from validators.vmstate.extract import extract


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A right vmstate file, and its golden image."""
    writer = Writer(Guest(agent=False))
    file = tmp_path / "file"
    file.write_bytes(writer.stream())
    return file, write_golden(tmp_path / "golden", writer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bytes": float("inf")}, "a RAMBlock cannot have inf bytes"),
        ({"bytes": float("nan")}, "a RAMBlock cannot have nan bytes"),
        ({"bytes": True}, "a RAMBlock cannot have True bytes"),
        ({"bytes": 0}, "a RAMBlock cannot have 0 bytes"),
        ({"bytes": -4096}, "a RAMBlock cannot have -4096 bytes"),
        ({"bytes": "8192"}, "a RAMBlock cannot have '8192' bytes"),
        ({"file": "block-\ud800.ram"}, "names a file that cannot be"),
        ({"file": "block-\0.ram"}, "names a file that cannot be"),
        ({"file": ".."}, "is not a regular file"),
        ({"idstr": ""}, "a RAMBlock has no name"),
        ({"idstr": None}, "a RAMBlock has no name"),
        ({"idstr": "pc.ram"}, "lists RAMBlock 'pc.ram' twice"),
    ],
)
def test_an_impossible_entry_is_refused(pair: tuple[Path, Path], change: dict[str, Any], words: str) -> None:
    """An image with any other JSON is refused with what is wrong, in a sentence that can be printed."""
    file, golden = pair
    content = json.loads((golden / "golden.json").read_text())
    content["blocks"][1].update(change)
    (golden / "golden.json").write_text(json.dumps(content))
    with pytest.raises(UsageError) as refused:
        check_file(file, golden=golden)
    assert words in refused.value.sentence
    refused.value.sentence.encode()


@pytest.mark.parametrize("text", ["[]", "3", '{"version": 1, "blocks": [3]}', '{"version": Infinity}'])
def test_a_list_of_another_form_is_refused(pair: tuple[Path, Path], text: str) -> None:
    """JSON of another form is no golden image."""
    file, golden = pair
    (golden / "golden.json").write_text(text)
    with pytest.raises(UsageError):
        check_file(file, golden=golden)


def test_a_name_is_compared_as_the_stream_has_it(pair: tuple[Path, Path]) -> None:
    """Half of a surrogate pair in a name is another name, and can be printed."""
    file, golden = pair
    content = json.loads((golden / "golden.json").read_text())
    content["blocks"][1]["idstr"] = "pc.\ud800"
    (golden / "golden.json").write_text(json.dumps(content))
    violations = check_file(file, golden=golden).violations
    assert {found.code for found in violations} == {
        Code.GOLDEN_BLOCK_NOT_IN_IMAGE,
        Code.GOLDEN_BLOCK_NOT_IN_STREAM,
    }
    assert all(found.sentence.isascii() for found in violations)


def test_half_a_surrogate_pair_in_the_vmdesc_ends_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Names in the JSON of an untrusted file may hold one; extraction and comparison go on."""
    file, _ = pair
    odd = tmp_path / "odd"
    data = file.read_bytes()
    start = data.rindex(b"\0\6") + 2
    text = data[start + 4 :].replace(b'"dev1/extra"', rb'"\ud800ev1/extra"')
    text = text.replace(b'"deep"', rb'"\udfff"')
    odd.write_bytes(data[:start] + len(text).to_bytes(4, "big") + text)
    assert Code.VMDESC_SUBSECTION in [found.code for found in check_file(odd).violations]
    extract(odd, tmp_path / "extracted")
    assert not diff_files(file, odd).same


def test_a_vmstate_file_is_no_golden_image(pair: tuple[Path, Path]) -> None:
    """It is refused with the way to make one of it, where its bytes as RAM would make the snapshot wrong."""
    file, _ = pair
    with pytest.raises(UsageError, match="--extract"):
        check_file(file, golden=file)


def test_a_raw_image_in_parts_of_pages_is_no_golden_image(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A cut copy says nothing about the snapshot."""
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(10_000))
    with pytest.raises(UsageError, match="whole number of pages"):
        check_file(pair[0], golden=raw)
