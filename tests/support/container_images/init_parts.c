/*
 * Parts of the container profile's init, with this machine's C library: init_parts WHAT ..
 *
 *   search PATH WORD      start a word as init does, with this PATH alone
 *   descriptors           the first free descriptor of an init that has neither descriptors nor a console
 *   user ID FOLDER WORD.. become the user in the folder, and start the words
 *   left                  this process's descriptors and working folder
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_here(const char *path, int flags, int mode)
{
	if (!strcmp(path, "/dev/console")) {
		errno = ENOENT;
		return -1;
	}
	return open(path, flags, mode);
}

static void msleep(unsigned int time)
{
	usleep(time * 1000);
}

#define open open_here
#undef __NR_prlimit64
#define __NR_prlimit64 __NR_sched_yield /* this machine may allow fewer open files */
#define reboot(command) _exit(99) /* never this machine */
#define main init_main
#include "../../../build/coattest_build/containers/own/forward.c"
#include "../../../build/coattest_build/containers/own/init.c"
#undef main
#undef open

static int left(void)
{
	char place[4096];
	DIR *all = opendir("/proc/self/fd");

	for (struct dirent *one; all && (one = readdir(all));)
		if (one->d_name[0] != '.' && atoi(one->d_name) != dirfd(all))
			printf("%s ", one->d_name);
	printf("%s\n", getcwd(place, sizeof(place)) ? place : "nowhere");
	return 0;
}

int main(int count, char **text)
{
	if (count == 2 && !strcmp(text[1], "left"))
		return left();
	if (count == 2 && !strcmp(text[1], "descriptors")) {
		for (int fd = 0; fd < 1024; fd++)
			close(fd);
		open_standard_files();
		return open("/", O_RDONLY);
	}
	if (count == 4 && !strcmp(text[1], "search")) {
		char path[8192];

		snprintf(path, sizeof(path), "PATH=%s", text[2]);
		environment[0] = path;
		words[0] = text[3];
		execute();
	}
	if (count > 4 && !strcmp(text[1], "user")) {
		uid = gid = atoi(text[2]);
		folder = text[3];
		for (int at = 4; at < count; at++)
			words[at - 4] = text[at];
		run_program(syscall(__NR_fcntl, 1, F_DUPFD_CLOEXEC, 10));
	}
	return 98;
}
