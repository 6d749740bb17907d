"""Runs a loop in the guest that writes files to disk and keeps their digests in memory, and compares both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable
from harness.guest.shell import CommandResult, GuestShell
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_GOES_ON = "The loop goes on with the files that it had open, and ends when it is told to."
_FILES = "The files on the disk are exactly those in the record in memory, with the same digests."

MORE_PASSES = 5
"""Passes that a loop makes while it is judged."""

MARK_IS_WRONG, NO_ANSWER = 7, 9
"""Exit codes of a loop; the first is also that of the loop in a guest with an operating system."""

_FOLDER = "/tmp/disk-loop"
_MOUNT = f"{_FOLDER}/mnt"
_RECORD = f"{_FOLDER}/record"
_PATIENCE_SECONDS = 30.0
_ASK_SECONDS = 0.4
# Each pass writes a new file and notes its digest in memory. The log is one file that stays open. A sync in
# some passes leaves data on the disk, in the journal, and in memory alone.
# The marks are written with O_DIRECT, and each is read before it is written again. They detect a
# disk that is newer than the memory: the kernel overwrites such a disk with the file system's metadata from
# memory, and then neither digests nor e2fsck find an error. There are several marks, as T0 may lie between
# the read and the write of one.
_MARKS = 8
_LOOP = f"""\
cd {_MOUNT} || exit 1
exec 5>> log || exit 2
direct() {{
    dd bs=4096 count=1 iflag=fullblock conv=notrunc "$@" 2> /dev/null
}}
mark() {{
    printf '%-4096d' $1 | direct of=marks oflag=direct seek=$(($1 % {_MARKS}))
}}
number=0
while [ ! -e {_FOLDER}/stop ]; do
    if [ $number -ge {_MARKS} ]; then
        found=$(direct if=marks iflag=direct skip=$((number % {_MARKS})))
        [ $found -eq $((number - {_MARKS})) ] || exit {MARK_IS_WRONG}
    fi
    mark $number || exit 8
    [ ! -e file-$number ] || exit 3
    dd if=/dev/urandom of=file-$number bs=4096 count=$((number % 16 + 1)) 2> /dev/null || exit 4
    sha256sum file-$number >> {_RECORD} || exit 5
    echo "pass $number" >&5 || exit 6
    [ $((number % 8)) -ne 7 ] || sync
    number=$((number + 1))
