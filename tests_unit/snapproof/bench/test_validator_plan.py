"""Contract: the files of `bench validator` are chosen by name, and one that is not there is named."""

import pytest

from harness.errors import UsageError
from snapproof.bench.validator_plan import FILES, chosen_files


def test_all_files_by_default() -> None:
    """They come in the order of the table."""
    assert chosen_files(None) == list(FILES)


def test_files_by_name() -> None:
    """They come in the order of the command line."""
    assert [one.name for one in chosen_files("6G,512M")] == ["6G", "512M"]


def test_a_name_that_is_not_known() -> None:
    """The sentence has the name, and those that there are."""
    with pytest.raises(UsageError, match=r"no file '7G'; choose from 512M, 1.3G"):
        chosen_files("512M,7G")
