"""Writes a reduced list as a C program of at most 60 lines, for a report to the kernel's developers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from harness.userfaultfd import PAGE_BYTES, Mode

from ..matrix.reproducer import MOST_LINES
from .memory import BASE, HUGE_PAGES, KINDS
from .model import FILLER
from .session import CONTENT, GAINED, HANG, LOST, SPIN, SPURIOUS, UNREPORTED
from .steps import MemoryList, Step
from .watch import features_of

_MAPS = {
    "anon": ("map(16, MAP_PRIVATE | MAP_ANONYMOUS, -1)", "MADV_NOHUGEPAGE"),
    "thp": (f"map({HUGE_PAGES}, MAP_PRIVATE | MAP_ANONYMOUS, -1)", "MADV_HUGEPAGE"),
    "shmem": ("map(16, MAP_SHARED | MAP_ANONYMOUS, -1)", "MADV_NOHUGEPAGE"),
    "memfd-private": ("map(16, MAP_PRIVATE, file())", ""),
}
_FILLS = {"same": "{v}", "each": "1 + (i + {v}) % 5", "mixed": "i % 2 ? {v} : 0", "zeros": "0"}
_ACCESS = {"none": "PROT_NONE", "read": "PROT_READ", "write": "PROT_READ | PROT_WRITE"}

# Each header with a word of programs that need it.
_INCLUDES = {
    "fcntl": "open(",
    "linux/userfaultfd": "",
    "pthread": "pthread_",
    "signal": "kill(",
    "stdint": "",
    "stdio": "",
    "stdlib": "",
    "sys/ioctl": "",
    "sys/mman": "",
    "sys/syscall": "",
    "unistd": "",
}

# Each helper with the name that a program uses it by.
_HELPERS = {
    "call(": """\
static void call(int failed, const char *what) { if (failed) { perror(what); exit(2); } }""",
    "map(": """\
static char *map(long n, int flags, int f) {
    char *m = mmap(0, n * S + (2 << 20), PROT_READ | PROT_WRITE, flags, f, 0);
    call(m == MAP_FAILED, "mmap");
    return flags & MAP_ANONYMOUS ? (char *)(((uintptr_t)m + (2 << 20) - 1) & -(2UL << 20)) : m;
}""",
    "file(": f"""\
static int file(void) {{
    uint64_t word = {BASE};
    int f = memfd_create("memory", 0);
    for (int i = 0; i < 8192; i++) call(write(f, &word, 8) != 8, "write");
    return f;
}}""",
    "wp(": """\
static void wp(char *p, long n, int on) {
    struct uffdio_writeprotect a = {{(uintptr_t)p, n * S}, on};
    call(ioctl(fd, UFFDIO_WRITEPROTECT, &a), "UFFDIO_WRITEPROTECT");
}""",
    "copy(": """\
static void copy(char *p, uint64_t v, int mode) {
    uint64_t page[512];
    for (int i = 0; i < 512; i++) page[i] = v;
    struct uffdio_copy a = {(uintptr_t)p, (uintptr_t)page, S, mode, 0};
    ioctl(fd, UFFDIO_COPY, &a);
}""",
    "set(": """\
static void set(char *p, uint64_t v) { for (int i = 0; i < 512; i++) ((volatile uint64_t *)p)[i] = v; }""",
    "bit(": """\
static int bit(char *p) {  /* bit 57 of pagemap: protected by userfaultfd */
    uint64_t entry = 0;
    int f = open("/proc/self/pagemap", O_RDONLY);
    call(pread(f, &entry, 8, (uintptr_t)p / S * 8) != 8, "pagemap");
    return close(f), entry >> 57 & 1;
}""",
    "watch,": f"""\
