/* The QMP server: sessions, framing, dispatch and events. */
#include "monitor/qmp.h"

#include <errno.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "dev/virtio_balloon.h"
#include "machine/pc.h"
#include "monitor/commands.h"

#define QMP_MAX_REQUEST (64 * 1024)
#define QMP_MAX_SESSIONS 16

struct session {
	struct qmp *qmp;
	GSocketConnection *connection;
	GByteArray *in;
	GByteArray *out;
	GSource *reader, *writer;
	bool negotiated;
};

struct qmp {
	struct vm *vm;
	GPtrArray *paths; /* of the sockets, ours to remove */
	GSocketService *service;
	GPtrArray *sessions;
};

GQuark qmp_error_quark(void)
{
	return g_quark_from_static_string("guise-qmp");
}

static void session_close(struct session *s)
{
	if (s->reader) {
		g_source_destroy(s->reader);
		g_source_unref(s->reader);
	}
	if (s->writer) {
		g_source_destroy(s->writer);
		g_source_unref(s->writer);
	}
	g_io_stream_close(G_IO_STREAM(s->connection), NULL, NULL);
	g_object_unref(s->connection);
	g_byte_array_unref(s->in);
	g_byte_array_unref(s->out);
	g_ptr_array_remove_fast(s->qmp->sessions, s);
	g_free(s);
}

static gboolean session_writable(GSocket *socket, GIOCondition condition, gpointer opaque)
{
	struct session *s = opaque;
	GError *err = NULL;
	gssize n = g_socket_send(socket, (const char *)s->out->data, s->out->len, NULL, &err);

	if (n > 0)
		g_byte_array_remove_range(s->out, 0, (guint)n);
	/* A broken peer is noticed and dropped by the reader. */
	if (err && !g_error_matches(err, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK))
		g_byte_array_set_size(s->out, 0);
	g_clear_error(&err);
	if (s->out->len)
		return G_SOURCE_CONTINUE;
	g_source_unref(s->writer);
	s->writer = NULL;
	return G_SOURCE_REMOVE;
}

static void session_send(struct session *s, JsonNode *node)
{
	g_autofree char *text = json_to_string(node, FALSE);

	json_node_unref(node);
	/* A reader that does not read loses what it asked for, never the machine's memory. */
	if (s->out->len > 1 << 22)
		return;
	g_byte_array_append(s->out, (const guint8 *)text, (guint)strlen(text));
	g_byte_array_append(s->out, (const guint8 *)"\r\n", 2);
	if (s->writer)
		return;
	s->writer = g_socket_create_source(g_socket_connection_get_socket(s->connection), G_IO_OUT, NULL);
	g_source_set_callback(s->writer, G_SOURCE_FUNC(session_writable), s, NULL);
	g_source_attach(s->writer, NULL);
}

static JsonNode *object_node(JsonObject *o)
{
	JsonNode *n = json_node_new(JSON_NODE_OBJECT);

	json_node_take_object(n, o);
	return n;
}

static void send_error(struct session *s, JsonNode *id, const char *class, const char *desc)
{
	JsonObject *o = json_object_new(), *e = json_object_new();

	json_object_set_string_member(e, "class", class);
	json_object_set_string_member(e, "desc", desc);
	json_object_set_object_member(o, "error", e);
	if (id)
		json_object_set_member(o, "id", json_node_copy(id));
	session_send(s, object_node(o));
}

static void send_return(struct session *s, JsonNode *id, JsonNode *value)
{
	JsonObject *o = json_object_new();

	json_object_set_member(o, "return", value ? value : object_node(json_object_new()));
	if (id)
		json_object_set_member(o, "id", json_node_copy(id));
	session_send(s, object_node(o));
}

static void run_command(struct session *s, const char *name, JsonObject *args, JsonNode *id)
{
	qmp_command fn;
	GError *err = NULL;
	JsonNode *value;

	if (!strcmp(name, "qmp_capabilities")) {
		s->negotiated = true;
		send_return(s, id, NULL);
		return;
	}
	fn = qmp_find_command(name);
	if (!fn || !s->negotiated) {
		g_autofree char *desc = fn ? g_strdup_printf("Expecting capabilities negotiation with 'qmp_capabilities'")
					   : g_strdup_printf("The command %s has not been found", name);

		send_error(s, id, "CommandNotFound", desc);
		return;
	}
	value = fn(s->qmp->vm, args, &err);
	if (err) {
		send_error(s, id, "GenericError", err->message);
		g_error_free(err);
	} else {
		send_return(s, id, value);
	}
}

