"""Write a cell of the matrix as a C program of at most 60 lines, for a report to the kernel's developers."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from harness.userfaultfd import PAGE_BYTES

from ..memory import HUGE_BYTES
from .cells import Cell, cells

MOST_LINES = 60
"""Length of a reproducer at most."""

_ONE_EXCEPT = "i == ONE"
_NONE = "0"


@dataclass(frozen=True)
class _Action:
    """What a way does, in C.

    Attributes:
        statements: C statements; `m` is the memory, `fd` the userfaultfd.
        except_: a C expression that is true for pages `i` that need not be protected afterwards.
    """

    statements: str
    except_: str = _NONE


def _advice(number: int, name: str, except_: str = _NONE) -> _Action:
    return _Action(
        f'if (madvise(m + ONE * SIZE, SIZE, {number} /* {name} */)) return cannot("{name}");', except_
    )


def _permissions(name: str) -> _Action:
    return _Action(f"mprotect(m, N * SIZE, {name});\nmprotect(m, N * SIZE, PROT_READ | PROT_WRITE);")


_PAGE_OUT = "for (int i = 0; i < 20; i++, usleep(20000)) madvise(m, N * SIZE, 21 /* MADV_PAGEOUT */);"
_MOVE = """\
char *to = mmap(0, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
struct uffdio_register place = {{(uintptr_t)to, SIZE}, UFFDIO_REGISTER_MODE_MISSING, 0};
uint64_t move[5] = {(uintptr_t)to, (uintptr_t)(m + ONE * SIZE), SIZE, 0, 0};
if (ioctl(fd, UFFDIO_REGISTER, &place)) return cannot("register");
if (ioctl(fd, 0xc028aa05 /* UFFDIO_MOVE */, move)) return cannot("UFFDIO_MOVE");
*to = 1;
if (guarded(to)) return puts("protected at its new place, which is not registered for it"), 1;"""

_ACTIONS = {
    "cold-one": _advice(20, "MADV_COLD"),
    "free-one": _advice(8, "MADV_FREE", _ONE_EXCEPT),
    "pageout-one": _advice(21, "MADV_PAGEOUT"),
    "split-all": _Action(
        'FILE *f = fopen("/sys/kernel/debug/split_huge_pages", "w");\n'
        'if (!f) return cannot("split_huge_pages");\n'
        'fprintf(f, "%d,0x%lx,0x%lx", getpid(), (long)m, (long)m + N * SIZE);\nfclose(f);'
    ),
    "collapse": _Action(
        "mprotect(m, SIZE, PROT_READ);\nmprotect(m, SIZE, PROT_READ | PROT_WRITE);\n"
        "madvise(m, N * SIZE, 25 /* MADV_COLLAPSE */);"
    ),
    "release-one": _Action(
        "struct uffdio_writeprotect release = {{(uintptr_t)(m + ONE * SIZE), SIZE}, 0};\n"
        "ioctl(fd, UFFDIO_WRITEPROTECT, &release);",
        _ONE_EXCEPT,
    ),
    "zap-one": _advice(4, "MADV_DONTNEED", _ONE_EXCEPT),
    "free-half": _Action("madvise(m + N / 2 * SIZE, N / 2 * SIZE, 8 /* MADV_FREE */);", "i >= N / 2"),
    "punch-one": _advice(9, "MADV_REMOVE", _ONE_EXCEPT),
    "unmap-one": _Action("munmap(m + (N - 1) * SIZE, SIZE);", "i == N - 1"),
    "guard-one": _advice(102, "MADV_GUARD_INSTALL", _ONE_EXCEPT),
    "swap-out": _Action(_PAGE_OUT),
    "swap-in": _Action(_PAGE_OUT + "\nfor (int i = 0; i < N; i++) (void)*(volatile char *)(m + i * SIZE);"),
    "soft-offline-one": _advice(101, "MADV_SOFT_OFFLINE"),
    "hwpoison-one": _Action(
        "signal(SIGBUS, SIG_IGN);\nmadvise(m + ONE * SIZE, SIZE, 100 /* MADV_HWPOISON */);", _ONE_EXCEPT
    ),
    "uffd-move-one": _Action(_MOVE, _ONE_EXCEPT),
    "uffd-move-swapped-one": _Action(f"{_PAGE_OUT}\n{_MOVE}", _ONE_EXCEPT),
    "mprotect-read": _permissions("PROT_READ"),
    "mprotect-none": _permissions("PROT_NONE"),
    "cold-all": _Action("madvise(m, N * SIZE, 20 /* MADV_COLD */);"),
}

_ANONYMOUS = "mmap(0, N * SIZE + (2 << 20), PROT_READ | PROT_WRITE, MAP_{} | MAP_ANONYMOUS, -1, 0)"
# N, SIZE, expression that maps the memory, and the advice it needs.
_MEMORY = {
    "anon": (16, PAGE_BYTES, _ANONYMOUS.format("PRIVATE"), "MADV_NOHUGEPAGE"),
    "anon-thp": (512, PAGE_BYTES, _ANONYMOUS.format("PRIVATE"), "MADV_HUGEPAGE"),
    "anon-mthp": (16, PAGE_BYTES, _ANONYMOUS.format("PRIVATE"), "MADV_HUGEPAGE"),
    "shmem": (16, PAGE_BYTES, _ANONYMOUS.format("SHARED"), ""),
    "memfd": (16, PAGE_BYTES, "mmap(0, N * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file(), 0)", ""),
    "memfd-private": (
        16,
        PAGE_BYTES,
        "mmap(0, N * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file(), 0)",
        "",
    ),
    "shmem-thp": (512, PAGE_BYTES, _ANONYMOUS.format("SHARED"), "MADV_HUGEPAGE"),
    "hugetlb": (6, HUGE_BYTES, _ANONYMOUS.format("SHARED | MAP_HUGETLB").replace(" + (2 << 20)", ""), ""),
    "hugetlb-private": (
        6,
        HUGE_BYTES,
        _ANONYMOUS.format("PRIVATE | MAP_HUGETLB").replace(" + (2 << 20)", ""),
        "",
    ),
}
_STORE = "for (int i = 0; i < N; i++) memset(m + i * SIZE, {}, SIZE);"
_READ = "for (int i = 0; i < N; i++) (void)*(volatile char *)(m + i * SIZE);"
_CONTENT = {
    "own": _STORE.format("1"),
    "zero": _READ,
    "huge-zero": _READ,
    "zero-filled": _STORE.format("i % 2"),
    "file": _READ,
    "shared": _STORE.format("1") + "\n    pid_t us = getpid();\n    if (fork() == 0) {\n"
    "        while (getppid() == us) usleep(1000);\n        return 0;\n    }",
}
_FILE = """\
static int file(void) {
    int f = memfd_create("memory", 0);
    return ftruncate(f, N * SIZE) ? -1 : f;
}
"""

_PROGRAM = """\
/* {test}:
 * {contract}
 * As root: cc -o reproducer reproducer.c && ./reproducer
 * Exit code 1: the defect shows, 0: it does not, 2: the kernel cannot be tested. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
#define N {pages}
#define SIZE {size}UL
#define ONE 2
{file}static int guarded(char *page) {{  /* bit 57 of pagemap (5.14): write-protected by userfaultfd */
    uint64_t entry = 0;
    int f = open("/proc/self/pagemap", O_RDONLY);
    ssize_t n = pread(f, &entry, 8, (uintptr_t)page / 4096 * 8);
    close(f);
    return n == 8 && entry >> 57 & 1;
}}
static int cannot(const char *what) {{ perror(what); return 2; }}
static void late(int s) {{ _exit(s == SIGPROF && write(1, "the call does not end\\n", 22) == 22 ? 1 : 2); }}
int main(void) {{
    char *m = {map};
    if (m == MAP_FAILED) return cannot("mmap");
{align}    {fill}
    struct uffdio_api api = {{UFFD_API, {features}, 0}};
    struct uffdio_register memory = {{{{(uintptr_t)m, N * SIZE}}, UFFDIO_REGISTER_MODE_WP, 0}};
    struct uffdio_writeprotect all = {{{{(uintptr_t)m, N * SIZE}}, UFFDIO_WRITEPROTECT_MODE_WP}};
    int fd = syscall(__NR_userfaultfd, O_CLOEXEC), lost = 0;
    if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &memory)) return cannot("userfaultfd");
    if (ioctl(fd, UFFDIO_WRITEPROTECT, &all)) return cannot("UFFDIO_WRITEPROTECT");
    for (int i = 0; i < N; i++) if (!guarded(m + i * SIZE)) return puts("not protected"), 2;
    struct itimerval five = {{{{0, 0}}, {{5, 0}}}};  /* of processor time: a busy machine is no verdict */
    if (signal(SIGPROF, late), setitimer(ITIMER_PROF, &five, 0)) return cannot("setitimer");
    signal(SIGALRM, late), alarm(120);
{action}
    for (int i = 0; i < N; i++) lost += !({except_}) && !guarded(m + i * SIZE);
    printf("%d of %d pages have lost their protection\\n", lost, N);
    return lost > 0;
}}
"""
_ALIGN = """\
    m = (char *)(((uintptr_t)m + (2 << 20) - 1) & -(2UL << 20));
    madvise(m, N * SIZE, {});
