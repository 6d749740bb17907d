/* The bare agent's main functions: the first vCPU takes commands, and all of them write. */
#include "agent.h"
#include "processor.h"

struct agent agent;

/* The first page of the program, see the linker scripts: the host finds it without a search. */
__attribute__((section(".control"), aligned(PAGE_BYTES))) volatile struct word
	control_page[PAGE_WORDS] = {{0}};

_Noreturn void first_cpu_main(void)
{
	agent.control = control_page;
	agent.boot_ticks = processor_ticks();
	agent.has_clock = processor_clock_start();
	mailbox_open();
	cpu_loop(&agent.cpus[0]);
}

_Noreturn void other_cpu_main(unsigned number)
{
	cpu_loop(&agent.cpus[number]);
}
