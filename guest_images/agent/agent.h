/* The agent's own data: options, memory layout, writers, and what the parts offer each other. */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "counter.h"
#include "format.h"
#include "mismatch.h"
#include "page.h"
#include "schedule.h"

#define MAX_THREADS 64
/* How long a command waits for the writers; below the client's own limit of 30 s. */
#define WRITERS_WAIT_S 25

/* What the command line of `serve` says. */
struct options {
	uint64_t bytes;
	uint64_t threads;
	uint64_t seed;
	uint64_t guest_ram;
	uint64_t rate; /* pages per second and thread, 0 = unlimited */
	enum pattern pattern;
	bool huge;
	const char *socket;
};

struct agent;

/* One writer thread and the memory it owns. */
struct writer {
	struct agent *agent;
	unsigned number;
	struct schedule schedule;
	char *data;                /* its mapping */
	size_t stride;             /* mapping pages per data page: 2 for pattern "sparse" */
	volatile uint64_t *page;   /* its thread page */
	uint64_t *directory;       /* the first of its directory pages */
	atomic_bool attention;     /* set: look at the flags below at the next step boundary */
	bool reset_wanted;         /* under agent.lock */
	uint64_t steps;            /* the fields from here on belong to the writer thread */
	uint64_t last_end;         /* counter at the end of the last step, 0 = none to use */
	uint64_t max_ticks;
	uint64_t max_gap_ticks;
	uint64_t due_ns;           /* with a rate: when the next step may begin */
};

struct agent {
	struct options options;
	uint64_t nonce;
	uint64_t data_pages;
	struct counter counter;
	volatile uint64_t *control;
	uint64_t *meta;            /* control page, thread pages, directory pages, in this order */
	size_t meta_pages;
	bool locked;               /* whether mlock worked on everything */
	bool frames_known;         /* whether pagemap gave page frame numbers */
	uint64_t huge_kib;         /* memory in huge pages after the first touch */
	int pagemap;               /* file descriptor, -1 where there is none */
	pthread_mutex_t lock;
	pthread_cond_t changed;    /* any change of the flags under `lock` or of a writer's state */
	bool run;                  /* under lock: writers may write */
	atomic_bool heartbeat_reset; /* set: the heartbeat is to forget its longest gap */
	struct mismatch_log errors; /* what the writers' own checks found; under lock */
	struct writer writers[MAX_THREADS];
};

/* The data page `index` of a writer, and the mapping page behind it (only pattern "sparse"). */
static inline uint64_t *writer_data(const struct writer *writer, uint64_t index)
{
	return (uint64_t *)(writer->data + index * writer->stride * PAGE_BYTES);
}

static inline uint64_t *writer_hole(const struct writer *writer, uint64_t index)
{
	return writer_data(writer, index) + PAGE_WORDS;
}

/* memory.c: maps and touches all memory. False after a sentence on stderr. */
bool memory_build(struct agent *agent);

/* directory.c: fills the directory pages; counts pages that lie elsewhere now; looks one up. */
void directory_build(struct agent *agent);
uint64_t directory_moved(const struct agent *agent);
uint64_t directory_frame(const struct writer *writer, uint64_t index);

/* writer.c: the thread function of a writer, its argument is a struct writer. */
void *writer_main(void *argument);

/* crew.c: all writers together. Waits are bounded and return false when they run out. */
bool crew_launch(struct agent *agent);
void crew_run(struct agent *agent);
bool crew_park(struct agent *agent);
bool crew_reset(struct agent *agent);
void crew_attend(struct writer *writer);
void crew_pin(unsigned number);

/* heartbeat.c: starts the thread that refreshes the control page every 10 ms. */
bool heartbeat_launch(struct agent *agent);
/* Renews the control page's clocks. */
void heartbeat_tell_time(struct agent *agent);

/* server.c: whether an agent serves there already; listens; serves commands until `quit`. */
bool server_answers(const char *path);
int server_listen(const char *path);
int server_run(struct agent *agent, int listener);

/* client.c: `ctl`; returns the exit code. */
int client_main(int count, char **arguments);

/* options.c: false after a sentence on stderr. */
bool options_parse(struct options *options, int count, char **arguments);
bool number_parse(const char *text, uint64_t *number);

#define DEFAULT_SOCKET "/run/snapproof-agent.sock"
#define MAX_LINE 256

#endif
