/* All writers together: starting, parking and letting go of them at step boundaries. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "agent.h"

/* Puts the calling thread on one of the CPUs that it may use, in turn. Best effort. */
void crew_pin(unsigned number)
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

bool crew_launch(struct agent *agent)
{
	pthread_condattr_t monotonic;

	pthread_mutex_init(&agent->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&agent->changed, &monotonic);
	for (unsigned i = 0; i < agent->options.threads; i++) {
		struct writer *writer = &agent->writers[i];
		pthread_t thread;
		int error;

		atomic_store(&writer->attention, true);
		error = pthread_create(&thread, NULL, writer_main, writer);
		if (error != 0) {
			complain("The agent cannot start writer %u: %s.", i, strerror(error));
			return false;
		}
	}
	return true;
}

static void clear_statistics(struct writer *writer)
{
	writer->page[THREAD_MAX_STALL] = 0;
	writer->page[THREAD_TIMED] = 0;
	writer->page[THREAD_MAX_GAP] = 0;
	writer->page[THREAD_LONG_GAPS] = 0;
	for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++)
		writer->page[THREAD_HISTOGRAM + bucket] = 0;
	for (unsigned bucket = 0; bucket < FINE_BUCKETS; bucket++)
		writer->page[THREAD_FINE + bucket] = 0;
	writer->max_ticks = 0;
	writer->max_gap_ticks = 0;
	writer->last_end = 0;
	writer->reset_wanted = false;
}

/* Called by a writer at a step boundary; returns when it may write (on). */
void crew_attend(struct writer *writer)
{
	struct agent *agent = writer->agent;

	pthread_mutex_lock(&agent->lock);
	if (writer->reset_wanted)
		clear_statistics(writer);
	while (!agent->run) {
		if (writer->page[THREAD_STATE] == THREAD_WRITING)
			writer->page[THREAD_STATE] = THREAD_PARKED;
		pthread_cond_broadcast(&agent->changed);
		pthread_cond_wait(&agent->changed, &agent->lock);
		/* The time spent parked is neither a gap nor work to catch up with. */
		writer->last_end = 0;
		writer->due_ns = 0;
	}
	writer->page[THREAD_STATE] = THREAD_WRITING;
	atomic_store(&writer->attention, false);
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
}

/* Waits under the lock for a change; false once `deadline` is over. */
static bool wait_change(struct agent *agent, const struct timespec *deadline)
{
	return pthread_cond_timedwait(&agent->changed, &agent->lock, deadline) != ETIMEDOUT;
}

static struct timespec deadline_of_wait(void)
{
	struct timespec deadline;

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += WRITERS_WAIT_S;
	return deadline;
}

static bool any_writing(const struct agent *agent)
{
	for (unsigned i = 0; i < agent->options.threads; i++)
		if (agent->writers[i].page[THREAD_STATE] == THREAD_WRITING)
			return true;
	return false;
}

void crew_run(struct agent *agent)
{
	pthread_mutex_lock(&agent->lock);
	agent->run = true;
	agent->control[CONTROL_STATE] = STATE_RUNNING;
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
}

bool crew_park(struct agent *agent)
{
	struct timespec deadline = deadline_of_wait();
	bool parked;

	pthread_mutex_lock(&agent->lock);
	agent->run = false;
	for (unsigned i = 0; i < agent->options.threads; i++)
		atomic_store(&agent->writers[i].attention, true);
	while (any_writing(agent) && wait_change(agent, &deadline))
		continue;
	parked = !any_writing(agent);
	if (parked)
		agent->control[CONTROL_STATE] = STATE_PAUSED;
	pthread_mutex_unlock(&agent->lock);
	return parked;
}

static bool any_reset_wanted(const struct agent *agent)
{
	for (unsigned i = 0; i < agent->options.threads; i++)
		if (agent->writers[i].reset_wanted)
			return true;
	return false;
}

bool crew_reset(struct agent *agent)
{
	struct timespec deadline = deadline_of_wait();
	bool done;

	atomic_store(&agent->heartbeat_reset, true);
	pthread_mutex_lock(&agent->lock);
	for (unsigned i = 0; i < agent->options.threads; i++) {
		struct writer *writer = &agent->writers[i];

		if (writer->page[THREAD_STATE] != THREAD_WRITING) {
			clear_statistics(writer);
			continue;
		}
		writer->reset_wanted = true;
		atomic_store(&writer->attention, true);
	}
	while (any_reset_wanted(agent) && wait_change(agent, &deadline))
		continue;
	done = !any_reset_wanted(agent);
	pthread_mutex_unlock(&agent->lock);
	return done;
}
