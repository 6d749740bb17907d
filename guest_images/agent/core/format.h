/*
 * The memory format, version 2: the kinds of pages, and the meaning of each of their words.
 *
 * docs/agent-format.md describes it. Python has the same names and numbers: the patterns in
 * guest_images/agent/pages.py, all others in guest_images/agent/format.py. A unit test reads this file to
 * compare them, so each enum has a tag, and each constant its own line and an explicit number.
 */
#ifndef AGENT_FORMAT_H
#define AGENT_FORMAT_H

#include <stdint.h>

#include "word.h"

/* Sizes and limits. */
enum format_size {
	FORMAT_VERSION = 2,
	PAGE_BYTES = 4096,
	PAGE_WORDS = 512,        /* of 64 bits each */
	DIRECTORY_ENTRIES = 500, /* most data pages that one directory page lists */
	LONG_GAP_NS = 50000000,  /* a gap between two steps counts as long from here on */
	LONG_GAPS_KEPT = 16,     /* the last long gaps that a thread page has the times of */
	HISTOGRAM_BUCKETS = 32,
	FINE_BUCKET_BITS = 3,    /* each power of two of ns has 2^3 fine buckets */
	FINE_BUCKETS = 280,
	MISMATCH_WORDS = 8,      /* of one wrong page in a report */
	REPORT_DETAILS = 60,     /* wrong pages that a report describes */
};

/* Eight ASCII bytes as they lie in memory, read as one little-endian word. */
#define MAGIC(a, b, c, d, e, f, g, h)                                                              \
	((uint64_t)(a) | (uint64_t)(b) << 8 | (uint64_t)(c) << 16 | (uint64_t)(d) << 24 |          \
	 (uint64_t)(e) << 32 | (uint64_t)(f) << 40 | (uint64_t)(g) << 48 | (uint64_t)(h) << 56)
#define MAGIC_DATA MAGIC('S', 'N', 'A', 'P', 'P', 'A', 'G', 'E')
#define MAGIC_DIRECTORY MAGIC('S', 'N', 'A', 'P', 'D', 'I', 'R', 'Y')
#define MAGIC_CONTROL MAGIC('S', 'N', 'A', 'P', 'C', 'T', 'R', 'L')
#define MAGIC_THREAD MAGIC('S', 'N', 'A', 'P', 'T', 'H', 'R', 'D')
#define MAGIC_REPORT MAGIC('S', 'N', 'A', 'P', 'R', 'P', 'R', 'T')
#define MAGIC_MAILBOX MAGIC('S', 'N', 'A', 'P', 'M', 'A', 'I', 'L')

/* Words of every kind of page. */
enum page_word {
	PAGE_MAGIC = 0, /* one of MAGIC_...: the kind of the page */
	PAGE_NONCE = 1, /* random number of this agent */
};

/* Data page: a head, a linear body, and a checksum over all words before it. */
enum data_word {
	DATA_THREAD = 2,     /* number of the thread that owns the page */
	DATA_INDEX = 3,      /* number of the page in its thread, from 0 */
	DATA_GENERATION = 4, /* how many times the page has been written */
	DATA_STEP = 5,       /* number of the write that made this content, from 0 in each thread */
	DATA_BODY = 6,       /* first word of the body: word i is key + i * BODY_STRIDE */
	DATA_CHECKSUM = 511, /* mix of the sum of all words before it */
};
#define BODY_STRIDE UINT64_C(0x9E3779B97F4A7C15)

/*
 * Thread page: what one writer has done. It changes all the time and has no checksum.
 * LONGEST_GAP_NS, LONG_GAPS, MONOTONIC_NS, LONG_GAP_TIMES and FINE_HISTOGRAM are extensions of version 1;
 * COUNTER and NS_PER_TICK came with version 2, and are zero where the processor's counter is not known.
 */
