/* `ctl`: sends one command to the agent and prints its reply. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent.h"

#define WAIT_S 30
#define VERIFY_WAIT_S 120
#define ERROR_REPLY "{\"error\""

static int usage(void)
{
	print_error("The command line is: snapproof-agent ctl [--socket PATH] COMMAND [WORD...].");
	return 2;
}

/* Joins the words into one line that ends in a newline. False if they do not fit. */
static bool join(char *line, int count, char **words)
{
	size_t length = 0;

	for (int i = 0; i < count; i++) {
		int added = snprintf(line + length, MAX_LINE - length, "%s%s", words[i],
				     i + 1 < count ? " " : "\n");

		if (added < 0 || (size_t)added >= MAX_LINE - length)
			return false;
		length += (size_t)added;
	}
	return true;
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path)) {
		print_error("The socket path '%s' is too long.", path);
		return -1;
	}
	memcpy(address.sun_path, path, strlen(path));
	if (server < 0 ||
	    connect(server, (const struct sockaddr *)&address, sizeof(address)) != 0) {
		print_error("No agent answers at '%s': %s.", path, strerror(errno));
		return -1;
	}
	return server;
}

/* Copies the reply to stdout. Returns the exit code: 0 for a complete reply that is no error. */
static int print_reply(int server, uint64_t seconds)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + seconds * 1000000000;
	char start[sizeof(ERROR_REPLY)] = "";
	char bytes[4 << 10], last = '\0';
	bool first = true;

	for (;;) {
		uint64_t now = clock_ns(CLOCK_MONOTONIC);
		struct pollfd wait = {.fd = server, .events = POLLIN};
		ssize_t got;

		if (now >= end || poll(&wait, 1, (int)((end - now) / 1000000) + 1) == 0) {
			print_error("The agent did not reply within %d s.", (int)seconds);
			return 1;
		}
		got = recv(server, bytes, sizeof(bytes), 0);
		if (got <= 0)
			break;
		if (first)
			memcpy(start, bytes, (size_t)got < sizeof(start) - 1 ? (size_t)got
									     : sizeof(start) - 1);
		first = false;
		last = bytes[got - 1];
		fwrite(bytes, 1, (size_t)got, stdout);
	}
	if (last != '\n') {
		print_error("The agent broke off before the end of its reply.");
		return 1;
	}
	return fflush(stdout) != 0 || strcmp(start, ERROR_REPLY) == 0;
}

int client_main(int count, char **arguments)
{
	const char *path = DEFAULT_SOCKET;
	char line[MAX_LINE];
	uint64_t seconds;
	int server;

	if (count >= 2 && strcmp(arguments[0], "--socket") == 0) {
		path = arguments[1];
		count -= 2;
		arguments += 2;
	}
	if (count < 1 || arguments[0][0] == '-')
		return usage();
	if (!join(line, count, arguments)) {
		print_error("A command line must be shorter than %d bytes.", MAX_LINE);
		return 2;
	}
	seconds = strcmp(arguments[0], "verify") == 0 ? VERIFY_WAIT_S : WAIT_S;
	server = connect_to(path);
	if (server < 0)
		return 1;
	if (send(server, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line)) {
		print_error("The agent does not take commands: %s.", strerror(errno));
		return 1;
	}
	return print_reply(server, seconds);
}
