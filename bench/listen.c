/* The least that a program of an enclave can be: accepts connections on vsock port 5005 and answers nothing. */
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

int main(void)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 5005};
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0), fd;
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 8))
        return 1;
    while ((fd = accept(listener, NULL, NULL)) >= 0)
        close(fd);
    return 2;
}
