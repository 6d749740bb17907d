/* Planted fault: UFFDIO_WRITEPROTECT reports success, but leaves an eighth of guest RAM unprotected.
 *
 * Guest writes to those pages after T0 cause no fault and reach the file. The eighth is 2 MiB in each 16 MiB, since a
 * guest may write to some part of its RAM alone: a bare one whose writers cover half of it never writes to the rest.
 * 2 MiB that begin at a multiple of 2 MiB are whole huge pages.
 */
#include "fault.h"

#define STRIPE_BYTES (16ull << 20)
#define HOLE_BYTES (2ull << 20)
/* Of the hole in its stripe: a RAMBlock begins at a multiple of 2 MiB, mostly at one of a stripe. */
#define HOLE_OFFSET (4ull << 20)

static long protect_piece(int fd, const struct range *asked, uint64_t start, uint64_t end)
{
    struct range piece = { start, end - start, asked->mode };

    return end > start ? pass(fd, UFFDIO_WRITEPROTECT, &piece) : 0;
}

static long protect_most(int fd, const struct range *asked)
{
    uint64_t start = asked->start, end = asked->start + asked->length;
    uint64_t hole = (start & ~(STRIPE_BYTES - 1)) + HOLE_OFFSET;
    long result;

    for (; hole + HOLE_BYTES <= end; hole += STRIPE_BYTES) {
        if (hole < start)
            continue;
        result = protect_piece(fd, asked, start, hole);
        if (result < 0)
            return result;
        acted();
        start = hole + HOLE_BYTES;
    }
    return protect_piece(fd, asked, start, end);
}

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (protects(request, asked) && asked->length >= LARGE_BYTES)
        return protect_most(fd, asked);
    return pass(fd, request, asked);
}
