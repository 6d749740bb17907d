"""Contract: `--host` takes the documented forms, and one sentence rejects any other value."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.hosts.spec import HostSpecText, SshAddress, VmSpec, parse_host
from snapproof.cli.command import main


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", HostSpecText("local")),
        ("vm:debian-11", HostSpecText("vm:debian-11", vm=VmSpec("debian-11"))),
        ("vm:/k/bzImage", HostSpecText("vm:/k/bzImage", vm=VmSpec(kernel=Path("/k/bzImage")))),
        (
            "vm:./bzImage,modules=/lib/modules/7.0",
            HostSpecText(
                "vm:./bzImage,modules=/lib/modules/7.0",
                vm=VmSpec(kernel=Path("./bzImage"), modules=Path("/lib/modules/7.0")),
            ),
        ),
        ("ssh://lab1", HostSpecText("ssh://lab1", ssh=SshAddress("lab1"))),
        (
            "ssh://qa@10.0.0.7:2222",
            HostSpecText("ssh://qa@10.0.0.7:2222", ssh=SshAddress("10.0.0.7", 2222, "qa")),
        ),
        ("ssh://qa@[fe80::1]:22", HostSpecText("ssh://qa@[fe80::1]:22", ssh=SshAddress("fe80::1", 22, "qa"))),
    ],
)
def test_forms(text: str, expected: HostSpecText) -> None:
    """This machine, VMs by name and by kernel, lab machines with and without user and port."""
    assert parse_host(text) == expected


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell replaces a `~` behind `vm:` or `modules=`."""
    monkeypatch.setenv("HOME", "/home/me")
    spec = parse_host("vm:~/linux/bzImage,modules=~/m").vm
    assert spec == VmSpec(kernel=Path("/home/me/linux/bzImage"), modules=Path("/home/me/m"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not a host"),
        ("lab1", "is not a host"),
        ("ssh:lab1", "is not a host"),
        ("vm:", "names no VM"),
        ("vm:debian-11,modules=/m", "which has its own"),
        ("vm:/k/bzImage,initrd=/x", "use 'modules=FOLDER'"),
        ("vm:/k/bzImage,modules=", "use 'modules=FOLDER'"),
        ("vm:~no-such-user/bzImage", "somebody who is not known here"),
        ("ssh://", "is not the SSH address of a host"),
        ("ssh://a b", "is not the SSH address of a host"),
        ("ssh://user:secret@lab1", "is not the SSH address of a host"),
        ("ssh://lab1:70000", "has the port 70000"),
        ("ssh://lab1/folder", "is not the SSH address of a host"),
    ],
)
def test_errors(text: str, sentence: str) -> None:
    """Each says what is wrong and what would be right."""
    with pytest.raises(UsageError, match=sentence) as caught:
        parse_host(text)
    assert caught.value.sentence.endswith(".")


def test_names_are_what_was_given() -> None:
    """Results name a lab machine as the command line did."""
    for text in ("ssh://lab1", "ssh://qa@10.0.0.7:2222"):
        address = parse_host(text).ssh
        assert address is not None
        assert address.name == text


def test_hosts_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two kernels of the same file name would write over each other's results; nothing is booted for it."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "bzImage").touch()
    kernels = [f"--host=vm:{tmp_path / folder / 'bzImage'}" for folder in ("a", "b")]
    assert main(["hosts", *kernels, "--results", str(tmp_path / "results")]) == 2
    assert "Two hosts are called 'bzImage'" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("command", ["hosts", "kernel"])
def test_archive_without_a_version(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """One sentence says so; no package index is fetched, and no results folder is made."""
    folder = ["--results", str(tmp_path / "results")] if command == "hosts" else []
    assert main([command, "--host=vm:debian@", *folder]) == 2
    assert "names no version" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
