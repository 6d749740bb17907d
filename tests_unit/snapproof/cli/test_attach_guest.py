"""Contract: the way into the guest is one that the options name, and its absence is told."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from harness.attach.virsh import Domain
from harness.errors import MachineryMissing, SetupBroken, UsageError
from harness.linux.listeners import Endpoint
from snapproof.cli import attach_guest
from snapproof.cli.attach_guest import endpoint, guest_way, require_usable


def _given(**options: Any) -> argparse.Namespace:
    usual: dict[str, Any] = {
        "guest_agent": None, "ssh": None, "ssh_key": None, "ssh_host_key": None, "ssh_user": "root",
        "libvirt": "vm", "cache": None, "through_libvirt": False,
    }  # fmt: skip
    return argparse.Namespace(**{**usual, **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guest_agent": "", "ssh": "h", "ssh_key": Path("k")}, "two ways"),
        ({"guest_agent": "", "libvirt": None}, "takes the socket"),
        ({"ssh": "h"}, "belong together"),
        ({"ssh_key": Path("k")}, "belong together"),
        ({"through_libvirt": True, "libvirt": None}, "is for a domain of libvirt"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    """Each is told before the VM is touched."""
    with pytest.raises(UsageError, match=words):
        require_usable(_given(**options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"through_libvirt": True},
        {"guest_agent": ""},
        {"guest_agent": "/s", "libvirt": None},
        {"ssh": "h", "ssh_key": Path()},
    ],
)
def test_options_that_fit(options: dict[str, Any]) -> None:
    """None, or one way."""
    require_usable(_given(**options))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("host", Endpoint("host", 22)),
        ("10.0.0.1:2222", Endpoint("10.0.0.1", 2222)),
        ("[fe80::1]", Endpoint("fe80::1", 22)),
        ("[::1]:8022", Endpoint("::1", 8022)),
    ],
)
def test_where_to_log_in(text: str, found: Endpoint) -> None:
    """The port is 22 unless another is named."""
    assert endpoint(text) == found


@pytest.mark.parametrize("text", ["host:", "host:ssh", "host:0", "host:65536"])
def test_port_that_is_none(text: str) -> None:
    """It is the user's to mend."""
    with pytest.raises(UsageError, match="no port"):
        endpoint(text)


def test_no_way_is_asked_for() -> None:
    """Then there is none."""
    with guest_way(_given(), Path("/qmp"), print) as way:
        assert way is None


def test_guest_agent_of_a_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By virsh; one that is silent is told with what to do."""
    virsh = tmp_path / "virsh"
    virsh.write_text("#!/bin/sh\necho '{\"return\":{}}'\n")
    virsh.chmod(0o755)
    monkeypatch.setattr(attach_guest, "PING_SECONDS", 1.0)
    with guest_way(_given(guest_agent=""), Domain("vm", str(virsh)), print) as way:
        assert way is not None and way.name == "the QEMU guest agent"
    virsh.write_text("#!/bin/sh\nexit 1\n")
    silent = guest_way(_given(guest_agent=""), Domain("vm", str(virsh)), print)
    with pytest.raises(MachineryMissing, match="qemu-guest-agent"), silent:
        pass


def test_guest_agent_by_its_socket(tmp_path: Path) -> None:
    """The socket that is named, also for a domain."""
    with (
        pytest.raises(SetupBroken, match="cannot be connected to"),
        guest_way(_given(guest_agent=str(tmp_path / "none")), Domain("vm"), print),
    ):
        pass


def test_key_that_cannot_be_read(tmp_path: Path) -> None:
    """It is told before anybody logs in."""
    way = guest_way(_given(ssh="host", ssh_key=tmp_path / "none"), Path("/qmp"), print)
    with pytest.raises(UsageError, match="cannot be read"), way:
        pass
