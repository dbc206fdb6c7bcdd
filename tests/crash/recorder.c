/* Records what the processes of a test write to the files of one folder, and what they sync, in one order.

   Loaded before libc (LD_PRELOAD), so LMDB's calls are seen like Python's. One lock, shared by all processes, is held
   while a call changes a file and is noted, so the order of the log is the order in which things happened. A sync is
   noted at its beginning and at its end, without the lock in between. Linux, 64 bit. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
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

enum kind { CREATE = 1, LINK, UNLINK, RENAME, WRITE, RESIZE, SYNC_BEGIN, SYNC_END, MARK, ESCAPE };

struct record { /* what tests/crash/recording.py reads; path, other path and data follow */
    uint32_t kind, pid, path_bytes, other_bytes;
    uint64_t time, inode, offset, length, data_bytes;
    int64_t result;
};

struct shared {
    pthread_mutex_t lock;
    uint64_t end;     /* of the log: what lies before it has happened */
    uint64_t pending; /* where a record begins whose call may have happened; the same as end, or of no meaning */
};

static struct shared *shared;
static int log_fd = -1;
static char watched[PATH_MAX];
static size_t watched_bytes;
/* Descriptors that were to be opened with O_DSYNC: the write and its sync are separate steps here, so that a cut can
   come in between. */
static unsigned char synced[1 << 16];

#define RAW_OPEN(path, flags, mode) ((int)syscall(SYS_openat, AT_FDCWD, path, flags, mode))
#define RAW_PWRITE(fd, data, count, at) syscall(SYS_pwrite64, fd, data, count, at)

/* -- which files ------------------------------------------------------------------------------------------------ */

static int is_inside(const char *path) {
    return !strncmp(path, watched, watched_bytes) && path[watched_bytes] == '/' && !strchr(path + watched_bytes + 1, '/');
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t count = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[count < 0 ? 0 : count] = 0;
    return count > 0;
}

static int is_watched(int fd, char *path, struct stat *status) {
    int before = errno;
    int is = shared && path_of(fd, path) && is_inside(path) && !fstat(fd, status) && S_ISREG(status->st_mode);
    errno = before;
    return is;
}

/* Make a path absolute, as far as the folder that it lies in tells; return whether that one is watched. */
static int is_watched_path(int folder, const char *path, char *absolute) {
    char base[PATH_MAX];
    if (!shared || !path)
        return 0;
    if (path[0] == '/')
        snprintf(absolute, PATH_MAX, "%s", path);
    else {
        if (!(folder == AT_FDCWD ? getcwd(base, sizeof base) != NULL : path_of(folder, base)))
            return 0;
        snprintf(absolute, PATH_MAX, "%.2000s/%.2000s", base, path);
    }
    return is_inside(absolute);
}

static int exists(const char *path, uint64_t *inode) {
    struct stat status;
    if (fstatat(AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW))
        return 0;
    *inode = status.st_ino;
    return 1;
}

/* -- the log ---------------------------------------------------------------------------------------------------- */

static void die(const char *why) {
    fprintf(stderr, "recorder: %s: %s\n", why, strerror(errno));
    abort();
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + time.tv_nsec;
}

static uint64_t bytes_of(const struct record *record) {
    return sizeof *record + record->path_bytes + record->other_bytes + record->data_bytes;
}

static void rewrite(const struct record *record) {
    if (RAW_PWRITE(log_fd, record, sizeof *record, shared->end) != sizeof *record)
        die("the log cannot be written");
}

/* Take back what a killed process has left: find out from the file itself how far its last call has come. */
static void settle(void) {
    struct record record;
    char path[PATH_MAX] = "", other[PATH_MAX] = "";
    uint64_t at = shared->end + sizeof record;
    if (shared->pending != shared->end || pread(log_fd, &record, sizeof record, shared->end) != sizeof record)
        return;
    if (pread(log_fd, path, record.path_bytes, at) < 0 || pread(log_fd, other, record.other_bytes, at + record.path_bytes) < 0)
        die("the log cannot be read");
    int happened = 0;
    uint64_t inode = 0;
    if (record.kind == WRITE || record.kind == RESIZE) {
        int fd = RAW_OPEN(path, O_RDONLY | O_CLOEXEC, 0); /* left open: closing it would drop this process's locks */
        struct stat status;
        happened = fd >= 0 && !fstat(fd, &status);
        if (happened && record.kind == RESIZE)
            record.length = status.st_size;
        if (happened && record.kind == WRITE) {
            char *data = malloc(record.data_bytes);
            record.result = pread(fd, data, record.data_bytes, record.offset);
            happened = record.result > 0;
            if (happened && RAW_PWRITE(log_fd, data, record.result, at + record.path_bytes + record.other_bytes) < 0)
                die("the log cannot be written");
            free(data);
        }
    } else if (record.kind == CREATE) {
        happened = exists(path, &record.inode);
    } else if (record.kind == UNLINK || record.kind == RENAME) {
        happened = !exists(path, &inode);
    } else if (record.kind == LINK) {
        happened = exists(other, &inode);
    }
    if (happened) {
        rewrite(&record);
        shared->end += bytes_of(&record);
    }
}

