/*
 * The first process of the enclave: mounts, the heartbeat that the hypervisor waits for, the program.
 *
 * Built against the kernel's own nolibc (tools/include/nolibc), so it needs no C library. What it does follows
 * the init of aws-nitro-enclaves-sdk-bootstrap: the ramdisks leave /rootfs, /cmd and /env beside it, the
 * latter two with one entry per line; the program runs in /rootfs and the enclave ends with it.
 */

#define CAP_SYS_TIME 25 /* linux/capability.h */
/* linux/socket.h and linux/vm_sockets.h, which want a C library's headers beside them. */
#define AF_VSOCK 40
#define VMADDR_CID_HOST 2
#define SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD 6

struct sockaddr_vm {
	unsigned short svm_family;
	unsigned short svm_reserved1;
	unsigned int svm_port;
	unsigned int svm_cid;
	unsigned char svm_flags;
	unsigned char svm_zero[3];
};

#define LIMIT 65536 /* bytes of /cmd or /env */
#define ENTRIES 256 /* lines of each */
#define SOCK_STREAM_TYPE 1
#define HEARTBEAT_PORT 9000
#define HEARTBEAT_BYTE 0xb7
#define HEARTBEAT_ROUNDS 10
#define CONNECT_TIMEOUT_US 500000
#define PARENT_CID 3 /* where Nitro's parent listens; QEMU only offers VMADDR_CID_HOST (2) */

static char cmd_text[LIMIT], env_text[LIMIT];
static char *cmd[ENTRIES + 1], *env[ENTRIES + 1];

static void __attribute__((noreturn)) end(void)
{
	printf("init: the enclave ends\n");
	reboot(LINUX_REBOOT_CMD_RESTART);
	for (;;)
		sleep(1);
}

static void __attribute__((noreturn)) die(const char *what, const char *where)
{
	printf("init: %s %s failed: errno %d\n", what, where, errno);
	end();
}

static void mount_at(const char *type, const char *target, unsigned long flags, const char *data)
{
	if (mount(type, target, type, flags, data))
		die("mount", target);
}

/* Split the lines of a file in place; the last pointer is null. */
static void read_lines(const char *path, char *text, char **lines)
{
	int fd = open(path, O_RDONLY, 0), count = 0;
	long size = 0, got;
	char *start = text;

	if (fd < 0)
		die("open", path);
	while (size < LIMIT && (got = read(fd, text + size, LIMIT - size)) > 0)
		size += got;
	if (got < 0)
		die("read", path);
	close(fd);
	for (char *end_of = text + size, *at = text; at < end_of; at++) {
		if (*at != '\n')
			continue;
		if (count == ENTRIES) {
			errno = E2BIG;
			die("read", path);
		}
		*at = 0;
		lines[count++] = start;
		start = at + 1;
	}
	if (size == LIMIT || start != text + size) { /* too long, or the last line has no end */
		errno = EINVAL;
		die("read", path);
	}
	lines[count] = 0;
}

/* One heartbeat to one address; 0 on success. */
static int beat(unsigned int cid)
{
	struct sockaddr_vm address;
	struct timeval timeout = { .tv_sec = 0, .tv_usec = CONNECT_TIMEOUT_US };
	unsigned char byte = HEARTBEAT_BYTE;
	int fd = syscall(__NR_socket, AF_VSOCK, SOCK_STREAM_TYPE, 0), result = -1;

	if (fd < 0)
		die("socket", "AF_VSOCK");
	memset(&address, 0, sizeof(address));
	address.svm_family = AF_VSOCK;
	address.svm_cid = cid;
	address.svm_port = HEARTBEAT_PORT;
	syscall(__NR_setsockopt, fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, &timeout, sizeof(timeout));
	if (syscall(__NR_connect, fd, &address, sizeof(address)) == 0 && write(fd, &byte, 1) == 1) {
		byte = 0;
		if (read(fd, &byte, 1) == 1 && byte == HEARTBEAT_BYTE)
			result = 0;
	}
	close(fd);
	return result;
}

static void heartbeat(void)
{
	for (int round = 0; round < HEARTBEAT_ROUNDS; round++) {
		if (beat(PARENT_CID) == 0 || beat(VMADDR_CID_HOST) == 0)
			return;
		msleep(100);
	}
	die("heartbeat", "port 9000");
}

static void prepare_root(void)
{
	/* A mount of its own, so that the measured files can be made read-only. */
	if (mount("/rootfs", "/rootfs", 0, MS_BIND, 0))
		die("bind", "/rootfs");
	mount_at("devtmpfs", "/rootfs/dev", MS_NOSUID | MS_NOEXEC, 0);
	/* Devices can be used, and none can be made, renamed, removed or opened to others. */
	if (mount("", "/rootfs/dev", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, 0))
		die("remount", "/rootfs/dev");
	mount_at("proc", "/rootfs/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, 0);
	mount_at("sysfs", "/rootfs/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, 0);
	mount_at("tmpfs", "/rootfs/tmp", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777");
	mount_at("tmpfs", "/rootfs/run", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755");
	if (mount("", "/rootfs", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, 0))
		die("remount", "/rootfs");
}

/* What the program executes keeps one capability: it sets the clock to the time that the NSM attests. */
static void drop_privileges(void)
{
	for (long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) /* beyond the last: EINVAL */
		if (cap != CAP_SYS_TIME && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			die("drop", "capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("set", "no_new_privs");
}

static void run_program(void)
{
	if (chdir("/rootfs") || chroot(".") || chdir("/"))
		die("chroot", "/rootfs");
	setsid();
	drop_privileges();
	execve(cmd[0], cmd, env);
	die("execute", cmd[0]);
}

int main(void)
{
	int fd, status, pid, program;

	/* DEVTMPFS_MOUNT does not apply to an initial ramdisk. */
	mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, 0);
	fd = open("/dev/console", O_RDWR, 0);
	if (fd >= 0) {
		for (int target = 0; target < 3; target++)
			dup2(fd, target);
		if (fd > 2)
			close(fd);
	}
	heartbeat();
	read_lines("/cmd", cmd_text, cmd);
	read_lines("/env", env_text, env);
	if (!cmd[0]) {
		errno = ENOENT;
		die("read", "/cmd");
	}
	prepare_root();
	program = fork();
	if (program < 0)
		die("fork", "");
	if (program == 0)
		run_program();
	while ((pid = waitpid(-1, &status, 0)) != program)
		if (pid < 0)
			die("wait", "");
	if (WIFEXITED(status))
		printf("init: the program ended with exit code %d\n", WEXITSTATUS(status));
	else
		printf("init: the program ended by signal %d\n", status & 0x7f);
	end();
}
