"""Contract: a campaign goes on as the one that it was, and has its folder for itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from snapproof.explore.folder import (
    LOCK_FILE,
    job_folders,
    kept_options,
    locked,
    read_earlier,
    require_same_stack,
    seed_of,
    with_digest,
    with_options_of,
)
from snapproof.explore.journal import SUMMARY_FILE
from snapproof.runs.options import StackOptions

_ENVIRONMENT = {
    "qemu": "10.0.13", "qemu_digest": "d1", "accelerator": "kvm", "machine": "pc", "cpu": "max",
    "firmware": "uefi", "qemu_args": "-S", "guest_image_digest": "g1", "host_kernel": "6.1",
    "accelerator_reason": "it works", "host_cpus": 2,
}  # fmt: skip


def _write(folder: Path, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY_FILE).write_text(json.dumps(content))
    return folder


def test_a_folder_is_for_one_campaign(tmp_path: Path) -> None:
    """Another process is refused until the first has left it, or has ended."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom snapproof.explore.folder import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('has it', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"has it\n"
        with pytest.raises(UsageError, match=f"A campaign runs in '{tmp_path}' at present"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).is_file()


@pytest.mark.parametrize(
    "name", [name for name in _ENVIRONMENT if name not in ("accelerator_reason", "host_cpus")]
)
def test_another_stack_is_refused(name: str) -> None:
    """The sentence has both values; a value that only one of them has is another one too."""
    earlier = {"environment": _ENVIRONMENT}
    require_same_stack(Path("x"), earlier, _ENVIRONMENT)
    for now in (
        {**_ENVIRONMENT, name: "other"},
        {key: _ENVIRONMENT[key] for key in _ENVIRONMENT if key != name},
    ):
        with pytest.raises(UsageError) as refused:
            require_same_stack(Path("x"), earlier, now)
        assert f"'{_ENVIRONMENT[name]}', and would go on with '{now.get(name, '')}'" in refused.value.sentence


def test_what_says_nothing_about_the_stack_may_differ() -> None:
    """Older campaigns have no digest, either."""
    now = {**_ENVIRONMENT, "accelerator_reason": "chosen", "host_cpus": 8}
    require_same_stack(Path("x"), {"environment": _ENVIRONMENT}, now)
    older = {name: value for name, value in _ENVIRONMENT.items() if name != "qemu_digest"}
    require_same_stack(Path("x"), {"environment": older}, _ENVIRONMENT)


def test_options_that_are_not_given_are_those_of_before() -> None:
    """Those that are given stay, and are compared as part of the stack."""
    given = StackOptions(
        qemu="./qemu",
        accel="tcg",
        machine="q35",
        firmware="uefi",
        firmware_vars=Path("vars"),
        cache=Path("c"),
    )
    kept = kept_options(given)
    assert kept == {
        "qemu": str(Path("qemu").absolute()), "accel": "tcg", "machine": "q35", "firmware": "uefi",
        "firmware_vars": str(Path("vars").absolute()),
    }  # fmt: skip
    again = with_options_of({"options": kept}, StackOptions())
    assert (again.qemu, again.accel, again.machine) == (kept["qemu"], "tcg", "q35")
    assert again.firmware_vars == Path(kept["firmware_vars"])
    assert again.cache is None
    assert with_options_of({"options": kept}, StackOptions(qemu="debian-12")).qemu == "debian-12"
    assert with_options_of({}, given) == given
    assert kept_options(StackOptions(qemu="debian-13")) == {"qemu": "debian-13"}


def test_a_seed_is_that_of_before() -> None:
    """Another one is refused, with both."""
    assert seed_of(Path("x"), {"seed": 0}, None) == 0
    assert seed_of(Path("x"), {"seed": 7}, 7) == 7
    with pytest.raises(UsageError, match="has seed 7, and not 1"):
        seed_of(Path("x"), {"seed": 7}, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"environment": {}, "seed": 3, "kernel": True}, "campaign of the kernel"),
        ({"environment": {}, "seeds": [1, 2]}, "merged campaigns"),
        ({"seed": 3}, "not that of a campaign"),
        ([], "not that of a campaign"),
    ],
)
def test_what_cannot_go_on(tmp_path: Path, content: Any, said: str) -> None:
    """Each has a sentence of its own."""
    with pytest.raises(UsageError, match=said):
        read_earlier(_write(tmp_path, content))


def test_campaigns_side_by_side_go_on_together(tmp_path: Path) -> None:
    """Also those that were killed before they were merged."""
    with pytest.raises(UsageError, match="no campaign to go on with"):
        read_earlier(tmp_path)
    for number in (10, 2, 1):
        (tmp_path / f"job-{number}").mkdir()
    (tmp_path / "job-1.log").touch()
    assert [path.name for path in job_folders(tmp_path)] == ["job-1", "job-2", "job-10"]
    with pytest.raises(UsageError, match=r"has 3 campaigns side by side.*give --jobs 3 too"):
        read_earlier(tmp_path)
    _write(tmp_path / "job-2", {"environment": {}, "seed": 3})
    assert read_earlier(tmp_path / "job-2")["seed"] == 3


def test_builds_of_one_version_are_told_apart(tmp_path: Path) -> None:
    """The digest is that of the file."""
    qemu = tmp_path / "qemu"
    qemu.write_bytes(b"one")
    first = with_digest({"qemu_executable": str(qemu)})
    qemu.write_bytes(b"two")
    assert first["qemu_digest"] != with_digest({"qemu_executable": str(qemu)})["qemu_digest"]
