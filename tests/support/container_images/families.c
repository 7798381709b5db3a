/* Which sockets a program may make: errno of AF_VSOCK's, and of it with other bits, 0 where one is made; then TCP's. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static int made(long number, long family)
{
    return syscall(number, family, 1, 0) < 0 ? errno : 0;
}

int main(void)
{
    const long x32 = 0x40000000;
    printf("%d %d %d %d\n", made(SYS_socket, 40), made(SYS_socket, 40 | 1L << 32), made(SYS_socket | x32, 40), made(SYS_socket, 2));
    return 0;
}
