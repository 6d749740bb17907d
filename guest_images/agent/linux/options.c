/* The command line of `serve`, parsed strictly: one sentence for each mistake. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "agent.h"

/* Small enough that no address or count overflows. */
#define MAX_BYTES (UINT64_C(1) << 44)
#define MAX_RATE 1000000000
/* Pattern "hot" needs a page in either class. */
#define MIN_PAGES 2
/* Room for the names of all patterns. */
#define MAX_NAMES 256

bool number_parse(const char *text, uint64_t *number)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*number = strtoull(text, &end, 10);
	return errno == 0 && *end == '\0';
}

static void print_pattern_error(const char *text)
{
	char names[MAX_NAMES] = "";
	size_t length = 0;

	for (unsigned i = 0; pattern_name(i) && length < sizeof(names); i++) {
		const char *separator = !i ? "" : pattern_name(i + 1) ? ", " : " or ";

		length += (size_t)snprintf(names + length, sizeof(names) - length, "%s%s",
					   separator, pattern_name(i));
	}
	print_error("The pattern must be %s, not '%s'.", names, text);
}

static bool parse_pattern(const char *text, enum pattern *pattern)
{
	for (unsigned i = 0; pattern_name(i); i++)
		if (strcmp(text, pattern_name(i)) == 0) {
			*pattern = (enum pattern)i;
			return true;
		}
	print_pattern_error(text);
	return false;
}

static bool parse_socket(const char *text, const char **path)
{
	size_t room = sizeof(((struct sockaddr_un *)0)->sun_path);

	if (text[0] == '\0' || strlen(text) >= room) {
		print_error("The socket path must have 1 to %zu characters.", room - 1);
		return false;
	}
	*path = text;
	return true;
}

static bool parse_number(struct options *options, const char *name, const char *text)
{
	const struct {
		const char *name;
		uint64_t *number;
		uint64_t least, most;
	} table[] = {
		{"--bytes", &options->bytes, PAGE_BYTES, MAX_BYTES},
		{"--threads", &options->threads, 1, MAX_THREADS},
		{"--seed", &options->seed, 0, UINT64_MAX},
		{"--guest-ram", &options->guest_ram, 0, UINT64_MAX},
		{"--rate", &options->rate, 0, MAX_RATE},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (strcmp(name, table[i].name) != 0)
			continue;
		if (number_parse(text, table[i].number) && *table[i].number >= table[i].least &&
		    *table[i].number <= table[i].most)
			return true;
		print_error("The option '%s' takes a number from %" PRIu64 " to %" PRIu64
			    ", not '%s'.",
			    name, table[i].least, table[i].most, text);
		return false;
	}
	print_error("The option '%s' is not known; 'serve' takes --bytes, --threads, --pattern, "
		    "--seed, --guest-ram, --rate, --socket and --huge.",
		    name);
	return false;
}

static bool check_together(const struct options *options)
{
	if (options->bytes == 0) {
		print_error("The option '--bytes' is missing.");
		return false;
	}
	if (options->bytes % PAGE_BYTES != 0 ||
	    options->bytes / PAGE_BYTES < options->threads * MIN_PAGES) {
		print_error("The option '--bytes' must be a multiple of %d and at least %d pages "
			    "for each thread.",
			    PAGE_BYTES, MIN_PAGES);
		return false;
	}
	if (options->huge && options->pattern == PATTERN_SPARSE) {
		print_error("Pattern sparse cannot have huge pages, which would fill its holes.");
		return false;
	}
	return true;
}

bool options_parse(struct options *options, int count, char **arguments)
{
	*options = (struct options){.threads = 1, .socket = DEFAULT_SOCKET};
	for (int i = 0; i < count; i++) {
		const char *name = arguments[i];
		const char *text = i + 1 < count ? arguments[i + 1] : NULL;
		bool good;

		if (strcmp(name, "--huge") == 0) {
			options->huge = true;
			continue;
		}
		if (!text) {
			print_error("The option '%s' is not known or lacks its value.", name);
			return false;
		}
		if (strcmp(name, "--pattern") == 0)
			good = parse_pattern(text, &options->pattern);
		else if (strcmp(name, "--socket") == 0)
			good = parse_socket(text, &options->socket);
		else
			good = parse_number(options, name, text);
		if (!good)
			return false;
		i++;
	}
	return check_together(options);
}
