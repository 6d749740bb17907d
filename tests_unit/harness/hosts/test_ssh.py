"""A lab machine, here behind a real OpenSSH server: work is done there, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from threading import Thread

import pytest

from guest_images.cache import Cache, default_cache_folder
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, MachineryMissing, SetupBroken, UsageError
from harness.hosts.host import PREFIX
from harness.hosts.spec import SshAddress
from harness.hosts.ssh import ssh_host
from harness.status import EXIT_ALL_SKIPPED, EXIT_PASS
from snapproof.cli.command import main
from tests_unit.support.real_sshd import RealSshd, real_sshd

# A program of another run of these tests is none of ours.
_PROGRAM, _DOOMED_PROGRAM, _CUT_OFF = (f"360{number}.{os.getpid()}" for number in (1, 2, 3))

_DOOMED = """
from pathlib import Path
from harness.deadline import Deadline
from harness.hosts.spec import SshAddress
from harness.hosts.ssh import ssh_host
address = SshAddress("127.0.0.1", {address.port}, "{address.user}", Path("{key}"), "{address.host_key}")
with ssh_host(address, Deadline(20)) as host:
    host.put({{"file": b"x"}}, Deadline(20))
    print(host.folder, flush=True)
    host.run(["sh", "-c", "echo > started; setsid sleep {program} & exec sleep {program}"], Deadline(60))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSshd]:
    """An OpenSSH server of this test's own."""
    try:
        with real_sshd(tmp_path_factory.mktemp("sshd"), Cache(default_cache_folder())) as running:
            yield running
    except MachineryMissing as error:
        pytest.skip(f"No OpenSSH server can be had: {error.sentence}")


def _running(mark: str) -> list[int]:
    """Ids of processes that have a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark.encode() in words:
                found.append(int(entry.name))
    return found


def _gone(folder: Path, mark: str) -> bool:
    return not folder.exists() and not _running(mark)


def test_work_is_done_there(server: RealSshd, tmp_path: Path) -> None:
    """Files go there and back, input and both outputs get through, exit codes and facts come back."""
    (tmp_path / "large").write_bytes(os.urandom(3 << 20))
    with ssh_host(server.address, Deadline(20)) as host:
        folder = Path(host.folder)
        assert folder.name.startswith(PREFIX)
        assert folder.stat().st_mode & 0o777 == 0o700
        host.put({"a/small": b"words", "large": tmp_path / "large"}, Deadline(20))
        host.get("large", tmp_path / "back", Deadline(20))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
        done = host.run(["sh", "-c", "cat a/small; wc -c; echo no >&2; exit 3"], Deadline(20), stdin=b"four")
        assert (done.exit_code, done.stdout, done.last_words) == (3, b"words4\n", "no")
        assert host.facts().cpus == len(os.sched_getaffinity(0))
        with pytest.raises(SetupBroken, match="no-such-program"):
            host.check(["no-such-program"], Deadline(20))
    assert not folder.exists()
    assert host.name == f"ssh://{server.address.user}@127.0.0.1:{server.address.port}"


def test_ports_are_forwarded(server: RealSshd) -> None:
    """Through the SSH connection, to the host's own loopback address."""

    class Greeting(BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"hello")

    with TCPServer(("127.0.0.1", 0), Greeting) as there, ssh_host(server.address, Deadline(20)) as host:
        Thread(target=there.handle_request, daemon=True).start()
        assert host.dial(there.server_address[1]).recv(5) == b"hello"
        with pytest.raises(OSError, match="port 1:"):
            host.dial(1)


def test_time_limit_ends_all_of_a_program(server: RealSshd) -> None:
    """The time limit also ends what the program started in a session of its own."""
    with ssh_host(server.address, Deadline(20)) as host:
        with pytest.raises(DeadlineExpired, match="did not end on the host"):
            host.run(["sh", "-c", f"setsid sleep {_PROGRAM} & sleep {_PROGRAM}"], Deadline(1))
        Deadline(10).wait_for(lambda: not _running(_PROGRAM), "The end of the program")