static void *watch(void *x) {{
    struct uffd_msg m;
    while (read(fd, &m, sizeof m) == sizeof m && ++faults) {{
        char *p = (char *)(uintptr_t)(m.arg.pagefault.address & -S);
        if (m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) wp(p, 1, 0); else copy(p, {FILLER}, FILL);
    }}
    return x;
}}""",
}


def _area(step: Step) -> str:
    return f"{_name(step)}[{step.arguments['first']}], {step.arguments['count']}"


def _name(step: Step) -> str:
    return str(step.arguments["on"]).replace("-", "_")


def _each(step: Step, statement: str) -> str:
    first, count = step.arguments["first"], step.arguments["count"]
    return f"for (int i = {first}; i < {first + count}; i++) {statement}"


def _advice(number: int, name: str, text: str = "") -> Callable[[Step], str]:
    return lambda step: f"madvise({_area(step)} * S, {number} /* {name} */);{text}"


def _register(step: Step) -> str:
    area = f"{{(uintptr_t){_name(step)}[{step.arguments['first']}], {step.arguments['count']} * S}}"
    mode = step.arguments["mode"] & ~Mode.MINOR
    return f'call(ioctl(fd, UFFDIO_REGISTER, &(struct uffdio_register){{{area}, {mode}, 0}}), "register");'


def _unregister(step: Step) -> str:
    first, count = step.arguments["first"], step.arguments["count"]
    area = f"{{(uintptr_t){_name(step)}[{first}], {count} * S}}"
    return f"ioctl(fd, UFFDIO_UNREGISTER, &(struct uffdio_range){area});"


def _fill(step: Step) -> str:
    value = _FILLS[step.arguments["pattern"]].format(v=step.arguments["value"])
    return _each(step, f"set({_name(step)}[i], {value});")


def _move(step: Step) -> str:
    name, first, to = _name(step), step.arguments["first"], step.arguments["to"]
    return (
        f"ioctl(fd, 0xc028aa05 /* UFFDIO_MOVE */, (uint64_t[]){{(uintptr_t){name}[{to}], "
        f"(uintptr_t){name}[{first}], S, 0, 0}});"
    )


def _mremap(step: Step) -> str:
    name, first, count = _name(step), step.arguments["first"], step.arguments["count"]
    return (
        f"char *to = map({count}, MAP_PRIVATE | MAP_ANONYMOUS, -1);\n"
        f"mremap({name}[{first}], {count} * S, {count} * S, MREMAP_MAYMOVE | MREMAP_FIXED, to);\n"
        + _each(step, f"{name}[i] = to + (i - {first}) * S;")
    )


def _mmap(step: Step) -> str:
    area = f"{_area(step)} * S"
    mapped = f"mmap({area}, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);"
    small = "" if KINDS[step.arguments["on"]].huge else f"\nmadvise({area}, MADV_NOHUGEPAGE);"
    return mapped + small


def _guard(step: Step) -> str:
    return f"{_advice(102, 'MADV_GUARD_INSTALL')(step)}\n{_advice(103, 'MADV_GUARD_REMOVE')(step)}"


_STATEMENTS: dict[str, Callable[[Step], str]] = {
    "fill": _fill,
    "write": lambda step: _each(step, f"set({_name(step)}[i], {step.arguments['value']});"),
    "read": lambda step: _each(step, f"(void)*(volatile char *){_name(step)}[i];"),
    "register": _register,
    "unregister": _unregister,
    "protect": lambda step: f"wp({_area(step)}, 1);",
    "release": lambda step: f"wp({_area(step)}, 0);",
    "dontneed": _advice(4, "MADV_DONTNEED"),
    "free": _advice(8, "MADV_FREE"),
    "cold": _advice(20, "MADV_COLD"),
    "pageout": _advice(21, "MADV_PAGEOUT"),
    "willneed": _advice(3, "MADV_WILLNEED"),
    "remove": _advice(9, "MADV_REMOVE"),
    "populate": lambda step: _advice(
        *((23, "MADV_POPULATE_WRITE") if step.arguments["write"] else (22, "MADV_POPULATE_READ"))
    )(step),
    "guard": _guard,
    "huge": lambda step: _advice(*((14, "HUGEPAGE") if step.arguments["allow"] else (15, "NOHUGEPAGE")))(
        step
    ),
    "collapse": _advice(25, "MADV_COLLAPSE"),
    "mprotect": lambda step: f"mprotect({_area(step)} * S, {_ACCESS[step.arguments['access']]});",
    "mlock": lambda step: f"mlock({_area(step)} * S);",
    "munlock": lambda step: f"munlock({_area(step)} * S);",
    "mremap": _mremap,
    "mmap": _mmap,
    "munmap": lambda step: f"munmap({_area(step)} * S);",
    "fork": lambda step: (
        "if (fork() == 0) { sleep(60); _exit(0); }\nusleep(100000);"
        if step.arguments["stays"]
        else "if (fork() == 0) _exit(0);\nusleep(100000);"
    ),
    "copy": lambda step: _each(
        step, f"copy({_name(step)}[i], {step.arguments['value']}, {2 if step.arguments['wp'] else 0});"
    ),
    "zeropage": lambda step: (
        f"ioctl(fd, UFFDIO_ZEROPAGE, &(struct uffdio_zeropage){{{{(uintptr_t){_name(step)}"
        f"[{step.arguments['first']}], {step.arguments['count']} * S}}, 0, 0}});"
    ),
    "move": _move,
    "merge": _advice(
        12, "MADV_MERGEABLE", "\nsleep(15);  /* KSM has to run: echo 1 > /sys/kernel/mm/ksm/run */"
    ),
    "unmerge": _advice(13, "MADV_UNMERGEABLE"),
}


def program(steps: MemoryList, record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the C program of a list, and an empty reason; or no program, and why there is none.

    Args:
        steps: the reduced list.
        record: what it shows: the JSON form of a `Record`.
    """
    unknown = {step.kind for step in steps.steps} - _STATEMENTS.keys()
    names = [str(step.arguments["on"]) for step in steps.steps if "on" in step.arguments]
    kinds = list(dict.fromkeys(names))
    if unknown:
        return "", f"the step {sorted(unknown)[0]} is not written in C"
    if any(name not in _MAPS for name in kinds):
        return "", "a file on a disk is protected asynchronously only"
    if any(int(step.arguments.get("mode", 0)) & Mode.MINOR for step in steps.steps):
        return "", "the program answers no minor faults"
    verdict = _verdict(record)
    if not verdict:
        return "", f"the program does not look for {record['code']}"
    body = [line for kind in kinds for line in _mapped(kind)]
    body += [line for step in steps.steps for line in _STATEMENTS[step.kind](step).splitlines()]
    text = _text(steps, record, body, verdict)
    lines = text.count("\n")
    return (text, "") if lines <= MOST_LINES else ("", f"it would take {lines} lines, more than {MOST_LINES}")


