/* Library preloaded into QEMU: counts its userfaultfd calls by kind and makes chosen ones fail with an errno.
 *
 * It fails the nth call of a kind, or every call of some kinds, or hides features. The test chooses through a
 * page that it shares with the library (control.py has the same layout), so one QEMU serves many cases.
 */
#include <errno.h>
#include <fcntl.h>
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

#define MAX_FD (4 << 10)

enum kind {
    NONE,
    CREATE,
    CREATE_BY_DEVICE,
    API,
    REGISTER,
    PROTECT,
    UNPROTECT,
    UNREGISTER,
    WAKE,
    READ,
    POLL,
    OPEN_DEVICE,
    KINDS
};

struct control {
    uint64_t loaded; /* id of the last process that loaded this library */
    uint64_t kind;   /* kind of the one call to fail, NONE for none */
    uint64_t number; /* which call of that kind, from 1 */
    uint64_t error;  /* the errno to fail it with */
    uint64_t acted;  /* number of calls that were changed */
    uint64_t calls[KINDS];  /* number of calls of each kind */
    uint64_t denied[KINDS]; /* errno to fail every call of a kind with, 0 to let them pass */
    uint64_t hidden;        /* feature bits to hide from QEMU */
};

/* struct uffdio_api */
struct api {
    uint64_t api;
    uint64_t features;
    uint64_t ioctls;
};

struct writeprotect {
    uint64_t start;
    uint64_t length;
    uint64_t mode;
};

/* struct pollfd. glibc's <poll.h> cannot be used: its attributes make GCC believe that poll() does not read it. */
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

static int fail_with(uint64_t error)
{
    __atomic_add_fetch(&control->acted, 1, __ATOMIC_SEQ_CST);
    *__errno_location() = (int)error;
    return 1;
}

/* Counts a call; returns true, with errno set, if it must fail. */
static int fails(enum kind kind)
{
    uint64_t number;

    if (!control || kind == NONE)
        return 0;
    number = __atomic_add_fetch(&control->calls[kind], 1, __ATOMIC_SEQ_CST);
    if (control->denied[kind])
        return fail_with(control->denied[kind]);
    return control->kind == (uint64_t)kind && control->number == number && fail_with(control->error);
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

/* Answers UFFDIO_API as a kernel without the hidden features: EINVAL if one is asked for, else not listed. */
static int agree_without(int fd, struct api *asked)
{
    long result;

    if (asked->features & control->hidden) {
        *asked = (struct api){ 0, 0, 0 };
        fail_with(EINVAL);
        return -1;
    }
    result = checked(raw_syscall(SYS_ioctl, fd, (long)UFFDIO_API, (long)asked, 0, 0, 0));
    if (result == 0) {
        asked->features &= ~control->hidden;
        __atomic_add_fetch(&control->acted, 1, __ATOMIC_SEQ_CST);
    }
    return (int)result;
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
    if (request == UFFDIO_API && control && control->hidden)
        return agree_without(fd, argument);
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

static int is_device(const char *path)
{
    const char *device = "/dev/userfaultfd";

    while (*device && *device == *path)
        device++, path++;
    return *device == *path;
}

/* open() and open64() are the same function where off_t has 64 bits (glibc's <fcntl.h>). */
int open64(const char *path, int flags, ...)
{
    va_list arguments;
    int mode;

    /* If the caller gives no mode this reads garbage, which the kernel ignores then. */
    va_start(arguments, flags);
    mode = va_arg(arguments, int);
    va_end(arguments);
    if (is_device(path) && fails(OPEN_DEVICE))
        return -1;
    return (int)checked(raw_syscall(SYS_openat, AT_FDCWD, (long)path, flags, mode, 0, 0));
}

int open(const char *, int, ...) __attribute__((alias("open64")));

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
