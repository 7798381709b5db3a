/* bridge VSOCK-PORT TCP-PORT PROGRAM [WORD..]: starts the program, and carries every connection to the vsock port to
 * 127.0.0.1. A process for each; 16 KiB at a time (docs/kernel.md). Ends when the program ends. */
#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void carry(int outside, int port)
{
    static char block[16384];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int inside = socket(AF_INET, SOCK_STREAM, 0), ends[2] = {outside, inside};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(inside, (void *)&address, sizeof address))
        exit(1);
    for (;;) {
        struct pollfd events[2] = {{.fd = outside, .events = POLLIN}, {.fd = inside, .events = POLLIN}};
        poll(events, 2, -1);
        for (int from = 0; from < 2; from++) {
            if (!events[from].revents)
                continue;
            ssize_t got = read(ends[from], block, sizeof block);
            if (got <= 0)
                exit(0);
            for (ssize_t done = 0, put; done < got; done += put)
                if ((put = write(ends[1 - from], block + done, got - done)) <= 0)
                    exit(1);
        }
    }
}

int main(int count, char **words)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0), status = 0;
    if (count < 4)
        return 2;
    address.svm_port = atoi(words[1]);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) {
        perror("vsock");
        return 1;
    }
    pid_t server = fork();
    if (server == 0) {
        for (;;) {
            int outside = accept(listener, 0, 0);
            while (waitpid(-1, &status, WNOHANG) > 0)
                ;
            if (outside >= 0 && fork() == 0)
                carry(outside, atoi(words[2]));
            close(outside);
        }
    }
    pid_t program = fork();
    if (program == 0) {
        close(listener);
        execvp(words[3], words + 3);
        perror(words[3]);
        return 127;
    }
    waitpid(program, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
