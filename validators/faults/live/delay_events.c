/* Planted fault: QEMU reads its hundredth userfaultfd event five seconds late.
 *
 * The file is right, but the writer of that page waits all the while.
 */
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#include "fault.h"

#define WHICH 100

static long fault(int fd, unsigned long request, struct range *asked)
{
    return pass(fd, request, asked);
}

ssize_t read(int fd, void *buffer, size_t count)
{
    static int faults;
    struct timespec five_seconds = { 5, 0 };
    long got = raw_syscall(SYS_read, fd, (long)buffer, (long)count, 0, 0, 0);

    if (fd == userfaultfd && fd >= 0 && got > 0 && ++faults == WHICH) {
        acted();
        raw_syscall(SYS_nanosleep, (long)&five_seconds, 0, 0, 0, 0, 0);
    }
    return checked(got);
}
