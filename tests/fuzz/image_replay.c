/*
 * The image fuzz target without a fuzzer, so that every build runs it: inputs kept from old crashes (files in the folder
 * given, if there is one), then a few thousand random ones from fixed seeds.
 */
#include <glib.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *folder;

static void test_kept(void)
{
	GDir *dir = folder ? g_dir_open(folder, 0, NULL) : NULL;
	const char *name;

	while (dir && (name = g_dir_read_name(dir))) {
		g_autofree char *path = g_build_filename(folder, name, NULL), *data = NULL;
		gsize len;

		g_test_message("%s", name);
		g_assert_true(g_file_get_contents(path, &data, &len, NULL));
		LLVMFuzzerTestOneInput((const uint8_t *)data, len);
	}
	if (dir)
		g_dir_close(dir);
}

static void test_random(void)
{
	for (uint32_t seed = 0; seed < 1500; seed++) {
		g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
		uint8_t input[256];

		for (size_t i = 0; i < sizeof(input); i++)
			input[i] = (uint8_t)g_rand_int(rand);
		/* Random bytes are no image: change a sound one. */
		input[0] |= 1;
		LLVMFuzzerTestOneInput(input, sizeof(input));
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	folder = argc > 1 ? argv[1] : NULL;
	g_test_add_func("/fuzz/image/kept", test_kept);
	g_test_add_func("/fuzz/image/random", test_random);
	return g_test_run();
}
