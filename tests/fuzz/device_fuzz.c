/* A libFuzzer target for one device of tests/device/catalog.h: the input is what happens to it. */
#include "catalog.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board *b = board_create(catalog_find(FUZZ_DEVICE));

	board_run(b, data, size);
	board_destroy(b);
	return 0;
}
