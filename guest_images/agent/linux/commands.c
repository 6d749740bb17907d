/* The commands of the server: their parsing, the states that allow each, and their replies. */
#define _GNU_SOURCE 1
#include "commands.h"

#include <inttypes.h>
#include <string.h>

#define MAX_WORDS 4
#define MAX_DUMP 8
/* The bit that `corrupt` flips: one in the middle of the body. */
#define CORRUPT_WORD 300
#define CORRUPT_BIT 17

struct command {
	struct agent *agent;
	int count;
	char *words[MAX_WORDS];
	struct text *reply;
};

static uint64_t state_of(const struct command *command)
{
	return word_get(&command->agent->control[CONTROL_STATE]);
}

static void reply_ok(struct command *command)
{
	const struct agent *agent = command->agent;

	text_add(command->reply, "{\"ok\":true,\"state\":\"%s\",\"steps\":[", state_name(agent));
	for (unsigned i = 0; i < agent->options.threads; i++)
		text_add(command->reply, "%s%" PRIu64, i ? "," : "",
			 word_get(&agent->threads[i].writer.page[THREAD_STEPS]));
	text_add(command->reply, "]");
	text_number(command->reply, "monotonic_ns", clock_ns(CLOCK_MONOTONIC));
	text_number(command->reply, "realtime_ns", clock_ns(CLOCK_REALTIME));
	text_add(command->reply, "}");
}

static void run_start(struct command *command)
{
	if (state_of(command) != AGENT_IDLE) {
		text_error(command->reply, "The writers have been started already.");
		return;
	}
	threads_run(command->agent);
	reply_ok(command);
}

static void run_resume(struct command *command)
{
	if (state_of(command) == AGENT_IDLE) {
		text_error(command->reply, "The writers have not been started yet.");
		return;
	}
	threads_run(command->agent);
	reply_ok(command);
}

static void run_pause(struct command *command)
{
	if (state_of(command) == AGENT_IDLE)
		text_error(command->reply, "The writers have not been started yet.");
	else if (!threads_park(command->agent))
		text_error(command->reply, "Not all writers parked within %d s.", WRITERS_WAIT_S);
	else
		reply_ok(command);
}

/* Wipes before it answers, so that a snapshot after the answer has no page of the agent. */
static void run_quit(struct command *command)
{
	ending_wipe(command->agent);
	reply_ok(command);
}

static void run_reset(struct command *command)
{
	if (threads_reset_statistics(command->agent))
		reply_ok(command);
	else
		text_error(command->reply, "Not all writers took note within %d s.",
			   WRITERS_WAIT_S);
}

static void run_status(struct command *command)
{
	status_print(command->agent, command->reply);
}

static void run_verify(struct command *command)
{
	if (state_of(command) == AGENT_RUNNING)
		text_error(command->reply, "The writers must be paused for this command.");
	else
		verify_print(command->agent, command->reply);
}

/* Finds the writer and the data page that words 1 and 2 name. NULL after an error reply. */
static struct writer *writer_named(struct command *command, uint64_t *index)
{
	struct agent *agent = command->agent;
	struct writer *writer;
	uint64_t thread;

	if (!number_parse(command->words[1], &thread) || thread >= agent->options.threads) {
		text_error(command->reply, "The thread must be a number from 0 to %" PRIu64 ".",
			   agent->options.threads - 1);
		return NULL;
	}
	writer = &agent->threads[thread].writer;
	if (!number_parse(command->words[2], index) || *index >= writer->schedule.pages) {
		text_error(command->reply, "The page must be a number from 0 to %" PRIu64 ".",
			   writer->schedule.pages - 1);
		return NULL;
	}
	return writer;
}

