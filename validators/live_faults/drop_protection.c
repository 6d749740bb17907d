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
#include <sys/syscall.h>

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

extern int *__errno_location(void);

static long ioctl_syscall(int fd, unsigned long request, void *argument)
{
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_ioctl), "D"((long)fd), "S"(request), "d"(argument)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = SYS_ioctl;
    register long x0 __asm__("x0") = fd;
    register unsigned long x1 __asm__("x1") = request;
    register void *x2 __asm__("x2") = argument;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
#error "This planted fault knows x86_64 and aarch64 only."
#endif
}

static int checked(long result)
{
    if (result < 0 && result > -4096) {
        *__errno_location() = (int)-result;
        return -1;
    }
    return (int)result;
}

/* Protects all of the range but its third eighth. */
static int protect_most(int fd, const struct writeprotect *asked)
{
    uint64_t eighth = (asked->length / 8) & PAGE_MASK;
    struct writeprotect low = { asked->start, 2 * eighth, asked->mode };
    struct writeprotect high = { asked->start + 3 * eighth, asked->length - 3 * eighth, asked->mode };
    long result = ioctl_syscall(fd, UFFDIO_WRITEPROTECT, &low);

    if (result >= 0)
        result = ioctl_syscall(fd, UFFDIO_WRITEPROTECT, &high);
    return checked(result);
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
    return checked(ioctl_syscall(fd, request, argument));
}
