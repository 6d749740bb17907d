/* SIGSEGV handler of the mprotect write tracker: saves the page that a thread writes, then makes it writable.
 *
 * This is the method of the 2018 series for QEMU. No libc is linked, so one build runs on any host.
 */
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

#include "raw_syscall.h"

#define RESTORER 0x04000000
#define SIGNAL_SET_BYTES 8

enum { PROTECTED, SAVING, SAVED };
enum { PLANT_NONE, PLANT_RELEASE_FIRST, PLANT_SKIP_HUNDREDTH, PLANT_DROP_FROM_HUNDREDTH };

/* Shared with mprotect.py, which has the same layout and fills it. */
struct tracker {
    uint64_t start;
    uint64_t pages;
    uint64_t page_bytes;
    uint8_t *copy;
    uint8_t *state;
    uint64_t faults;
    int64_t error;
    uint64_t plant;
};

/* The kernel's struct sigaction (include/uapi/asm-generic/signal.h, arch/x86/include/uapi/asm/signal.h). */
struct kernel_action {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
#ifdef __x86_64__
    void (*restorer)(void);
#endif
    uint64_t mask;
};

static struct tracker *current;
static struct kernel_action before;

#ifdef __x86_64__
/* x86 has no trampoline in the vDSO: the program must supply the code that calls rt_sigreturn. */
__asm__(".text\n.type return_from_signal,@function\nreturn_from_signal:\n"
        "mov $15, %eax\nsyscall\n");
extern void return_from_signal(void) __attribute__((visibility("hidden")));
#endif

static long protect(uint64_t start, uint64_t bytes, long protection)
{
    return raw_syscall(SYS_mprotect, (long)start, (long)bytes, protection, 0, 0, 0);
}

/* Sleeps 1 ms; used by planted faults only. */
static void nap(void)
{
    const struct timespec span = {.tv_nsec = 1000000};

    raw_syscall(SYS_nanosleep, (long)&span, 0, 0, 0, 0, 0);
}

static void copy_page(struct tracker *t, uint64_t page)
{
    const volatile uint64_t *from = (const volatile uint64_t *)(t->start + page * t->page_bytes);
    volatile uint64_t *to = (volatile uint64_t *)(t->copy + page * t->page_bytes);

    for (uint64_t word = 0; word < t->page_bytes / sizeof(*to); word++)
        to[word] = from[word];
}

static void release(struct tracker *t, uint64_t page)
{
    long result = protect(t->start + page * t->page_bytes, t->page_bytes, PROT_READ | PROT_WRITE);

    if (result) {
        /* The process has vm.max_map_count mappings. The snapshot is lost, but the writer must go on. */
        t->error = result;
        protect(t->start, t->pages * t->page_bytes, PROT_READ | PROT_WRITE);
    }
}

static uint64_t last_word(struct tracker *t, uint64_t page)
{
    const volatile uint64_t *words = (const volatile uint64_t *)(t->start + page * t->page_bytes);

    return words[t->page_bytes / sizeof(*words) - 1];
}

/* Planted fault: releases one page before it copies it. To make sure that a writer writes the page in between,
 * the copy waits until the page has changed, or for as many naps as a writer can need to come to it. */
static void release_then_copy(struct tracker *t, uint64_t page)
{
    uint64_t word = last_word(t, page);

    release(t, page);
    for (uint64_t naps = 0; naps < 2 * t->pages && last_word(t, page) == word; naps++)
        nap();
    copy_page(t, page);
    __atomic_store_n(&t->plant, PLANT_NONE, __ATOMIC_SEQ_CST);
}

/* Saves a page that is not saved yet. If another thread is saving it, waits until it is saved. */
static void save(struct tracker *t, uint64_t page, int by_writer)
{
    uint8_t expected = PROTECTED;

    if (__atomic_compare_exchange_n(&t->state[page], &expected, SAVING, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        if (t->plant == PLANT_RELEASE_FIRST && !by_writer) {
            release_then_copy(t, page);
        } else {
            copy_page(t, page);
            release(t, page);
        }
        __atomic_store_n(&t->state[page], SAVED, __ATOMIC_SEQ_CST);
    } else {
        /* Under PLANT_RELEASE_FIRST the other thread waits for this one, so this one must not wait for it. */
        while (__atomic_load_n(&t->state[page], __ATOMIC_SEQ_CST) == SAVING &&
               __atomic_load_n(&t->plant, __ATOMIC_SEQ_CST) != PLANT_RELEASE_FIRST)
            raw_syscall(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    }
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    struct tracker *t = current;
    uint64_t offset = (uint64_t)info->si_addr - (t ? t->start : 0);
    uint64_t count;

    (void)context;
    if (!t || offset >= t->pages * t->page_bytes) {
        /* Not a fault of the tracker: restore the previous handler, and let the access fault again. */
        raw_syscall(SYS_rt_sigaction, number, (long)&before, 0, SIGNAL_SET_BYTES, 0, 0);
        return;
    }
    count = __atomic_add_fetch(&t->faults, 1, __ATOMIC_SEQ_CST);
    if (t->plant == PLANT_SKIP_HUNDREDTH && count % 100 == 0) {
        __atomic_store_n(&t->state[offset / t->page_bytes], SAVED, __ATOMIC_SEQ_CST);
        release(t, offset / t->page_bytes);
    } else if (t->plant == PLANT_DROP_FROM_HUNDREDTH && count >= 100) {
        nap();
    } else {
        /* The planted fault is in the sweep, so give the sweep time to come to a page before the writer. */
        if (__atomic_load_n(&t->plant, __ATOMIC_SEQ_CST) == PLANT_RELEASE_FIRST)
            nap();
        save(t, offset / t->page_bytes, 1);
    }
}

/* Installs the handler for faults in the memory of `t`; returns 0 or a negative errno. */
long tracker_start(struct tracker *t)
{
    struct kernel_action action = {
        .handler = on_fault,
        .flags = SA_SIGINFO | SA_NODEFER,
    };

#ifdef __x86_64__
    action.flags |= RESTORER;
    action.restorer = return_from_signal;
#endif
    current = t;
    return raw_syscall(SYS_rt_sigaction, SIGSEGV, (long)&action, (long)&before, SIGNAL_SET_BYTES, 0, 0);
}

/* Saves a page for the sweep, if no fault has saved it. */
void tracker_save(struct tracker *t, uint64_t page)
{
    save(t, page, 0);
}

/* Restores the previous handler; returns 0 or a negative errno. */
long tracker_stop(void)
{
    long result = raw_syscall(SYS_rt_sigaction, SIGSEGV, (long)&before, 0, SIGNAL_SET_BYTES, 0, 0);

    current = NULL;
    return result;
}