def test_nothing_is_left_when_we_are_killed(server: RealSshd) -> None:
    """Killed in the middle, we can clean up nothing: the host does it by itself."""
    address = server.address
    script = _DOOMED.format(address=address, key=str(address.private_key), program=_DOOMED_PROGRAM)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    folder = Path(process.stdout.readline().strip())
    Deadline(20).wait_for(
        lambda: (folder / "started").exists() and len(_running(_DOOMED_PROGRAM)) == 2, "Its work"
    )
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    Deadline(20).wait_for(lambda: _gone(folder, _DOOMED_PROGRAM), "The end of all that was there")


def test_nothing_is_left_when_the_connection_breaks(server: RealSshd) -> None:
    """The error says so, and the host has cleaned up."""
    with pytest.raises(SetupBroken, match="may be left"), ssh_host(server.address, Deadline(20)) as host:
        folder = Path(host.folder)
        runner = Thread(target=_expect_broken, args=(host,), daemon=True)
        runner.start()
        Deadline(20).wait_for(lambda: bool(_running(_CUT_OFF)), "Its work")
        host._link.close()
        runner.join(20)
        assert not runner.is_alive()
    Deadline(20).wait_for(lambda: _gone(folder, _CUT_OFF), "The end of all that was there")


def _expect_broken(host: object) -> None:
    with pytest.raises(SetupBroken, match="broke while"):
        host.run(["sleep", _CUT_OFF], Deadline(60))  # type: ignore[attr-defined]


def test_strangers_are_refused(server: RealSshd, tmp_path: Path) -> None:
    """An unknown or another host key, a key that does not fit, a port where nobody listens."""
    address = server.address
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEJ1Zm9yZSB0aGlzIHRlc3QgdGhlcmUgd2FzIG5vbmU="
    with pytest.raises(UsageError, match="is not known; log in once"):
        ssh_host(replace(address, host_key="", known_hosts=(tmp_path / "none",)), Deadline(20))
    with pytest.raises(UsageError, match="different host key"):
        ssh_host(replace(address, host_key=other), Deadline(20))
    with pytest.raises(UsageError, match="refuses the login"):
        ssh_host(replace(address, private_key=server.log.parent / "host"), Deadline(20))
    with pytest.raises(MachineryMissing, match="cannot be reached"):
        ssh_host(SshAddress("127.0.0.1", 1, host_key=other), Deadline(20))


def test_known_hosts_are_read(server: RealSshd, tmp_path: Path) -> None:
    """A known_hosts file as ssh writes it is read."""
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.address.port} {server.address.host_key}\n")
    with ssh_host(replace(server.address, host_key="", known_hosts=(known,)), Deadline(20)) as host:
        assert host.check(["true"], Deadline(20)).exit_code == 0


def test_missing_python_is_one_sentence(server: RealSshd) -> None:
    """It is all that has to be there."""
    with pytest.raises(MachineryMissing, match=r"has no 'python2\.3' of version 3\.9 or newer"):
        ssh_host(server.address, Deadline(20), python="python2.3").__enter__()


def test_connection_costs_little(server: RealSshd) -> None:
    """A program costs one channel and one start of Python there."""
    with ssh_host(server.address, Deadline(20)) as host:
        begun = time.monotonic()
        host.check(["true"], Deadline(20))
        assert time.monotonic() - begun < 5


def test_feature_tests_run_on_a_lab_machine(server: RealSshd, capsys: pytest.CaptureFixture[str]) -> None:
    """`snapproof kernel --host` carries them there, and renders what they tell."""
    address = server.address
    words = ["kernel", "--host", address.name, "--ssh-key", str(address.private_key)]
    words += ["--ssh-host-key", address.host_key, "--filter", "api.any.*"]
    code = main(words)
    said = capsys.readouterr().out
    assert "KTAP version 1" in said
    assert f"# host: {address.name}" in said
    assert "# kernel: " in said
    # Whatever this kernel offers, the tests came to an end there.
    assert code in (EXIT_PASS, EXIT_ALL_SKIPPED), said
