/*
 * The first process of an enclave made of a container image (`eif container build --style coattest`).
 *
 * Built against the kernel's own nolibc (tools/include/nolibc), like the auction's init, whose heartbeat it has.
 * The ramdisks leave /rootfs, the image's files, and /run, which says what to start: texts that end with NUL,
 * in the order in which read_plan reads them. What can be decided from the image was decided at the build;
 * anything unexpected here ends the enclave. The build puts forward.c before this file.
 */

/* linux/socket.h, linux/vm_sockets.h, linux/if.h: they want a C library's headers beside them. */
#define SOCK_DGRAM_TYPE 2
#define VMADDR_CID_HOST 2
#define SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD 6
#define SIOCGIFFLAGS 0x8913
#define SIOCSIFFLAGS 0x8914
#define IFF_UP 1

struct interface { /* struct ifreq */
	char name[16];
	short flags;
	char rest[22];
};

struct nsm_raw { /* linux/nsm.h */
	void *request;
	unsigned long request_size;
	void *response;
	unsigned long response_size;
};

#define NSM_IOCTL_RAW 0xc0200a00ul
#define NSM_RESPONSE_MAX_SIZE 0x3000

#define HEARTBEAT_PORT 9000
#define HEARTBEAT_BYTE 0xb7
#define HEARTBEAT_ROUNDS 10
#define CONNECT_TIMEOUT_US 500000
#define PARENT_CID 3 /* where Nitro's parent listens; QEMU only offers VMADDR_CID_HOST (2) */

#define LIMIT (1024 * 1024) /* bytes of /run: MAX_PLAN of plan.py */
#define WORDS 16384	    /* of the command, and of the environment: MAX_WORDS of manifests.py */
#define GROUPS 65536	    /* NGROUPS_MAX */
#define OPEN_FILES 65536
#define EARLIEST_MS 1735689600000ul /* 2025 */
#define LATEST_MS 4102444800000ul   /* 2100 */
#define RANDOM_SOURCE "nsm-hwrng\n"
#define POLL_MS 1000
#define PIPE_BLOCKS 16 /* a pipe holds 64 KiB */
#define NOT_FOUND 127 /* as Docker and shells tell it */
#define NOT_STARTED 126
#define MAY_EXECUTE 1 /* X_OK */

/*
 * linux/capability.h: Docker's set without CAP_MKNOD, which would make /dev/nsm anew: chown, dac_override,
 * fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, audit_write, setfcap.
 */
#define CAPABILITIES                                                                                                   \
	(1ul << 0 | 1ul << 1 | 1ul << 3 | 1ul << 4 | 1ul << 5 | 1ul << 6 | 1ul << 7 | 1ul << 8 | 1ul << 10 | 1ul << 13 |  \
	 1ul << 18 | 1ul << 29 | 1ul << 31)

static char plan_text[LIMIT], *plan_at, *plan_end;
static unsigned int uid, gid, groups[GROUPS], group_count;
static int gives_nsm;
static char *folder, *words[WORDS + 1], *environment[WORDS + 1];

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

/* ------------------------------------------------------------------------------ heartbeat */

