/*
 * Plays the inputs that once broke something: files named DEVICE-WHAT in the folder given. A plain program, so that
 * every build runs them. Further arguments are the devices that have fuzz targets: each device of the catalog must.
 */
#include <string.h>

#include "catalog.h"

static void test_file(const void *path)
{
	g_autofree char *device = g_path_get_basename(path), *data = NULL;
	struct board *b;
	gsize len;

	*strchrnul(device, '-') = 0;
	g_assert_nonnull(catalog_find(device));
	g_assert_true(g_file_get_contents(path, &data, &len, NULL));
	b = board_create(catalog_find(device));
	board_run(b, (const uint8_t *)data, len);
	board_destroy(b);
}

static void test_targets(const void *opaque)
{
	const char *const *targets = opaque;

	for (unsigned i = 0; i < catalog_size; i++) {
		g_test_message("%s", catalog[i].name);
		g_assert_true(g_strv_contains(targets, catalog[i].name));
	}
}

int main(int argc, char **argv)
{
	g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
	const char *name;
	GDir *dir;
	int failed;

	g_test_init(&argc, &argv, NULL);
	dir = argc > 1 ? g_dir_open(argv[1], 0, NULL) : NULL;
	if (!dir)
		g_error("usage: fuzz_replay FOLDER DEVICE...");
	while ((name = g_dir_read_name(dir))) {
		g_autofree char *test = g_strconcat("/fuzz/", name, NULL);

		g_ptr_array_add(paths, g_build_filename(argv[1], name, NULL));
		g_test_add_data_func(test, g_ptr_array_index(paths, paths->len - 1), test_file);
	}
	g_dir_close(dir);
	g_test_add_data_func("/fuzz/targets", argv + 2, test_targets);
	failed = g_test_run();
	return failed;
}
