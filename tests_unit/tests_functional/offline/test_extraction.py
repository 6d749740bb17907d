"""The comparison of two golden images sees one byte, a missing block, a short file, and nothing at all."""

from __future__ import annotations

import json
from pathlib import Path

from harness.status import Status
from tests_functional.offline.extraction import compare_images


def _image(folder: Path, blocks: dict[str, bytes]) -> Path:
    folder.mkdir()
    entries = []
    for number, (idstr, content) in enumerate(blocks.items()):
        (folder / f"{number}.ram").write_bytes(content)
        entries.append({"idstr": idstr, "bytes": len(content), "file": f"{number}.ram"})
    (folder / "golden.json").write_text(json.dumps({"blocks": entries}))
    return folder


def test_equal_images_pass(tmp_path: Path) -> None:
    """Blocks that QEMU could not give are left out, the others are counted in bytes."""
    ours = _image(tmp_path / "a", {"pc.ram": b"x" * 9000, "pc.rom": b"y"})
    check = compare_images(ours, _image(tmp_path / "b", {"pc.ram": b"x" * 9000}))
    assert (check.status, check.facts["bytes_compared"]) == (Status.PASS, 9000)


def test_one_byte_is_named_with_its_offset(tmp_path: Path) -> None:
    """A differing byte is named also beyond the first chunk, and if one file merely ends earlier."""
    good = bytes(5 << 20)
    bad = bytearray(good)
    bad[(4 << 20) + 7] = 1
    ours = _image(tmp_path / "a", {"pc.ram": bytes(bad), "pc.rom": b"abc"})
    check = compare_images(ours, _image(tmp_path / "b", {"pc.ram": good, "pc.rom": b"ab"}))
    sentences = sorted(violation.sentence for violation in check.violations)
    assert sentences == [
        "RAMBlock 'pc.ram' differs at offset 0x400007.",
        "RAMBlock 'pc.rom' differs at offset 0x2.",
    ]


def test_nothing_compared_is_not_green(tmp_path: Path) -> None:
    """A block that only QEMU has is named; two images without a common block fail."""
    ours = _image(tmp_path / "a", {"pc.rom": b"x"})
    check = compare_images(ours, _image(tmp_path / "b", {"pc.ram": b"x"}))
    assert check.status is Status.FAIL
    assert check.total == 2
