/*
 * Turns an access to a mapped file that cannot be served into an error.
 *
 * The kernel sends SIGBUS to the thread that touches a mapped page behind the end of a file that shrank, or one that its
 * disk cannot deliver any more. A thread that reads such pages says before where it goes on then. No lock is held there
 * and nothing allocated, so nothing is left behind. Python, which reads some words of the mapping too, cannot go on:
 * then the process says why, and ends with the exit code of a file that could not be judged.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "core.h"
#include "guard.h"

_Thread_local sigjmp_buf *guard_escape;

enum { EXIT_ERROR = 2 };

static struct sigaction before;

static const char last_words[] =
	"snapproof: A file became shorter while it was read, or its disk fails; check it again when nothing writes to it.\n";

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	sigjmp_buf *escape = guard_escape;
	ssize_t written;

	if (escape) {
		guard_escape = NULL;
		siglongjmp(*escape, number);
	}
	(void)context;
	if (info->si_code == BUS_ADRERR && before.sa_handler == SIG_DFL) {
		written = write(STDERR_FILENO, last_words, sizeof last_words - 1);
		(void)written;
		_exit(EXIT_ERROR);
	}
	/* Not ours: the access is repeated, and ends as it would have without this library. */
	sigaction(SIGBUS, &before, NULL);
}

void core_guard(void)
{
	struct sigaction action = { .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK }, now;

	action.sa_sigaction = on_bus_error;
	if (!sigaction(SIGBUS, NULL, &now) && now.sa_sigaction != on_bus_error) {
		before = now;
		sigaction(SIGBUS, &action, NULL);
	}
}
