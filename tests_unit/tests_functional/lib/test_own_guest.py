"""A user's own guest: what cannot be used is refused with one sentence, before or after it has booted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guest_images.agent.client import AgentClient, WriterPlan
from guest_images.cache import Cache
from guest_images.guests.image import GuestImage
from guest_images.guests.ssh_keys import public_line
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import SetupBroken, SnapproofError, UsageError
from harness.guest.identity import SshIdentity
from harness.guest.shell import CommandResult, GuestShell, GuestUnreachable
from harness.guest.ssh import host_key
from harness.qemu.disk import Disk
from harness.qemu.machine import Machine
from snapproof.cli.command import main
from snapproof.runs import own_guest
from snapproof.runs.defaults import own_cmdline
from snapproof.runs.matrix import _for_guest
from snapproof.runs.options import OwnGuestOptions, RunOptions, StackOptions
from tests_functional.lib import guest as guest_module
from tests_functional.lib.own_guest import agent_command, prepare
from tests_functional.lib.profile_row import ProfileRow
from tests_functional.lib.stack_file import load_stack, save_stack
from tests_unit.support import fake_qemu
from tests_unit.support.scenario_values import stack


def _key(path: Path, phrase: bytes | None = None) -> Path:
    coded = serialization.BestAvailableEncryption(phrase) if phrase else serialization.NoEncryption()
    key = Ed25519PrivateKey.generate()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, coded)
    )
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A disk, a kernel, an initrd and a key that pass for such."""
    disk = bytearray(4096)
    disk[510:512] = b"\x55\xaa"
    kernel = bytearray(1024)
    kernel[0x202:0x206] = b"HdrS"
    for name, content in (("disk", disk), ("kernel", kernel), ("initrd", b"initrd"), ("text", b"text")):
        (tmp_path / name).write_bytes(content)
    return {
        **{name: tmp_path / name for name in ("disk", "kernel", "initrd", "text")},
        "key": _key(tmp_path / "key"),
        "locked": _key(tmp_path / "locked", b"phrase"),
        "none": tmp_path / "none",
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--ssh-key {key}", "needs --disk, or --kernel and --initrd"),
        ("--kernel {kernel} --ssh-key {key}", "needs --disk, or --kernel and --initrd"),
        ("--disk {disk}", "needs --ssh-key"),
        ("--disk {disk} --ssh-key {key} --initrd {initrd}", "--initrd and --cmdline need --kernel"),
        ("--disk {disk} --ssh-key {key} --cmdline quiet", "--initrd and --cmdline need --kernel"),
        ("--disk {disk} --ssh-key {key} --guest-needs 0", "not 0"),
        ("--disk {none} --ssh-key {key}", "No such file"),
        ("--disk {text} --ssh-key {key}", "is not a disk image"),
        ("--disk {disk} --ssh-key {none}", "No such file"),
        ("--disk {disk} --ssh-key {text}", "is not a private SSH key"),
        ("--disk {disk} --ssh-key {locked}", "needs a pass phrase"),
        ("--disk {disk} --ssh-key {key} --kernel {none}", "No such file"),
        ("--disk {disk} --ssh-key {key} --kernel {text}", "is not a Linux kernel"),
        ("--disk {disk} --ssh-key {key} --kernel {kernel} --initrd {none}", "No such file"),
        ("--disk {disk} --ssh-key {key} --ssh-host-key nonsense", "is not a public SSH host key"),
        ("--disk {disk} --ssh-key {key} --ssh-host-key ssh-ed25519", "is not a public SSH host key"),
        ("--disk {disk} --ssh-key {key} --ssh-host-key ssh-ed25519=AA", "is not a public SSH host key"),
    ],
)
def test_bad_arguments_are_one_sentence(
    words: str, sentence: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each exits with 2 and leaves no results folder."""
    results = tmp_path / "results"
    given = [word.replace("=", " ") for word in words.format(**files).split()]
    qemu = Path(fake_qemu.__file__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snapproof.runs.stack.find_qemu", lambda *_: qemu)
        assert main(["run", "--results", str(results), "--cache", str(tmp_path / "cache"), *given]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("snapproof: ")]
    assert len(said) == 1
    assert sentence in said[0]
    assert said[0].endswith(".")
    assert not results.exists()


def test_image_says_all_that_a_result_needs(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digest and manifest change with the content of any file; the command line repeats the arguments."""
    monkeypatch.setattr(own_guest, "plan_agent", lambda _cache, **_: None)
    monkeypatch.setattr(own_guest, "compile_agent", lambda *_: tmp_path / "agent")
    given = OwnGuestOptions(
        disk=files["disk"], kernel=files["kernel"], ssh_key=files["key"], ssh_user="admin"
    )
    image = own_guest.own_image(given, Provisioning(Cache(tmp_path), lambda _text: None))
    assert image is not None
    assert (image.name, image.ssh_user, image.cmdline) == ("disk", "admin", own_cmdline())
    assert image.disk == Disk(files["disk"], "raw", 4096)
    assert [record.name for record in image.manifest] == ["disk", "kernel"]
    assert image.manifest[0].sha256 == hashlib.sha256(files["disk"].read_bytes()).hexdigest()
    with files["kernel"].open("ab") as kernel:
        kernel.write(b"x")
    other = own_guest.own_image(given, Provisioning(Cache(tmp_path), lambda _text: None))
    assert other is not None
    assert other.digest != image.digest
    again = RunOptions(stack=StackOptions(own=given)).as_command()
    assert again[again.index("--disk") :][:2] == ["--disk", str(files["disk"])]
    assert own_guest.own_image(OwnGuestOptions(), Provisioning(Cache(tmp_path), lambda _text: None)) is None


class _Shell:
    """A guest's shell that answers by the first words that a command has; anything else succeeds."""

    def __init__(self, **answers: CommandResult) -> None:
        self.answers = answers
        self.content = b""

    def run(self, command: str, _deadline: Deadline | None = None, stdin: bytes = b"") -> CommandResult:
        for word, answer in self.answers.items():
            if command.replace("sudo -n ", "").startswith(word.replace("_", " ")):
                return answer
        if command.startswith("cat > "):
            self.content = stdin
        if command.startswith("wc -c"):
            return CommandResult(0, f"{len(self.content)}\n", "")
        if command.startswith("sha256sum"):
            return CommandResult(0, f"{hashlib.sha256(self.content).hexdigest()}  file\n", "")
        known = {"id -u": "0\n", "mktemp": "/tmp/x\n", "sh -s /tmp/x": "/run/snapproof-agent\n"}
        return CommandResult(0, known.get(command.replace("sudo -n ", ""), ""), "")

    def check(self, command: str, deadline: Deadline | None = None) -> str:
        return self.run(command, deadline).stdout


def _image(folder: Path, user: str = "root") -> GuestImage:
    (folder / "agent").write_bytes(b"\x7fELF agent")
    return replace(stack(folder).image, agent=folder / "agent", ssh_user=user)


_REFUSED = CommandResult(1, "", "sudo: a password is required\n")


@pytest.mark.parametrize(
    ("user", "shell", "sentence"),
    [
        (
            "admin",
            _Shell(id=_REFUSED),
            "not root in the guest and cannot run commands by 'sudo -n' .sudo: a pass",
        ),
        (
            "root",
            _Shell(cat=CommandResult(1, "", "No space left"), wc=CommandResult(0, "3\n", "")),
            "of 10 bytes 3 arrived",
        ),
        ("root", _Shell(sha256sum=CommandResult(0, "beef  file\n", "")), "another checksum"),
        ("root", _Shell(**{"sh_-s_/tmp/x": CommandResult(0, "\n", "")}), "no folder for the agent"),
    ],
)
def test_unfit_guests_are_one_sentence(user: str, shell: _Shell, sentence: str, tmp_path: Path) -> None:
    """One sentence names what the guest does not let us do."""
    with pytest.raises(SetupBroken, match=sentence) as caught:
        prepare(_image(tmp_path, user), cast(GuestShell, shell), Deadline(5))
    assert caught.value.sentence.endswith(".")


def test_writable_file_systems_are_named(tmp_path: Path) -> None:
    """A file system that stays writable could change under a restored guest."""
    placed = CommandResult(0, "/run/snapproof-agent\n", "")
    left = CommandResult(1, "/dev/vdb /data xfs rw", "")
    shell = _Shell(**{"sh_-s_/tmp/x": placed, "sh_-s": left})
    with pytest.raises(SetupBroken, match="still writable: /dev/vdb /data xfs rw"):
        prepare(_image(tmp_path), cast(GuestShell, shell), Deadline(5))


def test_fit_guests_pass(tmp_path: Path) -> None:
    """The agent arrives whole, and is called by sudo where the user is not root."""
    shell = _Shell()
    prepare(_image(tmp_path, "admin"), cast(GuestShell, shell), Deadline(5))
    assert shell.content == b"\x7fELF agent"
    found = _Shell(**{"\nfor": CommandResult(0, "/dev/shm/snapproof-agent\n", "")})
    command = agent_command(_image(tmp_path, "admin"), cast(GuestShell, found))
    assert command == "sudo -n /dev/shm/snapproof-agent"
    with pytest.raises(SetupBroken, match="no longer there"):
        agent_command(_image(tmp_path), cast(GuestShell, _Shell()))
    assert agent_command(stack(tmp_path).image, cast(GuestShell, _Shell())) == "/bin/snapproof-agent"


@pytest.mark.parametrize(
    ("shell", "sentence"),
    [
        (
            _Shell(agent_serve=CommandResult(1, "", "The agent cannot take 5 KiB: 3 are available.")),
            "cannot take 5",
        ),
        (_Shell(agent_ctl=CommandResult(0, '{"locked": false}', "")), "does not let the agent lock"),
    ],
)
def test_no_memory_for_the_writers(shell: _Shell, sentence: str) -> None:
    """A guest with too little memory, or whose memory may not be locked, is an error."""
    with pytest.raises(SetupBroken, match=sentence):
        AgentClient(cast(GuestShell, shell), "agent").serve(WriterPlan(4096), 1 << 20, Deadline(5))


def test_silent_guest_says_what_it_must_have(tmp_path: Path) -> None:
    """A guest of one's own that does not answer: what it takes, where its console is, QEMU's last words."""
    (tmp_path / "qemu.log").write_text("qemu: it hurts\n")
    machine = cast(Machine, SimpleNamespace(folder=tmp_path, alive=lambda: False))
    own = replace(stack(tmp_path), image=_image(tmp_path))
    silent: Callable[..., SnapproofError] = guest_module._silent_guest
    error = silent(own, machine, GuestUnreachable("The guest did not answer."))
    assert "it hurts" in error.sentence
    assert "SSH server" in error.sentence
    assert "console.log" in error.sentence


def test_ram_grows_with_what_the_guest_needs(tmp_path: Path) -> None:
    """The writers' share stays; RAM that is odd stays odd."""
    small = stack(tmp_path)
    assert small.fitted().ram_mib == 512
    assert replace(small, ram_mib=257, coverage=0.7).fitted().ram_mib == 257
    large = replace(small, image=replace(small.image, own_mib=150))
    assert large.fitted().ram_mib == 1024
    assert replace(large, ram_mib=257, coverage=0.7).fitted().ram_mib == 513
    assert replace(large, ram_mib=4608, coverage=0.8).fitted().ram_mib == 4608


def test_slow_guest_has_time(tmp_path: Path) -> None:
    """Its steps may take as much longer as its boot; a quick one has no less than others."""
    small = stack(tmp_path)
    slow, quick = (replace(small, image=replace(small.image, boot_seconds=s)) for s in (225.0, 20.0))
    assert (slow.slowness, small.slowness, quick.slowness) == (2.5, 1.0, 1.0)


def test_stack_file_keeps_guests_with_disks(tmp_path: Path) -> None:
    """A test loads the guests that the command prepared; a row that names a guest gets that one."""
    plain = replace(stack(tmp_path), host_key_file=tmp_path / "key", plugged_mib=64, extra=("-x",))
    plain = replace(plain, cpu="max", user_arguments=("-vga", "std"))
    disk = Disk(tmp_path / "disk", "qcow2", 4096)
    other = replace(_image(tmp_path), name="full", kernel=None, initrd=None, disk=disk)
    save_stack(plain, {}, tmp_path, [other])
    assert load_stack(tmp_path)[0] == plain
    assert load_stack(tmp_path, "full")[0] == replace(plain, image=other)


def test_first_host_key_is_pinned(tmp_path: Path) -> None:
    """A key that is given counts; else the first one seen, once there is one."""
    line = public_line(Ed25519PrivateKey.generate())
    file = tmp_path / "seen"
    assert SshIdentity("root", tmp_path, line, file).pinned() == line
    unknown = SshIdentity("root", tmp_path, "", file)
    assert unknown.pinned() == ""
    file.write_text(f"{line}\n")
    assert unknown.pinned() == line
    assert host_key(f"{line} comment").get_name() == "ssh-ed25519"
    with pytest.raises(UsageError):
        host_key("")


def test_entries_get_what_their_guest_needs(tmp_path: Path) -> None:
    """RAM and time of a test follow from the guest that it names, else from the run's."""
    small = stack(tmp_path).image
    images = {"": small, "full": replace(small, name="full", own_mib=150, boot_seconds=180.0)}
    plain = ProfileRow("a", "t", "why")
    named = ProfileRow("b", "t", "why", {"guest": "full", "coverage": 0.7})
    fitted = [_for_guest(row, images, {}) for row in (plain, named)]
    assert [(row.parameters["ram_mib"], row.seconds) for row in fitted] == [(512, 300), (512, 600)]
    assert _for_guest(replace(named, parameters={"guest": "full"}), images, {}).parameters["ram_mib"] == 1024
    assert _for_guest(replace(plain, parameters={"ram_mib": 257, "coverage": 0.7}), images, {}) == replace(
        plain, parameters={"ram_mib": 257, "coverage": 0.7}
    )


def test_need_alone_is_for_the_catalogue(tmp_path: Path) -> None:
    """--guest-needs without a guest of the user's own names none; it is for the one of --guest."""
    assert own_guest.own_image(OwnGuestOptions(guest_needs=200), Provisioning(Cache(tmp_path), print)) is None
