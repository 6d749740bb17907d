/* The x86 processor: its time stamp counter, and how its other vCPUs are started. */
#include "bare/processor.h"
#include "core/statistics.h"
#include "layout.h"

/* Intel SDM volume 3, 12.4 and 12.6.1: the local APIC's registers and its interrupt command register. */
#define LOCAL_APIC UINT32_C(0xfee00000)
#define COMMAND_LOW 0x300
#define COMMAND_PENDING (1u << 12)
#define ALL_OTHERS (3u << 18)
#define ASSERT (1u << 14)
#define INIT (5u << 8)
#define STARTUP (6u << 8)

/*
 * IA-PC HPET specification 1.0a, 2.3: registers of the high precision event timer. It is the clock because a
 * KVM that runs guests in user mode (module kvm_pvm) does not virtualise the time stamp counter, which then goes
 * on while the guest stands still. Not all machine types have it.
 */
#define HPET UINT32_C(0xfed00000)
#define HPET_PERIOD_FS 0x004
#define HPET_CONFIGURATION 0x010
#define HPET_ENABLE 1u
#define HPET_COUNTER_LOW 0x0f0
#define HPET_COUNTER_HIGH 0x0f4
#define MOST_PERIOD_FS 0x05f5e100
#define FS_PER_NS 1000000

static struct tick_scale hpet_scale;

extern const char trampoline_begin[], trampoline_end[];
extern volatile uint32_t cpus_started, cpus_wanted;

uint64_t processor_ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static volatile uint32_t *hpet(unsigned offset)
{
	return (volatile uint32_t *)(uintptr_t)(HPET + offset);
}

bool processor_clock_start(void)
{
	uint64_t period = *hpet(HPET_PERIOD_FS);

	/* Where nothing is, all bits are read as ones. */
	if (period == 0 || period > MOST_PERIOD_FS)
		return false;
	hpet_scale = tick_scale_of((period << 32) / FS_PER_NS);
	*hpet(HPET_CONFIGURATION) |= HPET_ENABLE;
	return true;
}

uint64_t processor_clock_ns(void)
{
	uint32_t high, low;

	/* In halves, since not all versions of QEMU let it be read in one piece. */
	do {
		high = *hpet(HPET_COUNTER_HIGH);
		low = *hpet(HPET_COUNTER_LOW);
	} while (high != *hpet(HPET_COUNTER_HIGH));
	return ticks_to_ns(&hpet_scale, (uint64_t)high << 32 | low);
}

void processor_relax(void)
{
	__asm__ volatile("pause" ::: "memory");
}

/* Stores of one processor are seen in their order (Intel SDM volume 3, 9.2.2). */
void processor_barrier(void)
{
	__asm__ volatile("" ::: "memory");
}

void processor_fence(void)
{
	__asm__ volatile("mfence" ::: "memory");
}

static void send(uint32_t command)
{
	volatile uint32_t *low = (volatile uint32_t *)(uintptr_t)(LOCAL_APIC + COMMAND_LOW);

	*low = command;
	while (*low & COMMAND_PENDING)
		processor_relax();
}

static void copy_trampoline(void)
{
	volatile char *target = (volatile char *)TRAMPOLINE;

	for (const char *from = trampoline_begin; from < trampoline_end; from++)
		*target++ = *from;
}

void processor_start_others(unsigned count)
{
	if (cpus_started >= count)
		return;
	cpus_wanted = count;
	copy_trampoline();
	send(ALL_OTHERS | ASSERT | INIT);
	/* A vCPU that has not got as far as INIT misses the first ones. */
	while (cpus_started < count) {
		send(ALL_OTHERS | ASSERT | STARTUP | TRAMPOLINE >> 12);
		for (unsigned i = 0; i < 100000 && cpus_started < count; i++)
			processor_relax();
	}
}

/* What entry.S maps; the hole in front of its end is known to the host. */
uint64_t processor_ram_limit(void)
{
	return UINT64_C(4) << 30;
}
