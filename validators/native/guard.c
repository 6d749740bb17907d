/*
 * Turns an access to a mapped file that cannot be served into an error.
 *
 * The kernel sends SIGBUS to the thread that touches a mapped page behind the end of a file that shrank, or one that its
 * disk cannot deliver any more. A thread that reads such pages says before where it goes on then. No lock is held there
 * and nothing allocated, so nothing is left behind.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>

#include "core.h"
#include "guard.h"

_Thread_local sigjmp_buf *guard_escape;

static struct sigaction before;

static void on_bus_error(int number)
{
	sigjmp_buf *escape = guard_escape;

	if (escape) {
		guard_escape = NULL;
		siglongjmp(*escape, number);
	}
	/* Not ours: the access is repeated, and ends as it would have without this library. */
	sigaction(SIGBUS, &before, NULL);
}

void core_guard(void)
{
	struct sigaction action = { .sa_handler = on_bus_error, .sa_flags = SA_NODEFER | SA_ONSTACK }, now;

	if (!sigaction(SIGBUS, NULL, &now) && now.sa_handler != on_bus_error) {
		before = now;
		sigaction(SIGBUS, &action, NULL);
	}
}
