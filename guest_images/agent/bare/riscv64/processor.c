/* The riscv64 processor: its timer, and how its other vCPUs are let go. */
#include "bare/processor.h"

extern volatile uint32_t cpus_wanted;

/* The timer, since the cycle counter counts the host's. QEMU's machine virt gives it 10 MHz. */
uint64_t processor_ticks(void)
{
	uint64_t ticks;

	__asm__ volatile("rdtime %0" : "=r"(ticks)::"memory");
	return ticks;
}

/* The counter is the machine's clock, and the host measures how long a tick is. */
bool processor_clock_start(void)
{
	return false;
}

uint64_t processor_clock_ns(void)
{
	return 0;
}

/* A hint (Zihintpause), which older processors take for a fence. */
void processor_relax(void)
{
	__asm__ volatile(".word 0x0100000f" ::: "memory");
}

void processor_barrier(void)
{
	__asm__ volatile("fence rw, rw" ::: "memory");
}

void processor_fence(void)
{
	__asm__ volatile("fence rw, rw" ::: "memory");
}

void processor_start_others(unsigned count)
{
	if (cpus_wanted < count)
		cpus_wanted = count;
	processor_barrier();
}

/* There is no map, and no hole. */
uint64_t processor_ram_limit(void)
{
	return UINT64_C(1) << 40;
}
