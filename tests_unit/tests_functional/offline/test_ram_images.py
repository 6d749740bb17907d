"""Contract: the test of RAM images is red for a right image that fails, and for a wrong one that passes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.codes import Code
from tests_functional.offline.ram_images import judge_moving, judge_still
from tests_unit.support.synthetic_stream import PAGE, Guest


def _image(tmp_path: Path, guest: Guest, more: bytes = b"") -> Path:
    path = tmp_path / "image"
    path.write_bytes(guest.ram.astype("<u8").tobytes() + more)
    return path


def _moving() -> Guest:
    """Return a guest of which the second half was copied after more steps."""
    guest, later = Guest(), Guest(steps=(900, 400))
    guest.ram[guest.ram_pages // 2 :] = later.ram[guest.ram_pages // 2 :]
    return guest


def test_image_of_one_moment(tmp_path: Path) -> None:
    """It passes, and is excused where it was said to be of many."""
    path = _image(tmp_path, Guest())
    assert judge_still("flat", path, raw=True) == []
    (problem,) = judge_moving(path)
    assert problem.code is Code.RAM_IMAGE_EXCUSED
    assert problem.sentence == "An image that was copied while the guest wrote is judged PASS."


def test_image_of_many_moments(tmp_path: Path) -> None:
    """It fails for a page of another moment, and is blamed where it was said to be of one."""
    path = _image(tmp_path, _moving())
    assert judge_moving(path) == []
    (problem,) = judge_still("flat", path, raw=True)
    assert problem.code is Code.RAM_IMAGE_BLAMED and dict(problem.fields) == {"image": "flat"}
    assert problem.sentence.startswith("flat: an image of a stopped guest is judged FAIL. Page ")


def test_lost_page_is_no_page_of_another_moment(tmp_path: Path) -> None:
    """An image that fails for another reason does not show that moments are told apart."""
    guest = Guest()
    guest.ram[guest.places[0, 7]] = 0
    (problem,) = judge_moving(_image(tmp_path, guest))
    assert problem.code is Code.RAM_IMAGE_EXCUSED


@pytest.mark.parametrize(
    ("guest", "more", "words"),
    [
        (Guest(agent=False), b"", "flat: '.*' has no page of snapproof's agent"),
        (Guest(), b"x" * (PAGE - 1), "flat: '.*' has .* no whole number of pages"),
    ],
)
def test_image_that_is_not_judged(tmp_path: Path, guest: Guest, more: bytes, words: str) -> None:
    """It is a failure of the test, and no error of its set-up."""
    (problem,) = judge_still("flat", _image(tmp_path, guest, more), raw=True)
    assert problem.code is Code.RAM_IMAGE_BLAMED
    assert re.match(words, problem.sentence)
