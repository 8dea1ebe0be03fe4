/* Ports of the host that lead into the guest. */
#ifndef NET_FORWARD_H
#define NET_FORWARD_H

#include <glib.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

struct forward {
	bool udp;
	struct in_addr host; /* 127.0.0.1 unless given */
	uint16_t port;       /* on the host; 0: any */
	uint16_t guest_port;
};

/* "tcp:2222:22", "udp:0.0.0.0:5353:53". */
bool forward_parse(const char *spec, struct forward *f, GError **error);

#endif
