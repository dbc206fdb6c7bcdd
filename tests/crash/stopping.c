/* Stops the process right after it has locked LMDB's reader table for the n-th time (its mutexes are the robust ones),
   or has an LMDB file exclusively for the n-th time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    static int (*next)(pthread_mutex_t *), count;
    if (!next)
        next = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
    int result = next(mutex);
    const char *at = getenv("STOP_AT_LOCK");
    if (at && (mutex->__data.__kind & 16) && ++count == atoi(at))
        kill(getpid(), SIGSTOP);
    return result;
}

static int locked(const char *name, int fd, int command, void *argument)
{
    static int count;
    int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
    int result = next(fd, command, argument);
    const char *at = getenv("STOP_AT_EXCLUSIVE");
    if (at && command == F_SETLK && !result) {
        struct flock *lock = argument;
        if (lock->l_type == F_WRLCK && lock->l_start == 0 && lock->l_len == 1 && ++count == atoi(at))
            kill(getpid(), SIGSTOP);
    }
    return result;
}

#define WRAP(name)                                    \
    int name(int fd, int command, ...)                \
    {                                                 \
        va_list arguments;                            \
        va_start(arguments, command);                 \
        void *argument = va_arg(arguments, void *);   \
        va_end(arguments);                            \
        return locked(#name, fd, command, argument);  \
    }

WRAP(fcntl)
WRAP(fcntl64)
