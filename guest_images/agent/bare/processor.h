/* What the bare agent asks of a processor; each architecture's folder has an implementation. */
#ifndef AGENT_BARE_PROCESSOR_H
#define AGENT_BARE_PROCESSOR_H

#include <stdbool.h>
#include <stdint.h>

/* Reads a counter that counts evenly, on which the times of single writes are measured. */
uint64_t processor_ticks(void);

/*
 * Starts a clock of the machine that stands still while the guest does, and goes on in a restored guest where it
 * was at T0. Returns false where there is none: then the counter has to do.
 */
bool processor_clock_start(void);
uint64_t processor_clock_ns(void);

/* Tells the processor, and its emulator, that this vCPU waits for another or for the host. */
void processor_relax(void);

/* Makes all stores before it visible before any store after it. */
void processor_barrier(void);

/* Makes all stores before it visible before any load after it reads, which costs more than a barrier. */
void processor_fence(void);

/*
 * Starts the vCPUs 1 to `count` - 1, each of which calls other_cpu_main with its number on a stack of its
 * own. Returns once all of them run; the host's time limit ends a wait for one that there is not.
 */
void processor_start_others(unsigned count);

/* Returns how many bytes of RAM can be used at most at their own addresses, from its first address on. */
uint64_t processor_ram_limit(void);

/*
 * Maps RAM that lies on both sides of a hole in one piece: `low` bytes from address 0 on, then `high` bytes from
 * `high_start` on. Returns the address of the first byte of that piece; 0 where the processor cannot, and then only
 * the RAM below the hole is used. ram_in_one_piece.c is for processors whose machines have no hole.
 */
uintptr_t processor_join_ram(uint64_t low, uint64_t high_start, uint64_t high);
/* Returns the guest-physical address behind an address that the program uses. */
uint64_t processor_physical(const volatile void *address);

/*
 * Stores and loads state that the machine keeps beside RAM: the storage key of the page at an address (s390x), the
 * allocation tag of the 16 bytes at an address (aarch64), an entry of the hash page table by its number (ppc64). They
 * return false where there is no such state, or the machine refuses. no_state_beside_ram.c is for all others.
 */
bool processor_put_beside_ram(uint64_t place, uint64_t value);
bool processor_get_beside_ram(uint64_t place, uint64_t *value);

/* The lowest and first free address beside the program; symbols of the linker script. */
extern char image_end[];

/* main.c: where the architecture's entry code goes to. */
_Noreturn void first_cpu_main(void);
_Noreturn void other_cpu_main(unsigned number);

#endif
