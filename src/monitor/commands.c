/* The QMP command table (names, arguments and replies as in QEMU's QMP reference). */
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio_balloon.h"
#include "machine/pc.h"
#include "monitor/commands.h"
#include "monitor/qmp.h"
#include "monitor/typist.h"

JsonNode *qmp_take(JsonObject *o)
{
	JsonNode *n = json_node_new(JSON_NODE_OBJECT);

	json_node_take_object(n, o);
	return n;
}

JsonNode *qmp_take_array(JsonArray *a)
{
	JsonNode *n = json_node_new(JSON_NODE_ARRAY);

	json_node_take_array(n, a);
	return n;
}

JsonNode *qmp_empty(void)
{
	return qmp_take(json_object_new());
}

JsonNode *qmp_fail(GError **error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (error)
		*error = g_error_new_valist(qmp_error_quark(), QMP_ERROR_GENERIC, fmt, ap);
	va_end(ap);
	return NULL;
}

const char *qmp_string_arg(JsonObject *args, const char *name, GError **error)
{
	JsonNode *n = args ? json_object_get_member(args, name) : NULL;

	if (!n || json_node_get_value_type(n) != G_TYPE_STRING) {
		qmp_fail(error, "Parameter '%s' is missing or is not a string", name);
		return NULL;
	}
	return json_node_get_string(n);
}

static JsonNode *query_version(struct vm *vm, JsonObject *args, GError **error)
{
	JsonObject *o = json_object_new(), *q = json_object_new();

	json_object_set_int_member(q, "major", 7);
	json_object_set_int_member(q, "minor", 2);
	json_object_set_int_member(q, "micro", 0);
	json_object_set_object_member(o, "qemu", q);
	json_object_set_string_member(o, "package", "guise");
	return qmp_take(o);
}

static JsonNode *query_status(struct vm *vm, JsonObject *args, GError **error)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "status", vm_status_name(vm));
	json_object_set_boolean_member(o, "singlestep", FALSE);
	json_object_set_boolean_member(o, "running", vm->status == VM_RUNNING);
	return qmp_take(o);
}

static JsonNode *query_kvm(struct vm *vm, JsonObject *args, GError **error)
{
	JsonObject *o = json_object_new();

	json_object_set_boolean_member(o, "enabled", !strcmp(vm->ops->name, "kvm"));
	json_object_set_boolean_member(o, "present", g_file_test("/dev/kvm", G_FILE_TEST_EXISTS));
	return qmp_take(o);
}

static JsonNode *query_name(struct vm *vm, JsonObject *args, GError **error)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "name", vm->config.name);
	return qmp_take(o);
}

static JsonNode *query_cpus_fast(struct vm *vm, JsonObject *args, GError **error)
{
	JsonArray *a = json_array_new();

	for (unsigned i = 0; i < vm->cpus; i++) {
		JsonObject *o = json_object_new(), *props = json_object_new();

		json_object_set_int_member(o, "cpu-index", i);
		json_object_set_string_member(o, "qom-path", "/machine/unattached/device");
		json_object_set_int_member(o, "thread-id", vm->vcpus[i].tid);
		json_object_set_string_member(o, "target", "x86_64");
		json_object_set_int_member(props, "socket-id", 0);
		json_object_set_int_member(props, "core-id", i);
		json_object_set_int_member(props, "thread-id", 0);
		json_object_set_object_member(o, "props", props);
		json_array_add_object_element(a, o);
	}
	return qmp_take_array(a);
}

static JsonNode *query_chardev(struct vm *vm, JsonObject *args, GError **error)
{
	JsonArray *a = json_array_new();

	for (unsigned i = 0; i < VM_MAX_SERIAL; i++) {
		struct chardev *cd = vm->pc->serial[i];
		g_autofree char *label = g_strdup_printf("serial%u", i);
		JsonObject *o;

		if (!cd)
			continue;
		o = json_object_new();
		json_object_set_string_member(o, "label", label);
		json_object_set_string_member(o, "filename", cd->label ? cd->label : cd->ops->kind);
		json_object_set_boolean_member(o, "frontend-open", TRUE);
		json_array_add_object_element(a, o);
	}
	return qmp_take_array(a);
}

