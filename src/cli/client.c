/* A blocking QMP client: one JSON object a line. */
#include "cli/client.h"

#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <string.h>

#include "cli/arguments.h"
#include "host/runtime.h"

struct client {
	GSocketConnection *connection;
	GDataInputStream *in;
	char *name;
};

static JsonNode *read_object(struct client *c, GError **error)
{
	g_autofree char *line = g_data_input_stream_read_line(c->in, NULL, NULL, error);
	g_autoptr(JsonParser) parser = json_parser_new();
	JsonNode *root;

	if (!line) {
		if (error && !*error)
			g_set_error(error, cli_error_quark(), 1, "%s: the machine has ended", c->name);
		return NULL;
	}
	if (!json_parser_load_from_data(parser, line, -1, error))
		return NULL;
	root = json_parser_steal_root(parser);
	if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
		g_set_error(error, cli_error_quark(), 1, "%s: answered no JSON object", c->name);
		if (root)
			json_node_unref(root);
		return NULL;
	}
	return root;
}

struct client *client_open(const char *name, GError **error)
{
	g_autofree char *path = runtime_socket(name, error);
	g_autoptr(GSocketClient) sc = g_socket_client_new();
	g_autoptr(GSocketAddress) address = NULL;
	GSocketConnection *connection;
	struct client *c;
	JsonNode *n;

	if (!path)
		return NULL;
	address = g_unix_socket_address_new(path);
	connection = g_socket_client_connect(sc, G_SOCKET_CONNECTABLE(address), NULL, NULL);
	if (!connection) {
		g_set_error(error, cli_error_quark(), 1, "no machine named %s is running; `guise ps` lists them", name);
		return NULL;
	}
	g_socket_set_timeout(g_socket_connection_get_socket(connection), 30);
	c = g_new0(struct client, 1);
	c->connection = connection;
	c->name = g_strdup(name);
	c->in = g_data_input_stream_new(g_io_stream_get_input_stream(G_IO_STREAM(connection)));
	g_data_input_stream_set_newline_type(c->in, G_DATA_STREAM_NEWLINE_TYPE_CR_LF);
	n = read_object(c, error);
	if (!n)
		goto fail;
	json_node_unref(n);
	n = client_execute(c, "qmp_capabilities", NULL, error);
	if (!n)
		goto fail;
	json_node_unref(n);
	return c;
fail:
	client_close(c);
	return NULL;
}

void client_close(struct client *c)
{
	if (!c)
		return;
	g_object_unref(c->in);
	g_object_unref(c->connection);
	g_free(c->name);
	g_free(c);
}

JsonNode *client_execute(struct client *c, const char *command, JsonObject *args, GError **error)
{
	g_autoptr(JsonNode) request = json_node_new(JSON_NODE_OBJECT);
	JsonObject *o = json_object_new();
	g_autofree char *json = NULL, *text = NULL;
	GOutputStream *out = g_io_stream_get_output_stream(G_IO_STREAM(c->connection));

	json_object_set_string_member(o, "execute", command);
	if (args)
		json_object_set_object_member(o, "arguments", args);
	json_node_take_object(request, o);
	json = json_to_string(request, FALSE);
	/* In one piece: a machine that quits at the closing brace takes no newline any more. */
	text = g_strconcat(json, "\n", NULL);
	if (!g_output_stream_write_all(out, text, strlen(text), NULL, NULL, error))
		return NULL;
	for (;;) {
		g_autoptr(JsonNode) answer = read_object(c, error);
		JsonObject *a;

		if (!answer)
			return NULL;
		a = json_node_get_object(answer);
		if (json_object_has_member(a, "return"))
			return json_node_copy(json_object_get_member(a, "return"));
		if (json_object_has_member(a, "error")) {
			g_set_error(error, cli_error_quark(), 1, "%s: %s", c->name,
				    json_object_get_string_member(json_object_get_object_member(a, "error"), "desc"));
			return NULL;
		}
	}
}

bool client_wait_end(struct client *c, unsigned seconds)
{
	gint64 until = g_get_monotonic_time() + (gint64)seconds * G_USEC_PER_SEC;

	while (g_get_monotonic_time() < until) {
		gint64 left = (until - g_get_monotonic_time()) / G_USEC_PER_SEC + 1;
		g_autoptr(GError) err = NULL;
		JsonNode *n;

		g_socket_set_timeout(g_socket_connection_get_socket(c->connection), (guint)left);
		n = read_object(c, &err);
		if (!n)
			return !g_error_matches(err, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
		json_node_unref(n);
	}
	return false;
}
