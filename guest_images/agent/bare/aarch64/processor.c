/* The aarch64 processor: its virtual counter, and how its other vCPUs are started. */
#include "bare/processor.h"
#include "bare/agent.h"

/* Arm DEN0022 (PSCI), 5.6: CPU_ON with 64-bit arguments. */
#define PSCI_CPU_ON UINT64_C(0xc4000003)
/* QEMU hw/arm/virt.c virt_cpu_mp_affinity(): clusters of 16 vCPUs, and of 8, all that there can be, with GICv2. */
#define CLUSTER 16
#define NS_PER_S UINT64_C(1000000000)

static volatile uint32_t cpus_running = 1;
static struct tick_scale counter_scale;
static uint64_t counter_start;

extern const char other_cpu_entry[];

uint64_t processor_ticks(void)
{
	uint64_t ticks;

	__asm__ volatile("isb; mrs %0, cntvct_el0" : "=r"(ticks)::"memory");
	return ticks;
}

bool processor_clock_start(void)
{
	uint64_t frequency;

	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
	if (frequency == 0)
		return false;
	counter_scale = tick_scale_of((NS_PER_S << 32) / frequency);
	counter_start = processor_ticks();
	return true;
}

uint64_t processor_clock_ns(void)
{
	return ticks_to_ns(&counter_scale, processor_ticks() - counter_start);
}

void processor_relax(void)
{
	__asm__ volatile("yield" ::: "memory");
}

void processor_barrier(void)
{
	__asm__ volatile("dmb ish" ::: "memory");
}

void processor_fence(void)
{
	__asm__ volatile("dmb ish" ::: "memory");
}

static void turn_on(unsigned number)
{
	register uint64_t function __asm__("x0") = PSCI_CPU_ON;
	register uint64_t cpu __asm__("x1") = number % CLUSTER | (uint64_t)(number / CLUSTER) << 8;
	register uint64_t entry __asm__("x2") = (uintptr_t)other_cpu_entry;
	register uint64_t context __asm__("x3") = number;

	__asm__ volatile("hvc #0"
			 : "+r"(function), "+r"(cpu), "+r"(entry), "+r"(context)::"x4", "x5",
			 "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",
			 "x17", "memory");
}

void processor_start_others(unsigned count)
{
	for (unsigned number = cpus_running; number < count; number++)
		turn_on(number);
	if (cpus_running < count)
		cpus_running = count;
}

/* What entry.S maps, without the devices. */
uint64_t processor_ram_limit(void)
{
	return UINT64_C(511) << 30;
}
