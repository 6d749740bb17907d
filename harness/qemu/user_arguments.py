"""Splits the QEMU arguments of a user, and refuses those that would take a guest out of our hands."""

from __future__ import annotations

import shlex

from harness.errors import UsageError

_OURS = {
    ("machine", "M"): "give it with --machine TYPE,PROPERTY=VALUE",
    ("cpu",): "give it with --cpu",
    ("accel", "enable-kvm", "no-kvm"): "give it with --accel",
    ("bios", "pflash"): "give it with --firmware",
    ("kernel", "initrd", "append"): "describe a guest of yours with --kernel, --initrd and --cmdline",
    ("m",): "each test chooses its guest's RAM; --guest-needs makes it larger",
    ("smp",): "each test chooses its number of vCPUs",
    ("incoming", "loadvm"): "only the restored guest is loaded, from the snapshot",
    ("S", "preconfig"): "each guest must start by itself",
    ("snapshot",): "each QEMU writes to an overlay of its own already",
    ("daemonize",): "QEMU would leave the process that is watched",
    ("name",): "QEMU's threads are found by the name that it is given",
    ("qmp", "qmp-pretty", "mon", "monitor"): "a second monitor could change the guest behind the test's back",
}
"""Options that `--qemu-args` does not take, each with what to do or why."""

_REASONS = {name: reason for names, reason in _OURS.items() for name in names}


def split_user_arguments(text: str) -> tuple[str, ...]:
    """Return the words of `--qemu-args`, split as a shell does.

    Raises:
        UsageError: a quote is not closed, or there is an option that is not taken.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--qemu-args '{text}' cannot be split into words: {error}.") from error
    for word in words:
        # QEMU takes one dash or two.
        name = word.removeprefix("-").removeprefix("-") if word.startswith("-") else ""
        if name in _REASONS:
            raise UsageError(f"--qemu-args does not take '{word}': {_REASONS[name]}.")
    if words and not words[0].startswith("-"):
        raise UsageError(
            f"--qemu-args begins with '{words[0]}', which QEMU would take for a disk; name an option."
        )
    return words
