/* Runtime directory and name locks (XDG Base Directory Specification). */
#include "host/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static GError *os_error(const char *what, const char *path)
{
	int e = errno;

	return g_error_new(G_FILE_ERROR, g_file_error_from_errno(e), "%s %s: %s", what, path, g_strerror(e));
}

static char *choose_dir(void)
{
	const char *xdg = g_getenv("XDG_RUNTIME_DIR");
	g_autofree char *run = g_strdup_printf("/run/user/%u", (unsigned)getuid());

	if (xdg && *xdg == '/' && !access(xdg, W_OK))
		return g_build_filename(xdg, "guise", NULL);
	if (!access(run, W_OK))
		return g_build_filename(run, "guise", NULL);
	return g_strdup_printf("/tmp/guise-%u", (unsigned)getuid());
}

char *runtime_dir(GError **error)
{
	g_autofree char *dir = choose_dir();
	struct stat st;

	if (mkdir(dir, 0700) && errno != EEXIST) {
		g_propagate_error(error, os_error("cannot make the runtime directory", dir));
		return NULL;
	}
	if (lstat(dir, &st) || !S_ISDIR(st.st_mode) || st.st_uid != getuid() || (st.st_mode & 077)) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_PERM,
			    "%s must be a directory of yours with mode 0700; move it away or set XDG_RUNTIME_DIR", dir);
		return NULL;
	}
	return g_steal_pointer(&dir);
}

char *runtime_socket(const char *name, GError **error)
{
	g_autofree char *dir = runtime_dir(error);

	return dir ? g_strdup_printf("%s/%s.qmp", dir, name) : NULL;
}

int runtime_claim(const char *name, GError **error)
{
	g_autofree char *dir = runtime_dir(error);
	g_autofree char *path = dir ? g_strdup_printf("%s/%s.lock", dir, name) : NULL;
	int fd;

	if (!path)
		return -1;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		g_propagate_error(error, os_error("cannot open", path));
		return -1;
	}
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		close(fd);
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_EXIST,
			    "a machine named %s is running already; choose another --name, or end it: guise stop %s", name, name);
		return -1;
	}
	if (ftruncate(fd, 0) || dprintf(fd, "%d\n", (int)getpid()) < 0) {
		g_propagate_error(error, os_error("cannot write", path));
		close(fd);
		return -1;
	}
	return fd;
}

static bool name_lives(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	bool lives;

	if (fd < 0)
		return false;
	lives = flock(fd, LOCK_EX | LOCK_NB) != 0;
	close(fd);
	return lives;
}

char **runtime_names(GError **error)
{
	g_autofree char *dir = runtime_dir(error);
	GPtrArray *names;
	GDir *d;
	const char *file;

	if (!dir || !(d = g_dir_open(dir, 0, error)))
		return NULL;
	names = g_ptr_array_new();
	while ((file = g_dir_read_name(d))) {
		g_autofree char *path = g_build_filename(dir, file, NULL);

		if (g_str_has_suffix(file, ".lock") && name_lives(path))
			g_ptr_array_add(names, g_strndup(file, strlen(file) - 5));
	}
	g_dir_close(d);
	g_ptr_array_add(names, NULL);
	return (char **)g_ptr_array_free(names, FALSE);
}
