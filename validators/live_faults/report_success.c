/* Planted fault: protecting reports success and does nothing, as a kernel without the feature might.
 *
 * All that the guest writes between T0 and the end reaches the file.
 */
#include "fault.h"

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (!protects(request, asked))
        return pass(fd, request, asked);
    acted();
    return 0;
}
