/* Where VNC viewers connect: a TCP port or a Unix socket. */
#include <arpa/inet.h>
#include <errno.h>
#include <gio/gio.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "display/vnc_internal.h"

#define FIRST_PORT 5900
#define PORTS 100

static int bind_socket(const struct sockaddr *sa, socklen_t len)
{
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		return -errno;
	if (sa->sa_family != AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, sa, len) == 0 && listen(fd, 16) == 0)
		return fd;
	one = errno;
	close(fd);
	return -one;
}

static int failed(GError **error, const char *address, int err)
{
	g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err), "--display vnc: cannot listen at %s: %s", address, g_strerror(err));
	return -1;
}

/* A socket nobody answers at is a leftover. */
static int listen_unix(const char *path, GError **error)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	mode_t mask;
	int fd, probe;

	if (strlen(path) >= sizeof(sa.sun_path))
		return failed(error, path, ENAMETOOLONG);
	strcpy(sa.sun_path, path);
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (probe >= 0 && connect(probe, (struct sockaddr *)&sa, sizeof(sa)) < 0 && errno == ECONNREFUSED)
		unlink(path);
	if (probe >= 0)
		close(probe);
	mask = umask(0077);
	fd = bind_socket((struct sockaddr *)&sa, sizeof(sa));
	umask(mask);
	return fd < 0 ? failed(error, path, -fd) : fd;
}

static bool is_loopback(const struct sockaddr *sa)
{
	if (sa->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)sa)->sin6_addr);
}

static int listen_first_free(char **shown, GError **error)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = -EADDRINUSE;

	for (unsigned port = FIRST_PORT; port < FIRST_PORT + PORTS && fd == -EADDRINUSE; port++) {
		sa.sin_port = htons((uint16_t)port);
		fd = bind_socket((struct sockaddr *)&sa, sizeof(sa));
		if (fd >= 0)
			*shown = g_strdup_printf("127.0.0.1:%u", port);
	}
	return fd < 0 ? failed(error, "127.0.0.1:5900 and above", -fd) : fd;
}

/* "PORT", "HOST:PORT", "[V6]:PORT". */
static int listen_tcp(const char *address, bool password, char **shown, GError **error)
{
	const struct addrinfo hints = { .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM };
	const char *colon = strrchr(address, ':'), *port = colon ? colon + 1 : address;
	g_autofree char *host = colon ? g_strndup(address, (gsize)(colon - address)) : g_strdup("127.0.0.1");
	struct addrinfo *found = NULL;
	int fd, err;

	if (*host == '[' && host[strlen(host) - 1] == ']') {
		memmove(host, host + 1, strlen(host));
		host[strlen(host) - 1] = 0;
	}
	err = getaddrinfo(*host ? host : NULL, port, &hints, &found);
	if (err) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "--display vnc=%s: %s; write ADDRESS:PORT or unix:PATH",
			    address, gai_strerror(err));
		return -1;
	}
	if (!is_loopback(found->ai_addr) && !password) {
		freeaddrinfo(found);
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
			    "--display vnc=%s: whoever reaches this address could use the machine; add password-file=FILE", address);
		return -1;
	}
	fd = bind_socket(found->ai_addr, found->ai_addrlen);
	freeaddrinfo(found);
	if (fd < 0)
		return failed(error, address, -fd);
	*shown = colon ? g_strdup(address) : g_strdup_printf("127.0.0.1:%s", port);
	return fd;
}

int vnc_listen(const char *address, bool password, char **shown, GError **error)
{
	int fd;

	if (!address)
		return listen_first_free(shown, error);
	if (!g_str_has_prefix(address, "unix:"))
		return listen_tcp(address, password, shown, error);
	fd = listen_unix(address + 5, error);
	if (fd >= 0)
		*shown = g_strdup(address);
	return fd;
}
