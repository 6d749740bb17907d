"""Contract: of the description of device state only what can be is believed."""

from __future__ import annotations

from typing import Any

import pytest

from validators.vmstate.stream.index import Vmdesc
from validators.vmstate.stream.vmdesc import described_page_size


@pytest.mark.parametrize(
    ("value", "size"),
    [
        *((1 << bits, 1 << bits) for bits in range(10, 17)),
        (1 << 9, None),
        (1 << 17, None),
        (4097, None),
        (0, None),
        (4096.0, None),
        ("4096", None),
        (None, None),
    ],
)
def test_page_size_is_one_that_a_target_of_qemu_has(value: Any, size: int | None) -> None:
    """From 1 KiB (ARM with small pages) to 64 KiB."""
    assert described_page_size(Vmdesc(0, 0, {"page_size": value})) == size
