/* send-key and input-send-event (QEMU QMP reference, "Input"): keys, buttons, movements, places on the screen. */
#include "monitor/commands.h"

#include <string.h>

#include "base/bytes.h"
#include "machine/pc.h"
#include "monitor/typist.h"

#define EVENTS_MAX 64
#define RELATIVE_MAX 32767

enum event_type { EVENT_KEY, EVENT_BUTTON, EVENT_WHEEL, EVENT_REL, EVENT_ABS };

struct event {
	enum event_type type;
	int code;  /* a key, or INPUT_LEFT and so on; the wheel's direction */
	bool down;
	bool y;    /* which axis */
	int value;
};

static JsonArray *array_arg(JsonObject *args, const char *name, guint limit, GError **error)
{
	JsonNode *n = args ? json_object_get_member(args, name) : NULL;
	JsonArray *a = n && JSON_NODE_HOLDS_ARRAY(n) ? json_node_get_array(n) : NULL;

	if (!a)
		qmp_fail(error, "Parameter '%s' is missing", name);
	else if (json_array_get_length(a) > limit)
		qmp_fail(error, "at most %u %s at once", limit, name);
	else
		return a;
	return NULL;
}

static JsonObject *object_of(JsonNode *n)
{
	return n && JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;
}

static JsonNode *value_of(JsonObject *o, const char *name, GType type)
{
	JsonNode *n = o ? json_object_get_member(o, name) : NULL;

	return n && JSON_NODE_HOLDS_VALUE(n) && json_node_get_value_type(n) == type ? n : NULL;
}

static const char *string_of(JsonObject *o, const char *name)
{
	JsonNode *n = value_of(o, name, G_TYPE_STRING);

	return n ? json_node_get_string(n) : "";
}

/* One KeyValue: {"type":"qcode","data":"ret"} or {"type":"number","data":28}. */
static int key_value(JsonObject *o)
{
	JsonNode *number = value_of(o, "data", G_TYPE_INT64);

	return number ? (int)(json_node_get_int(number) & 0xff) : input_key_from_name(string_of(o, "data"));
}

JsonNode *qmp_send_key(struct vm *vm, JsonObject *args, GError **error)
{
	int codes[16];
	JsonArray *a = array_arg(args, "keys", ARRAY_LEN(codes), error);
	guint n = a ? json_array_get_length(a) : 0;

	if (!a)
		return NULL;
	for (guint i = 0; i < n; i++) {
		codes[i] = key_value(object_of(json_array_get_element(a, i)));
		if (codes[i] < 0)
			return qmp_fail(error, "unknown key at position %u", i + 1);
	}
	typist_press(vm, codes, n);
	return qmp_empty();
}

/* Why not, or NULL. */
static const char *read_button(const char *name, struct event *e)
{
	static const struct { const char *name; enum event_type type; int code; } buttons[] = {
		{ "left", EVENT_BUTTON, INPUT_LEFT }, { "middle", EVENT_BUTTON, INPUT_MIDDLE },
		{ "right", EVENT_BUTTON, INPUT_RIGHT }, { "side", EVENT_BUTTON, INPUT_SIDE },
		{ "extra", EVENT_BUTTON, INPUT_EXTRA }, { "wheel-up", EVENT_WHEEL, -1 }, { "wheel-down", EVENT_WHEEL, 1 },
	};

	for (size_t i = 0; i < ARRAY_LEN(buttons); i++) {
		if (strcmp(name, buttons[i].name))
			continue;
		e->type = buttons[i].type;
		e->code = buttons[i].code;
		return NULL;
	}
	return "unknown button";
}

static const char *read_axis(JsonObject *data, struct event *e)
{
	JsonNode *value = value_of(data, "value", G_TYPE_INT64);
	const char *axis = string_of(data, "axis");
	gint64 low = e->type == EVENT_ABS ? 0 : -RELATIVE_MAX, high = e->type == EVENT_ABS ? INPUT_POINTER_MAX : RELATIVE_MAX;

	if (strcmp(axis, "x") && strcmp(axis, "y"))
		return "axis is x or y";
	if (!value || json_node_get_int(value) < low || json_node_get_int(value) > high)
		return "value is out of range";
	e->y = *axis == 'y';
	e->value = (int)json_node_get_int(value);
	return NULL;
}

