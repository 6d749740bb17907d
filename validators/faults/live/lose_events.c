/* Planted fault: QEMU gets no events of faults in the last sixteenth of guest RAM.
 *
 * The file is right, but a writer there waits until QEMU saves its page in address order: for nearly the whole save.
 * A larger part would make the wait shorter, since QEMU saves faster while the guest's writers wait than afterwards:
 * with the last quarter it was seen to be a third of the save, on a host with other work.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/types.h>

#include "fault.h"

/* linux/userfaultfd.h: struct uffd_msg has 32 bytes, the event in byte 0, the address of a fault at byte 16. */
#define MESSAGE_BYTES 32
#define EVENT_PAGEFAULT 0x12
#define LAST_SIXTEENTH 60

static long fault(int fd, unsigned long request, struct range *asked)
{
    return pass(fd, request, asked);
}

ssize_t read(int fd, void *buffer, size_t count)
{
    unsigned char *in = buffer, *out = buffer;
    long got = raw_syscall(SYS_read, fd, (long)buffer, (long)count, 0, 0, 0);

    if (fd != userfaultfd || fd < 0 || got <= 0)
        return checked(got);
    for (long left = got; left >= MESSAGE_BYTES; left -= MESSAGE_BYTES, in += MESSAGE_BYTES) {
        if (*in == EVENT_PAGEFAULT && part_of_ram(*(uint64_t *)(in + 16)) >= LAST_SIXTEENTH) {
            acted();
            continue;
        }
        for (int i = 0; i < MESSAGE_BYTES && out != in; i++)
            out[i] = in[i];
        out += MESSAGE_BYTES;
    }
    got = out - (unsigned char *)buffer;
    return got ? got : checked(-EAGAIN);
}
