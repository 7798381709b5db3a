/*
 * The network of an enclave made of a container image: connections from outside to ports of the loopback, and
 * one CONNECT listener (RFC 9110, 9.3.6) that leads to the measured names and nowhere else.
 *
 * The build puts this file before init.c: it is a process of init's, forked before the program, with a user of
 * its own. It sees ciphertext where the program uses TLS. Both sides are hostile: all memory is here, each wait
 * has an end, and what goes to the parent as a request is made from the measured name, not from what was read.
 */

/* linux/socket.h, linux/in.h, linux/vm_sockets.h: they want a C library's headers beside them. */
#define AF_INET 2
#define AF_VSOCK 40
#define SOCK_STREAM_TYPE 1
#define NEW_SOCKET (O_NONBLOCK | O_CLOEXEC) /* SOCK_NONBLOCK, SOCK_CLOEXEC */
#define SOL_SOCKET_LEVEL 1
#define SO_ERROR_NAME 4
#define MSG_NOSIGNAL_FLAG 0x4000
#define SHUT_WRITING 1
#define VMADDR_CID_ANY 0xffffffffu
#define LOOPBACK 0x0100007f /* 127.0.0.1, in the network's order */

struct sockaddr_vm {
	unsigned short svm_family;
	unsigned short svm_reserved1;
	unsigned int svm_port;
	unsigned int svm_cid;
	unsigned char svm_flags;
	unsigned char svm_zero[3];
};

struct loopback_address { /* struct sockaddr_in */
	unsigned short family;
	unsigned short port;
	unsigned int address;
	unsigned char zero[8];
};

#define CONNECT_PORT 3128    /* of the loopback: CONNECT_PORT of common/coattest/network/__init__.py */
#define PARENT_PROXY 8000    /* vsock: PROXY_PORT of parent/coattest_parent/link/channels.py */
#define LISTENS 16	     /* MAX_LISTEN of network.py */
#define NAMES 64	     /* MAX_CONNECT of network.py */
#define NAME_MAX_SIZE 259    /* a name of DNS, a colon, five digits */
#define TUNNELS_OF_KIND 128  /* for each of both directions, so that neither takes the other's */
#define TUNNELS (2 * TUNNELS_OF_KIND)
#define BLOCK 16384	     /* docs/kernel.md: a larger write to vsock may be lost */
#define HEAD_MAX 4096	     /* HEAD_MAX of parent/coattest_parent/link/proxy.py */
#define FIRST_MS 10000	     /* until a head is whole, and until a connection stands */
#define IDLE_MS 600000	     /* without a byte */
#define ROUND_MS 1000	     /* between two looks at the clock */
#define FORWARDER_ID 0x80000000u /* user and group; above MAX_ID of users.py, so no image can name it */

struct listen {
	unsigned int outside, inside;
};

static struct listen listens[LISTENS];
static char *names[NAMES];
static unsigned int listen_count, name_count, parent_cid;

enum stage { UNUSED, HEAD, OPENING, MOVING };

/* Bytes on their way. ended: 1 when no more come, 2 when the other side was told. */
struct flow {
	unsigned int start, end, ended;
	char data[BLOCK];
};

/* side[0] asked, side[1] is where it leads; flow[0] goes from the first to the second. */
struct tunnel {
	enum stage stage;
	int kind, side[2];
	unsigned long deadline;
	struct flow flow[2];
};

static struct tunnel tunnels[TUNNELS];
static unsigned int in_use[2];
static int listeners[LISTENS + 1];

static unsigned long now_ms(void)
{
	struct { long seconds, nanoseconds; } time = { 0, 0 };

	syscall(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &time);
	return time.seconds * 1000 + time.nanoseconds / 1000000;
}

/* ------------------------------------------------------------------------------ sockets */

static void vsock_address(struct sockaddr_vm *address, unsigned int cid, unsigned int port)
{
	memset(address, 0, sizeof(*address));
	address->svm_family = AF_VSOCK;
	address->svm_cid = cid;
	address->svm_port = port;
}

