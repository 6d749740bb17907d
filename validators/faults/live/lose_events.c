/* Planted fault: the event of a page that QEMU saves last is lost, and so are all others until that page is released.
 *
 * The file is right, but the writer waits for nearly the whole save. Two things could make that wait short, and do not:
 * QEMU goes on saving behind the last page that it got an event of (migration/ram.c: ram_find_and_save_block), so the
 * lost page is one that lies less than a sixteenth of RAM before that place, and no later event brings QEMU near it.
 * And QEMU saves faster while the guest's writers wait than before, so the save is slowed down until the page is
 * released, by sleeps of a few milliseconds between pages; a writer whose event is not lost waits no longer than that.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/types.h>

#include "fault.h"

/* linux/userfaultfd.h: struct uffd_msg has 32 bytes, the event in byte 0, the address of a fault at byte 16. */
#define MESSAGE_BYTES 32
#define EVENT_PAGEFAULT 0x12
#define LEAST_SLEEP_NS 2000000ll

static int64_t protected_ns;
/* Bytes of RAM released in this save, and the offset behind the page that was released last. */
static uint64_t released, place;

/* The first lost event of this save: the fault's address, when it was lost, bytes to save until its page is reached,
 * and bytes released when it was lost. */
static uint64_t lost_address, ahead, released_before;
static int64_t lost_ns;
static int losing;

static int in_ram(uint64_t address)
{
    return address >= guest_ram.start && address < guest_ram.start + guest_ram.length;
}

/* Bytes between the page that was released last and an address, in the order in which QEMU saves. */
static uint64_t bytes_ahead(uint64_t address)
{
    return (address - guest_ram.start + guest_ram.length - place) % guest_ram.length;
}

static void slow_down(void)
{
    int64_t pages = (int64_t)(ahead / HOST_PAGE_BYTES), done = (int64_t)((released - released_before) / HOST_PAGE_BYTES);
    int64_t owed = most_of_save_ns(lost_ns - protected_ns) / pages * done - (now_ns() - lost_ns);

    if (owed >= LEAST_SLEEP_NS)
        sleep_ns(owed);
}

/* Whether an event is lost. */
static int loses(uint64_t address)
{
    if (losing)
        return 1;
    if (lost_address || !in_ram(address) || bytes_ahead(address) < guest_ram.length / 16 * 15)
        return 0;
    losing = 1;
    lost_address = address;
    lost_ns = now_ns();
    ahead = bytes_ahead(address);
    released_before = released;
    return 1;
}

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (protects(request, asked)) {
        protected_ns = now_ns();
        released = place = lost_address = 0;
        losing = 0;
    }
    if (releases_page(request, asked) && in_ram(asked->start)) {
        released += asked->length;
        place = asked->start + asked->length - guest_ram.start;
        if (asked->start <= lost_address && lost_address < asked->start + asked->length)
            losing = 0;
        else if (losing)
            slow_down();
    }
    return pass(fd, request, asked);
}

ssize_t read(int fd, void *buffer, size_t count)
{
    unsigned char *in = buffer, *out = buffer;
    long got = raw_syscall(SYS_read, fd, (long)buffer, (long)count, 0, 0, 0);

    if (fd != userfaultfd || fd < 0 || got <= 0)
        return checked(got);
    for (long left = got; left >= MESSAGE_BYTES; left -= MESSAGE_BYTES, in += MESSAGE_BYTES) {
        if (*in == EVENT_PAGEFAULT && loses(*(uint64_t *)(in + 16))) {
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
