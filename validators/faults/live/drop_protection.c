/* Planted fault: UFFDIO_WRITEPROTECT reports success, but leaves an eighth of guest RAM unprotected.
 *
 * Guest writes to those pages after T0 cause no fault and reach the file.
 */
#include "fault.h"

static long protect_most(int fd, const struct range *asked)
{
    uint64_t eighth = (asked->length / 8) & PAGE_MASK;
    struct range low = { asked->start, 2 * eighth, asked->mode };
    struct range high = { asked->start + 3 * eighth, asked->length - 3 * eighth, asked->mode };
    long result = pass(fd, UFFDIO_WRITEPROTECT, &low);

    acted();
    return result < 0 ? result : pass(fd, UFFDIO_WRITEPROTECT, &high);
}

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (protects(request, asked) && asked->length >= LARGE_BYTES)
        return protect_most(fd, asked);
    return pass(fd, request, asked);
}
