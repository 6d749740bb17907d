/* Planted fault: one saved page of 64 is not released before the whole save ends.
 *
 * The file is right, but a writer of such a page waits until the save ends.
 */
#include "fault.h"

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (!releases_page(request, asked) || asked->start / HOST_PAGE_BYTES % 64)
        return pass(fd, request, asked);
    acted();
    return 0;
}
