/*
 * A queue of key events, fed to the keyboard one every few milliseconds, and none before the guest has read the last: a
 * slow guest, or one that does not listen yet, loses nothing.
 */
#include "monitor/typist.h"

#include "machine/pc.h"
#include "monitor/qmp.h"

#define KEY_INTERVAL_MS 12
#define QUEUE_LIMIT 65536

struct stroke {
	int code;
	bool down;
};

static GQueue *queue_of(struct vm *vm)
{
	if (!vm->keys)
		vm->keys = g_queue_new();
	return vm->keys;
}

static gboolean feed(gpointer opaque)
{
	struct vm *vm = opaque;
	const struct input_sink *in = &vm->pc->input;
	struct stroke *s = NULL;

	vm_lock(vm);
	if (in->keys_read(in->opaque)) {
		s = g_queue_pop_head(queue_of(vm));
		if (s)
			in->key(in->opaque, s->code, s->down);
	}
	vm_unlock(vm);
	g_free(s);
	if (vm->keys->length)
		return G_SOURCE_CONTINUE;
	vm->keys_source = 0;
	return G_SOURCE_REMOVE;
}

static void put(struct vm *vm, int code, bool down)
{
	GQueue *q = queue_of(vm);
	struct stroke *s;

	if (q->length >= QUEUE_LIMIT)
		return;
	s = g_new(struct stroke, 1);
	s->code = code;
	s->down = down;
	g_queue_push_tail(q, s);
	if (!vm->keys_source)
		vm->keys_source = g_timeout_add(KEY_INTERVAL_MS, feed, vm);
}

void typist_press(struct vm *vm, const int *codes, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		put(vm, codes[i], true);
	for (unsigned i = count; i-- > 0;)
		put(vm, codes[i], false);
}

bool typist_type(struct vm *vm, const char *text, GError **error)
{
	bool shift;

	if (!g_utf8_validate(text, -1, NULL)) {
		g_set_error(error, qmp_error_quark(), QMP_ERROR_GENERIC, "the text is not UTF-8");
		return false;
	}
	for (const char *p = text; *p; p = g_utf8_next_char(p)) {
		if (input_key_from_char(g_utf8_get_char(p), &shift) < 0) {
			g_set_error(error, qmp_error_quark(), QMP_ERROR_GENERIC,
				    "a US keyboard has no key for U+%04X", g_utf8_get_char(p));
			return false;
		}
	}
	for (const char *p = text; *p; p = g_utf8_next_char(p)) {
		int code = input_key_from_char(g_utf8_get_char(p), &shift);
		int codes[2] = { input_key_from_name("shift"), code };

		typist_press(vm, shift ? codes : &code, shift ? 2 : 1);
	}
	return true;
}

void typist_stop(struct vm *vm)
{
	if (vm->keys_source)
		g_source_remove(vm->keys_source);
	vm->keys_source = 0;
	if (vm->keys)
		g_queue_free_full(vm->keys, g_free);
	vm->keys = NULL;
}
