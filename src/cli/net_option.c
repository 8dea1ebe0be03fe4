/*
 * --net KIND[,KEY[=VALUE]...]: none, user, tap=IF or socket=PATH, then model=, mac=, capture=, bootindex= for the
 * card, for a tap interface vhost=, and for user networks forward=, restrict, tftp=, bootfile=, hostname=.
 */
#include "cli/net_option.h"

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "cli/arguments.h"

#define DEFAULT_FORWARD "tcp:2222:22"

static bool parse_kind(struct net_config *c, const char *text, GError **error)
{
	if (!strcmp(text, "user")) {
		c->kind = NET_USER;
		return true;
	}
	if (g_str_has_prefix(text, "tap=") && text[4]) {
		c->kind = NET_TAP;
		c->target = g_strdup(text + 4);
		return true;
	}
	if (g_str_has_prefix(text, "socket=") && text[7]) {
		c->kind = NET_SOCKET;
		c->target = g_strdup(text + 7);
		return true;
	}
	return cli_fail(error, "--net %s: one of none, user, tap=IF, socket=PATH", text);
}

static bool parse_model(struct vm_nic *n, const char *text, GError **error)
{
	static const char *const name[] = { [NIC_VIRTIO] = "virtio", [NIC_E1000] = "e1000", [NIC_RTL8139] = "rtl8139" };

	for (unsigned i = 0; i < ARRAY_LEN(name); i++) {
		if (!strcmp(text, name[i])) {
			n->model = (enum nic_model)i;
			return true;
		}
	}
	return cli_fail(error, "--net: model=%s: one of virtio, e1000, rtl8139", text);
}

static bool parse_mac(struct vm_nic *n, const char *text, GError **error)
{
	unsigned b[6];
	char rest;

	if (strlen(text) != 17 || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &rest) != 6)
		return cli_fail(error, "--net: mac=%s: write it as 52:54:00:12:34:56", text);
	if (b[0] & 1)
		return cli_fail(error, "--net: mac=%s: a group address; the first byte must be even", text);
	for (unsigned i = 0; i < 6; i++)
		n->mac[i] = (uint8_t)b[i];
	n->mac_given = true;
	return true;
}

static bool parse_vhost(struct net_config *c, const char *text, GError **error)
{
	static const char *const name[] = { [NET_VHOST_AUTO] = "auto", [NET_VHOST_ON] = "on", [NET_VHOST_OFF] = "off" };

	for (unsigned i = 0; i < ARRAY_LEN(name); i++) {
		if (!strcmp(text, name[i])) {
			c->vhost = (enum net_vhost)i;
			return true;
		}
	}
	return cli_fail(error, "--net: vhost=%s: one of auto, on, off", text);
}

static bool parse_boot_index(struct vm_nic *n, const char *text, GError **error)
{
	guint64 index;

	if (!g_ascii_string_to_unsigned(text, 10, 0, VM_MAX_BOOT_INDEX - 1, &index, NULL))
		return cli_fail(error, "--net: bootindex=%s: a number up to %d", text, VM_MAX_BOOT_INDEX - 1);
	n->boot_index = (unsigned)index + 1;
	return true;
}

static void set_string(char **to, const char *value)
{
	g_free(*to);
	*to = g_strdup(value);
}

static void add_forward(struct net_config *c, const char *spec)
{
	guint n = c->forwards ? g_strv_length(c->forwards) : 0;

	c->forwards = g_renew(char *, c->forwards, n + 2);
	c->forwards[n] = g_strdup(spec);
	c->forwards[n + 1] = NULL;
}

static bool parse_key(struct vm_nic *n, const char *key, const char *value, GError **error)
{
	bool user = n->net.kind == NET_USER;

	if (!strcmp(key, "restrict") && !value && user) {
		n->net.restricted = true;
		return true;
	}
	if (!value)
		return cli_fail(error, "--net: unknown part \"%s\"; there are model=, mac=, capture=, bootindex=, for tap vhost=, and for user forward=, restrict, "
				"tftp=, bootfile=, hostname=", key);
	if (!strcmp(key, "model"))
		return parse_model(n, value, error);
	if (!strcmp(key, "mac"))
		return parse_mac(n, value, error);
	if (!strcmp(key, "capture")) {
		set_string(&n->capture, value);
		return true;
	}
	if (!strcmp(key, "bootindex"))
		return parse_boot_index(n, value, error);
	if (!strcmp(key, "vhost") && n->net.kind == NET_TAP)
		return parse_vhost(&n->net, value, error);
	if (!strcmp(key, "forward") && user) {
		GError *why = NULL;

		/* "none" leaves out the default one. */
		if (!strcmp(value, "none")) {
			if (!n->net.forwards)
				n->net.forwards = g_new0(char *, 1);
			return true;
		}
		if (!net_forward_check(value, &why)) {
			cli_fail(error, "--net: %s", why->message);
			g_error_free(why);
			return false;
		}
		add_forward(&n->net, value);
		return true;
	}
	if (!strcmp(key, "tftp") && user) {
		set_string(&n->net.tftp, value);
		return true;
	}
	if (!strcmp(key, "bootfile") && user) {
		set_string(&n->net.bootfile, value);
		return true;
	}
	if (!strcmp(key, "hostname") && user) {
		set_string(&n->net.hostname, value);
		return true;
	}
	return cli_fail(error, "--net: %s=%s: %s", key, value,
			user ? "no such part; there are model=, mac=, capture=, bootindex=, forward=, restrict, tftp=, bootfile=, hostname="
			     : "not here; tap and socket take model=, mac=, capture=, bootindex=, and tap vhost=");
}

bool net_option_parse(struct vm_config *c, bool *none, const char *text, GError **error)
{
	g_auto(GStrv) part = g_strsplit(text, ",", -1);
	struct vm_nic *n = &c->nic[c->nics];

	if (!strcmp(text, "none")) {
		*none = true;
		return true;
	}
	if (c->nics == VM_MAX_NICS)
		return cli_fail(error, "--net: at most %d network cards", VM_MAX_NICS);
	memset(n, 0, sizeof(*n));
	c->nics++;
	if (!parse_kind(&n->net, part[0] ? part[0] : "", error))
		return false;
	for (char **p = part + 1; *p; p++) {
		char *value = strchr(*p, '=');

		if (value)
			*value++ = 0;
		if (!parse_key(n, *p, value, error))
			return false;
	}
	return true;
}

bool net_option_settle(struct vm_config *c, bool none, const char *capture, GError **error)
{
	if (none && c->nics)
		return cli_fail(error, "--net none goes with no other --net");
	if (!none && !c->nics)
		c->nic[c->nics++] = (struct vm_nic){ .net.kind = NET_USER };
	for (unsigned i = 0; i < c->nics; i++) {
		struct net_config *net = &c->nic[i].net;

		if (net->kind != NET_USER)
			continue;
		if (!net->hostname)
			net->hostname = g_strdup(c->name);
		if (!net->forwards && i == 0)
			add_forward(net, DEFAULT_FORWARD);
	}
	if (!capture)
		return true;
	if (!c->nics)
		return cli_fail(error, "--capture needs a network card");
	set_string(&c->nic[0].capture, capture);
	return true;
}