static void handle_request(struct session *s, const char *text, gssize len)
{
	g_autoptr(JsonParser) parser = json_parser_new();
	JsonNode *root, *id;
	JsonObject *o;
	const char *name = NULL;

	if (!json_parser_load_from_data(parser, text, len, NULL) || !(root = json_parser_get_root(parser)) ||
	    !JSON_NODE_HOLDS_OBJECT(root)) {
		send_error(s, NULL, "GenericError", "Invalid JSON syntax");
		return;
	}
	o = json_node_get_object(root);
	id = json_object_get_member(o, "id");
	if (json_object_has_member(o, "execute") && JSON_NODE_HOLDS_VALUE(json_object_get_member(o, "execute")))
		name = json_object_get_string_member(o, "execute");
	if (!name) {
		send_error(s, id, "GenericError", "QMP input lacks member 'execute'");
		return;
	}
	if (json_object_has_member(o, "arguments") && !JSON_NODE_HOLDS_OBJECT(json_object_get_member(o, "arguments"))) {
		send_error(s, id, "GenericError", "QMP input member 'arguments' must be an object");
		return;
	}
	run_command(s, name,
		    json_object_has_member(o, "arguments") ? json_object_get_object_member(o, "arguments") : NULL, id);
}

/* The length of the first whole JSON object in the buffer, 0 when there is none yet. */
static gsize first_object(const guint8 *p, gsize len)
{
	unsigned depth = 0;
	bool quoted = false;

	for (gsize i = 0; i < len; i++) {
		if (quoted) {
			if (p[i] == '\\')
				i++;
			else if (p[i] == '"')
				quoted = false;
		} else if (p[i] == '"') {
			quoted = true;
		} else if (p[i] == '{' || p[i] == '[') {
			depth++;
		} else if ((p[i] == '}' || p[i] == ']') && depth && --depth == 0) {
			return i + 1;
		}
	}
	return 0;
}

static gboolean session_readable(GSocket *socket, GIOCondition condition, gpointer opaque)
{
	struct session *s = opaque;
	guint8 buf[4096];
	gsize used;
	GError *err = NULL;
	gssize n = g_socket_receive(socket, (char *)buf, sizeof(buf), NULL, &err);

	if (n <= 0 && g_error_matches(err, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK)) {
		g_error_free(err);
		return G_SOURCE_CONTINUE;
	}
	g_clear_error(&err);
	if (n <= 0 || s->in->len + (gsize)n > QMP_MAX_REQUEST) {
		session_close(s);
		return G_SOURCE_REMOVE;
	}
	g_byte_array_append(s->in, buf, (guint)n);
	while ((used = first_object(s->in->data, s->in->len))) {
		handle_request(s, (const char *)s->in->data, (gssize)used);
		g_byte_array_remove_range(s->in, 0, (guint)used);
	}
	return G_SOURCE_CONTINUE;
}

static JsonNode *greeting(void)
{
	g_autoptr(JsonParser) parser = json_parser_new();

	json_parser_load_from_data(parser,
				   "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":0,\"minor\":2,\"major\":7},"
				   "\"package\":\"guise\"},\"capabilities\":[\"oob\"]}}",
				   -1, NULL);
	return json_parser_steal_root(parser);
}

static gboolean incoming(GSocketService *service, GSocketConnection *connection, GObject *source, gpointer opaque)
{
	struct qmp *q = opaque;
	struct session *s;
	GSocket *socket = g_socket_connection_get_socket(connection);

	if (q->sessions->len >= QMP_MAX_SESSIONS)
		return TRUE;
	s = g_new0(struct session, 1);
	s->qmp = q;
	s->connection = g_object_ref(connection);
	s->in = g_byte_array_new();
	s->out = g_byte_array_new();
	g_socket_set_blocking(socket, FALSE);
	s->reader = g_socket_create_source(socket, G_IO_IN | G_IO_HUP, NULL);
	g_source_set_callback(s->reader, G_SOURCE_FUNC(session_readable), s, NULL);
	g_source_attach(s->reader, NULL);
	g_ptr_array_add(q->sessions, s);
	session_send(s, greeting());
	return TRUE;
}

struct qmp *qmp_create(struct vm *vm)
{
	struct qmp *q = g_new0(struct qmp, 1);

	q->vm = vm;
	q->paths = g_ptr_array_new_with_free_func(g_free);
	q->sessions = g_ptr_array_new();
	q->service = g_socket_service_new();
	g_signal_connect(q->service, "incoming", G_CALLBACK(incoming), q);
	g_socket_service_start(q->service);
	return q;
}

