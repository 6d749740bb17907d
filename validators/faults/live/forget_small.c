/* Planted fault: UFFDIO_WRITEPROTECT reports success, but protects large RAMBlocks only.
 *
 * The main RAM, where the agent writes, is right. What is written after T0 to other blocks (DIMMs, video memory)
 * causes no fault and reaches the file.
 */
#include "fault.h"

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (protects(request, asked) && asked->length < LARGE_BYTES) {
        acted();
        return 0;
    }
    return pass(fd, request, asked);
}
