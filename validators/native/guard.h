/* Turns an access to a mapped file that cannot be served into an error; see guard.c. */
#ifndef GUARD_H
#define GUARD_H

#include <setjmp.h>

/* Where this thread goes on after a SIGBUS, NULL where there is no such place. */
extern _Thread_local sigjmp_buf *guard_escape;

#endif