static void take_lock(void) {
    int error = pthread_mutex_lock(&shared->lock);
    if (error == EOWNERDEAD) {
        settle();
        pthread_mutex_consistent(&shared->lock);
    } else if (error)
        die("the lock cannot be taken");
}

static void release_lock(void) { pthread_mutex_unlock(&shared->lock); }

/* Put a record at the end of the log without its counting yet. */
static void prepare(struct record *record, const char *path, const char *other, const struct iovec *data, int count) {
    struct iovec parts[3] = {{record, sizeof *record}, {(void *)path, strlen(path)}, {(void *)other, strlen(other)}};
    record->pid = getpid();
    record->time = now();
    record->path_bytes = parts[1].iov_len;
    record->other_bytes = parts[2].iov_len;
    uint64_t at = shared->end;
    for (int part = 0; part < 3 + count; part++) {
        const struct iovec *piece = part < 3 ? &parts[part] : &data[part - 3];
        if (RAW_PWRITE(log_fd, piece->iov_base, piece->iov_len, at) != (ssize_t)piece->iov_len)
            die("the log cannot be written");
        at += piece->iov_len;
    }
    shared->pending = shared->end;
}

/* Have a prepared record count if its call went well. */
static void conclude(struct record *record, int64_t result) {
    int before = errno;
    if (result >= 0) {
        record->result = result;
        rewrite(record);
        shared->end += bytes_of(record);
    } else
        shared->pending = UINT64_MAX;
    errno = before;
}

static uint64_t note(struct record *record, const char *path, const struct iovec *data, int count) {
    take_lock();
    uint64_t at = shared->end;
    prepare(record, path, "", data, count);
    conclude(record, record->result < 0 ? 0 : record->result);
    release_lock();
    return at;
}

/* -- what a test calls ------------------------------------------------------------------------------------------ */

