/* F14: KSM takes userfaultfd write protection away from the pages that it merges.
 *
 * cc -pthread -o f14 f14-ksm-drops-protection.c && sudo ./f14
 *
 * Protects 64 equal pages, lets KSM merge them, then writes to one: the write must wait and be told. Switches KSM on
 * and puts it back as it was. Exit code 0: protection held; 1: it is lost; 2: this host cannot show it.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGES 64
#define PAGE 4096UL

static char *memory;
static volatile int written;

static void *write_late(void *unused)
{
    (void)unused;
    memory[3 * PAGE] = 'x';
    written = 1;
    return NULL;
}

static long number(const char *path)
{
    char text[32] = "";
    int fd = open(path, O_RDONLY);

    if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
        return -1;
    close(fd);
    return atol(text);
}

static int set(const char *path, long value)
{
    int fd = open(path, O_WRONLY);

    return fd < 0 || dprintf(fd, "%ld", value) < 0 || close(fd);
}

static int protected_pages(void)
{
    uint64_t entries[PAGES];
    int fd = open("/proc/self/pagemap", O_RDONLY), count = 0;

    if (pread(fd, entries, sizeof(entries), (uintptr_t)memory / PAGE * 8) != sizeof(entries))
        return -1;
    close(fd);
    for (int page = 0; page < PAGES; page++)
        count += entries[page] >> 57 & 1;
    return count;
}

int main(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_WP};
    struct uffdio_writeprotect wp = {.mode = UFFDIO_WRITEPROTECT_MODE_WP};
    const char *run = "/sys/kernel/mm/ksm/run", *shared = "/sys/kernel/mm/ksm/pages_sharing";
    long before = number(run), start;
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct pollfd waiting = {.fd = fd, .events = POLLIN};
    pthread_t writer;

    memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 's', PAGES * PAGE);
    reg.range.start = wp.range.start = (uintptr_t)memory;
    reg.range.len = wp.range.len = PAGES * PAGE;
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg) ||
        ioctl(fd, UFFDIO_WRITEPROTECT, &wp)) {
        perror("userfaultfd write protection");
        return 2;
    }
    printf("protected before: %d of %d pages\n", protected_pages(), PAGES);
    start = number(shared);
    if (madvise(memory, PAGES * PAGE, MADV_MERGEABLE) || set(run, 1)) {
        perror("KSM");
        return 2;
    }
    for (int turn = 0; turn < 600 && number(shared) < start + PAGES - 1; turn++)
        usleep(100000);
    set(run, before);
    printf("KSM merged %ld pages\nprotected after: %d of %d pages\n", number(shared) - start, protected_pages(), PAGES);
    if (number(shared) <= start)
        return 2;
    pthread_create(&writer, NULL, write_late, NULL);
    if (poll(&waiting, 1, 2000) == 1 && !written) {
        printf("The write waits and is told: right.\n");
        return 0;
    }
    printf("The write went through%s: protection is lost.\n", written ? " and nobody was told" : "");
    return 1;
}
