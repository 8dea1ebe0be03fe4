/*
 * Image locks: open-file-description locks on the bytes that QEMU's image locking uses (its block/file-posix.c
 * documents them: a shared lock on 100 + p says "I use permission p", one on 200 + p "I do not share p"), so that guise
 * and QEMU's tools keep out of each other's way as well. A writer shares reading with nobody; readers share with readers.
 */
#include "block/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PERM_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3 };
#define USE_BYTE 100
#define UNSHARE_BYTE 200

static int lock_byte(int fd, int type, off_t byte)
{
	struct flock l = { .l_type = (short)type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &l) == 0 ? 0 : -errno;
}

/* True when another descriptor holds the byte. */
static bool byte_taken(int fd, off_t byte)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

/* The command and id of a process that has the file open, from /proc; NULL when none can be seen. */
static char *find_user(int fd)
{
	struct stat mine, st;
	DIR *proc = opendir("/proc");
	char *found = NULL;
	struct dirent *p;

	if (!proc || fstat(fd, &mine) < 0) {
		if (proc)
			closedir(proc);
		return NULL;
	}
	while (!found && (p = readdir(proc))) {
		g_autofree char *fds = g_strdup_printf("/proc/%s/fd", p->d_name);
		struct dirent *e;
		DIR *d;

		if (!g_ascii_isdigit(p->d_name[0]) || atoi(p->d_name) == getpid() || !(d = opendir(fds)))
			continue;
		while (!found && (e = readdir(d))) {
			if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && st.st_dev == mine.st_dev && st.st_ino == mine.st_ino) {
				g_autofree char *comm_path = g_strdup_printf("/proc/%s/comm", p->d_name);
				g_autofree char *comm = NULL;

				g_file_get_contents(comm_path, &comm, NULL, NULL);
				found = g_strdup_printf("%s, process %s", comm ? g_strstrip(comm) : "?", p->d_name);
			}
		}
		closedir(d);
	}
	closedir(proc);
	return found;
}

static bool say_in_use(int fd, const char *path, bool writer, GError **error)
{
	g_autofree char *user = find_user(fd);

	return blk_fail(error, "%s: is in use (%s); end that first%s", path, user ? user : "by a process that cannot be seen",
			writer ? ", or open the image with ,readonly or ,snapshot where it is only read there" :
				 ": an image that is being written cannot be shared");
}

bool file_lock(int fd, const char *path, bool writer, GError **error)
{
	static const int writer_bytes[] = { USE_BYTE + PERM_READ, USE_BYTE + PERM_WRITE, USE_BYTE + PERM_RESIZE,
					    UNSHARE_BYTE + PERM_WRITE, UNSHARE_BYTE + PERM_RESIZE };
	static const int reader_bytes[] = { USE_BYTE + PERM_READ, UNSHARE_BYTE + PERM_WRITE, UNSHARE_BYTE + PERM_RESIZE };
	const int *bytes = writer ? writer_bytes : reader_bytes;
	size_t count = writer ? G_N_ELEMENTS(writer_bytes) : G_N_ELEMENTS(reader_bytes);
	bool taken;

	for (size_t i = 0; i < count; i++) {
		int r = lock_byte(fd, F_RDLCK, bytes[i]);

		if (r == -EAGAIN || r == -EACCES)
			return say_in_use(fd, path, writer, error);
		/* File systems without locks (some network ones) leave it to the user. */
		if (r < 0)
			return true;
	}
	/* First our claims, then the look at others': of two that come at once, at least one sees the other. */
	taken = byte_taken(fd, UNSHARE_BYTE + PERM_READ) || byte_taken(fd, USE_BYTE + PERM_WRITE) ||
		byte_taken(fd, USE_BYTE + PERM_RESIZE);
	if (writer)
		taken = taken || byte_taken(fd, UNSHARE_BYTE + PERM_WRITE) || byte_taken(fd, UNSHARE_BYTE + PERM_RESIZE);
	return taken ? say_in_use(fd, path, writer, error) : true;
}