int power_cut_start(const char *log, const char *folder) {
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%.4000s/shared", log);
    int fd = RAW_OPEN(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int is_new = fd >= 0 && lseek(fd, 0, SEEK_END) == 0;
    if (fd < 0 || ftruncate(fd, sizeof *shared))
        return -1;
    struct shared *map = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    snprintf(name, sizeof name, "%.4000s/log", log);
    if (log_fd >= 0)
        syscall(SYS_close, log_fd);
    log_fd = RAW_OPEN(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (map == MAP_FAILED || log_fd < 0)
        return -1;
    if (is_new) {
        pthread_mutexattr_t attributes;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        pthread_mutex_init(&map->lock, &attributes);
        map->pending = UINT64_MAX;
    }
    snprintf(watched, sizeof watched, "%s", folder);
    watched_bytes = strlen(watched);
    shared = map;
    return 0;
}

void power_cut_mark(const void *data, uint64_t count) {
    struct record record = {.kind = MARK, .data_bytes = count};
    struct iovec part = {(void *)data, count};
    if (shared)
        note(&record, "", &part, 1);
}

__attribute__((constructor)) static void start(void) {
    const char *log = getenv("POWER_CUT_LOG"), *folder = getenv("POWER_CUT_FOLDER");
    if (log && folder && power_cut_start(log, folder))
        die("the log cannot be opened");
}

/* -- writing and syncing ---------------------------------------------------------------------------------------- */

static ssize_t raw_write(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    if (offset < 0)
        return syscall(SYS_writev, fd, parts, count);
    return flags ? syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags) : syscall(SYS_pwritev, fd, parts, count, offset, 0);
}

static int sync_range(int fd, const char *path, uint64_t inode, uint64_t offset, uint64_t length, long call) {
    struct record begin = {.kind = SYNC_BEGIN, .inode = inode, .offset = offset, .length = length};
    uint64_t at = note(&begin, path, NULL, 0);
    int result = syscall(call, fd), error = errno;
    struct record end = {.kind = SYNC_END, .inode = inode, .offset = at};
    if (!result)
        note(&end, path, NULL, 0);
    errno = error;
    return result;
}

static ssize_t recorded_write(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    char path[PATH_MAX];
    struct stat status;
    if (!is_watched(fd, path, &status))
        return raw_write(fd, parts, count, offset, flags);
    struct record record = {.kind = WRITE, .inode = status.st_ino, .offset = offset};
    for (int part = 0; part < count; part++)
        record.data_bytes += parts[part].iov_len;
    take_lock();
    if (offset < 0 && !fstat(fd, &status))
        record.offset = fcntl(fd, F_GETFL) & O_APPEND ? status.st_size : lseek(fd, 0, SEEK_CUR);
    prepare(&record, path, "", parts, count);
    ssize_t written = raw_write(fd, parts, count, offset, flags & ~(RWF_DSYNC | RWF_SYNC));
    conclude(&record, written);
    release_lock();
    if (written > 0 && (synced[fd & 0xffff] || flags & (RWF_DSYNC | RWF_SYNC)) &&
        sync_range(fd, path, record.inode, record.offset, written, SYS_fdatasync))
        return -1;
    return written;
}

static int recorded_resize(int fd, off_t offset, off_t length, int is_truncation, int mode) {
    char path[PATH_MAX];
    struct stat status;
    int is_ours = is_watched(fd, path, &status);
    struct record record = {.kind = mode ? ESCAPE : RESIZE, .inode = status.st_ino};
    if (is_ours) {
        take_lock();
        fstat(fd, &status);
        record.length = is_truncation || offset + length > status.st_size ? offset + length : status.st_size;
        prepare(&record, path, "", NULL, 0);
    }
    int result = is_truncation ? syscall(SYS_ftruncate, fd, length) : syscall(SYS_fallocate, fd, mode, offset, length);
    if (is_ours) {
        conclude(&record, result);
        release_lock();
    }
    return result;
}

static int recorded_sync(int fd, long call) {
    char path[PATH_MAX];
    struct stat status;
    int is_folder = shared && path_of(fd, path) && !strcmp(path, watched) && !fstat(fd, &status);
    if (!is_folder && !is_watched(fd, path, &status))
        return syscall(call, fd);
    return sync_range(fd, is_folder ? "" : path, status.st_ino, 0, 0, call);
}

ssize_t write(int fd, const void *data, size_t count) {
    struct iovec part = {(void *)data, count};
    return recorded_write(fd, &part, 1, -1, 0);
}
ssize_t writev(int fd, const struct iovec *parts, int count) { return recorded_write(fd, parts, count, -1, 0); }
ssize_t pwrite(int fd, const void *data, size_t count, off_t offset) {
    struct iovec part = {(void *)data, count};
    return recorded_write(fd, &part, 1, offset, 0);
}
ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset) { return pwrite(fd, data, count, offset); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return recorded_write(fd, parts, count, offset, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    return recorded_write(fd, parts, count, offset, flags);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return recorded_write(fd, parts, count, offset, 0);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return recorded_write(fd, parts, count, offset, 0);
}
int ftruncate(int fd, off_t length) { return recorded_resize(fd, 0, length, 1, 0); }
int ftruncate64(int fd, off64_t length) { return recorded_resize(fd, 0, length, 1, 0); }
int truncate(const char *path, off_t length) {
    int fd = RAW_OPEN(path, O_WRONLY | O_CLOEXEC, 0);
    int result = fd < 0 ? -1 : ftruncate(fd, length), error = errno;
    if (fd >= 0)
        syscall(SYS_close, fd);
    errno = error;
    return result;
}
int truncate64(const char *path, off64_t length) { return truncate(path, length); }
int fallocate(int fd, int mode, off_t offset, off_t length) { return recorded_resize(fd, offset, length, 0, mode); }
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return recorded_resize(fd, offset, length, 0, mode); }
int posix_fallocate(int fd, off_t offset, off_t length) {
    return recorded_resize(fd, offset, length, 0, 0) ? errno : 0;
}
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }
int fsync(int fd) { return recorded_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return recorded_sync(fd, SYS_fdatasync); }

/* -- what is not recorded is at least not missed ---------------------------------------------------------------- */