bool qmp_listen(struct qmp *q, const char *path, GError **error)
{
	g_autoptr(GSocketAddress) address = NULL;
	struct stat st;

	if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "QMP socket %s: too long for a socket; name a shorter path", path);
		return false;
	}
	if (!lstat(path, &st) && S_ISSOCK(st.st_mode))
		g_unlink(path);
	address = g_unix_socket_address_new(path);
	if (!g_socket_listener_add_address(G_SOCKET_LISTENER(q->service), address, G_SOCKET_TYPE_STREAM,
					   G_SOCKET_PROTOCOL_DEFAULT, NULL, NULL, error)) {
		g_prefix_error(error, "QMP socket %s: ", path);
		return false;
	}
	g_chmod(path, 0600);
	g_ptr_array_add(q->paths, g_strdup(path));
	return true;
}

void qmp_destroy(struct qmp *q)
{
	if (!q)
		return;
	g_socket_service_stop(q->service);
	g_socket_listener_close(G_SOCKET_LISTENER(q->service));
	while (q->sessions->len) {
		struct session *s = g_ptr_array_index(q->sessions, 0);

		/* The last words (SHUTDOWN) still go out. */
		if (s->out->len)
			g_socket_send(g_socket_connection_get_socket(s->connection), (const char *)s->out->data, s->out->len,
				      NULL, NULL);
		session_close(s);
	}
	g_ptr_array_unref(q->sessions);
	g_object_unref(q->service);
	for (guint i = 0; i < q->paths->len; i++)
		g_unlink(g_ptr_array_index(q->paths, i));
	g_ptr_array_unref(q->paths);
	g_free(q);
}

void qmp_event(struct qmp *q, const char *name, JsonObject *data)
{
	gint64 now = g_get_real_time();

	for (guint i = 0; i < q->sessions->len; i++) {
		struct session *s = g_ptr_array_index(q->sessions, i);
		JsonObject *o, *stamp;

		if (!s->negotiated)
			continue;
		o = json_object_new();
		stamp = json_object_new();
		json_object_set_int_member(stamp, "seconds", now / G_USEC_PER_SEC);
		json_object_set_int_member(stamp, "microseconds", now % G_USEC_PER_SEC);
		json_object_set_object_member(o, "timestamp", stamp);
		json_object_set_string_member(o, "event", name);
		if (data)
			json_object_set_object_member(o, "data", json_object_ref(data));
		session_send(s, object_node(o));
	}
	if (data)
		json_object_unref(data);
}

static uint64_t balloon_size(struct vm *vm)
{
	uint64_t bytes;

	vm_lock(vm);
	bytes = virtio_balloon_size(vm->pc->balloon);
	vm_unlock(vm);
	return bytes;
}

void qmp_vm_event(struct qmp *q, enum vm_event event, bool guest)
{
	static const char *const names[] = { "STOP", "RESUME", "RESET", "POWERDOWN", "SHUTDOWN", "GUEST_PANICKED",
					     "GUEST_CRASHLOADED", "WATCHDOG", "BALLOON_CHANGE" };
	static const char *const panic_actions[] = { "poweroff", "pause", "reset", "run" };
	JsonObject *data = NULL;

	if (event == VM_EVENT_IO_ERROR) {
		qmp_io_errors(q, q->vm);
		return;
	}
	if (event == VM_EVENT_TRAY) {
		qmp_tray_moves(q, q->vm);
		return;
	}
	if (event == VM_EVENT_RESET || event == VM_EVENT_SHUTDOWN) {
		const char *reason = event == VM_EVENT_RESET ? (guest ? "guest-reset" : "host-qmp-system-reset")
							     : (guest ? "guest-shutdown" : "host-qmp-quit");

		data = json_object_new();
		json_object_set_boolean_member(data, "guest", guest);
		json_object_set_string_member(data, "reason", reason);
	}
	if (event >= VM_EVENT_PANIC)
		data = json_object_new();
	if (event == VM_EVENT_PANIC)
		json_object_set_string_member(data, "action", panic_actions[q->vm->config.on_panic]);
	if (event == VM_EVENT_CRASH_LOADED)
		json_object_set_string_member(data, "action", "run");
	if (event == VM_EVENT_WATCHDOG)
		json_object_set_string_member(data, "action", "reset");
	if (event == VM_EVENT_BALLOON)
		json_object_set_int_member(data, "actual", (gint64)balloon_size(q->vm));
	qmp_event(q, names[event], data);
}
