/* The first process of a kernel that is asked what it unpacked: tells every path of its root, then powers off.
 * A line each: kind, path in hex, mode, uid, gid, device, size, mtime, and content or target in hex. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static char *told;
static size_t length;

static void put(const char *text)
{
	size_t size = strlen(text);

	told = realloc(told, length + size + 1);
	memcpy(told + length, text, size + 1);
	length += size;
}

static void put_hex(const unsigned char *bytes, size_t size)
{
	char digits[3];

	for (size_t i = 0; i < size; i++) {
		snprintf(digits, sizeof digits, "%02x", bytes[i]);
		put(digits);
	}
	put(" ");
}

static void tell(const char *path)
{
	static unsigned char content[4097];
	struct stat st;
	char line[200];
	ssize_t got = 0;

	if (lstat(path, &st))
		return;
	put("P ");
	put_hex((const unsigned char *)path, strlen(path));
	snprintf(line, sizeof line, "%o %u %u %u:%u %lld %lld ", st.st_mode, st.st_uid, st.st_gid, major(st.st_rdev),
		 minor(st.st_rdev), (long long)st.st_size, (long long)st.st_mtime);
	put(line);
	if (S_ISLNK(st.st_mode))
		got = readlink(path, (char *)content, sizeof content);
	if (S_ISREG(st.st_mode)) {
		int file = open(path, O_RDONLY);

		got = read(file, content, 2048);
		close(file);
	}
	put_hex(content, got > 0 ? got : 0);
	put("\n");
	if (!S_ISDIR(st.st_mode) || chdir(path))
		return;
	DIR *folder = opendir(".");
	struct dirent *each;

	while (folder && (each = readdir(folder)))
		if (strcmp(each->d_name, ".") && strcmp(each->d_name, "..") && strcmp(each->d_name, "inspect-root"))
			tell(each->d_name);
	if (folder)
		closedir(folder);
	put("U\n");
	if (chdir(".."))
		put("cannot go back\n");
}

int main(void)
{
	tell("/");
	mknod("/inspect-root.tty", S_IFCHR | 0600, makedev(4, 64));
	int out = open("/inspect-root.tty", O_WRONLY | O_NOCTTY);

	dprintf(out, "\nBEGIN\n");
	for (size_t at = 0; at < length;) {
		ssize_t wrote = write(out, told + at, length - at);

		if (wrote <= 0)
			break;
		at += wrote;
	}
	dprintf(out, "END\n");
	fsync(out);
	sleep(1);
	reboot(RB_AUTOBOOT);
	return 0;
}
