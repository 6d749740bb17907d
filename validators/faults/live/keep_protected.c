/* Planted fault: one saved page of 64 is never released, not even when the save has ended.
 *
 * The file is right, but the guest hangs as soon as it writes to such a page.
 */
#include "fault.h"

static int saving;

static int is_release(unsigned long request, const struct range *asked)
{
    if (request == UFFDIO_UNREGISTER)
        return 1;
    if (releases_page(request, asked))
        return asked->start / HOST_PAGE_BYTES % 64 == 0;
    return request == UFFDIO_WRITEPROTECT && !protects(request, asked);
}

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (protects(request, asked))
        saving = 1;
    /* Before a save QEMU registers and unregisters all RAM once, to probe whether it can. */
    if (!saving || !is_release(request, asked))
        return pass(fd, request, asked);
    acted();
    return 0;
}

/* Not passed on: closing a userfaultfd releases all that it protects. */
int close(int fd)
{
    if (saving && fd == userfaultfd)
        return 0;
    return (int)checked(raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0));
}
