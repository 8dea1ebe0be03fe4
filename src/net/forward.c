/* The grammar of port forwards: (tcp|udp):[ADDRESS:]PORT:GUESTPORT. */
#include "net/forward.h"

#include <arpa/inet.h>
#include <gio/gio.h>
#include <stdlib.h>
#include <string.h>

#include "net/netdev.h"

static bool parse_port(const char *text, unsigned least, uint16_t *port)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || n < least || n > 65535)
		return false;
	*port = (uint16_t)n;
	return true;
}

bool forward_parse(const char *spec, struct forward *f, GError **error)
{
	g_auto(GStrv) part = g_strsplit(spec, ":", -1);
	guint n = g_strv_length(part);
	struct forward r = { .host.s_addr = htonl(INADDR_LOOPBACK) };
	bool ok = (n == 3 || n == 4) && (!strcmp(part[0], "tcp") || !strcmp(part[0], "udp"));

	ok = ok && parse_port(part[n - 2], 0, &r.port) && parse_port(part[n - 1], 1, &r.guest_port);
	if (ok && n == 4)
		ok = inet_pton(AF_INET, part[1], &r.host) == 1;
	if (!ok) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
			    "forward \"%s\": write tcp:PORT:GUESTPORT, udp:PORT:GUESTPORT or tcp:ADDRESS:PORT:GUESTPORT, "
			    "such as tcp:2222:22", spec);
		return false;
	}
	r.udp = part[0][0] == 'u';
	*f = r;
	return true;
}

bool net_forward_check(const char *spec, GError **error)
{
	struct forward f;

	return forward_parse(spec, &f, error);
}
