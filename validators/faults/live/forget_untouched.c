/* Planted fault: pages that the guest never touched are not protected.
 *
 * Linux protects only populated pages, so QEMU first reads all of RAM, which maps the zero page everywhere. This
 * fault unmaps the zero pages again. QEMU 6.0-rc did not read RAM first (fixed in eeccb99c9d): pages that were
 * first written after T0 reached the file.
 */
#include "fault.h"

static int is_zero(uint64_t page)
{
    const uint64_t *words = (const uint64_t *)page;

    for (unsigned at = 0; at < HOST_PAGE_BYTES / sizeof(words[0]); at++)
        if (words[at])
            return 0;
    return 1;
}

/* Unmaps the pages that are all zero; they read the same afterwards. */
static void forget(uint64_t start, uint64_t end)
{
    uint64_t page = start;

    while (page < end) {
        uint64_t first = page;

        while (page < end && is_zero(page))
            page += HOST_PAGE_BYTES;
        if (page > first) {
            raw_syscall(SYS_madvise, (long)first, (long)(page - first), MADV_DONTNEED, 0, 0, 0);
            acted();
        }
        page += HOST_PAGE_BYTES;
    }
}

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (protects(request, asked) && asked->length >= LARGE_BYTES)
        forget(asked->start, asked->start + asked->length);
    return pass(fd, request, asked);
}