/* One heartbeat to one address; 0 on success. */
static int beat(unsigned int cid)
{
	struct sockaddr_vm address;
	struct timeval timeout = { .tv_sec = 0, .tv_usec = CONNECT_TIMEOUT_US };
	unsigned char byte = HEARTBEAT_BYTE;
	int fd = syscall(__NR_socket, AF_VSOCK, SOCK_STREAM_TYPE, 0), result = -1;

	if (fd < 0)
		die("socket", "AF_VSOCK");
	vsock_address(&address, cid, HEARTBEAT_PORT);
	syscall(__NR_setsockopt, fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, &timeout, sizeof(timeout));
	if (syscall(__NR_connect, fd, &address, sizeof(address)) == 0 && write(fd, &byte, 1) == 1) {
		byte = 0;
		if (read(fd, &byte, 1) == 1 && byte == HEARTBEAT_BYTE) {
			parent_cid = cid;
			result = 0;
		}
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

/* ------------------------------------------------------------------------------ what to start */

static char *next_text(void)
{
	char *text = plan_at;

	while (plan_at < plan_end && *plan_at)
		plan_at++;
	if (plan_at >= plan_end) {
		errno = EINVAL;
		die("read", "/run");
	}
	plan_at++;
	return text;
}

static unsigned int next_number(unsigned long most)
{
	char *text = next_text();
	unsigned long value = 0;

	for (char *at = text; *at; at++) {
		if (*at < '0' || *at > '9' || value > most)
			value = most + 1;
		else
			value = value * 10 + (*at - '0');
	}
	if (!*text || value > most) {
		errno = ERANGE;
		die("read", "/run");
	}
	return value;
}

static void next_list(char **list)
{
	unsigned int count = next_number(WORDS);

	for (unsigned int at = 0; at < count; at++)
		list[at] = next_text();
	list[count] = 0;
}

/* Behind the environment, and only where there is a network: ports, and names with their ports. */
static void read_network(void)
{
	listen_count = next_number(LISTENS);
	for (unsigned int at = 0; at < listen_count; at++) {
		listens[at].outside = next_number(0xfffffffe);
		listens[at].inside = next_number(0xffff);
	}
	name_count = next_number(NAMES);
	for (unsigned int at = 0; at < name_count; at++) {
		names[at] = next_text();
		if (strlen(names[at]) > NAME_MAX_SIZE) {
			errno = ERANGE;
			die("read", "/run");
		}
	}
}

static int has_network(void)
{
	return listen_count || name_count;
}

static void read_plan(void)
{
	int fd = open("/run", O_RDONLY, 0);
	long size = 0, got = 0;

	if (fd < 0)
		die("open", "/run");
	while (size < LIMIT && (got = read(fd, plan_text + size, LIMIT - size)) > 0)
		size += got;
	if (got < 0 || size == LIMIT)
		die("read", "/run");
	close(fd);
	plan_at = plan_text;
	plan_end = plan_text + size;
	if (strcmp(next_text(), "coattest-run/v1")) {
		errno = EINVAL;
		die("read", "/run");
	}
	gives_nsm = next_number(1);
	uid = next_number(0xfffffffe);
	gid = next_number(0xfffffffe);
	group_count = next_number(GROUPS);
	for (unsigned int at = 0; at < group_count; at++)
		groups[at] = next_number(0xfffffffe);
	folder = next_text();
	next_list(words);
	next_list(environment);
	if (plan_at != plan_end)
		read_network();
	if (plan_at != plan_end || !words[0]) {
		errno = EINVAL;
		die("read", "/run");
	}
}

/* ------------------------------------------------------------------------------ the system */

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY, 0);
	long size = strlen(text);

	if (fd < 0 || write(fd, text, size) != size)
		die("write", path);
	close(fd);
}

/* No key may be made from another source of random numbers. */
static void check_random_source(void)
{
	char text[64] = "";
	int fd = open("/sys/class/misc/hw_random/rng_current", O_RDONLY, 0);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0 || strcmp(text, RANDOM_SOURCE)) {
		errno = 0;
		die("source of random numbers", text);
	}
	close(fd);
}

/* The time of a document made now. The NSM is the hypervisor's: its answer is not searched for lies. */
static void set_clock(void)
{
	static const char request[] = "\xa1\x6b" "Attestation\xa3\x69" "user_data\xf6\x65" "nonce\xf6\x6a" "public_key\xf6";
	static const char mark[] = "\x69" "timestamp\x1b"; /* a text of 9 bytes, an integer of 8 */
	static char answer[NSM_RESPONSE_MAX_SIZE];
	struct nsm_raw raw = { (void *)request, sizeof(request) - 1, answer, sizeof(answer) };
	unsigned long now = 0, place = 0, left = sizeof(mark) - 1 + 8;
	struct { long seconds, nanoseconds; } time;
	int fd = open("/dev/nsm", O_RDWR, 0);

	if (fd < 0 || ioctl(fd, NSM_IOCTL_RAW, &raw) || raw.response_size > sizeof(answer))
		die("ask", "/dev/nsm");
	close(fd);
	while (place + left <= raw.response_size && memcmp(answer + place, mark, sizeof(mark) - 1))
		place++;
	if (place + left <= raw.response_size)
		for (int at = 0; at < 8; at++)
			now = now << 8 | (unsigned char)answer[place + sizeof(mark) - 1 + at];
	if (now < EARLIEST_MS || now > LATEST_MS) {
		errno = ERANGE;
		die("time", "of /dev/nsm");
	}
	time.seconds = now / 1000;
	time.nanoseconds = now % 1000 * 1000000;
	if (syscall(__NR_clock_settime, 0, &time))
		die("set", "the clock");
}

static void loopback_up(void)
{
	struct interface loopback;
	int fd = syscall(__NR_socket, AF_INET, SOCK_DGRAM_TYPE, 0);

	memset(&loopback, 0, sizeof(loopback));
	memcpy(loopback.name, "lo", 3);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &loopback))
		die("find", "lo");
	loopback.flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &loopback))
		die("start", "lo");
	close(fd);
}

static void link_at(const char *target, const char *path)
{
	if (symlink(target, path))
		die("link", path);
}

static void folder_at(const char *path)
{
	if (mkdir(path, 0755))
		die("make", path);
}

