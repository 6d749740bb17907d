/* Processors of ppc64 below PAPR's hypervisor: the timebase, and how the other vCPUs are started. */
#include "bare/processor.h"

/* QEMU include/hw/ppc/spapr.h: the hypercall for RTAS, and the token of "start-cpu". */
#define H_RTAS 0xf000
#define RTAS_START_CPU 0x2006
/* PAPR+ 2.7, 7.2.1 and 7.3.8.1: token, number of arguments, number of results, arguments, results. */
enum start_cpu_word {
	TOKEN = 0,
	ARGUMENT_COUNT = 1,
	RESULT_COUNT = 2,
	CPU = 3,
	START = 4,
	REGISTER_3 = 5,
	STATUS = 6,
	WORDS = 7,
};

static volatile uint32_t cpus_running = 1;

/* The words of a call to RTAS are big-endian. */
static uint32_t rtas_word(uint32_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return __builtin_bswap32(value);
#else
	return value;
#endif
}

extern const char other_cpu_entry[];

uint64_t processor_ticks(void)
{
	uint64_t ticks;

	__asm__ volatile("mfspr %0, 268" : "=r"(ticks)::"memory");
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

/* Power ISA 3.1, book II, 3.2: the hint "yield". */
void processor_relax(void)
{
	__asm__ volatile("or 27, 27, 27" ::: "memory");
}

void processor_barrier(void)
{
	__asm__ volatile("lwsync" ::: "memory");
}

void processor_fence(void)
{
	__asm__ volatile("sync" ::: "memory");
}

static void start_cpu(unsigned number)
{
	volatile uint32_t words[WORDS] = {
		[TOKEN] = rtas_word(RTAS_START_CPU),
		[ARGUMENT_COUNT] = rtas_word(3),
		[RESULT_COUNT] = rtas_word(1),
		[CPU] = rtas_word(number),
		[START] = rtas_word((uint32_t)(uintptr_t)other_cpu_entry),
		[REGISTER_3] = rtas_word(number),
	};
	register uint64_t call __asm__("r3") = H_RTAS;
	register uint64_t block __asm__("r4") = (uintptr_t)words;

	__asm__ volatile("sc 1"
			 : "+r"(call), "+r"(block)::"r0", "r5", "r6", "r7", "r8", "r9", "r10",
			 "r11", "r12", "lr", "ctr", "xer", "cr0", "cr1", "cr5", "cr6", "cr7",
			 "memory");
}

void processor_start_others(unsigned count)
{
	for (unsigned number = cpus_running; number < count; number++)
		start_cpu(number);
	if (cpus_running < count)
		cpus_running = count;
}

/* There is no map, and no hole. */
uint64_t processor_ram_limit(void)
{
	return UINT64_C(1) << 40;
}
