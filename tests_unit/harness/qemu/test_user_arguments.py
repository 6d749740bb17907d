"""Contract: QEMU arguments of a user are split as by a shell; those that a run depends on are refused."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.qemu.user_arguments import split_user_arguments


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("-nographic", ("-nographic",)),
        ("-device virtio-serial-pci -s", ("-device", "virtio-serial-pci", "-s")),
        ("--fw_cfg 'name=opt/x,string=a b'", ("--fw_cfg", "name=opt/x,string=a b")),
        # A value is no option, even if an option has its name.
        ("-object memory-backend-ram,id=m,size=1M -numa cpu", None),
    ],
)
def test_words(text: str, words: tuple[str, ...] | None) -> None:
    """They are those of a shell, without its expansions."""
    assert split_user_arguments(text) == (tuple(text.split()) if words is None else words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-machine q35", "does not take '-machine': give it with --machine"),
        ("-vga std --M q35", "does not take '--M': give it with --machine"),
        ("-cpu max", "--cpu"),
        ("-enable-kvm", "--accel"),
        ("-m 64", "'-m': each test chooses"),
        ("-smp 2", "vCPUs"),
        ("-S", "'-S': each guest must start"),
        ("-daemonize", "watched"),
        ("-incoming defer", "from the snapshot"),
        ("-qmp unix:q,server", "second monitor"),
        ("-name x", "name"),
        ("-kernel k", "guest of yours"),
        ("disk.qcow2", "begins with 'disk.qcow2'"),
        ("-device 'a", "cannot be split into words"),
    ],
)
def test_refused(text: str, sentence: str) -> None:
    """The sentence names the word, and what to do in its place."""
    with pytest.raises(UsageError, match="--qemu-args") as caught:
        split_user_arguments(text)
    assert sentence in caught.value.sentence