/* A listening socket, or one that connects; -1 where there is none. */
static int socket_at(int family, const void *address, unsigned int size, int listening)
{
	int fd = syscall(__NR_socket, family, SOCK_STREAM_TYPE | NEW_SOCKET, 0), done;

	if (fd < 0)
		return -1;
	if (listening)
		done = !syscall(__NR_bind, fd, address, size) && !syscall(__NR_listen, fd, TUNNELS_OF_KIND);
	else
		done = !syscall(__NR_connect, fd, address, size) || errno == EINPROGRESS;
	if (done)
		return fd;
	close(fd);
	return -1;
}

static int vsock_at(unsigned int cid, unsigned int port, int listening)
{
	struct sockaddr_vm address;

	vsock_address(&address, cid, port);
	return socket_at(AF_VSOCK, &address, sizeof(address), listening);
}

static int loopback_at(unsigned int port, int listening)
{
	struct loopback_address address = { AF_INET, (port & 0xff) << 8 | port >> 8, LOOPBACK, { 0 } };

	return socket_at(AF_INET, &address, sizeof(address), listening);
}

/* Opened before there is a program that could take the port; -1 where one fails. */
static int open_listeners(void)
{
	for (unsigned int at = 0; at < listen_count; at++)
		if ((listeners[at] = vsock_at(VMADDR_CID_ANY, listens[at].outside, 1)) < 0)
			return -1;
	listeners[listen_count] = name_count ? loopback_at(CONNECT_PORT, 1) : -1;
	return name_count && listeners[listen_count] < 0 ? -1 : 0;
}

/* ------------------------------------------------------------------------------ the head of a CONNECT */

static char lower(char letter)
{
	return letter >= 'A' && letter <= 'Z' ? letter + ('a' - 'A') : letter;
}

static int same_text(const char *wanted, const char *text, unsigned int size)
{
	if (strlen(wanted) != size)
		return 0;
	for (unsigned int at = 0; at < size; at++)
		if (lower(text[at]) != wanted[at])
			return 0;
	return 1;
}

/* A field that says nothing of a body: a CONNECT has none, and two readers could disagree about its end. */
static int is_field(const char *line, unsigned int size)
{
	unsigned int name = 0;

	while (name < size && ((lower(line[name]) >= 'a' && lower(line[name]) <= 'z') || line[name] == '-' ||
			       line[name] == '_' || (line[name] >= '0' && line[name] <= '9')))
		name++;
	return name && name < size && line[name] == ':' && !same_text("content-length", line, name) &&
	       !same_text("transfer-encoding", line, name);
}

/* Lines of visible characters that end with CR LF, a request and fields, and an empty one at the end alone. */
static int is_head(const char *head, unsigned int size)
{
	for (unsigned int at = 0, start = 0; at + 2 < size; start = at) {
		while (at < size && (head[at] == '\t' || (head[at] >= ' ' && head[at] <= '~')))
			at++;
		if (at + 2 >= size || head[at] != '\r' || head[at + 1] != '\n')
			return 0;
		if (start ? !is_field(head + start, at - start) : !at)
			return 0;
		at += 2;
	}
	return 1;
}

/* The name that a head asks for, or minus the status of an answer. size has the empty line. */
static int asked_name(const char *head, unsigned int size)
{
	static const char method[] = "CONNECT ", http[] = " HTTP/1.";
	const unsigned int start = sizeof(method) - 1;
	unsigned int end = start;

	if (!is_head(head, size))
		return -400;
	if (size <= start || memcmp(head, method, start))
		return -405;
	while (head[end] != ' ' && head[end] != '\r')
		end++;
	/* With the CR LF at its end, within size: the head ends with two of them. */
	if (size - end < sizeof(http) - 1 + 3 || memcmp(head + end, http, sizeof(http) - 1))
		return -400;
	if ((head[end + 8] != '0' && head[end + 8] != '1') || head[end + 9] != '\r')
		return -400;
	for (unsigned int at = 0; at < name_count; at++)
		if (same_text(names[at], head + start, end - start))
			return at;
	return -403;
}

/* ------------------------------------------------------------------------------ tunnels */

static void end_tunnel(struct tunnel *tunnel)
{
	for (int side = 0; side < 2; side++)
		if (tunnel->side[side] >= 0)
			close(tunnel->side[side]);
	tunnel->stage = UNUSED;
	in_use[tunnel->kind]--;
}

