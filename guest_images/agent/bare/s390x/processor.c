/* The s390x processor: its time-of-day clock, and how its other vCPUs are started. */
#include "bare/processor.h"
#include "core/statistics.h"

/* z/Architecture Principles of Operation (SA22-7832), chapter 4: bit 51 of 64 of the clock is a microsecond. */
#define TICKS_PER_US (1 << (63 - 51))
#define NS_PER_US UINT64_C(1000)
/* Chapter 4, SIGNAL PROCESSOR: the order, and the condition code of a processor that cannot take it now. */
#define SIGP_RESTART 6
#define BUSY 2

static struct tick_scale clock_scale;
static uint64_t clock_start;

/* entry.S reads the one, and sets the other once the vCPU has its stack. */
extern volatile uint32_t cpu_to_start, cpus_running;

uint64_t processor_ticks(void)
{
	uint64_t ticks;

	__asm__ volatile("stckf %0" : "=Q"(ticks)::"cc", "memory");
	return ticks;
}

bool processor_clock_start(void)
{
	clock_scale = tick_scale_of((NS_PER_US << 32) / TICKS_PER_US);
	clock_start = processor_ticks();
	return true;
}

uint64_t processor_clock_ns(void)
{
	return ticks_to_ns(&clock_scale, processor_ticks() - clock_start);
}

/* Diagnose 0x44: the end of a time slice. */
void processor_relax(void)
{
	__asm__ volatile("diag 0, 0, 0x44" ::: "memory");
}

/* Stores of one processor are seen in their order (chapter 5, storage-operand store references). */
void processor_barrier(void)
{
	__asm__ volatile("" ::: "memory");
}

/* Chapter 7, BRANCH ON CONDITION: with these operands it serialises. */
void processor_fence(void)
{
	__asm__ volatile("bcr 15, 0" ::: "memory");
}

static void restart(unsigned number)
{
	register uint64_t status __asm__("1") = 0;
	register uint64_t address __asm__("3") = number;
	uint32_t condition;

	do {
		__asm__ volatile("sigp %0, %2, %3\n\tipm %1"
				 : "+d"(status), "=d"(condition)
				 : "d"(address), "K"(SIGP_RESTART)
				 : "cc", "memory");
	} while (condition >> 28 == BUSY);
}

void processor_start_others(unsigned count)
{
	for (unsigned number = cpus_running; number < count; number++) {
		cpu_to_start = number;
		restart(number);
		while (cpus_running == number)
			processor_relax();
	}
}

/* There is no map, and no hole. */
uint64_t processor_ram_limit(void)
{
	return UINT64_C(1) << 40;
}
