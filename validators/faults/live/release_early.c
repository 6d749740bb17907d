/* Planted fault: each release of a saved page also releases 1 MiB, 48 MiB further on, that is not saved yet.
 *
 * Guest writes there cause no fault any more and reach the file.
 */
#include "fault.h"

#define AHEAD_BYTES (48ull << 20)
#define MORE_BYTES (1ull << 20)

static void release_ahead(int fd, const struct range *asked)
{
    struct range more = { asked->start + AHEAD_BYTES, MORE_BYTES, 0 };

    if (more.start < guest_ram.start || more.start + more.length > guest_ram.start + guest_ram.length)
        return;
    acted();
    pass(fd, UFFDIO_WRITEPROTECT, &more);
}

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (releases_page(request, asked))
        release_ahead(fd, asked);
    return pass(fd, request, asked);
}
