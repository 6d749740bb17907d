/* Maps the page that a preloaded library shares with the test: a file named by an environment variable. */
#ifndef SHARED_PAGE_H
#define SHARED_PAGE_H

#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>

#include "raw_syscall.h"

#define SHARED_PAGE_BYTES 4096

/* Returns the value of an environment variable, NULL if it is not set. `variable` is its name with the '='. */
static inline const char *variable_of(char **environment, const char *variable)
{
    for (; *environment; environment++) {
        const char *prefix = variable, *text = *environment;

        while (*prefix && *prefix == *text)
            prefix++, text++;
        if (!*prefix)
            return text;
    }
    return NULL;
}

/* Maps the file that the variable names; returns NULL if it is not set or the file cannot be mapped. */
static inline void *shared_page(char **environment, const char *variable)
{
    const char *path = variable_of(environment, variable);
    long fd, map;

    if (!path)
        return NULL;
    fd = raw_syscall(SYS_openat, AT_FDCWD, (long)path, O_RDWR | O_CLOEXEC, 0, 0, 0);
    if (fd < 0)
        return NULL;
    map = raw_syscall(SYS_mmap, 0, SHARED_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
    return map < 0 && map > -4096 ? NULL : (void *)map;
}

#endif
