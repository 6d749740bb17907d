/* The commands of the server: one line in, one JSON reply out. */
#ifndef AGENT_COMMANDS_H
#define AGENT_COMMANDS_H

#include "agent.h"
#include "text.h"

/* Carries out one command line (modified while parsed). True where the agent is to end. */
bool command_run(struct agent *agent, char *line, struct text *reply);

/* status.c and verify.c: whole replies. */
void status_print(struct agent *agent, struct text *reply);
void verify_print(struct agent *agent, struct text *reply);

/* The word for what the control page says: "idle", "running" or "paused". */
const char *state_name(const struct agent *agent);

/* Makes the control page invalid, so that a later agent's is the only one in RAM. */
void control_wipe(struct agent *agent);

#endif
