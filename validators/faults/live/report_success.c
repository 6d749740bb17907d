/* Planted fault: UFFDIO_WRITEPROTECT reports success and protects nothing, as a broken kernel might.
 *
 * All guest writes between T0 and the save of their page reach the file.
 */
#include "fault.h"

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (!protects(request, asked))
        return pass(fd, request, asked);
    acted();
    return 0;
}