static const char *read_event(JsonObject *o, struct event *e)
{
	JsonNode *n = o ? json_object_get_member(o, "data") : NULL;
	JsonObject *data = object_of(n);
	const char *type = string_of(o, "type");

	if (!strcmp(type, "rel") || !strcmp(type, "abs")) {
		e->type = *type == 'a' ? EVENT_ABS : EVENT_REL;
		return read_axis(data, e);
	}
	if (strcmp(type, "key") && strcmp(type, "btn"))
		return "type is key, btn, rel or abs";
	if (!value_of(data, "down", G_TYPE_BOOLEAN))
		return "down is missing";
	e->down = json_node_get_boolean(value_of(data, "down", G_TYPE_BOOLEAN));
	if (*type == 'b')
		return read_button(string_of(data, "button"), e);
	e->type = EVENT_KEY;
	e->code = key_value(object_of(json_object_get_member(data, "key")));
	return e->code < 0 ? "unknown key" : NULL;
}

/* What has been gathered goes to the pointer that moved last; false when that is one which the guest does not drive. */
static bool send_pointer(struct vm *vm, int *dx, int *dy, int dz)
{
	const struct input_sink *in = &vm->pc->input;
	struct vm_pointer *p = &vm->pointer;
	bool taken = true;

	if (p->relative && in->mouse)
		in->mouse(in->opaque, *dx, *dy, dz, p->buttons);
	else
		taken = in->pointer && in->pointer(in->opaque, p->x, p->y, dz, p->buttons);
	*dx = *dy = 0;
	return taken;
}

/* Movements are one until a button changes. */
static bool send_events(struct vm *vm, const struct event *events, guint n)
{
	const struct input_sink *in = &vm->pc->input;
	struct vm_pointer *p = &vm->pointer;
	int dx = 0, dy = 0;
	bool moved = false, ok = true;

	for (guint i = 0; i < n; i++) {
		const struct event *e = &events[i];

		if (e->type == EVENT_KEY) {
			in->key(in->opaque, e->code, e->down);
			continue;
		}
		if (e->type == EVENT_REL || e->type == EVENT_ABS) {
			if (moved && p->relative != (e->type == EVENT_REL))
				ok &= send_pointer(vm, &dx, &dy, 0);
			p->relative = e->type == EVENT_REL;
			*(p->relative ? e->y ? &dy : &dx : e->y ? &p->y : &p->x) = p->relative ? (e->y ? dy : dx) + e->value : e->value;
			moved = true;
			continue;
		}
		if (e->type == EVENT_BUTTON)
			p->buttons = e->down ? p->buttons | (unsigned)e->code : p->buttons & ~(unsigned)e->code;
		if (e->type == EVENT_BUTTON || e->down)
			ok &= send_pointer(vm, &dx, &dy, e->type == EVENT_WHEEL ? e->code : 0);
		moved = false;
	}
	return (!moved || send_pointer(vm, &dx, &dy, 0)) && ok;
}

/* All events are read before the first has an effect. */
JsonNode *qmp_input_send_event(struct vm *vm, JsonObject *args, GError **error)
{
	JsonArray *a = array_arg(args, "events", EVENTS_MAX, error);
	struct event events[EVENTS_MAX] = { 0 };
	guint n = a ? json_array_get_length(a) : 0;
	bool taken;

	if (!a)
		return NULL;
	for (guint i = 0; i < n; i++) {
		const char *why = read_event(object_of(json_array_get_element(a, i)), &events[i]);

		if (why)
			return qmp_fail(error, "event %u: %s", i + 1, why);
	}
	vm_lock(vm);
	taken = send_events(vm, events, n);
	vm_unlock(vm);
	return taken ? qmp_empty() :
		       qmp_fail(error, "the guest drives no absolute pointer (see --tablet): send relative movements");
}
