"""Guards a campaign's folder: one campaign at a time, and only the one that its files are of."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.plural import counted
from snapproof.explore.journal import SUMMARY_FILE
from snapproof.runs.options import StackOptions
from tests_functional.lib.profile_row import UEFI

LOCK_FILE = "campaign.lock"
"""File of a results folder that is locked while a campaign writes there."""

_OPTIONS = ("qemu", "accel", "guest", "arch", "machine", "cpu", "firmware", "firmware_vars", "qemu_args")
# What makes results those of another stack, and its name in a sentence.
_SAME = {
    "qemu": "QEMU",
    "qemu_digest": "the QEMU executable with SHA256",
    "accelerator": "accelerator",
    "machine": "machine type",
    "cpu": "CPU model",
    "firmware": "firmware",
    "qemu_args": "QEMU's arguments",
    "guest_image_digest": "the guest with digest",
    "host_kernel": "host kernel",
}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a folder for this campaign alone, for the length of the `with`.

    Raises:
        UsageError: another campaign has it.
    """
    with (folder / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"A campaign runs in '{folder}' at present; wait until it has ended, or use another folder."
            ) from error
        yield


def job_folders(folder: Path) -> list[Path]:
    """Return the folders of the campaigns that `--jobs` ran below a folder, in their order."""
    found = [path for path in folder.glob("job-*") if path.is_dir() and path.name[4:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[4:]))


def read_earlier(folder: Path) -> Mapping[str, Any]:
    """Return the explore.json of a campaign that can go on.

    Raises:
        UsageError: the folder has none, or that of several campaigns, or one of the kernel.
    """
    if jobs := job_folders(folder):
        raise UsageError(
            f"'{folder}' has {counted(len(jobs), 'campaign')} side by side; to go on with all of them, give "
            f"--jobs {len(jobs)} too."
        )
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"'{folder}' has no campaign to go on with: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"'{folder / SUMMARY_FILE}' cannot be read: {error}.") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("environment"), dict):
        raise UsageError(f"'{folder / SUMMARY_FILE}' is not that of a campaign.")
    if summary.get("kernel"):
        raise UsageError(f"'{folder}' has a campaign of the kernel: give its corpus.json with --corpus.")
    if not isinstance(summary.get("seed"), int):
        raise UsageError(f"'{folder}' has merged campaigns, and those do not go on; continue each of them.")
    return summary


def seed_of(folder: Path, earlier: Mapping[str, Any], given: int | None) -> int:
    """Return the seed of an earlier campaign.

    Raises:
        UsageError: another one was given.
    """
    seed = int(earlier["seed"])
    if given not in (None, seed):
        raise UsageError(
            f"The campaign in '{folder}' has seed {seed}, and not {given}: leave --seed out, or begin "
            "a new campaign."
        )
    return seed


def kept_options(options: StackOptions) -> dict[str, str]:
    """Return the options that choose QEMU and guest as explore.json has them: those that were given."""
    default = StackOptions()
    given = {name: getattr(options, name) for name in _OPTIONS}
    return {name: _kept(name, value) for name, value in given.items() if value != getattr(default, name)}


def _kept(name: str, value: object) -> str:
    """Return an option's text; a path is to mean the same in another folder."""
    text = str(value)
    # A word without a slash is a QEMU of the catalogue or on PATH.
    is_path = {"qemu": os.sep in text, "firmware": text != UEFI, "firmware_vars": True}.get(name, False)
    return str(Path(text).absolute()) if is_path else text


def with_options_of(earlier: Mapping[str, Any], given: StackOptions) -> StackOptions:
    """Return options in which those that were not given are those of an earlier campaign."""
    default, kept = StackOptions(), earlier.get("options", {})
    names = [one.name for one in fields(StackOptions) if one.name in kept and one.name in _OPTIONS]
    taken: dict[str, Any] = {
        name: Path(kept[name]) if name == "firmware_vars" else kept[name]
        for name in names
        if getattr(given, name) == getattr(default, name)
    }
    return replace(given, **taken)


def with_digest(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment with the SHA256 of its QEMU: builds of one version are not the same."""
    with Path(environment["qemu_executable"]).open("rb") as file:
        return {**environment, "qemu_digest": file_digest(file, "sha256").hexdigest()}


def require_same_stack(folder: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a campaign goes on with the QEMU, machine, guest and kernel that it had.

    Args:
        folder: of the campaign.
        earlier: its explore.json.
        now: the environment of what would go on.

    Raises:
        UsageError: something differs; the sentence has both values.
    """
    before = earlier["environment"]
    for name, words in _SAME.items():
        # Older campaigns have no digest.
        if name == "qemu_digest" and name not in before:
            continue
        one, other = before.get(name, ""), now.get(name, "")
        if one != other:
            raise UsageError(
                f"The campaign in '{folder}' was begun with {words} '{one}', and would go on with '{other}': "
                "leave the options of QEMU and guest out, or begin a new campaign."
            )
