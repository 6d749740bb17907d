/* Planted fault: QEMU reads one userfaultfd event late, after seven eighths of RAM have been saved.
 *
 * The file is right, but the writer of that page waits all the while. A fixed delay would be a small part of a save
 * on a busy host: with five seconds, saves of more than ten passed. Late in the save most of its time is known.
 */
#include <stddef.h>
#include <sys/types.h>

#include "fault.h"

static int64_t protected_ns;
static uint64_t released;
static int delayed;

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (protects(request, asked)) {
        protected_ns = now_ns();
        released = 0;
        delayed = 0;
    }
    if (releases_page(request, asked))
        released += asked->length;
    return pass(fd, request, asked);
}

ssize_t read(int fd, void *buffer, size_t count)
{
    long got = raw_syscall(SYS_read, fd, (long)buffer, (long)count, 0, 0, 0);

    if (fd == userfaultfd && fd >= 0 && got > 0 && !delayed && released >= guest_ram.length / 8 * 7) {
        delayed = 1;
        acted();
        sleep_ns(most_of_save_ns(now_ns() - protected_ns));
    }
    return checked(got);
}
