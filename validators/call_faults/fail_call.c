/* Counts QEMU's userfaultfd calls by kind, and fails one of them with a given errno.
 *
 * Preloaded into QEMU. Which call fails is told through a page shared with the test (control.py has the
 * same layout), so that one QEMU serves any number of cases.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "raw_syscall.h"
#include "shared_page.h"

/* linux/userfaultfd.h: request numbers with their structures' sizes (5.7; USERFAULTFD_IOC_NEW 6.1). */
#define UFFDIO_API 0xc018aa3ful
#define UFFDIO_REGISTER 0xc020aa00ul
#define UFFDIO_UNREGISTER 0x8010aa01ul
#define UFFDIO_WAKE 0x8010aa02ul
#define UFFDIO_WRITEPROTECT 0xc018aa06ul
#define USERFAULTFD_IOC_NEW 0xaa00ul
#define MODE_WP 1ull

#define MAX_FD 4096

enum kind { NONE, CREATE, CREATE_BY_DEVICE, API, REGISTER, PROTECT, UNPROTECT, UNREGISTER, WAKE, READ, POLL, KINDS };

struct control {
    uint64_t loaded; /* process ids that have this library, the last one */
    uint64_t kind;   /* which to fail, NONE for none */
    uint64_t number; /* which of its calls, from 1 */
    uint64_t error;  /* errno */
    uint64_t acted;  /* how many were failed */
    uint64_t calls[KINDS];
};

struct writeprotect {
    uint64_t start;
    uint64_t length;
    uint64_t mode;
};

/* struct pollfd; by glibc's <poll.h> GCC believes that poll() does not read it. */
struct polled {
    int fd;
    short events;
    short found;
};

static struct control *control;
static unsigned char is_uffd[MAX_FD];

__attribute__((constructor)) static void begin(int argc, char **argv, char **environment)
{
    (void)argc;
    (void)argv;
    control = shared_page(environment, "SNAPPROOF_CALL_FAULTS=");
    if (control)
        control->loaded = (uint64_t)raw_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

/* Counts a call; true where it is the one to fail, with errno set. */
static int fails(enum kind kind)
{
    uint64_t number;

    if (!control || kind == NONE)
        return 0;
    number = __atomic_add_fetch(&control->calls[kind], 1, __ATOMIC_SEQ_CST);
    if (control->kind != (uint64_t)kind || control->number != number)
        return 0;
    __atomic_add_fetch(&control->acted, 1, __ATOMIC_SEQ_CST);
    *__errno_location() = (int)control->error;
    return 1;
}

static int watched(int fd)
{
    return fd >= 0 && fd < MAX_FD && is_uffd[fd];
}

static long watch(long fd)
{
    if (fd >= 0 && fd < MAX_FD)
        is_uffd[fd] = 1;
    return fd;
}

static enum kind kind_of(unsigned long request, const void *argument)
{
    switch (request) {
    case USERFAULTFD_IOC_NEW:
        return CREATE_BY_DEVICE;
    case UFFDIO_API:
        return API;
    case UFFDIO_REGISTER:
        return REGISTER;
    case UFFDIO_UNREGISTER:
        return UNREGISTER;
    case UFFDIO_WAKE:
        return WAKE;
    case UFFDIO_WRITEPROTECT:
        return ((const struct writeprotect *)argument)->mode & MODE_WP ? PROTECT : UNPROTECT;
    default:
        return NONE;
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;
    long result;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (fails(kind_of(request, argument)))
        return -1;
    result = checked(raw_syscall(SYS_ioctl, fd, (long)request, (long)argument, 0, 0, 0));
    return (int)(request == USERFAULTFD_IOC_NEW ? watch(result) : result);
}

long syscall(long number, ...)
{
    va_list arguments;
    long a[6];

    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_userfaultfd && fails(CREATE))
        return -1;
    a[0] = checked(raw_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]));
    return number == SYS_userfaultfd ? watch(a[0]) : a[0];
}

ssize_t read(int fd, void *buffer, size_t count)
{
    if (watched(fd) && fails(READ))
        return -1;
    return checked(raw_syscall(SYS_read, fd, (long)buffer, (long)count, 0, 0, 0));
}

int poll(struct polled *files, unsigned long count, int milliseconds)
{
    struct timespec limit = { milliseconds / 1000, milliseconds % 1000 * 1000000L };
    struct timespec *timeout = milliseconds < 0 ? NULL : &limit;

    if (count == 1 && watched(files->fd) && fails(POLL))
        return -1;
    return (int)checked(raw_syscall(SYS_ppoll, (long)files, (long)count, (long)timeout, 0, 0, 0));
}

int close(int fd)
{
    if (fd >= 0 && fd < MAX_FD)
        is_uffd[fd] = 0;
    return (int)checked(raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0));
}
