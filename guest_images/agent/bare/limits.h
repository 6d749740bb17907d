/* Limits that C and assembly of the bare agent agree on. */
#ifndef AGENT_BARE_LIMITS_H
#define AGENT_BARE_LIMITS_H

#define MAX_CPUS 64
#define STACK_BYTES 16384

#endif
