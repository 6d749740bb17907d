/* A page that a preloaded library shares with the test: the file that a variable of the environment names. */
#ifndef SHARED_PAGE_H
#define SHARED_PAGE_H

#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>

#include "raw_syscall.h"

#define SHARED_PAGE_BYTES 4096

/* Maps it; NULL where there is none. `variable` ends with the '='. */
static inline void *shared_page(char **environment, const char *variable)
{
    for (; *environment; environment++) {
        const char *prefix = variable, *text = *environment;
        long fd, map;

        while (*prefix && *prefix == *text)
            prefix++, text++;
        if (*prefix)
            continue;
        fd = raw_syscall(SYS_openat, AT_FDCWD, (long)text, O_RDWR | O_CLOEXEC, 0, 0, 0);
        if (fd < 0)
            return NULL;
        map = raw_syscall(SYS_mmap, 0, SHARED_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
        return map < 0 && map > -4096 ? NULL : (void *)map;
    }
    return NULL;
}

#endif
