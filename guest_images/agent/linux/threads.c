/* All writer threads: starting them, and parking and resuming them at step boundaries. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "agent.h"

void thread_pin(unsigned number)
{
	cpu_set_t allowed, one;
	int wanted;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
		return;
	wanted = (int)number % CPU_COUNT(&allowed);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed) || wanted-- > 0)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
		return;
	}
}

bool threads_launch(struct agent *agent)
{
	pthread_condattr_t monotonic;

	pthread_mutex_init(&agent->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&agent->changed, &monotonic);
	for (unsigned i = 0; i < agent->options.threads; i++) {
		struct writer_thread *thread = &agent->threads[i];
		pthread_t id;
		int error;

		atomic_store(&thread->request, true);
		error = pthread_create(&id, NULL, writer_thread_main, thread);
		if (error != 0) {
			print_error("The agent cannot start writer %u: %s.", i, strerror(error));
			return false;
		}
	}
	return true;
}

static void clear_statistics(struct writer_thread *thread)
{
	statistics_clear(&thread->statistics);
	thread->reset_wanted = false;
}

void thread_handle_request(struct writer_thread *thread)
{
	struct agent *agent = thread->agent;
	volatile struct word *page = thread->writer.page;

	pthread_mutex_lock(&agent->lock);
	if (thread->reset_wanted)
		clear_statistics(thread);
	while (!agent->run) {
		if (word_get(&page[THREAD_STATE]) == WRITER_WRITING)
			word_put(&page[THREAD_STATE], WRITER_PARKED);
		pthread_cond_broadcast(&agent->changed);
		pthread_cond_wait(&agent->changed, &agent->lock);
		/* The time spent parked is neither a gap nor work to catch up with. */
		thread->statistics.last_end = 0;
		thread->due_ns = 0;
	}
	word_put(&page[THREAD_STATE], WRITER_WRITING);
	atomic_store(&thread->request, false);
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
}

/* Waits under the lock for a change. False once `deadline` is over. */
static bool wait_change(struct agent *agent, const struct timespec *deadline)
{
	return pthread_cond_timedwait(&agent->changed, &agent->lock, deadline) != ETIMEDOUT;
}

static struct timespec wait_deadline(void)
{
	struct timespec deadline;

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += WRITERS_WAIT_S;
	return deadline;
}

static bool any_writing(const struct agent *agent)
{
	for (unsigned i = 0; i < agent->options.threads; i++)
		if (word_get(&agent->threads[i].writer.page[THREAD_STATE]) == WRITER_WRITING)
			return true;
	return false;
}

void threads_run(struct agent *agent)
{
	pthread_mutex_lock(&agent->lock);
	agent->run = true;
	word_put(&agent->control[CONTROL_STATE], AGENT_RUNNING);
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
}

bool threads_park(struct agent *agent)
{
	struct timespec deadline = wait_deadline();
	bool parked;

	pthread_mutex_lock(&agent->lock);
	agent->run = false;
	for (unsigned i = 0; i < agent->options.threads; i++)
		atomic_store(&agent->threads[i].request, true);
	while (any_writing(agent) && wait_change(agent, &deadline))
		continue;
	parked = !any_writing(agent);
	if (parked)
		word_put(&agent->control[CONTROL_STATE], AGENT_PAUSED);
	pthread_mutex_unlock(&agent->lock);
	return parked;
}

static bool any_reset_wanted(const struct agent *agent)
{
	for (unsigned i = 0; i < agent->options.threads; i++)
		if (agent->threads[i].reset_wanted)
			return true;
	return false;
}

bool threads_reset_statistics(struct agent *agent)
{
	struct timespec deadline = wait_deadline();
	bool done;

	atomic_store(&agent->heartbeat_reset, true);
	pthread_mutex_lock(&agent->lock);
	for (unsigned i = 0; i < agent->options.threads; i++) {
		struct writer_thread *thread = &agent->threads[i];

		if (word_get(&thread->writer.page[THREAD_STATE]) != WRITER_WRITING) {
			clear_statistics(thread);
			continue;
		}
		thread->reset_wanted = true;
		atomic_store(&thread->request, true);
	}
	while (any_reset_wanted(agent) && wait_change(agent, &deadline))
		continue;
	done = !any_reset_wanted(agent);
	pthread_mutex_unlock(&agent->lock);
	return done;
}