static long send_to(int fd, const char *data, unsigned long size)
{
	return syscall(__NR_sendto, fd, data, size, MSG_NOSIGNAL_FLAG, 0, 0);
}

static void refuse(struct tunnel *tunnel, const char *answer)
{
	if (tunnel->kind) {
		send_to(tunnel->side[0], "HTTP/1.1 ", 9);
		send_to(tunnel->side[0], answer, strlen(answer));
		send_to(tunnel->side[0], "\r\nConnection: close\r\n\r\n", 23);
	}
	end_tunnel(tunnel);
}

static void lead_to(struct tunnel *tunnel, int fd)
{
	tunnel->side[1] = fd;
	tunnel->stage = OPENING;
	tunnel->deadline = now_ms() + FIRST_MS;
	if (fd < 0)
		refuse(tunnel, "502 Bad Gateway");
}

static void accept_from(unsigned int listener)
{
	int kind = listener == listen_count, fd = syscall(__NR_accept4, listeners[listener], 0, 0, NEW_SOCKET);
	struct tunnel *tunnel = tunnels;

	if (fd < 0)
		return;
	while (tunnel->stage != UNUSED) /* one is free: a full kind is not polled */
		tunnel++;
	in_use[kind]++;
	tunnel->kind = kind;
	tunnel->stage = HEAD;
	tunnel->side[0] = fd;
	tunnel->side[1] = -1;
	tunnel->deadline = now_ms() + FIRST_MS;
	for (int way = 0; way < 2; way++)
		tunnel->flow[way].start = tunnel->flow[way].end = tunnel->flow[way].ended = 0;
	if (!kind)
		lead_to(tunnel, loopback_at(listens[listener].inside, 0));
}

static void add_text(struct flow *flow, const char *text)
{
	unsigned int size = strlen(text);

	memcpy(flow->data + flow->end, text, size);
	flow->end += size;
}

static void read_head(struct tunnel *tunnel)
{
	struct flow *flow = &tunnel->flow[0];
	long got = read(tunnel->side[0], flow->data + flow->end, HEAD_MAX - flow->end);
	unsigned int at = flow->end > 3 ? flow->end - 3 : 0;
	int name;

	if (got <= 0) {
		if (!got || errno != EAGAIN)
			end_tunnel(tunnel);
		return;
	}
	flow->end += got;
	while (at + 4 <= flow->end && memcmp(flow->data + at, "\r\n\r\n", 4))
		at++;
	if (at + 4 > flow->end) {
		if (flow->end == HEAD_MAX)
			refuse(tunnel, "431 Request Header Fields Too Large");
		return;
	}
	/* Who asks waits for the answer: what comes with the head could be meant for another reader. */
	name = at + 4 == flow->end ? asked_name(flow->data, flow->end) : -400;
	if (name == -403)
		refuse(tunnel, "403 Not in the image's list");
	else if (name == -405)
		refuse(tunnel, "405 Only CONNECT");
	else if (name < 0)
		refuse(tunnel, "400 Bad Request");
	else {
		flow->end = 0;
		add_text(flow, "CONNECT ");
		add_text(flow, names[name]);
		add_text(flow, " HTTP/1.1\r\n\r\n");
		lead_to(tunnel, vsock_at(parent_cid, PARENT_PROXY, 0));
	}
}

/* Moves what can be moved now: the number of bytes, or -1 where a side is broken. */
static long move_bytes(struct flow *flow, int from, int to)
{
	long got = 0, put = 0;

	if (flow->start == flow->end && !flow->ended) {
		got = read(from, flow->data, BLOCK);
		if (got < 0 && errno != EAGAIN)
			return -1;
		flow->start = 0;
		flow->end = got > 0 ? got : 0;
		flow->ended = !got;
	}
	if (flow->start < flow->end) {
		put = send_to(to, flow->data + flow->start, flow->end - flow->start);
		if (put < 0 && errno != EAGAIN)
			return -1;
		flow->start += put > 0 ? put : 0;
	}
	if (flow->start == flow->end && flow->ended == 1) {
		syscall(__NR_shutdown, to, SHUT_WRITING);
		flow->ended = 2;
	}
	return (got > 0 ? got : 0) + (put > 0 ? put : 0);
}

