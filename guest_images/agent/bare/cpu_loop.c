/* The loop of each vCPU: a step, a job or nothing, and the clocks in between. */
#include "agent.h"
#include "core/check.h"
#include "processor.h"

/* A throttled writer that fell behind by more than this many steps does not catch up. */
#define MAX_LAG_STEPS 8

static uint64_t monotonic_ns(void)
{
	if (agent.has_clock)
		return processor_clock_ns();
	return ticks_to_ns(&agent.scale, processor_ticks() - agent.boot_ticks);
}

/* Never sets the clock back, though a vCPU may be held up since it has read the time. */
static uint64_t renew_control_clocks(void)
{
	volatile struct word *control = agent.control;
	uint64_t now = monotonic_ns();

	if (word_raise(&control[CONTROL_MONOTONIC_NS], now))
		word_put(&control[CONTROL_REALTIME_NS], agent.realtime_ns + now);
	return now;
}

/* The first vCPU is the heartbeat: there is no interrupt that would be one. */
static void beat(uint64_t now_ns)
{
	static uint64_t last_ns;
	volatile struct word *control = agent.control;

	if (last_ns != 0 && now_ns - last_ns > word_get(&control[CONTROL_LONGEST_GAP_NS]))
		word_put(&control[CONTROL_LONGEST_GAP_NS], now_ns - last_ns);
	last_ns = now_ns;
	word_add(&control[CONTROL_HEARTBEATS], 1);
}

/* Its own time last: at T0 no thread page may have a later time than the control page. */
static void renew_clocks(struct cpu *cpu)
{
	uint64_t now = renew_control_clocks();

	processor_barrier();
	word_put(&cpu->writer.page[THREAD_MONOTONIC_NS], now);
	cpu->renew_at = processor_ticks() + agent.renew_ticks;
	if (cpu->number == 0)
		beat(now);
}

static void step(struct cpu *cpu)
{
	struct mismatch mismatch;
	struct step step;
	uint64_t begin, end, long_gap_ns;

	/* A wrong page is counted in the thread page; the check of all pages says what was wrong. */
	writer_prepare(&cpu->writer, &step, &mismatch);
	begin = processor_ticks();
	page_store(step.page, &step.image);
	end = processor_ticks();
	processor_barrier();
	writer_complete(&cpu->writer);
	long_gap_ns = statistics_add_write(&cpu->statistics, &agent.scale, begin, end);
	if (long_gap_ns)
		statistics_add_long_gap(&cpu->statistics, monotonic_ns(), long_gap_ns);
	if (end >= cpu->renew_at)
		renew_clocks(cpu);
}

/* Tells whether a writer with a rate may make its next step. */
static bool step_is_due(struct cpu *cpu)
{
	uint64_t now = processor_ticks();

	if (agent.step_ticks == 0)
		return true;
	if (now < cpu->due)
		return false;
	if (now - cpu->due > MAX_LAG_STEPS * agent.step_ticks)
		cpu->due = now;
	cpu->due += agent.step_ticks;
	return true;
}

static void put_mismatch(volatile struct word *word, const struct mismatch *mismatch)
{
	word_put(&word[MISMATCH_HOLE], mismatch->hole);
	word_put(&word[MISMATCH_INDEX], mismatch->index);
	word_put(&word[MISMATCH_FRAME], mismatch->frame);
	word_put(&word[MISMATCH_EXPECTED_GENERATION], mismatch->expected_generation);
	word_put(&word[MISMATCH_FOUND_GENERATION], mismatch->found_generation);
	word_put(&word[MISMATCH_EXPECTED_STEP], mismatch->expected_step);
	word_put(&word[MISMATCH_FOUND_STEP], mismatch->found_step);
	word_put(&word[MISMATCH_WORD], mismatch->word);
}

static void check(struct cpu *cpu)
{
	volatile struct word *report = cpu->report;
	struct check_result result = {.holes = 0};
	unsigned kept;

	check_writer(&cpu->writer, &result);
	kept = result.log.kept < REPORT_DETAILS ? result.log.kept : REPORT_DETAILS;
	for (unsigned i = 0; i < kept; i++)
		put_mismatch(report + REPORT_MISMATCHES + i * MISMATCH_WORDS,
			     &result.log.details[i]);
	word_put(&report[PAGE_NONCE], agent.nonce);
	word_put(&report[REPORT_THREAD], cpu->number);
	word_put(&report[REPORT_PAGES], cpu->writer.schedule.pages);
	word_put(&report[REPORT_HOLES], result.holes);
	word_put(&report[REPORT_COUNT], result.log.count);
	word_put(&report[REPORT_KEPT], kept);
	word_put(&report[REPORT_DATA_CHECKSUM], result.checksum);
	word_put(&report[PAGE_MAGIC], MAGIC_REPORT);
}

void cpu_do_job(struct cpu *cpu)
{
	uint64_t number = SHARED(agent.job_number);

	if (cpu->jobs_done == number)
		return;
	if (agent.job == JOB_CHECK)
		check(cpu);
	else
		statistics_clear(&cpu->statistics);
	processor_barrier();
	SHARED(cpu->jobs_done) = number;
}

static void wait_parked(struct cpu *cpu)
{
	if (cpu->writer.page && word_get(&cpu->writer.page[THREAD_STATE]) == WRITER_WRITING)
		word_put(&cpu->writer.page[THREAD_STATE], WRITER_PARKED);
	/* The time spent parked is neither a gap nor work to catch up with. */
	cpu->statistics.last_end = 0;
	cpu->due = 0;
	if (cpu->number == 0 && agent.scale.ns_per_tick && processor_ticks() >= cpu->renew_at) {
		cpu->renew_at = processor_ticks() + agent.renew_ticks;
		beat(renew_control_clocks());
	}
	processor_relax();
}

_Noreturn void cpu_loop(struct cpu *cpu)
{
	for (;;) {
		if (cpu->number == 0)
			mailbox_poll(cpu);
		cpu_do_job(cpu);
		if (!SHARED(agent.run)) {
			wait_parked(cpu);
			continue;
		}
		if (word_get(&cpu->writer.page[THREAD_STATE]) != WRITER_WRITING) {
			word_put(&cpu->writer.page[THREAD_STATE], WRITER_WRITING);
			/* Whoever parks the writers either sees that this one writes, or is seen here. */
			processor_fence();
			if (!SHARED(agent.run))
				continue;
			renew_clocks(cpu);
		}
		if (step_is_due(cpu))
			step(cpu);
		else
			processor_relax();
	}
}
