/* What the two halves of the recorder share. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HIDDEN __attribute__((visibility("hidden")))
#define RAW_OPEN(path, flags, mode) ((int)syscall(SYS_openat, AT_FDCWD, path, flags, mode))
#define RAW_PWRITE(fd, data, count, at) syscall(SYS_pwrite64, fd, data, count, at)

enum kind { CREATE = 1, LINK, UNLINK, RENAME, WRITE, RESIZE, SYNC_BEGIN, SYNC_END, MARK, ESCAPE };

struct record { /* what recording.py reads; path, other path and data follow */
    uint32_t kind, pid, path_bytes, other_bytes;
    uint64_t time, inode, offset, length, data_bytes;
    int64_t result;
};

HIDDEN extern char watched[PATH_MAX]; /* the folder; empty if nothing is recorded */
HIDDEN extern long delay;             /* microseconds that a sync takes longer, at most; below 0 it is only noted */

/* Which files: by descriptor, or by a path, which is made absolute. */
HIDDEN int path_of(int fd, char *path);
HIDDEN int is_watched(int fd, char *path, struct stat *status);
HIDDEN int is_watched_path(int folder, const char *path, char *absolute);
HIDDEN int exists(const char *path, uint64_t *inode);

/* The log. Between the locks: prepare a record, do the call, conclude; or all in one. */
HIDDEN void take_lock(void);
HIDDEN void release_lock(void);
HIDDEN void prepare(struct record *record, const char *path, const char *other, const struct iovec *data, int count);
HIDDEN void conclude(struct record *record, int64_t result);
HIDDEN uint64_t note(struct record *record, const char *path, const struct iovec *data, int count);