enum thread_word {
	THREAD_NUMBER = 2,           /* from 0 */
	THREAD_PAGES = 3,            /* its data pages */
	THREAD_STEPS = 4,            /* page writes completed */
	THREAD_ERRORS = 5,           /* pages found wrong before they were overwritten */
	THREAD_FIRST_ERROR = 6,      /* index of the first of these pages */
	THREAD_STATE = 7,            /* enum writer_state */
	THREAD_LONGEST_WRITE_NS = 8, /* longest single page write */
	THREAD_WRITES_TIMED = 9,     /* page writes counted in the histograms */
	THREAD_LONGEST_GAP_NS = 10,  /* longest time between the ends of two page writes */
	THREAD_LONG_GAPS = 11,       /* gaps of LONG_GAP_NS and more */
	THREAD_MONOTONIC_NS = 12,    /* CLOCK_MONOTONIC when it last renewed the control page's */
	THREAD_COUNTER = 13,         /* the processor's counter then */
	THREAD_NS_PER_TICK = 14,     /* times 2^32: how long a tick of it is */
	THREAD_LONG_GAP_TIMES = 16,  /* of the last ones: end by CLOCK_MONOTONIC and length, in ns */
	THREAD_HISTOGRAM = 64,       /* bucket b: writes that took [2^b, 2^(b+1)) microseconds */
	THREAD_FINE_HISTOGRAM = 128, /* the same writes by finer buckets, see statistics.c */
};

/* Values of THREAD_STATE. */
enum writer_state {
	WRITER_NOT_STARTED = 0,
	WRITER_WRITING = 1,
	WRITER_PARKED = 2,
};

/*
 * Control page: one per agent. LONGEST_GAP_NS is an extension of version 1, and so are the words from 16 on:
 * the mailbox of an agent without an operating system (docs/bare-guests.md), zero in others. COUNTER,
 * NS_PER_TICK and AGENT_ENDING came with version 2.
 */
enum control_word {
	CONTROL_VERSION = 2,         /* FORMAT_VERSION */
	CONTROL_PATTERN = 3,         /* enum pattern */
	CONTROL_SEED = 4,            /* of the order of pattern "random" */
	CONTROL_THREADS = 5,         /* number of writers */
	CONTROL_PAGE_SIZE = 6,       /* PAGE_BYTES */
	CONTROL_DATA_PAGES = 7,      /* of all threads together */
	CONTROL_MONOTONIC_NS = 8,    /* CLOCK_MONOTONIC, renewed every 10 ms and by writers */
	CONTROL_REALTIME_NS = 9,     /* CLOCK_REALTIME, likewise */
	CONTROL_HEARTBEATS = 10,     /* one every 10 ms */
	CONTROL_STATE = 11,          /* enum agent_state */
	CONTROL_GUEST_RAM = 12,      /* bytes, as told by the host */
	CONTROL_LONGEST_GAP_NS = 13, /* longest time between two heartbeats */
	CONTROL_COUNTER = 14,        /* the processor's counter, renewed with the clocks */
	CONTROL_NS_PER_TICK = 15,    /* times 2^32: how long a tick of it is */
	CONTROL_MAILBOX = 16,        /* MAGIC_MAILBOX: the agent takes commands */
	CONTROL_REQUEST = 17,        /* raised by the host: COMMAND and ARGUMENTS are complete */
	CONTROL_ANSWER = 18,         /* the last REQUEST that has been carried out */
	CONTROL_COMMAND = 19,        /* enum bare_command */
	CONTROL_RESULT = 20,         /* enum bare_result, of the last command */
	CONTROL_TICKS = 21,          /* the processor's counter when the last command was answered */
	CONTROL_BOOT_TICKS = 22,     /* the same when the agent was booted */
	CONTROL_META = 23,           /* address of the first thread page, before its report page */
	CONTROL_ARGUMENTS = 32,      /* of COMMAND: up to 12 words, see enum serve_argument */
};

/* Values of CONTROL_COMMAND. */
enum bare_command {
	BARE_SERVE = 1,   /* lay out and fill the pages; arguments: enum serve_argument */
	BARE_RUN = 2,     /* let the writers write */
	BARE_PAUSE = 3,   /* park them, each between two page writes */
	BARE_VERIFY = 4,  /* check all pages, and fill the report pages */
	BARE_RESET = 5,   /* start the statistics again from zero */
	BARE_CORRUPT = 6, /* flip one bit; arguments: thread, index, and 1 for the hole behind the page */
	BARE_QUIT = 7,    /* end the agent */
	BARE_TIME = 8,    /* nothing but answer, so that the host can measure the counter */
	BARE_PUT_BESIDE = 9, /* store state beside RAM; arguments: enum beside_argument */
	BARE_GET_BESIDE = 10, /* load it; its value takes the place of that argument */
};

