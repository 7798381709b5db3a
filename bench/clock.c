/* Shows a program a fixed time of day (CLOCK_AT, seconds since 1970), for verifiers that take no time as an argument. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    const char *at = getenv("CLOCK_AT");
    if (result == 0 && clock == CLOCK_REALTIME && at != NULL)
        now->tv_sec = atol(at);
    return result;
}
