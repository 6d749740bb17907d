/*
 * The end of the agent, by `quit` or by a signal: it wipes its pages. The kernel keeps what is in the memory of a
 * process that has ended until it gives it to another one.
 */
#define _GNU_SOURCE 1
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "core/meta_pages.h"

static sigset_t signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	return set;
}

void ending_block_signals(void)
{
	const sigset_t set = signals();

	pthread_sigmask(SIG_BLOCK, &set, NULL);
	/* The terminal or the SSH session that the agent was started in may end. */
	signal(SIGHUP, SIG_IGN);
}

void ending_wipe(struct agent *agent)
{
	/* A writer that does not park in time is ended with the process, in the middle of its work. */
	threads_park(agent);
	/* Never unlocked, so that no command lets the writers go on. */
	pthread_mutex_lock(&agent->lock);
	word_put(&agent->control[CONTROL_STATE], AGENT_ENDING);
	for (unsigned i = 0; i < agent->options.threads; i++)
		writer_wipe(&agent->threads[i].writer);
	page_wipe(agent->control);
}

static void *await_signal(void *argument)
{
	struct agent *agent = argument;
	const sigset_t set = signals();
	int number = SIGTERM;

	sigwait(&set, &number);
	ending_wipe(agent);
	unlink(agent->options.socket);
	_exit(128 + number);
}

bool ending_launch(struct agent *agent)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, await_signal, agent);

	if (error != 0)
		print_error("The agent cannot start the thread that waits for signals: %s.",
			    strerror(error));
	return error == 0;
}
