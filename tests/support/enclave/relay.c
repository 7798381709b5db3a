/* The test enclave: relays each frame (u32 length, bytes) from a connection on in_5005.sock to nsm.sock and
 * back. First it writes to its console what it sees of the world. "exit N" ends it, "silent" never
 * listens, "once" serves one connection. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int unix_socket(const char *path, int server)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(address.sun_path, path);
    if (server ? bind(fd, (void *)&address, sizeof address) || listen(fd, 8)
               : connect(fd, (void *)&address, sizeof address)) {
        printf("%s: %s\n", path, strerror(errno));
        exit(9);
    }
    return fd;
}

static int copy_frame(int from, int to)
{
    static unsigned char buffer[1 << 20];
    size_t size = 4, done = 0;
    while (done < size) {
        ssize_t got = read(from, buffer + done, size - done);
        if (got <= 0)
            return 0;
        done += got;
        if (done == 4)
            size = 4 + ntohl(*(unsigned *)buffer);
        if (size > sizeof buffer)
            return 0;
    }
    return write(to, buffer, size) == (ssize_t)size;
}

static void look_around(int argc, char **argv)
{
    extern char **environ;
    struct dirent **entries;
    int i, count;
    for (i = 1; i < argc; i++)
        printf("arg %s\n", argv[i]);
    for (i = 0; environ[i]; i++)
        printf("env %s\n", environ[i]);
    count = scandir("/", &entries, NULL, alphasort);
    for (i = 0; i < count; i++)
        printf("root %s\n", entries[i]->d_name);
    printf("vsock %s\n", socket(40, SOCK_STREAM, 0) < 0 ? strerror(errno) : "open");
    struct sockaddr_in outside = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x7f000001)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    printf("loopback %s\n", connect(fd, (void *)&outside, sizeof outside) ? strerror(errno) : "open");
    printf("write %s\n", open("/etc/new", O_CREAT | O_WRONLY, 0600) < 0 ? strerror(errno) : "open");
    printf("pid %d uid %d\n", getpid(), getuid());
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int listener, connection, nsm;
    look_around(argc, argv);
    if (argc > 2 && !strcmp(argv[1], "exit")) {
        printf("\033[31mgoodbye\033[0m\n");
        return atoi(argv[2]);
    }
    if (fork() == 0) /* an orphan, to see that it ends with the enclave */
        for (;;)
            pause();
    while (argc > 1 && !strcmp(argv[1], "silent"))
        pause();
    listener = unix_socket("/run/coattest/in_5005.sock", 1);
    while ((connection = accept(listener, NULL, NULL)) >= 0) {
        nsm = unix_socket("/run/coattest/nsm.sock", 0);
        while (copy_frame(connection, nsm) && copy_frame(nsm, connection))
            ;
        close(nsm);
        close(connection);
        if (argc > 1 && !strcmp(argv[1], "once"))
            break;
    }
    return 8;
}