/* Values of CONTROL_RESULT. */
enum bare_result {
	BARE_DONE = 0,
	BARE_NO_COMMAND = 1,     /* there is no such command */
	BARE_WRONG_STATE = 2,    /* not before `serve`, not while the writers run, or the like */
	BARE_WRONG_ARGUMENT = 3, /* a number is out of its range */
	BARE_NO_MEMORY = 4,      /* guest RAM is too small for the plan */
	BARE_NO_STATE = 5,       /* this processor or machine has no such state */
};

/* Arguments of BARE_PUT_BESIDE and BARE_GET_BESIDE, from CONTROL_ARGUMENTS on; see bare/processor.h. */
enum beside_argument {
	BESIDE_PLACE = 0, /* an address, or the number of an entry */
	BESIDE_VALUE = 1, /* what to store, or what was found */
};

/* Arguments of BARE_SERVE, from CONTROL_ARGUMENTS on. */
enum serve_argument {
	SERVE_NONCE = 0,       /* for all pages */
	SERVE_PATTERN = 1,     /* enum pattern */
	SERVE_SEED = 2,        /* of the order of pattern "random" */
	SERVE_THREADS = 3,     /* writers, one per vCPU */
	SERVE_BYTES = 4,       /* of the written region, holes included */
	SERVE_GUEST_RAM = 5,   /* bytes */
	SERVE_RATE = 6,        /* pages per second and thread, 0 = unlimited */
	SERVE_NS_PER_TICK = 7, /* times 2^32: how long a tick of the processor's counter is */
	SERVE_REALTIME_NS = 8, /* CLOCK_REALTIME when the counter was BOOT_TICKS */
	SERVE_DATA = 9,        /* address of the data pages, 0 = behind the others at the end of RAM */
	SERVE_LOW_RAM = 10,    /* bytes of RAM from its first address on, up to a hole or its end */
	SERVE_HIGH_START = 11, /* address of the rest of RAM, behind a hole; 0 = there is none */
};

/* Report page: what a bare agent's last check of a thread's pages found. */
enum report_word {
	REPORT_THREAD = 2,        /* number of the thread */
	REPORT_PAGES = 3,         /* data pages checked */
	REPORT_HOLES = 4,         /* holes checked */
	REPORT_COUNT = 5,         /* wrong pages */
	REPORT_KEPT = 6,          /* wrong pages described, at most REPORT_DETAILS */
	REPORT_DATA_CHECKSUM = 7, /* chained over the last words of all data pages, by index */
	REPORT_MISMATCHES = 16,   /* KEPT times MISMATCH_WORDS words */
};

/* Words of one wrong page in a report. */
enum mismatch_word {
	MISMATCH_HOLE = 0,                /* 1: a page to stay untouched */
	MISMATCH_INDEX = 1,               /* of the data page, or of the one before the hole */
	MISMATCH_FRAME = 2,               /* guest page frame number */
	MISMATCH_EXPECTED_GENERATION = 3, /* 0: never written, all zero */
	MISMATCH_FOUND_GENERATION = 4,    /* word DATA_GENERATION of the page, whatever it is */
	MISMATCH_EXPECTED_STEP = 5,       /* of the write that was to be there */
	MISMATCH_FOUND_STEP = 6,          /* word DATA_STEP of the page, likewise */
	MISMATCH_WORD = 7,                /* the first word that differs */
};

/* Values of CONTROL_STATE. */
enum agent_state {
	AGENT_IDLE = 0,
	AGENT_RUNNING = 1,
	AGENT_PAUSED = 2,
	AGENT_ENDING = 3, /* it wipes its pages, this one last */
};

/* Values of CONTROL_PATTERN: the order in which pages are written, see schedule.c. */
enum pattern {
	PATTERN_SEQUENTIAL = 0,
	PATTERN_RANDOM = 1,
	PATTERN_HOT = 2,
	PATTERN_SPARSE = 3,
	PATTERN_ZERO = 4,
};

/* Directory page: the guest page frames of up to DIRECTORY_ENTRIES data pages of one thread. */
enum directory_word {
	DIRECTORY_THREAD = 2,      /* number of the thread */
	DIRECTORY_FIRST_INDEX = 3, /* index of the first data page listed */
	DIRECTORY_COUNT = 4,       /* data pages listed */
	DIRECTORY_FRAMES = 8,      /* DIRECTORY_COUNT guest page frame numbers, 0 = unknown */
	DIRECTORY_CHECKSUM = 511,  /* as in a data page */
};

#endif