static JsonNode *query_commands(struct vm *vm, JsonObject *args, GError **error)
{
	JsonArray *a = json_array_new();
	size_t count;
	const char *const *names = qmp_command_names(&count);

	for (size_t i = 0; i < count; i++) {
		JsonObject *o = json_object_new();

		json_object_set_string_member(o, "name", names[i]);
		json_array_add_object_element(a, o);
	}
	return qmp_take_array(a);
}

static JsonNode *stop(struct vm *vm, JsonObject *args, GError **error)
{
	vm_pause(vm);
	return qmp_empty();
}

static JsonNode *cont(struct vm *vm, JsonObject *args, GError **error)
{
	vm_resume(vm);
	return qmp_empty();
}

static JsonNode *system_reset(struct vm *vm, JsonObject *args, GError **error)
{
	vm_reset(vm);
	return qmp_empty();
}

static JsonNode *system_powerdown(struct vm *vm, JsonObject *args, GError **error)
{
	vm_powerdown(vm);
	return qmp_empty();
}

static JsonNode *quit(struct vm *vm, JsonObject *args, GError **error)
{
	vm_request(vm, VM_REQ_QUIT);
	return qmp_empty();
}

static JsonNode *screendump(struct vm *vm, JsonObject *args, GError **error)
{
	const char *file = qmp_string_arg(args, "filename", error);
	const char *format = args && json_object_has_member(args, "format") ? qmp_string_arg(args, "format", NULL) : NULL;
	const struct display_source *d = pc_display(vm->pc);
	struct surface s = { 0 };
	bool ok;

	if (!file)
		return NULL;
	if (!d)
		return qmp_fail(error, "this machine has no display");
	vm_lock(vm);
	d->render(d->opaque, &s);
	vm_unlock(vm);
	if ((format && !strcmp(format, "png")) || (!format && g_str_has_suffix(file, ".png")))
		ok = surface_write_png(&s, file, error);
	else
		ok = surface_write_ppm(&s, file, error);
	surface_finish(&s);
	return ok ? qmp_empty() : NULL;
}

static JsonNode *human_monitor_command(struct vm *vm, JsonObject *args, GError **error)
{
	const char *line = qmp_string_arg(args, "command-line", error);
	g_autofree char *text = line ? hmp_execute(vm, line) : NULL;
	JsonNode *n;

	if (!line)
		return NULL;
	n = json_node_new(JSON_NODE_VALUE);
	json_node_set_string(n, text);
	return n;
}

static JsonNode *query_balloon(struct vm *vm, JsonObject *args, GError **error)
{
	JsonObject *o = json_object_new();

	vm_lock(vm);
	json_object_set_int_member(o, "actual", (gint64)virtio_balloon_size(vm->pc->balloon));
	vm_unlock(vm);
	return qmp_take(o);
}

static JsonNode *balloon(struct vm *vm, JsonObject *args, GError **error)
{
	JsonNode *n = args ? json_object_get_member(args, "value") : NULL;

	if (!n || json_node_get_value_type(n) != G_TYPE_INT64 || json_node_get_int(n) <= 0)
		return qmp_fail(error, "Parameter 'value' is missing or is not a number of bytes");
	vm_lock(vm);
	virtio_balloon_set_target(vm->pc->balloon, (uint64_t)json_node_get_int(n));
	vm_unlock(vm);
	return qmp_empty();
}

static JsonNode *set_link(struct vm *vm, JsonObject *args, GError **error)
{
	const char *name = qmp_string_arg(args, "name", error);
	JsonNode *up = name ? json_object_get_member(args, "up") : NULL;

	if (!name)
		return NULL;
	if (!up || json_node_get_value_type(up) != G_TYPE_BOOLEAN)
		return qmp_fail(error, "Parameter 'up' is missing or is not true or false");
	return pc_net_set_link(vm->pc, name, json_node_get_boolean(up), error) ? qmp_empty() : NULL;
}

