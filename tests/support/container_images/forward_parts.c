/*
 * The network's forwarder with this machine's C library: forward_parts LISTENS NAME..
 *
 * LISTENS are pairs OUTSIDE:INSIDE with commas between, or "-". A vsock port is the Unix socket PORT in the working folder;
 * the CONNECT listener takes any free port, which is printed. The clock is $TIMES times as fast, where that is set.
 *
 *   forward_parts = NAME..   reads heads, each behind its size in two bytes, and prints for each the number of
 *                            the name that it asks for, or minus the answer's
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UNIX 1

static long times = 1;

struct unix_address {
	unsigned short family;
	char path[108];
};

/* The system calls as they are, but for AF_VSOCK, the CONNECT listener's port and the clock's speed. */
static long here(long number, ...)
{
	struct unix_address other = { UNIX, "" };
	unsigned short *family;
	long words[6], done;
	va_list list;

	va_start(list, number);
	for (int at = 0; at < 6; at++)
		words[at] = va_arg(list, long);
	va_end(list);
	if (number == __NR_socket && (int)words[0] == 40)
		words[0] = UNIX;
	family = (unsigned short *)words[1];
	if ((number == __NR_bind || number == __NR_connect) && *family == 40) {
		snprintf(other.path, sizeof(other.path), "%u", ((unsigned int *)family)[1]);
		words[1] = (long)&other;
		words[2] = sizeof(other);
	}
	if (number == __NR_bind && *family == 2)
		family[1] = 0;
	done = syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]);
	if (number == __NR_bind && *family == 2) {
		unsigned char place[16];
		unsigned int size = sizeof(place);

		syscall(__NR_getsockname, words[0], place, &size);
		printf("%d\n", place[2] << 8 | place[3]);
	}
	if (number == __NR_clock_gettime)
		((long *)words[1])[0] *= times;
	return done;
}

#define syscall here
#include "../../../build/coattest_build/containers/own/forward.c"
#undef syscall

int main(int count, char **text)
{
	static char head[HEAD_MAX + 1];
	unsigned char size[2];

	if (count < 2)
		return 98;
	parent_cid = 3;
	if (getenv("TIMES"))
		times = atoi(getenv("TIMES"));
	if (*text[1] != '-' && *text[1] != '=')
		for (char *pair = strtok(text[1], ","); pair; pair = strtok(0, ","), listen_count++)
			sscanf(pair, "%u:%u", &listens[listen_count].outside, &listens[listen_count].inside);
	for (int at = 2; at < count; at++)
		names[name_count++] = text[at];
	while (*text[1] == '=' && fread(size, 2, 1, stdin) == 1) {
		unsigned int whole = fread(head, 1, size[0] | size[1] << 8, stdin);

		printf("%d\n", asked_name(head, whole));
	}
	if (*text[1] == '=')
		return 0;
	if (open_listeners())
		return 97;
	if (!name_count)
		printf("0\n");
	fflush(stdout);
	forward();
}
