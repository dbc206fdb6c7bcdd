/* The calls of libc that are recorded, in place of libc's. */
#include "recorder.h"

/* Descriptors that were to be opened with O_DSYNC: the write and its sync are separate steps here, so that a cut can
   come in between. */
static unsigned char synced[1 << 16];

/* -- writing and syncing ---------------------------------------------------------------------------------------- */

static ssize_t raw_write(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    if (offset < 0)
        return syscall(SYS_writev, fd, parts, count);
    if (flags)
        return syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags);
    return syscall(SYS_pwritev, fd, parts, count, offset, 0);
}

static int sync_range(int fd, const char *path, uint64_t inode, uint64_t offset, uint64_t length, long call) {
    struct record begin = {.kind = SYNC_BEGIN, .inode = inode, .offset = offset, .length = length};
    uint64_t at = note(&begin, path, NULL, 0);
    if (delay > 0)
        usleep(at * 2654435761u % delay);
    int result = delay < 0 ? 0 : syscall(call, fd), error = errno;
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
    int is_folder = watched[0] && path_of(fd, path) && !strcmp(path, watched) && !fstat(fd, &status);
    if (!is_folder && !is_watched(fd, path, &status))
        return delay < 0 ? 0 : syscall(call, fd);
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
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }
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
    int is_written = protection & PROT_WRITE && flags & MAP_SHARED && !(flags & MAP_ANONYMOUS) && watched[0];
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

static int recorded_naming(enum kind kind, int folder, const char *path, int other_folder, const char *other,
                           int flags) {
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

int unlink(const char *path) { return recorded_naming(UNLINK, AT_FDCWD, path, 0, NULL, 0); }
int unlinkat(int folder, const char *path, int flags) { return recorded_naming(UNLINK, folder, path, 0, NULL, flags); }
int rename(const char *path, const char *other) { return recorded_naming(RENAME, AT_FDCWD, path, AT_FDCWD, other, 0); }
int renameat(int folder, const char *path, int other_folder, const char *other) {
    return recorded_naming(RENAME, folder, path, other_folder, other, 0);
}
int renameat2(int folder, const char *path, int other_folder, const char *other, unsigned flags) {
    return recorded_naming(RENAME, folder, path, other_folder, other, flags);
}
int link(const char *path, const char *other) { return recorded_naming(LINK, AT_FDCWD, path, AT_FDCWD, other, 0); }
int linkat(int folder, const char *path, int other_folder, const char *other, int flags) {
    return recorded_naming(LINK, folder, path, other_folder, other, flags);
}