static void run_corrupt(struct command *command)
{
	bool hole = command->count == 4 && strcmp(command->words[3], "hole") == 0;
	struct writer *writer;
	uint64_t index;
	struct word *page;

	if (state_of(command) == AGENT_RUNNING) {
		text_error(command->reply, "The writers must be paused for this command.");
		return;
	}
	if (command->count < 3 || (command->count == 4 && !hole)) {
		text_error(command->reply, "The command is: corrupt THREAD INDEX [hole].");
		return;
	}
	writer = writer_named(command, &index);
	if (!writer)
		return;
	if (hole && pattern_stride(writer->schedule.pattern) == 1) {
		text_error(command->reply, "Only pattern sparse has holes.");
		return;
	}
	page = hole ? writer_hole(writer, index) : writer_data(writer, index);
	word_put(&page[CORRUPT_WORD],
		 word_get(&page[CORRUPT_WORD]) ^ UINT64_C(1) << CORRUPT_BIT);
	reply_ok(command);
}

static void dump_pages(struct command *command, const struct word *page, size_t stride,
		       uint64_t count)
{
	text_add(command->reply, "{\"ok\":true,\"pages\":[");
	for (uint64_t at = 0; at < count; at++) {
		const unsigned char *bytes = (const void *)(page + at * stride * PAGE_WORDS);

		text_add(command->reply, "%s\"", at ? "," : "");
		for (unsigned byte = 0; byte < PAGE_BYTES; byte++)
			text_add(command->reply, "%02x", bytes[byte]);
		text_add(command->reply, "\"");
	}
	text_add(command->reply, "]}");
}

static void run_dump(struct command *command)
{
	struct agent *agent = command->agent;
	bool meta = command->count == 4 && strcmp(command->words[1], "meta") == 0;
	const struct writer *writer = NULL;
	uint64_t first, count, pages;

	if (command->count != 4 || !number_parse(command->words[2], &first) ||
	    !number_parse(command->words[3], &count)) {
		text_error(command->reply, "The command is: dump THREAD|meta FIRST COUNT.");
		return;
	}
	if (!meta) {
		writer = writer_named(command, &first);
		if (!writer)
			return;
	}
	pages = meta ? agent->meta_pages : writer->schedule.pages;
	if (count < 1 || count > MAX_DUMP || first >= pages || count > pages - first)
		text_error(command->reply, "A dump is 1 to %d pages out of %" PRIu64 ".", MAX_DUMP,
			   pages);
	else if (meta)
		dump_pages(command, agent->meta + first * PAGE_WORDS, 1, count);
	else
		dump_pages(command, writer_data(writer, first),
			   pattern_stride(writer->schedule.pattern), count);
}

static void split(struct command *command, char *line)
{
	char *rest = NULL;
	char *word = strtok_r(line, " \t\r\n", &rest);

	for (; word; word = strtok_r(NULL, " \t\r\n", &rest)) {
		if (command->count < MAX_WORDS)
			command->words[command->count] = word;
		command->count++;
	}
}

bool command_run(struct agent *agent, char *line, struct text *reply)
{
	static const struct {
		const char *name;
		int max_words;
		void (*run)(struct command *command);
	} table[] = {
		{"start", 1, run_start},        {"pause", 1, run_pause},
		{"resume", 1, run_resume},      {"status", 1, run_status},
		{"verify", 1, run_verify},      {"reset-stats", 1, run_reset},
		{"corrupt", 4, run_corrupt},    {"dump", 4, run_dump},
		{"quit", 1, run_quit},
	};
	struct command command = {.agent = agent, .reply = reply};

	text_clear(reply);
	split(&command, line);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]) && command.count > 0; i++) {
		if (strcmp(command.words[0], table[i].name) != 0)
			continue;
		if (command.count > table[i].max_words) {
			text_error(reply, "The command %s has too many words.", table[i].name);
			return false;
		}
		table[i].run(&command);
		if (reply->overflow)
			text_error(reply, "The reply is too long.");
		return table[i].run == run_quit;
	}
	text_error(reply, "The command is not known; there are start, pause, resume, status, "
			  "verify, reset-stats, corrupt, dump and quit.");
	return false;
}
