/* Shared by all live planted faults: replaces ioctl() in QEMU, hands each call to fault(), and counts acts.
 *
 * No libc is linked, so one build loads into a QEMU with any C library.
 */
#ifndef FAULT_H
#define FAULT_H

#include <stdarg.h>
#include <stdint.h>
#include <time.h>

#include "raw_syscall.h"
#include "shared_page.h"

/* linux/userfaultfd.h (5.7): _IOWR(0xAA, 0x06, struct uffdio_writeprotect) and so on. */
#define UFFDIO_REGISTER 0xc020aa00ul
#define UFFDIO_UNREGISTER 0x8010aa01ul
#define UFFDIO_WRITEPROTECT 0xc018aa06ul
#define MODE_WP 1ull
#define LARGE_BYTES (64ull << 20)
/* HOST_PAGE_BYTES, the unit of protection, is given on the compiler's command line. */
#define NS_PER_S 1000000000ll

struct range {
    uint64_t start;
    uint64_t length;
    uint64_t mode;
};

/* The userfaultfd that guest RAM is registered with, and the largest range registered: main RAM. */
static int userfaultfd = -1;
static struct range guest_ram;
static uint64_t *acts;

/* Defined by each fault: performs an ioctl of QEMU on a userfaultfd, or something else; returns a raw result. */
static long fault(int fd, unsigned long request, struct range *asked);

/* Counts one act of the fault. A fault that never acted was neither detected nor missed. */
static inline void acted(void)
{
    if (acts)
        __atomic_add_fetch(acts, 1, __ATOMIC_SEQ_CST);
}

static inline long pass(int fd, unsigned long request, const void *argument)
{
    return raw_syscall(SYS_ioctl, fd, (long)request, (long)argument, 0, 0, 0);
}

/* Whether a call protects guest RAM. */
static inline int protects(unsigned long request, const struct range *asked)
{
    return request == UFFDIO_WRITEPROTECT && (asked->mode & MODE_WP);
}

/* Whether a call releases a page that has been saved. */
static inline int releases_page(unsigned long request, const struct range *asked)
{
    return request == UFFDIO_WRITEPROTECT && !(asked->mode & MODE_WP) && asked->length < LARGE_BYTES;
}

static inline int64_t now_ns(void)
{
    struct timespec now;

    raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0, 0, 0, 0);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static inline void sleep_ns(int64_t ns)
{
    struct timespec span = { ns / NS_PER_S, ns % NS_PER_S };

    raw_syscall(SYS_nanosleep, (long)&span, 0, 0, 0, 0, 0);
}

/* How long a writer must wait to wait for most of a save, however slow the host is: much longer than the save has
 * taken so far. The six seconds are for what comes before RAM is protected and for the rest of the save: three were
 * seen from the last pages to the end, on a host whose disk was busy. */
static inline int64_t most_of_save_ns(int64_t since_protected)
{
    return since_protected / 2 * 3 + 6 * NS_PER_S;
}

/* Position of an address in the largest RAMBlock, in 64ths of its length; 0 outside of it. */
static inline uint64_t part_of_ram(uint64_t address)
{
    if (address < guest_ram.start || address >= guest_ram.start + guest_ram.length)
        return 0;
    return (address - guest_ram.start) / (guest_ram.length / 64);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    struct range *asked;

    va_start(arguments, request);
    asked = va_arg(arguments, struct range *);
    va_end(arguments);
    if (request == UFFDIO_REGISTER) {
        userfaultfd = fd;
        if (asked->length > guest_ram.length)
            guest_ram = *asked;
    }
    return (int)checked(fault(fd, request, asked));
}

__attribute__((constructor)) static void begin(int argc, char **argv, char **environment)
{
    (void)argc;
    (void)argv;
    acts = shared_page(environment, "SNAPPROOF_PLANTED_FAULT=");
}

#endif
