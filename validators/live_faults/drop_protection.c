/* Planted fault: write protection silently fails for a part of guest RAM.
 *
 * Preloaded into QEMU, it answers UFFDIO_WRITEPROTECT for an eighth of each large range with success
 * without asking the kernel. Guest writes to those pages after T0 raise no fault and reach the file.
 *
 * No libc is linked, so that one build loads into a QEMU with any C library: system calls are made
 * directly, and only errno's address is taken from the process.
 */
#include <stdarg.h>
#include <stdint.h>

#include "raw_syscall.h"

/* linux/userfaultfd.h (5.7): _IOWR(0xAA, 0x06, struct uffdio_writeprotect). */
#define UFFDIO_WRITEPROTECT 0xc018aa06ul
#define MODE_WP 1ull
#define LARGE_BYTES (64ull << 20)
#define PAGE_MASK (~4095ull)

struct writeprotect {
    uint64_t start;
    uint64_t length;
    uint64_t mode;
};

static long protect(int fd, const struct writeprotect *range)
{
    return raw_syscall(SYS_ioctl, fd, (long)UFFDIO_WRITEPROTECT, (long)range, 0, 0, 0);
}

/* Protects all of the range but its third eighth. */
static int protect_most(int fd, const struct writeprotect *asked)
{
    uint64_t eighth = (asked->length / 8) & PAGE_MASK;
    struct writeprotect low = { asked->start, 2 * eighth, asked->mode };
    struct writeprotect high = { asked->start + 3 * eighth, asked->length - 3 * eighth, asked->mode };
    long result = protect(fd, &low);

    if (result >= 0)
        result = protect(fd, &high);
    return (int)checked(result);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (request == UFFDIO_WRITEPROTECT) {
        const struct writeprotect *asked = argument;
        if ((asked->mode & MODE_WP) && asked->length >= LARGE_BYTES)
            return protect_most(fd, asked);
    }
    return (int)checked(raw_syscall(SYS_ioctl, fd, (long)request, (long)argument, 0, 0, 0));
}
