"""Measures time and peak memory of one command: a program of its own, for `snapproof bench validator`.

The peak memory that Linux reports for a process starts with that of the process that it was forked from
(fs/exec.c, exec_mmap()), so the process that forks must be small. This file imports none of our modules; its
own 10 MiB are the least that it can report.
"""

import json
import os
import sys
import time


def main(report: str, folder: str, command: list[str]) -> None:
    """Run `command` in `folder` without its output, and write its time and memory to `report` as JSON."""
    nothing = os.open(os.devnull, os.O_RDWR)
    begun = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(folder)
            os.dup2(nothing, 0)
            os.dup2(nothing, 1)
            os.execvp(command[0], command)
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    _, status, usage = os.wait4(pid, 0)
    content = {
        "seconds": time.perf_counter() - begun,
        "peak_kib": usage.ru_maxrss,
        "exit_code": os.waitstatus_to_exitcode(status),
    }
    written = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(written, json.dumps(content).encode())
    os.close(written)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
