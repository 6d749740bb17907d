/* A disk that fails: reads of the file of device and inode FAILING_DISK from an offset on end with EIO.
 *
 * FAILING_DISK is "DEVICE:INODE:OFFSET". An access to a mapped page there ends the process, as the kernel's SIGBUS does.
 */
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "raw_syscall.h"
#include "shared_page.h"

#define POPULATE_READ 22
#define PAGE 4096ull

static uint64_t failing[3];
static uint64_t mapped, mapped_end;

static int fails(int fd, uint64_t end)
{
    struct stat found;

    if (!failing[1] || end <= failing[2] || raw_syscall(SYS_fstat, fd, (long)&found, 0, 0, 0, 0))
        return 0;
    return found.st_dev == failing[0] && found.st_ino == failing[1];
}

ssize_t pread64(int fd, void *buffer, size_t count, off_t offset)
{
    if (fails(fd, (uint64_t)offset + count))
        return checked(-EIO);
    return checked(raw_syscall(SYS_pread64, fd, (long)buffer, (long)count, offset, 0, 0));
}

ssize_t preadv64(int fd, const struct iovec *parts, int number, off_t offset)
{
    uint64_t end = offset;

    for (int i = 0; i < number; i++)
        end += parts[i].iov_len;
    if (fails(fd, end))
        return checked(-EIO);
    return checked(raw_syscall(SYS_preadv, fd, (long)parts, number, offset, 0, 0));
}

off_t lseek64(int fd, off_t offset, int whence)
{
    if (whence == 3 && fails(fd, (uint64_t)offset + 1))
        return checked(-EIO);
    return checked(raw_syscall(SYS_lseek, fd, offset, whence, 0, 0, 0));
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    long map = raw_syscall(SYS_mmap, (long)address, (long)length, protection, flags, fd, offset);
    uint64_t from = failing[2] & ~(PAGE - 1);

    if (map > 0 && fd >= 0 && from < length && fails(fd, (uint64_t)offset + length)) {
        mapped = map + from;
        mapped_end = map + length;
        raw_syscall(SYS_mprotect, (long)mapped, (long)(length - from), PROT_NONE, 0, 0, 0);
    }
    return (void *)checked(map);
}

int madvise(void *address, size_t length, int advice)
{
    uint64_t start = (uint64_t)address;

    if (advice == POPULATE_READ && start < mapped_end && start + length > mapped)
        return checked(-EFAULT);
    return checked(raw_syscall(SYS_madvise, (long)address, (long)length, advice, 0, 0, 0));
}

__attribute__((constructor)) static void begin(int argc, char **argv, char **environment)
{
    const char *text = variable_of(environment, "FAILING_DISK=");

    (void)argc;
    (void)argv;
    for (int i = 0; text && *text; text++)
        if (*text == ':')
            i++;
        else
            failing[i] = failing[i] * 10 + (*text - '0');
}
