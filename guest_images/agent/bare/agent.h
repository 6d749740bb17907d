/* The bare agent's own data, and the functions that its files offer each other. */
#ifndef AGENT_BARE_AGENT_H
#define AGENT_BARE_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/format.h"
#include "core/statistics.h"
#include "core/writer.h"
#include "limits.h"

/* What a vCPU does at its next step boundary, once for each number of the job. */
enum job {
	JOB_CHECK, /* check all pages of its writer */
	JOB_CLEAR, /* start its statistics again from zero */
};

/* A vCPU, and the writer that it runs. Only the vCPU itself writes here once it runs. */
struct cpu {
	unsigned number;
	struct writer writer;
	struct statistics statistics;
	volatile struct word *report; /* its report page */
	uint64_t jobs_done;        /* number of the last job that it has done */
	uint64_t renew_at;         /* ticks: when it renews the clocks next */
	uint64_t due;              /* ticks: with a rate, when the next step may begin; 0 = now */
};

struct agent {
	volatile struct word *control;
	uint64_t nonce;
	enum pattern pattern;
	uint64_t seed;
	uint64_t threads;
	uint64_t data_pages;
	uint64_t data_at;          /* address of the data pages; 0 = behind the others */
	uint64_t step_ticks;       /* with a rate: ticks from one step to the next; 0 = no rate */
	uint64_t renew_ticks;      /* ticks from one renewal of the clocks to the next */
	uint64_t boot_ticks;
	bool has_clock;            /* the machine has one beside the processor's counter */
	uint64_t realtime_ns;      /* CLOCK_REALTIME at boot */
	struct tick_scale scale;
	bool run;                  /* the writers may write */
	enum job job;
	uint64_t job_number;       /* of the last job that was given out */
	struct cpu cpus[MAX_CPUS];
};

extern struct agent agent;

/* memory.c: lays out and fills all pages of the plan in the mailbox. */
enum bare_result memory_build(const volatile struct word *arguments);

/* mailbox.c: carries out a command that the host has asked for, if there is one. CPU 0 only. */
void mailbox_open(void);
void mailbox_poll(struct cpu *cpu);

/* cpu_loop.c: writes and does jobs for ever. */
_Noreturn void cpu_loop(struct cpu *cpu);
/* Does the job that was given out, if this vCPU has not done it. */
void cpu_do_job(struct cpu *cpu);

/* Values that other vCPUs, or the host, change meanwhile. */
#define SHARED(value) (*(volatile __typeof__(value) *)&(value))

#endif