/* Ours: what the guest said of its memory (asking again), and what came back to the host. */
static JsonNode *guise_memory(struct vm *vm, JsonObject *args, GError **error)
{
	static const struct { const char *name; size_t offset; } fields[] = {
		{ "swap-in", offsetof(struct balloon_stats, swap_in) }, { "swap-out", offsetof(struct balloon_stats, swap_out) },
		{ "major-faults", offsetof(struct balloon_stats, major_faults) },
		{ "minor-faults", offsetof(struct balloon_stats, minor_faults) },
		{ "free", offsetof(struct balloon_stats, free) }, { "total", offsetof(struct balloon_stats, total) },
		{ "available", offsetof(struct balloon_stats, available) }, { "caches", offsetof(struct balloon_stats, caches) },
	};
	JsonObject *o = json_object_new();
	struct balloon_stats t;

	vm_lock(vm);
	t = *virtio_balloon_stats(vm->pc->balloon);
	json_object_set_int_member(o, "actual", (gint64)virtio_balloon_size(vm->pc->balloon));
	json_object_set_int_member(o, "inflated", (gint64)virtio_balloon_inflated(vm->pc->balloon));
	json_object_set_int_member(o, "reported-free", (gint64)virtio_balloon_reported(vm->pc->balloon));
	vm_unlock(vm);
	for (size_t i = 0; i < ARRAY_LEN(fields) && t.when >= 0; i++) {
		uint64_t value = *(uint64_t *)((char *)&t + fields[i].offset);

		if (value != UINT64_MAX)
			json_object_set_int_member(o, fields[i].name, (gint64)value);
	}
	return qmp_take(o);
}

/* Ours: the text screen, and typing a text on the US keyboard. */
static JsonNode *guise_screen(struct vm *vm, JsonObject *args, GError **error)
{
	const struct display_source *d = pc_display(vm->pc);
	struct text_screen t = { 0 };
	g_autofree char *text = NULL;
	JsonNode *n;

	if (!d)
		return qmp_fail(error, "this machine has no display");
	vm_lock(vm);
	d->text(d->opaque, &t);
	vm_unlock(vm);
	if (!t.columns) {
		text_screen_finish(&t);
		return qmp_fail(error, "the guest shows graphics, not text; guise screenshot shows it");
	}
	text = text_screen_to_utf8(&t);
	text_screen_finish(&t);
	n = json_node_new(JSON_NODE_VALUE);
	json_node_set_string(n, text);
	return n;
}

static JsonNode *guise_type(struct vm *vm, JsonObject *args, GError **error)
{
	const char *text = qmp_string_arg(args, "text", error);

	if (!text)
		return NULL;
	if (!typist_type(vm, text, error))
		return NULL;
	return qmp_empty();
}

static const char *const command_names[] = {
	"qmp_capabilities", "query-version", "query-status", "query-kvm", "query-name", "query-cpus-fast", "query-block",
	"query-chardev", "query-commands", "stop", "cont", "system_reset", "system_powerdown", "quit", "screendump",
	"send-key", "input-send-event", "human-monitor-command", "x-guise-screen", "x-guise-type",
	"query-balloon", "balloon", "x-guise-memory", "set_link",
	"eject", "blockdev-change-medium", "block_resize",
};
/* Same order; qmp_capabilities belongs to the session. */
static const qmp_command command_fns[] = {
	NULL, query_version, query_status, query_kvm, query_name, query_cpus_fast, qmp_query_block,
	query_chardev, query_commands, stop, cont, system_reset, system_powerdown, quit, screendump,
	qmp_send_key, qmp_input_send_event, human_monitor_command, guise_screen, guise_type,
	query_balloon, balloon, guise_memory, set_link,
	qmp_eject, qmp_change_medium, qmp_block_resize,
};
_Static_assert(ARRAY_LEN(command_names) == ARRAY_LEN(command_fns), "one function a name");

qmp_command qmp_find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(command_names); i++) {
		if (!strcmp(command_names[i], name))
			return command_fns[i];
	}
	return NULL;
}

const char *const *qmp_command_names(size_t *count)
{
	*count = ARRAY_LEN(command_names);
	return command_names;
}
