/*
 * What must hold of every device: what is saved, changed and restored saves the same again; hostile state and
 * random accesses never crash, whatever they do. Each device is one test; seeds are fixed.
 */
#include "catalog.h"
#include "harness.h"

#define STEP_BYTES 400

static void random_bytes(GRand *rand, uint8_t *to, size_t len)
{
	for (size_t i = 0; i < len; i++)
		to[i] = (uint8_t)g_rand_int(rand);
}

static unsigned rounds(const struct catalog_entry *e)
{
	return e->slow_state ? 4 : 100;
}

static struct board *used_board(const struct catalog_entry *e, GRand *rand)
{
	struct board *b = board_create(e);
	uint8_t bytes[STEP_BYTES];

	random_bytes(rand, bytes, sizeof(bytes));
	board_run(b, bytes, sizeof(bytes));
	return b;
}

/* Save, change, restore, save, compare; and into a second device, as a snapshot does. */
static void test_round_trip(const void *opaque)
{
	const struct catalog_entry *e = opaque;
	GRand *rand = g_rand_new_with_seed(g_str_hash(e->name));

	for (unsigned i = rounds(e); i; i--) {
		struct board *b = used_board(e, rand), *other = board_create(e);
		GByteArray *saved = board_save(b), *copy = g_byte_array_new();
		int64_t then = clock_now(b->clock);
		uint8_t bytes[STEP_BYTES];

		g_byte_array_append(copy, saved->data, saved->len);
		/* Virtual time belongs to the machine, whose snapshot sets it first. */
		clock_set(other->clock, then);
		board_check_restore(other, copy);
		board_destroy(other);
		random_bytes(rand, bytes, sizeof(bytes));
		board_run(b, bytes, sizeof(bytes));
		clock_set(b->clock, then);
		board_check_restore(b, saved);
		board_destroy(b);
	}
	g_rand_free(rand);
}

/* Random and truncated states are refused or taken, and the device still works afterwards. */
static void test_hostile(const void *opaque)
{
	const struct catalog_entry *e = opaque;
	GRand *rand = g_rand_new_with_seed(g_str_hash(e->name) + 1);

	for (unsigned i = rounds(e); i; i--) {
		struct board *b = used_board(e, rand);
		GByteArray *state = device_save(b->device);
		uint8_t bytes[STEP_BYTES];
		guint full = state->len;

		for (unsigned n = g_rand_int_range(rand, 0, 20); n && state->len; n--)
			state->data[g_rand_int_range(rand, 0, (gint32)state->len)] = (uint8_t)g_rand_int(rand);
		if (i & 1)
			g_byte_array_set_size(state, (guint)g_rand_int_range(rand, 0, (gint32)full + 1));
		if (device_restore_bytes(b->device, state->data, state->len, NULL) == 0)
			g_assert_cmpuint(state->len, ==, full);
		device_check_restore(b->device, device_save(b->device));
		random_bytes(rand, bytes, sizeof(bytes));
		board_run(b, bytes, sizeof(bytes));
		b->device->ops->reset(b->device);
		board_destroy(b);
		g_byte_array_unref(state);
	}
	g_rand_free(rand);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	for (unsigned i = 0; i < catalog_size; i++) {
		g_autofree char *trip = g_strconcat("/state/", catalog[i].name, "/round-trip", NULL);
		g_autofree char *hostile = g_strconcat("/state/", catalog[i].name, "/hostile", NULL);

		g_test_add_data_func(trip, &catalog[i], test_round_trip);
		g_test_add_data_func(hostile, &catalog[i], test_hostile);
	}
	return g_test_run();
}