static void escaped(int fd, const char *how) {
    char path[PATH_MAX];
    struct stat status;
    struct record record = {.kind = ESCAPE, .data_bytes = strlen(how)};
    struct iovec part = {(void *)how, strlen(how)};
    if (is_watched(fd, path, &status))
        note(&record, path, &part, 1);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    char path[PATH_MAX];
    int is_written = protection & PROT_WRITE && flags & MAP_SHARED && !(flags & MAP_ANONYMOUS) && shared;
    if (is_written && path_of(fd, path) && !(strlen(path) > 5 && !strcmp(path + strlen(path) - 5, "-lock")))
        escaped(fd, "mmap");
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    return mmap(address, length, protection, flags, fd, offset);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t count) {
    escaped(out, "sendfile");
    return syscall(SYS_sendfile, out, in, offset, count);
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) { return sendfile(out, in, offset, count); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags) {
    escaped(out, "copy_file_range");
    return syscall(SYS_copy_file_range, in, from, out, to, count, flags);
}

/* -- names ------------------------------------------------------------------------------------------------------ */

static int recorded_open(int folder, const char *path, int flags, mode_t mode) {
    char absolute[PATH_MAX];
    int is_ours = is_watched_path(folder, path, absolute) && flags & (O_CREAT | O_TRUNC | O_DSYNC);
    if (!is_ours) {
        int fd = syscall(SYS_openat, folder, path, flags, mode);
        if (fd >= 0)
            synced[fd & 0xffff] = 0;
        return fd;
    }
    struct record record = {.kind = CREATE};
    take_lock();
    int is_there = exists(absolute, &record.inode);
    if (is_there)
        record.kind = RESIZE; /* to nothing */
    int is_noted = is_there ? flags & O_TRUNC : flags & O_CREAT;
    if (is_noted)
        prepare(&record, absolute, "", NULL, 0);
    int fd = syscall(SYS_openat, folder, path, flags & ~O_SYNC, mode);
    if (fd >= 0)
        synced[fd & 0xffff] = (flags & O_DSYNC) != 0;
    if (is_noted) {
        exists(absolute, &record.inode);
        conclude(&record, fd);
    }
    release_lock();
    return fd;
}

static int recorded_renaming(enum kind kind, int folder, const char *path, int other_folder, const char *other, int flags) {
    char from[PATH_MAX] = "", to[PATH_MAX] = "";
    int is_ours = is_watched_path(folder, path, from);
    is_ours |= kind != UNLINK && is_watched_path(other_folder, other, to);
    struct record record = {.kind = kind};
    if (is_ours) {
        take_lock();
        prepare(&record, from, to, NULL, 0);
    }
    int result = kind == UNLINK   ? syscall(SYS_unlinkat, folder, path, flags)
                 : kind == RENAME ? syscall(SYS_renameat2, folder, path, other_folder, other, flags)
                                  : syscall(SYS_linkat, folder, path, other_folder, other, flags);
    if (is_ours) {
        conclude(&record, result);
        release_lock();
    }
    return result;
}

#define OPENS(name, ...)                                                                                               \
    int name(__VA_ARGS__ const char *path, int flags, ...) {                                                           \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                                        \
        va_end(more);                                                                                                  \
        return recorded_open(FOLDER, path, flags, mode);                                                               \
    }
#define FOLDER AT_FDCWD
OPENS(open, )
OPENS(open64, )
int __open_2(const char *path, int flags) { return recorded_open(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return recorded_open(AT_FDCWD, path, flags, 0); }
int creat(const char *path, mode_t mode) { return recorded_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
#undef FOLDER
#define FOLDER folder
OPENS(openat, int folder,)
OPENS(openat64, int folder,)

int unlink(const char *path) { return recorded_renaming(UNLINK, AT_FDCWD, path, 0, NULL, 0); }
int unlinkat(int folder, const char *path, int flags) { return recorded_renaming(UNLINK, folder, path, 0, NULL, flags); }
int rename(const char *path, const char *other) { return recorded_renaming(RENAME, AT_FDCWD, path, AT_FDCWD, other, 0); }
int renameat(int folder, const char *path, int other_folder, const char *other) {
    return recorded_renaming(RENAME, folder, path, other_folder, other, 0);
}
int renameat2(int folder, const char *path, int other_folder, const char *other, unsigned flags) {
    return recorded_renaming(RENAME, folder, path, other_folder, other, flags);
}
int link(const char *path, const char *other) { return recorded_renaming(LINK, AT_FDCWD, path, AT_FDCWD, other, 0); }
int linkat(int folder, const char *path, int other_folder, const char *other, int flags) {
    return recorded_renaming(LINK, folder, path, other_folder, other, flags);
}
