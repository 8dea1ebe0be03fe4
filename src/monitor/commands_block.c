/* QMP commands and events of drives: images, media, sizes, failures (names as in QEMU's QMP reference). */
#include <errno.h>
#include <string.h>

#include "block/blk.h"
#include "machine/pc.h"
#include "machine/pc_drives.h"
#include "monitor/commands.h"

JsonNode *qmp_query_block(struct vm *vm, JsonObject *args, GError **error)
{
	JsonArray *a = json_array_new();

	for (unsigned i = 0; i < vm->pc->drives; i++) {
		const struct pc_drive *d = &vm->pc->drive[i];
		JsonObject *o = json_object_new();

		json_object_set_string_member(o, "device", d->id);
		json_object_set_string_member(o, "type", "unknown");
		json_object_set_boolean_member(o, "removable", d->kind != PC_DISK);
		json_object_set_boolean_member(o, "locked", pc_drive_locked(vm->pc, d));
		if (d->kind == PC_CDROM)
			json_object_set_boolean_member(o, "tray_open", pc_drive_open(vm->pc, d));
		if (d->blk) {
			JsonObject *in = json_object_new(), *image = json_object_new();

			json_object_set_string_member(image, "filename", blk_path(d->blk));
			json_object_set_string_member(image, "format", blk_format_name(d->blk));
			json_object_set_int_member(image, "virtual-size", (gint64)blk_size(d->blk));
			json_object_set_string_member(in, "file", blk_path(d->blk));
			json_object_set_string_member(in, "drv", blk_format_name(d->blk));
			json_object_set_boolean_member(in, "ro", blk_readonly(d->blk));
			json_object_set_object_member(in, "image", image);
			json_object_set_object_member(o, "inserted", in);
		}
		json_array_add_object_element(a, o);
	}
	return qmp_take_array(a);
}

/* The drive is "id" or, as of old, "device". */
static const char *drive_arg(JsonObject *args, GError **error)
{
	return qmp_string_arg(args, args && json_object_has_member(args, "id") ? "id" : "device", error);
}

JsonNode *qmp_eject(struct vm *vm, JsonObject *args, GError **error)
{
	const char *id = drive_arg(args, error);
	bool force = args && json_object_get_boolean_member_with_default(args, "force", FALSE);

	return id && pc_change_medium(vm->pc, id, NULL, force, error) ? qmp_empty() : NULL;
}

JsonNode *qmp_change_medium(struct vm *vm, JsonObject *args, GError **error)
{
	const char *id = drive_arg(args, error);
	const char *file = id ? qmp_string_arg(args, "filename", error) : NULL;
	const char *format = file && json_object_has_member(args, "format") ? qmp_string_arg(args, "format", error) : "raw";
	struct vm_disk medium = { .path = (char *)file, .format = BLK_RAW };
	const char *mode;

	if (!file || !format)
		return NULL;
	if (!strcmp(format, "qcow2"))
		medium.format = BLK_QCOW2;
	else if (strcmp(format, "raw"))
		return qmp_fail(error, "format '%s': there are raw and qcow2", format);
	if (json_object_has_member(args, "read-only-mode")) {
		mode = qmp_string_arg(args, "read-only-mode", error);
		if (!mode)
			return NULL;
		medium.readonly = !strcmp(mode, "read-only");
	}
	return pc_change_medium(vm->pc, id, &medium, json_object_get_boolean_member_with_default(args, "force", FALSE), error) ?
		       qmp_empty() : NULL;
}

JsonNode *qmp_block_resize(struct vm *vm, JsonObject *args, GError **error)
{
	const char *id = qmp_string_arg(args, args && json_object_has_member(args, "node-name") ? "node-name" : "device", error);
	JsonNode *size = id ? json_object_get_member(args, "size") : NULL;

	if (!id)
		return NULL;
	if (!size || json_node_get_value_type(size) != G_TYPE_INT64 || json_node_get_int(size) <= 0)
		return qmp_fail(error, "Parameter 'size' is missing or is not a number of bytes");
	return pc_drive_resize(vm->pc, id, (uint64_t)json_node_get_int(size), error) ? qmp_empty() : NULL;
}

void qmp_io_errors(struct qmp *q, struct vm *vm)
{
	const struct pc_drive *d;
	struct blk_failure f;

	while (pc_drives_take_failure(vm->pc, &d, &f)) {
		JsonObject *o = json_object_new();

		json_object_set_string_member(o, "device", d->id);
		json_object_set_string_member(o, "node-name", d->id);
		json_object_set_string_member(o, "operation", f.write ? "write" : "read");
		json_object_set_string_member(o, "action", f.waits ? "stop" : "report");
		json_object_set_boolean_member(o, "nospace", f.error == ENOSPC || f.error == EDQUOT);
		json_object_set_string_member(o, "reason", g_strerror(f.error));
		qmp_event(q, "BLOCK_IO_ERROR", o);
	}
}

void qmp_tray_moves(struct qmp *q, struct vm *vm)
{
	const struct pc_drive *d;
	bool open;

	while (pc_drives_take_tray(vm->pc, &d, &open)) {
		JsonObject *o = json_object_new();

		json_object_set_string_member(o, "device", d->id);
		json_object_set_string_member(o, "id", d->id);
		json_object_set_boolean_member(o, "tray-open", open);
		qmp_event(q, "DEVICE_TRAY_MOVED", o);
	}
}
