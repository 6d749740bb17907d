"""Contract: the fuzz target accepts its own seeds, so that a fuzzing run starts from sound inputs."""

from __future__ import annotations

import pytest

from tests_unit.support.fuzz_stream import one_input, seed_corpus


def test_seeds_are_small_and_pass_through() -> None:
    """Every seed runs through the target without an exception and fits its length limit."""
    for seed in seed_corpus():
        assert len(seed) <= 65536
        one_input(seed)


@pytest.mark.parametrize(
    "data", [b"", b"Q", b"QEVM", b"QEVM\0\0\0\3", b"QEVM\0\0\0\3\0", b"QEVM\0\0\0\3\x07"]
)
def test_shortest_inputs_pass_through(data: bytes) -> None:
    """The shortest inputs there are give a verdict or a UsageError."""
    one_input(data)