done
"""
_ENDS = {
    1: "its folder was gone",
    2: "its log could not be opened",
    3: "a file that it creates was already there",
    4: "it could not write a file",
    5: "it could not read a file back",
    6: "it could not write to the log that it had open",
    MARK_IS_WRONG: "a mark on the disk is not the one that its memory expects",
    8: "it could not set a mark on the disk",
    NO_ANSWER: "the disk does not carry out its requests",
}


@dataclass(frozen=True)
class Found:
    """The files on a disk, and their digests in memory.

    Attributes:
        record: SHA256 of each file by name, from the record in memory.
        names: names of the files on the disk.
        wrong: lines of `sha256sum -c` about files that differ from the record.
        log: content of the file that the loop held open.
    """

    record: Mapping[str, str]
    names: frozenset[str]
    wrong: tuple[str, ...]
    log: str


@dataclass(frozen=True)
class DiskLoop:
    """Controls the loop in a source or restored guest by a shell in it.

    Attributes:
        shell: in the guest.
        device: the guest's name of the disk.
    """

    shell: GuestShell
    device: str = "/dev/vda"
    passes_after: ClassVar = 80
    """Passes of the source after T0: more than a restored guest makes while it is judged."""

    def start(self) -> None:
        """Mount the disk and start the loop.

        Raises:
            NotApplicable: the guest's kernel has no ext4 or no driver for the disk.
        """
        if "\text4\n" not in self.shell.check("cat /proc/filesystems"):
            raise NotApplicable("The guest's kernel has no ext4 built in.")
        self.shell.check(f"mkdir -p {_MOUNT}; : > {_RECORD}")
        mounted = self._mount()
        if mounted.exit_code != 0:
            raise NotApplicable(f"The guest cannot mount its disk: {mounted.stderr.strip()}")
        self.shell.run(f"cat > {_FOLDER}/loop", stdin=_LOOP.encode())
        self.shell.check(f"(sh {_FOLDER}/loop; echo $? > {_FOLDER}/ended) > /dev/null 2>&1 &")

    def passes(self) -> int:
        """Return the number of files that the loop has written and recorded so far."""
        return int(self.shell.check(f"wc -l < {_RECORD}"))

    def record(self) -> dict[str, str]:
        """Return the SHA256 of each file by name, from the record in memory."""
        return parse_record(self.shell.check(f"cat {_RECORD}"))

    def wait_passes(self, count: int) -> int:
        """Wait for more passes until the loop makes no more or ends; return how many it made."""
        limit, begin, made = Deadline(_PATIENCE_SECONDS), self.passes(), 0
        while made < count and not limit.expired:
            # One command, and not often: each takes the guest's processor as long as a pass of the loop does.
            passes, *ended = self.shell.check(
                f"wc -l < {_RECORD}; cat {_FOLDER}/ended 2> /dev/null; true"
            ).split()
            if int(passes) - begin > made:
                limit, made = Deadline(_PATIENCE_SECONDS), int(passes) - begin
            if ended:
                break
            if made < count:
                limit.nap(_ASK_SECONDS)
        return made

    def begin_pass(self) -> None:
        """Do nothing: the loop goes on by itself, and T0 lies in one of its passes."""

    def end_pass(self) -> None:
        """Do nothing, as in `begin_pass`."""

    def drop_caches(self) -> None:
        """Drop the guest's caches, so that it reads its files from the disk."""
        self.shell.check("sync; echo 3 > /proc/sys/vm/drop_caches")

    def judge(self) -> list[CheckResult]:
        """End the loop, judge the files on the disk with a cold cache, and unmount it."""
        made = self.wait_passes(MORE_PASSES)
        self.shell.check(f": > {_FOLDER}/stop")
        limit = Deadline(_PATIENCE_SECONDS)
        while not (ended := self._ended()) and not limit.expired:
            limit.nap(0.05)
        steps = [self.shell.run("sync"), self._unmount(), self._mount()]
        found = Found(
            record=self.record(),
            names=frozenset(self.shell.run(f"ls {_MOUNT}").stdout.split()),
            wrong=tuple(
                self.shell.run(f"cd {_MOUNT}; sha256sum -c {_RECORD} | grep -v ': OK$'").stdout.splitlines()
            ),
            log=self.shell.run(f"cat {_MOUNT}/log").stdout,
        )
        steps.append(self._unmount())
        said = self.shell.run("dmesg | grep -E 'EXT4-fs error|JBD2: .*rror|I/O error'").stdout
        trouble = [step.stderr.strip() for step in steps if step.exit_code != 0]
        return [judge_loop(made, ended), judge_files(found, [*trouble, *said.splitlines()])]

    def _ended(self) -> str:
        return self.shell.run(f"cat {_FOLDER}/ended 2> /dev/null").stdout.strip()

    def _mount(self) -> CommandResult:
        return self.shell.run(f"mount -t ext4 {self.device} {_MOUNT}")

    def _unmount(self) -> CommandResult:
        return self.shell.run(f"umount {_MOUNT}")


def parse_record(text: str) -> dict[str, str]:
    """Return the SHA256 by file name from lines of `sha256sum`."""
    return {name: digest for digest, name in (line.split() for line in text.splitlines())}


def judge_loop(made: int, ended: str) -> CheckResult:
    """Check that the loop went on and ended well.

    Args:
        made: passes that it made while we waited.
        ended: its exit code, "" where it still runs.
    """
    problems = []
    if ended != "0":
        why = _ENDS.get(int(ended), f"exit code {ended}") if ended else "it does not end"
        problems.append(
            Problem(
                Code.DISK_LOOP_FAILED,
                f"The loop that writes to the disk failed: {why}.",
                {"exit_code": ended},
            )
        )
    elif made < MORE_PASSES:
        problems.append(
            Problem(Code.DISK_LOOP_SLOW, f"The loop that writes to the disk made only {made} passes.")
        )
    return judged("disk-loop", _GOES_ON, problems, {"passes": made})


def judge_files(found: Found, trouble: Sequence[str]) -> CheckResult:
    """Check the files on a disk against the record in memory.

    Args:
        found: the files, read after the file system was unmounted and mounted again.
        trouble: error messages of mount, umount and the guest's kernel.
    """
    expected = {*found.record, "log", "marks", "lost+found"}
    log = "".join(f"pass {number}\n" for number in range(len(found.record)))
    problems = [
        Problem(
            Code.DISK_FILES_COMPLAINT,
            f"The guest reports an error of its file system: {line.strip() or 'no message'}",
        )
        for line in trouble
    ]
    problems += [
        Problem(Code.DISK_FILES_WRONG, f"A file differs from the record in memory: {line}.")
        for line in found.wrong
    ]
    problems += [
        Problem(Code.DISK_FILES_GONE, f"'{name}' is gone from the disk.")
        for name in sorted(expected - found.names)
    ]
    problems += [
        Problem(Code.DISK_FILES_UNKNOWN, f"'{name}' is on the disk, but not in the record in memory.")
        for name in sorted(found.names - expected)
    ]
    if found.log != log:
        problems.append(
            Problem(Code.DISK_FILES_LOG, "The log that was held open does not have one line for each pass.")
        )
    return judged("disk-files", _FILES, problems, {"files": len(found.record)})