/* As in a container: devices, /proc and /sys, and the image's own files, which can be written. */
static void prepare_root(void)
{
	const unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	if (mount("/rootfs", "/rootfs", 0, MS_BIND, 0) || mount("", "/rootfs", 0, MS_REMOUNT | MS_BIND | MS_NODEV, 0))
		die("bind", "/rootfs");
	mount_at("devtmpfs", "/rootfs/dev", MS_NOSUID | MS_NOEXEC, 0);
	mount_at("proc", "/rootfs/proc", plain, 0);
	mount_at("sysfs", "/rootfs/sys", plain | MS_RDONLY, 0);
	/* What was the root until now has init and /run alone, and cannot be reached any more. */
	if (chdir("/rootfs") || mount(".", "/", 0, MS_MOVE, 0) || chroot(".") || chdir("/"))
		die("move", "/rootfs");
	folder_at("/dev/pts");
	folder_at("/dev/shm");
	folder_at("/dev/mqueue");
	mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5");
	mount_at("tmpfs", "/dev/shm", plain, "mode=1777");
	mount_at("mqueue", "/dev/mqueue", plain, 0);
	link_at("/proc/self/fd", "/dev/fd");
	link_at("/proc/self/fd/0", "/dev/stdin");
	link_at("/proc/self/fd/1", "/dev/stdout");
	link_at("/proc/self/fd/2", "/dev/stderr");
	check_random_source();
	set_clock();
	if (gives_nsm ? chown("/dev/nsm", uid, gid) : unlink("/dev/nsm"))
		die("give", "/dev/nsm");
	loopback_up();
	/* Docker's default: ports below 1024 are for every user. */
	write_text("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
	if (syscall(__NR_sethostname, "enclave", 7))
		die("set", "the host's name");
	if (mount("/proc/sys", "/proc/sys", 0, MS_BIND, 0) ||
	    mount("", "/proc/sys", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | plain, 0))
		die("bind", "/proc/sys");
}

/* ------------------------------------------------------------------------------ the program */

static void __attribute__((noreturn)) give_up(const char *what, const char *where, int code)
{
	printf("init: %s %s failed: errno %d\n", what, where, errno);
	exit(code);
}

/* With a network, the program has no other way out than forward.c: it makes no socket of AF_VSOCK. */
static void refuse_vsock(void)
{
	struct { unsigned short code; unsigned char yes, no; unsigned int value; } filter[] = {
		{ 0x20, 0, 0, 4 },		/* load the architecture */
		{ 0x15, 0, 6, 0xc000003e },	/* AUDIT_ARCH_X86_64, or refuse */
		{ 0x20, 0, 0, 0 },		/* load the call's number */
		{ 0x35, 4, 0, 0x40000000 },	/* of x32: refuse */
		{ 0x15, 0, 2, __NR_socket },	/* another one: allow */
		{ 0x20, 0, 0, 16 },		/* load its first argument */
		{ 0x15, 1, 0, AF_VSOCK },	/* refuse */
		{ 0x06, 0, 0, 0x7fff0000 },	/* SECCOMP_RET_ALLOW */
		{ 0x06, 0, 0, 0x00050000 | 97 }, /* SECCOMP_RET_ERRNO, EAFNOSUPPORT */
	};
	struct { unsigned short size; void *filter; } program = { sizeof(filter) / sizeof(*filter), filter };

	if (prctl(22 /* PR_SET_SECCOMP */, 2 /* SECCOMP_MODE_FILTER */, (unsigned long)&program, 0, 0))
		give_up("filter", "AF_VSOCK", NOT_STARTED);
}

static void become_user(void)
{
	struct { unsigned long soft, hard; } files = { OPEN_FILES, OPEN_FILES };
	int entered;

	if (syscall(__NR_prlimit64, 0, 7 /* RLIMIT_NOFILE */, &files, 0))
		give_up("limit", "of open files", NOT_STARTED);
	for (long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) /* beyond the last: EINVAL */
		if (!(CAPABILITIES >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			give_up("drop", "capabilities", NOT_STARTED);
	/* As root first, and where that fails as the user: runc's order. */
	entered = !chdir(folder);
	if (syscall(__NR_setgroups, group_count, groups) || syscall(__NR_setresgid, gid, gid, gid) ||
	    syscall(__NR_setresuid, uid, uid, uid))
		give_up("become", "the user", NOT_STARTED);
	if (!entered && chdir(folder))
		give_up("enter", folder, NOT_STARTED);
}

static int can_execute(const char *path)
{
	struct stat found;

	return !stat(path, &found) && !S_ISDIR(found.st_mode) &&
	       !syscall(__NR_faccessat, AT_FDCWD, path, MAY_EXECUTE);
}

/*
 * The command as it is when it has a slash, else the first file of this name in PATH's absolute folders that
 * can be executed (Docker: Go's exec.LookPath). One that is found and does not start ends the search.
 */
static void __attribute__((noreturn)) execute(void)
{
	static char path[4096 + 256];
	char *from = "";

	if (strchr(words[0], '/')) {
		execve(words[0], words, environment);
		give_up("start", words[0], errno == ENOENT ? NOT_FOUND : NOT_STARTED);
	}
	for (char **variable = environment; *variable; variable++)
		if (!strncmp(*variable, "PATH=", 5))
			from = *variable + 5;
	while (*from) {
		unsigned long size = 0, name = strlen(words[0]);

		while (from[size] && from[size] != ':')
			size++;
		if (*from == '/' && size + name + 2 <= sizeof(path)) {
			memcpy(path, from, size);
			path[size] = '/';
			memcpy(path + size + 1, words[0], name + 1);
			if (can_execute(path)) {
				execve(path, words, environment);
				give_up("start", path, errno == ENOENT ? NOT_FOUND : NOT_STARTED);
			}
		}
		from += size + (from[size] == ':');
	}
	errno = ENOENT;
	give_up("find", words[0], NOT_FOUND);
}

static void __attribute__((noreturn)) run_program(int output)
{
	int input = open("/dev/null", O_RDONLY, 0);
	unsigned long none = 0;

	if (input < 0 || dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
		give_up("open", "standard files", NOT_STARTED);
	close(input);
	setsid();
	syscall(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof(none));
	if (has_network())
		refuse_vsock();
	become_user();
	execute();
}

/* A block of what the program wrote, to the console; 0 when there was nothing. */
static int copy_output(int output)
{
	static char block[4096];
	long got = read(output, block, sizeof(block)), done = 0, put;

	while (done < got && (put = write(1, block + done, got - done)) > 0)
		done += put;
	return got > 0;
}

/*
 * The program's status. Its output comes by a pipe of its own, so that /dev/stdout can be opened by its user;
 * every other process that ended is reaped meanwhile. The forwarder's end is the enclave's: once it is gone the
 * program could listen in its place.
 */
static int wait_for(int program, int forwarder, int output)
{
	unsigned long chld = 1ul << (SIGCHLD - 1);
	int signals = syscall(__NR_signalfd4, -1, &chld, sizeof(chld), O_CLOEXEC | O_NONBLOCK), status, pid;
	struct pollfd events[2] = { { .fd = output, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
	char ignored[128];

	if (signals < 0)
		die("signalfd", "");
	for (;;) {
		poll(events, 2, POLL_MS);
		copy_output(output);
		while (read(signals, ignored, sizeof(ignored)) > 0)
			;
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
			errno = 0;
			if (pid == forwarder)
				die("run", "the forwarder");
			if (pid != program)
				continue;
			/* What is in the pipe now; others may write to it for ever. */
			for (int block = 0; block < PIPE_BLOCKS && copy_output(output); block++)
				;
			return status;
		}
	}
}

/* Without a console too: no file that is opened later may become one of these three. */
static void open_standard_files(void)
{
	int fd;

	while ((fd = open("/dev/null", O_RDWR, 0)) <= 2)
		if (fd < 0)
			end();
	close(fd);
	fd = open("/dev/console", O_RDWR, 0);
	if (fd < 0)
		return;
	for (int target = 0; target < 3; target++)
		dup2(fd, target);
	close(fd);
}

/* Its process, 0 where there is no network. Its ports are open before there is a program. */
static int start_forwarder(void)
{
	int forwarder;

	if (!has_network())
		return 0;
	if (open_listeners())
		die("listen", "for the network");
	forwarder = fork();
	if (forwarder < 0)
		die("fork", "");
	if (forwarder == 0)
		run_forwarder();
	for (unsigned int at = 0; at <= listen_count; at++)
		close(listeners[at]);
	return forwarder;
}

int main(void)
{
	unsigned long chld = 1ul << (SIGCHLD - 1);
	int status, program, forwarder, output[2];

	/* DEVTMPFS_MOUNT does not apply to an initial ramdisk. */
	mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, 0);
	open_standard_files();
	heartbeat();
	read_plan();
	prepare_root();
	forwarder = start_forwarder();
	if (pipe2(output, O_CLOEXEC | O_NONBLOCK) || syscall(__NR_fchown, output[1], uid, gid))
		die("make", "a pipe");
	/* The program waits where the console is slow; only init's end does not. */
	if (syscall(__NR_fcntl, output[1], 4 /* F_SETFL */, O_WRONLY))
		die("make", "a pipe");
	syscall(__NR_rt_sigprocmask, SIG_BLOCK, &chld, 0, sizeof(chld));
	program = fork();
	if (program < 0)
		die("fork", "");
	if (program == 0)
		run_program(output[1]);
	status = wait_for(program, forwarder, output[0]);
	if (WIFEXITED(status))
		printf("init: the program ended with exit code %d\n", WEXITSTATUS(status));
	else
		printf("init: the program ended by signal %d\n", status & 0x7f);
	end();
}
