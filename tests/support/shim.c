/* Preloaded into a child: makes the C library lie, as its environment says.
 *   SHIM_FLOCK=lie       flock() succeeds without locking
 *   SHIM_FCNTL=lie       fcntl() locks succeed without locking, and report no other lock
 *   SHIM_BOOTTIME=FILE   CLOCK_BOOTTIME is ahead by the seconds that the file holds (0 while there is none)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static int lies(const char *name) {
    const char *told = getenv(name);
    return told != NULL && strcmp(told, "lie") == 0;
}

int flock(int fd, int operation) {
    static int (*real)(int, int);
    if (lies("SHIM_FLOCK")) return 0;
    if (!real) real = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
    return real(fd, operation);
}

static int lying_lock(int command, void *argument) {
    if (command == F_GETLK) ((struct flock *)argument)->l_type = F_UNLCK;
    return 0;
}

static int pass_fcntl(const char *name, int fd, int command, void *argument) {
    int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
    if (!real) real = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl");
    int is_lock = command == F_SETLK || command == F_SETLKW || command == F_GETLK;
    if (is_lock && lies("SHIM_FCNTL")) return lying_lock(command, argument);
    return real(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return pass_fcntl("fcntl", fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return pass_fcntl("fcntl64", fd, command, argument);
}

static long ahead_s(void) {
    const char *path = getenv("SHIM_BOOTTIME");
    char text[32] = {0};
    if (path == NULL) return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    return length > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, at);
    if (result == 0 && id == CLOCK_BOOTTIME) {
        int kept = errno;
        at->tv_sec += ahead_s();
        errno = kept;
    }
    return result;
}