def _mapped(kind: str) -> list[str]:
    name, pages = kind.replace("-", "_"), KINDS[kind].pages
    mapping, advice = _MAPS[kind]
    lines = [f"char *{name}[{pages}] = {{{mapping}}};"]
    if advice:
        lines.append(f"madvise({name}[0], {pages} * S, {advice});")
    return [*lines, f"for (int i = 1; i < {pages}; i++) {name}[i] = {name}[0] + i * S;"]


def _verdict(record: Mapping[str, Any]) -> list[str]:
    """Return the statements that decide whether the defect shows; empty if there are none for its code."""
    code, fields = record["code"], record["fields"]
    page = f"{str(fields.get('kind', '')).replace('-', '_')}[{fields.get('page', 0)}]"
    if code in (HANG, SPIN):
        return ['puts("the call has returned");', "return 0;"]
    if code in (LOST, GAINED):
        wanted = int(code == LOST)
        words = "not protected" if wanted else "protected"
        return [f'return bit({page}) == {wanted} ? 0 : (puts("page {fields["page"]} is {words}"), 1);']
    if code in (UNREPORTED, SPURIOUS) and "page" in fields:
        wanted = code == UNREPORTED
        words = "no event" if wanted else "an event"
        return [
            "int before = faults;",
            f"set({page}, 9);",
            f'return (faults > before) == {int(wanted)} ? 0 : (puts("a write raised {words}"), 1);',
        ]
    if code == CONTENT and fields.get("allowed"):
        right = " || ".join(f"word == {value}" for value in fields["allowed"])
        return [
            f"uint64_t word = *(volatile uint64_t *){page};",
            f'return {right} ? 0 : (printf("the page holds %lx\\n", (long)word), 1);',
        ]
    return []


def _watched(steps: MemoryList, record: Mapping[str, Any]) -> bool:
    """Return whether events have to be answered: where none is expected, no thread waits for any."""
    kinds = [step.kind for step in steps.steps]
    quiet = {
        "register",
        "protect",
        "cold",
        "pageout",
        "free",
        "dontneed",
        "merge",
        "collapse",
        "read",
        "mprotect",
    }
    later = set(kinds[kinds.index("register") + 1 :]) if "register" in kinds else set()
    missing = any(int(step.arguments.get("mode", 0)) & Mode.MISSING for step in steps.steps)
    return missing or record["code"] not in (LOST, GAINED, CONTENT) or not later <= quiet


def _text(steps: MemoryList, record: Mapping[str, Any], body: list[str], verdict: list[str]) -> str:
    features = int(features_of(steps.monitor))
    watched = _watched(steps, record)
    main = [
        "fd = syscall(__NR_userfaultfd, 0);",
        f"struct uffdio_api api = {{UFFD_API, {features:#x}, 0}};",
        'call(fd < 0 || ioctl(fd, UFFDIO_API, &api), "userfaultfd");',
    ]
    if watched:
        main += ["pthread_t thread;", "pthread_create(&thread, 0, watch, 0);"]
    if record["code"] in (HANG, SPIN):
        main += ['if (fork()) { sleep(20); puts("the call does not return"), kill(0, 9); }']
    used = "\n".join([*main, *body, *verdict])
    helpers = []
    # A helper may use those before it.
    for name, helper in reversed(_HELPERS.items()):
        if name in used:
            helpers.append(helper)
            used += helper
    sentence = " ".join(str(record["sentence"]).replace("*/", "").split())
    lines = [
        f"/* {sentence}",
        " * cc -pthread -o reproduce reproduce.c && ./reproduce, as root.",
        " * Exit code 1: the defect shows, 0: it does not, 2: the kernel cannot be tested. */",
        "#define _GNU_SOURCE",
        *(f"#include <{name}.h>" for name, word in _INCLUDES.items() if word in used),
        f"#define S {PAGE_BYTES}UL",
        *([f"#define FILL {2 if steps.monitor.protect else 0}"] if watched else []),
        "static int fd;",
        *(["static volatile int faults;"] if watched else []),
        *reversed(helpers),
        "int main(void) {",
        *(f"    {line}" for line in (*main, *body, *verdict)),
        "}",
    ]
    return "\n".join(lines) + "\n"
