/* The mailbox: words of the control page in which the host asks for commands and finds the answers. */
#include "agent.h"
#include "core/meta_pages.h"
#include "processor.h"

/* The bit that `corrupt` flips, as in the Linux agent: one in the middle of the body. */
#define CORRUPT_WORD 300
#define CORRUPT_BIT 17

void mailbox_open(void)
{
	volatile struct word *control = agent.control;

	word_put(&control[CONTROL_BOOT_TICKS], agent.boot_ticks);
	processor_barrier();
	word_put(&control[CONTROL_MAILBOX], MAGIC_MAILBOX);
}

/* Parks all writers. The calling vCPU's own is between two steps. */
static enum bare_result park(struct cpu *cpu)
{
	if (word_get(&agent.control[CONTROL_STATE]) == AGENT_IDLE)
		return BARE_WRONG_STATE;
	SHARED(agent.run) = false;
	processor_fence();
	word_put(&cpu->writer.page[THREAD_STATE], WRITER_PARKED);
	for (unsigned i = 1; i < agent.threads; i++)
		while (word_get(&agent.cpus[i].writer.page[THREAD_STATE]) == WRITER_WRITING)
			processor_relax();
	word_put(&agent.control[CONTROL_STATE], AGENT_PAUSED);
	return BARE_DONE;
}

static enum bare_result run(void)
{
	if (agent.threads == 0)
		return BARE_WRONG_STATE;
	word_put(&agent.control[CONTROL_STATE], AGENT_RUNNING);
	SHARED(agent.run) = true;
	return BARE_DONE;
}

/* Has all vCPUs do a job, and waits for them. */
static enum bare_result give_job(struct cpu *cpu, enum job job)
{
	if (agent.threads == 0 || (job == JOB_CHECK && agent.run))
		return BARE_WRONG_STATE;
	agent.job = job;
	processor_barrier();
	SHARED(agent.job_number) = agent.job_number + 1;
	cpu_do_job(cpu);
	for (unsigned i = 1; i < agent.threads; i++)
		while (SHARED(agent.cpus[i].jobs_done) != agent.job_number)
			processor_relax();
	return BARE_DONE;
}

static enum bare_result clear_statistics(struct cpu *cpu)
{
	word_put(&agent.control[CONTROL_LONGEST_GAP_NS], 0);
	return give_job(cpu, JOB_CLEAR);
}

static enum bare_result corrupt(const volatile struct word *arguments)
{
	uint64_t thread = word_get(&arguments[0]), index = word_get(&arguments[1]);
	bool hole = word_get(&arguments[2]);
	const struct writer *writer;
	struct word *page;

	if (agent.threads == 0 || agent.run)
		return BARE_WRONG_STATE;
	if (thread >= agent.threads || index >= agent.cpus[thread].writer.schedule.pages ||
	    (hole && pattern_stride(agent.pattern) == 1))
		return BARE_WRONG_ARGUMENT;
	writer = &agent.cpus[thread].writer;
	page = hole ? writer_hole(writer, index) : writer_data(writer, index);
	word_put(&page[CORRUPT_WORD],
		 word_get(&page[CORRUPT_WORD]) ^ UINT64_C(1) << CORRUPT_BIT);
	return BARE_DONE;
}

static enum bare_result serve(const volatile struct word *arguments)
{
	enum bare_result result;

	if (agent.threads != 0)
		return BARE_WRONG_STATE;
	result = memory_build(arguments);
	if (result == BARE_DONE)
		processor_start_others((unsigned)agent.threads);
	return result;
}

/* Ends the agent and wipes its pages; the vCPUs wait for another to be served. */
static enum bare_result quit(struct cpu *cpu)
{
	if (agent.threads == 0)
		return BARE_WRONG_STATE;
	if (agent.run)
		park(cpu);
	word_put(&agent.control[CONTROL_STATE], AGENT_ENDING);
	for (unsigned i = 0; i < agent.threads; i++) {
		page_wipe(agent.cpus[i].report);
		writer_wipe(&agent.cpus[i].writer);
	}
	page_wipe(agent.control);
	word_put(&agent.control[CONTROL_STATE], AGENT_IDLE);
	agent.threads = 0;
	return BARE_DONE;
}

static enum bare_result put_beside(const volatile struct word *arguments)
{
	uint64_t place = word_get(&arguments[BESIDE_PLACE]);

	return processor_put_beside_ram(place, word_get(&arguments[BESIDE_VALUE])) ? BARE_DONE
										   : BARE_NO_STATE;
}

static enum bare_result get_beside(volatile struct word *arguments)
{
	uint64_t value;

	if (!processor_get_beside_ram(word_get(&arguments[BESIDE_PLACE]), &value))
		return BARE_NO_STATE;
	word_put(&arguments[BESIDE_VALUE], value);
	return BARE_DONE;
}

static enum bare_result carry_out(struct cpu *cpu)
{
	volatile struct word *control = agent.control;

	switch (word_get(&control[CONTROL_COMMAND])) {
	case BARE_SERVE:
		return serve(control + CONTROL_ARGUMENTS);
	case BARE_RUN:
		return run();
	case BARE_PAUSE:
		return park(cpu);
	case BARE_VERIFY:
		return give_job(cpu, JOB_CHECK);
	case BARE_RESET:
		return clear_statistics(cpu);
	case BARE_CORRUPT:
		return corrupt(control + CONTROL_ARGUMENTS);
	case BARE_QUIT:
		return quit(cpu);
	case BARE_TIME:
		return BARE_DONE;
	case BARE_PUT_BESIDE:
		return put_beside(control + CONTROL_ARGUMENTS);
	case BARE_GET_BESIDE:
		return get_beside(control + CONTROL_ARGUMENTS);
	default:
		return BARE_NO_COMMAND;
	}
}

void mailbox_poll(struct cpu *cpu)
{
	volatile struct word *control = agent.control;
	uint64_t asked = word_get(&control[CONTROL_REQUEST]);

	if (asked == word_get(&control[CONTROL_ANSWER]))
		return;
	processor_barrier();
	word_put(&control[CONTROL_RESULT], carry_out(cpu));
	word_put(&control[CONTROL_TICKS], processor_ticks());
	processor_barrier();
	word_put(&control[CONTROL_ANSWER], asked);
}
