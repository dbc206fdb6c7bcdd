/* Records what the processes of a test write to the files of one folder, and what they sync, in one order: the log.

   Loaded before libc (LD_PRELOAD), so LMDB's calls are seen like Python's (calls.c). One lock, shared by all processes,
   is held while a call changes a file and is noted, so the order of the log is the order in which things happened. A
   sync is noted at its beginning and at its end, without the lock in between. Linux, 64 bit. */
#include "recorder.h"
#include <pthread.h>

struct shared {
    pthread_mutex_t lock;
    uint64_t end;     /* of the log: what lies before it has happened */
    uint64_t pending; /* where a record begins whose call may have happened; the same as end, or of no meaning */
};

static struct shared *shared;
static int log_fd = -1;
static size_t watched_bytes;
char watched[PATH_MAX];
long delay;

/* -- which files ------------------------------------------------------------------------------------------------ */

static int is_inside(const char *path) {
    if (strncmp(path, watched, watched_bytes) || path[watched_bytes] != '/')
        return 0;
    return !strchr(path + watched_bytes + 1, '/');
}

int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t count = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[count < 0 ? 0 : count] = 0;
    return count > 0;
}

int is_watched(int fd, char *path, struct stat *status) {
    int before = errno;
    int is = shared && path_of(fd, path) && is_inside(path) && !fstat(fd, status) && S_ISREG(status->st_mode);
    errno = before;
    return is;
}

/* Make a path absolute, as far as the folder that it lies in tells; return whether that one is watched. */
int is_watched_path(int folder, const char *path, char *absolute) {
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

int exists(const char *path, uint64_t *inode) {
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
    if (pread(log_fd, path, record.path_bytes, at) < 0 ||
        pread(log_fd, other, record.other_bytes, at + record.path_bytes) < 0)
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

void take_lock(void) {
    int error = pthread_mutex_lock(&shared->lock);
    if (error == EOWNERDEAD) {
        settle();
        pthread_mutex_consistent(&shared->lock);
    } else if (error)
        die("the lock cannot be taken");
}

void release_lock(void) { pthread_mutex_unlock(&shared->lock); }

/* Put a record at the end of the log without its counting yet. */
void prepare(struct record *record, const char *path, const char *other, const struct iovec *data, int count) {
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
void conclude(struct record *record, int64_t result) {
    int before = errno;
    if (result >= 0) {
        record->result = result;
        rewrite(record);
        shared->end += bytes_of(record);
    } else
        shared->pending = UINT64_MAX;
    errno = before;
}

uint64_t note(struct record *record, const char *path, const struct iovec *data, int count) {
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

/* Where the log ends: behind that may lie what has not happened. */
uint64_t power_cut_end(void) { return shared->end; }

__attribute__((constructor)) static void start(void) {
    const char *log = getenv("POWER_CUT_LOG"), *folder = getenv("POWER_CUT_FOLDER"), *slow = getenv("POWER_CUT_DELAY");
    delay = slow ? atol(slow) : 0;
    if (log && folder && power_cut_start(log, folder))
        die("the log cannot be opened");
}
