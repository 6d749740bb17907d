/* The Linux agent's own data, and the functions that its files offer each other. */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/format.h"
#include "core/mismatch.h"
#include "core/statistics.h"
#include "core/writer.h"
#include "cycle_counter.h"
#include "text.h"

#define MAX_THREADS 64
/* How long a command waits for the writers; below the client's own limit of 30 s. */
#define WRITERS_WAIT_S 25

/* The command line of `serve`. */
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

/* A writer and the thread that runs it. */
struct writer_thread {
	struct agent *agent;
	struct writer writer;
	atomic_bool request;          /* set: park or reset at the next step boundary */
	bool reset_wanted;            /* under agent.lock */
	struct statistics statistics; /* from here on only the thread itself while it writes */
	uint64_t due_ns;              /* with a rate: when the next step may begin */
};

struct agent {
	struct options options;
	uint64_t nonce;
	uint64_t data_pages;
	struct cycle_counter counter;
	volatile struct word *control;
	struct word *meta;            /* control page, thread pages, directory pages, in this order */
	size_t meta_pages;
	bool locked;               /* whether mlock worked on everything */
	bool frames_known;         /* whether pagemap gave page frame numbers */
	uint64_t huge_kib;         /* memory in huge pages after the first touch */
	int pagemap;               /* file descriptor, -1 where there is none */
	pthread_mutex_t lock;
	pthread_cond_t changed;    /* any change of the flags under `lock` or of a writer's state */
	bool run;                  /* under lock: writers may write */
	atomic_bool heartbeat_reset; /* set: the heartbeat is to clear its longest gap */
	struct mismatch_log errors;  /* found by writers in pages to overwrite; under lock */
	struct writer_thread threads[MAX_THREADS];
};

/* memory.c: maps and touches all memory. False after a sentence on stderr. */
bool memory_build(struct agent *agent);

/* memory.c: the size of the kernel's pages, in bytes. */
size_t kernel_page_bytes(void);

/* pagemap.c: fills the directory pages; counts the data pages whose frame has changed since. */
void pagemap_fill_directory(struct agent *agent);
uint64_t pagemap_count_moved(const struct agent *agent);

/* writer_thread.c: the main function of a thread, its argument is a struct writer_thread. */
void *writer_thread_main(void *argument);

/* threads.c: all writer threads. Waits are bounded and return false when they run out. */
bool threads_launch(struct agent *agent);
void threads_run(struct agent *agent);
bool threads_park(struct agent *agent);
bool threads_reset_statistics(struct agent *agent);
/* Carries out a request at a step boundary of the calling thread. Returns when it may write. */
void thread_handle_request(struct writer_thread *thread);
/* Puts the calling thread on one of the CPUs that it may use, in turn by number. Best effort. */
void thread_pin(unsigned number);

/* heartbeat.c: starts the thread that renews the control page's clocks every 10 ms. */
bool heartbeat_launch(struct agent *agent);
/* Renews the control page's clocks, and returns a time by CLOCK_MONOTONIC that they have reached. */
uint64_t heartbeat_renew_clocks(struct agent *agent);

/* ending.c: blocks the signals that end the agent, for all threads; starts the thread that waits for them. */
void ending_block_signals(void);
bool ending_launch(struct agent *agent);
/* Parks the writers for good and wipes all pages of the agent, the control page last. */
void ending_wipe(struct agent *agent);

/* server.c: tells whether an agent serves there already; listens; serves until `quit`. */
bool server_answers(const char *path);
int server_listen(const char *path);
int server_run(struct agent *agent, int listener);

/* client.c: `ctl`; returns the exit code. */
int client_main(int count, char **arguments);

/* options.c: false after a sentence on stderr. */
bool options_parse(struct options *options, int count, char **arguments);
/* False, without a sentence, where the text is no decimal number of 64 bits. */
bool number_parse(const char *text, uint64_t *number);

#define DEFAULT_SOCKET "/run/snapproof-agent.sock"
#define MAX_LINE 256

#endif
