/* The stress enclave: on vsock port 5005, for each connection, reads a count (u64, big-endian), then sends that
 * many bytes of a known pattern while it receives and checks as many, and ends with 'K' (all bytes were right) or 'X'.
 * "exit N" prints a line and ends. */
#include <arpa/inet.h>
#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/wait.h>
#include <unistd.h>

/* Small writes, so that many packets are under way. (A write of more than 32 KiB becomes a packet of several
 * descriptors on Linux 6.12.95, and vhost-device-vsock 0.3 drops such packets silently.) */
#define BLOCK 1024

static void fill(unsigned char *buffer, size_t size, uint64_t at)
{
    for (size_t i = 0; i < size; i++)
        buffer[i] = (unsigned char)((at + i) * 31 + ((at + i) >> 13));
}

static int all(int fd, unsigned char *buffer, size_t size, int out)
{
    while (size > 0) {
        ssize_t done = out ? write(fd, buffer, size) : read(fd, buffer, size);
        if (done <= 0)
            return 0;
        buffer += done;
        size -= done;
    }
    return 1;
}

static int stream(int fd, uint64_t count, int out)
{
    static unsigned char data[BLOCK], expected[BLOCK];
    for (uint64_t at = 0; at < count; at += BLOCK) {
        size_t size = count - at < BLOCK ? count - at : BLOCK;
        fill(expected, size, at);
        if (out)
            memcpy(data, expected, size);
        if (!all(fd, data, size, out) || memcmp(data, expected, size))
            return 0;
    }
    return 1;
}

static void serve(int fd)
{
    uint64_t count;
    int status = 1, sender;
    if (!all(fd, (unsigned char *)&count, sizeof count, 0))
        _exit(1);
    count = be64toh(count);
    sender = fork();
    if (sender == 0)
        _exit(!stream(fd, count, 1));
    sleep(2); /* meanwhile both directions fill up: the sender above, and the other end */
    int right = stream(fd, count, 0);
    waitpid(sender, &status, 0);
    unsigned char verdict = right && status == 0 ? 'K' : 'X';
    all(fd, &verdict, 1, 1);
    _exit(0);
}

int main(int argc, char **argv)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 5005};
    if (argc > 2 && !strcmp(argv[1], "exit")) {
        printf("the program says goodbye\n");
        return atoi(argv[2]);
    }
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0), fd;
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 64)) {
        perror("vsock");
        return 9;
    }
    printf("flood: listening\n");
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        if (fork() == 0)
            serve(fd);
        close(fd);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
    perror("accept");
    return 8;
}