static void move_both(struct tunnel *tunnel)
{
	long there = move_bytes(&tunnel->flow[0], tunnel->side[0], tunnel->side[1]);
	long back = move_bytes(&tunnel->flow[1], tunnel->side[1], tunnel->side[0]);

	if (there < 0 || back < 0 || (tunnel->flow[0].ended == 2 && tunnel->flow[1].ended == 2))
		end_tunnel(tunnel);
	else if (there || back)
		tunnel->deadline = now_ms() + IDLE_MS;
}

static void opened(struct tunnel *tunnel)
{
	int error = 0;
	unsigned int size = sizeof(error);

	if (syscall(__NR_getsockopt, tunnel->side[1], SOL_SOCKET_LEVEL, SO_ERROR_NAME, &error, &size) || error) {
		refuse(tunnel, "502 Bad Gateway");
		return;
	}
	tunnel->stage = MOVING;
	tunnel->deadline = now_ms() + IDLE_MS;
	move_both(tunnel);
}

/* What to wait for on one side of a tunnel; 0 means that the side is left alone. */
static short wanted(const struct tunnel *tunnel, int side)
{
	const struct flow *out = &tunnel->flow[side], *in = &tunnel->flow[!side];

	if (tunnel->stage == HEAD)
		return side ? 0 : POLLIN;
	if (tunnel->stage == OPENING)
		return side ? POLLOUT : 0;
	if (tunnel->stage == UNUSED)
		return 0;
	return (out->start == out->end && !out->ended ? POLLIN : 0) | (in->start < in->end ? POLLOUT : 0);
}

static void look_after(struct tunnel *tunnel, int ready)
{
	if (tunnel->stage == UNUSED)
		return;
	if (tunnel->deadline <= now_ms())
		refuse(tunnel, tunnel->stage == HEAD ? "408 Request Timeout" : "504 Gateway Timeout");
	else if (ready && tunnel->stage == HEAD)
		read_head(tunnel);
	else if (ready && tunnel->stage == OPENING)
		opened(tunnel);
	else if (ready)
		move_both(tunnel);
}

static void __attribute__((noreturn)) forward(void)
{
	static struct pollfd events[LISTENS + 1 + 2 * TUNNELS];
	const unsigned int first = listen_count + 1;

	for (;;) {
		for (unsigned int at = 0; at < first; at++) {
			int full = in_use[at == listen_count] == TUNNELS_OF_KIND;

			events[at] = (struct pollfd){ .fd = full ? -1 : listeners[at], .events = POLLIN };
		}
		for (unsigned int at = 0; at < 2 * TUNNELS; at++) {
			short what = wanted(&tunnels[at / 2], at % 2);

			events[first + at] =
				(struct pollfd){ .fd = what ? tunnels[at / 2].side[at % 2] : -1, .events = what };
		}
		if (poll(events, first + 2 * TUNNELS, ROUND_MS) < 0 && errno != EINTR)
			exit(1);
		for (unsigned int at = 0; at < TUNNELS; at++)
			look_after(&tunnels[at], events[first + 2 * at].revents || events[first + 2 * at + 1].revents);
		for (unsigned int at = 0; at < first; at++)
			if (events[at].revents && in_use[at == listen_count] < TUNNELS_OF_KIND)
				accept_from(at);
	}
}

/* Becomes a user that owns nothing and that no other process, of the same number either, can look into. */
static void __attribute__((noreturn)) run_forwarder(void)
{
	int nothing = open("/dev/null", O_RDWR, 0);

	for (int fd = 0; fd < 3; fd++)
		if (nothing < 0 || dup2(nothing, fd) < 0)
			exit(1);
	if (nothing > 2)
		close(nothing);
	if (syscall(__NR_setgroups, 0, 0) || syscall(__NR_setresgid, FORWARDER_ID, FORWARDER_ID, FORWARDER_ID) ||
	    syscall(__NR_setresuid, FORWARDER_ID, FORWARDER_ID, FORWARDER_ID) || prctl(38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0) ||
	    prctl(4 /* PR_SET_DUMPABLE */, 0, 0, 0, 0))
		exit(1);
	forward();
}