"""
# PAGEFAULT_FLAG_WP, and WP_HUGETLBFS_SHMEM (5.19).
_WP, _WP_SHARED = "1", "1 | 1 << 12"


def missing(cell: Cell) -> str:
    """Return why a cell cannot be written in C, empty if it can."""
    if cell.reason:
        return f"there is no test: {cell.reason}"
    if cell.way.name not in _ACTIONS:
        return f"the way {cell.way.name} takes more than {MOST_LINES} lines of C"
    if cell.memory.name not in _MEMORY:
        return f"memory of type {cell.memory.name} is tracked asynchronously, and the program checks pagemap"
    return ""


def program(cell: Cell) -> str:
    """Return the C program of a cell for which `missing` has no reason."""
    action = _ACTIONS[cell.way.name]
    pages, size, mapping, advice = _MEMORY[cell.memory.name]
    return _PROGRAM.format(
        test=cell.test,
        contract=cell.way.contract,
        pages=pages,
        size=size,
        file=_FILE if "file()" in mapping else "",
        map=mapping,
        align=_ALIGN.format(advice) if advice else "",
        fill=_CONTENT[cell.content.name],
        features=_WP if cell.memory.name.startswith("anon") else _WP_SHARED,
        action="\n".join(f"    {line}" for line in action.statements.splitlines()),
        except_=action.except_,
    )


def write_reproducer(test: str) -> str:
    """Print the C program of a test; return why there is none, empty if it was printed."""
    cell = find(test)
    reason = missing(cell) if cell else "it is not a cell of the matrix"
    if cell is None or reason:
        return f"'{test}' has no reproducer in C: {reason}."
    sys.stdout.write(program(cell))
    return ""


def find(test: str) -> Cell | None:
    """Return the first cell that has a test of that full name, None if it is not in the matrix."""
    return next((cell for cell in cells() if cell.test == test), None)


def comments(failed: Iterable[str]) -> str:
    """Return the C program of the first failed test that has one, and how to get others, as comments."""
    found = [cell for test in failed if (cell := find(test)) and not missing(cell)]
    if not found:
        return ""
    lines = [f"reproducer of {found[0].test} in C:", *program(found[0]).splitlines()]
    others = [f"for that of {cell.test}: --reproducer {cell.test}" for cell in found[1:]]
    return "".join(f"# {line}\n" for line in (*lines, *others))
