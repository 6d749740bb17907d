/* snapproof-agent: the program that writes self-checking patterns over guest memory. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands.h"

/* The byte that the daemon sends to the waiting parent once its socket listens. */
#define READY 'r'

static struct agent agent;

/* Prepares all that is needed to take commands. Returns the listener, or -1 after a sentence. */
static int prepare(void)
{
	agent.data_pages = agent.options.bytes / PAGE_BYTES;
	agent.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (kernel_page_bytes() % PAGE_BYTES != 0) {
		print_error("The kernel's pages are not of %d bytes or a multiple.", PAGE_BYTES);
		return -1;
	}
	if (kernel_page_bytes() != PAGE_BYTES && pattern_stride(agent.options.pattern) != 1) {
		print_error("The kernel's pages are of %zu bytes, and a page that is not touched has %d.",
			    kernel_page_bytes(), PAGE_BYTES);
		return -1;
	}
	/* Before any memory is taken, which a second agent would not find. */
	if (server_answers(agent.options.socket)) {
		print_error("Another agent serves commands at '%s' already.", agent.options.socket);
		return -1;
	}
	if (getrandom(&agent.nonce, sizeof(agent.nonce), 0) != sizeof(agent.nonce)) {
		print_error("The kernel gives no random number: %s.", strerror(errno));
		return -1;
	}
	agent.counter = cycle_counter_calibrate();
	if (!memory_build(&agent))
		return -1;
	pagemap_fill_directory(&agent);
	if (!threads_launch(&agent) || !heartbeat_launch(&agent))
		return -1;
	return server_listen(agent.options.socket);
}

/* Closes the terminal or SSH session, which would stay open as long as the agent holds it. */
static void close_standard_files(void)
{
	int null = open("/dev/null", O_RDWR);

	for (int file = 0; file <= 2; file++)
		dup2(null, file);
	if (null > 2)
		close(null);
}

static int daemon_main(int ready)
{
	const char byte = READY;
	int listener;

	setsid();
	ending_block_signals();
	listener = prepare();
	if (listener < 0 || !ending_launch(&agent))
		return 1;
	close_standard_files();
	if (write(ready, &byte, 1) != 1)
		errno = 0; /* The parent was killed; the agent serves all the same. */
	close(ready);
	return server_run(&agent, listener);
}

static int wait_until_ready(pid_t child, int ready)
{
	int status = 0;
	char byte = 0;

	if (read(ready, &byte, 1) == 1 && byte == READY)
		return 0;
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		print_error("The agent was killed by signal %d while it took its memory, most "
			    "likely because too little was left.",
			    WTERMSIG(status));
	return 1;
}

static int serve_main(int count, char **arguments)
{
	int pipes[2];
	pid_t child;

	if (!options_parse(&agent.options, count, arguments))
		return 2;
	if (pipe2(pipes, O_CLOEXEC) != 0 || (child = fork()) < 0) {
		print_error("The agent cannot go into the background: %s.", strerror(errno));
		return 1;
	}
	if (child == 0) {
		close(pipes[0]);
		_exit(daemon_main(pipes[1]));
	}
	close(pipes[1]);
	return wait_until_ready(child, pipes[0]);
}

int main(int count, char **arguments)
{
	if (count >= 2 && strcmp(arguments[1], "serve") == 0)
		return serve_main(count - 2, arguments + 2);
	if (count >= 2 && strcmp(arguments[1], "ctl") == 0)
		return client_main(count - 2, arguments + 2);
	print_error("The first word must be 'serve' or 'ctl', as in: snapproof-agent serve "
		    "--bytes N --threads T --pattern P --seed S.");
	return 2;
}
