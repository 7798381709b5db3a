/* Makes every call and every socket that its arguments name (call:N, family:N), and says how each ended. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words)
{
    for (int at = 1; at < count; at++) {
        const char *colon = strchr(words[at], ':');
        if (!colon)
            continue;
        long number = atol(colon + 1);
        errno = 0;
        if (words[at][0] == 'f')
            socket(number, SOCK_DGRAM, 0);
        else
            syscall(number, -1L, 0L, 0L, 0L, 0L, 0L);
        printf("%s %d\n", words[at], errno);
        fflush(stdout);
    }
    return 3;
}
