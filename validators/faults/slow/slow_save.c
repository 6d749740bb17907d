/* Planted slowdown: makes a save take a given share longer, or the stun at T0 a given time longer.
 *
 * The snapshot stays right. For the share, the thread that writes the stream sleeps in proportion to the time
 * that it has worked since the stream began, so the share does not depend on the speed of host and sink.
 */
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "fault.h"

/* Sleeps disturb the other threads, few long ones less than many short ones. At most this much of a save's share
 * is never slept. */
#define LEAST_NS 2000000ll

/* Words of the shared page after the acts counter: ns of all saves without the sleeps, and ns of the sleeps. */
enum { WORKED_WORD = 1, SLEPT_WORD = 2 };

static long share_per_mille, at_t0_us;
static int stream = -1;
static int64_t began_ns, slept_ns, counted_ns;

static void count(int64_t worked, int64_t slept)
{
    if (!acts)
        return;
    __atomic_add_fetch(&acts[WORKED_WORD], worked, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&acts[SLEPT_WORD], slept, __ATOMIC_SEQ_CST);
}

static void begin_stream(int fd)
{
    stream = fd;
    began_ns = now_ns();
    slept_ns = counted_ns = 0;
}

static void slow_down(void)
{
    int64_t before = now_ns(), worked = before - began_ns - slept_ns, slept;
    int64_t owed = worked * share_per_mille / 1000 - slept_ns;

    if (owed < LEAST_NS)
        return;
    sleep_ns(owed);
    acted();
    slept = now_ns() - before;
    slept_ns += slept;
    count(worked - counted_ns, slept);
    counted_ns = worked;
}

/* A vmstate stream begins with QEMU_VM_FILE_MAGIC, "QEVM" (QEMU migration/qemu-file-types.h). */
static int is_begin(const char *bytes, size_t length)
{
    return length >= 4 && bytes[0] == 'Q' && bytes[1] == 'E' && bytes[2] == 'V' && bytes[3] == 'M';
}

static long fault(int fd, unsigned long request, struct range *asked)
{
    if (at_t0_us && protects(request, asked) && asked->length >= LARGE_BYTES) {
        sleep_ns(at_t0_us * 1000ll);
        acted();
    }
    return pass(fd, request, asked);
}

/* Called after each write: notes the begin of a stream, or sleeps what the stream owes. */
static void wrote(int fd, const struct iovec *parts, size_t number)
{
    if (!share_per_mille)
        return;
    if (number > 0 && is_begin(parts->iov_base, parts->iov_len))
        begin_stream(fd);
    else if (fd == stream)
        slow_down();
}

/* QEMU writes to a command or a file by writev(). */
ssize_t writev(int fd, const struct iovec *parts, int number)
{
    long done = raw_syscall(SYS_writev, fd, (long)parts, number, 0, 0, 0);

    wrote(fd, parts, number > 0 ? (size_t)number : 0);
    return checked(done);
}

/* QEMU writes to a socket by sendmsg(). */
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    long done = raw_syscall(SYS_sendmsg, fd, (long)message, flags, 0, 0, 0);

    wrote(fd, message->msg_iov, message->msg_iovlen);
    return checked(done);
}

static long number_of(char **environment, const char *variable)
{
    const char *text = variable_of(environment, variable);
    long number = 0;

    for (; text && *text >= '0' && *text <= '9'; text++)
        number = number * 10 + (*text - '0');
    return number;
}

__attribute__((constructor)) static void read_parameters(int argc, char **argv, char **environment)
{
    (void)argc;
    (void)argv;
    share_per_mille = number_of(environment, "SNAPPROOF_SLOW_SAVE_PER_MILLE=");
    at_t0_us = number_of(environment, "SNAPPROOF_SLOW_T0_US=");
}
