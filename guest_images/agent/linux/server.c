/* The command server: a UNIX socket, one client at a time, one command line, one line of JSON. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "commands.h"

/* How long a client may keep others waiting without sending or receiving. */
#define CLIENT_WAIT_S 5

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	/* options.c has checked the length. */
	memcpy(address.sun_path, path, strlen(path));
	return address;
}

bool server_answers(const char *path)
{
	struct sockaddr_un address = address_of(path);
	int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool answered = client >= 0 && connect(client, (const struct sockaddr *)&address,
					       sizeof(address)) == 0;

	if (client >= 0)
		close(client);
	return answered;
}

int server_listen(const char *path)
{
	struct sockaddr_un address = address_of(path);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* Nobody answered there, so a socket file is left from an earlier run. */
	unlink(path);
	if (listener < 0 ||
	    bind(listener, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
	    listen(listener, 8) != 0) {
		print_error("The agent cannot listen at '%s': %s.", path, strerror(errno));
		return -1;
	}
	return listener;
}

/* Reads up to the end of the line or of the input. False if there is no command to carry out. */
static bool read_line(int client, char *line, struct text *reply)
{
	size_t length = 0;

	while (length < MAX_LINE) {
		ssize_t got = recv(client, line + length, MAX_LINE - length, 0);
		char *end;

		if (got < 0)
			return false;
		if (got == 0) {
			line[length] = '\0';
			return length > 0;
		}
		end = memchr(line + length, '\n', (size_t)got);
		length += (size_t)got;
		if (end) {
			*end = '\0';
			return true;
		}
	}
	text_error(reply, "A command line must be shorter than %d bytes.", MAX_LINE);
	return false;
}

static void send_all(int client, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(client, bytes, length, MSG_NOSIGNAL);

		if (sent <= 0)
			return;
		bytes += sent;
		length -= (size_t)sent;
	}
}

static bool serve_client(struct agent *agent, int client, struct text *reply)
{
	const struct timeval limit = {.tv_sec = CLIENT_WAIT_S};
	char line[MAX_LINE];
	bool last = false;

	setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	text_clear(reply);
	if (read_line(client, line, reply))
		last = command_run(agent, line, reply);
	if (last)
		unlink(agent->options.socket);
	if (reply->length > 0) {
		send_all(client, reply->bytes, reply->length);
		send_all(client, "\n", 1);
	}
	return last;
}

int server_run(struct agent *agent, int listener)
{
	static struct text reply;
	bool last = false;

	while (!last) {
		int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (client < 0) {
			if (errno == EINTR || errno == ECONNABORTED || errno == EMFILE)
				continue;
			ending_wipe(agent);
			return 1;
		}
		last = serve_client(agent, client, &reply);
		close(client);
	}
	return 0;
}
