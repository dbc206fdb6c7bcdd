/* Has the next sync of a file fail, once, as a disk does: it is not waited for what was written, and no later sync tells.

   Loaded before libc (LD_PRELOAD), so LMDB's calls are caught like Python's. Which file, and how, stands in the file that
   FAILING_SYNC names, as soon as there is one; whoever fails takes it away. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failure_of(int fd) {
    const char *name = getenv("FAILING_SYNC");
    FILE *order = name ? fopen(name, "re") : NULL;
    if (!order)
        return 0;
    char link[64], path[PATH_MAX] = "", wanted[PATH_MAX] = "";
    int error = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    int is_whole = fscanf(order, "%d %4000[^\n]", &error, wanted) == 2;
    fclose(order);
    if (length < 0 || !is_whole || strcmp(path, wanted) || unlink(name))
        return 0;
    return error;
}

static int failing_sync(int fd, const char *name) {
    int before = errno, error = failure_of(fd);
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, name); /* libc's, or the recorder's */
    errno = error ? error : before;
    return error ? -1 : next(fd);
}

int fsync(int fd) { return failing_sync(fd, "fsync"); }
int fdatasync(int fd) { return failing_sync(fd, "fdatasync"); }
