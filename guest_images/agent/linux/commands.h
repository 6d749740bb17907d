/* The commands of the server: each is one line and has one JSON reply. */
#ifndef AGENT_COMMANDS_H
#define AGENT_COMMANDS_H

#include "agent.h"
#include "text.h"

/* Carries out one command line, which is modified. True if the agent must end. */
bool command_run(struct agent *agent, char *line, struct text *reply);

/* status.c, verify.c: the whole replies of these commands. */
void status_print(struct agent *agent, struct text *reply);
void verify_print(const struct agent *agent, struct text *reply);

/* mismatch_json.c: appends the details of a log as a JSON array. */
void mismatch_print(struct text *text, const struct mismatch_log *log);

/* Returns the name of the control page's state: "idle", "running" or "paused". */
const char *state_name(const struct agent *agent);

#endif
