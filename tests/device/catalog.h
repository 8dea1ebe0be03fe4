/*
 * Every device of src/dev, each alone on a small board, for the tests that treat all alike: state round trips,
 * hostile state, random accesses, fuzzing. What happens to a device is a string of bytes, so that a random number
 * generator, a fuzzer and a file kept from an old crash speak the same language.
 */
#ifndef TESTS_DEVICE_CATALOG_H
#define TESTS_DEVICE_CATALOG_H

#include <glib.h>

#include "block/blk.h"
#include "bus/device.h"
#include "bus/pci.h"
#include "bus/space.h"
#include "host/chardev.h"
#include "host/clock.h"
#include "mem/mem.h"
#include "net/netdev.h"

#define BOARD_RAM (256u << 10)
#define BOARD_DEVFN 0x18

struct board {
	const struct catalog_entry *entry;
	struct space *ports, *mmio;
	struct mem *mem;
	struct ram *ram;
	struct clock *clock;
	struct pci_bus *pci;
	struct chardev *cd;
	struct blk *image[2]; /* disks, of devices that have some */
	struct netdev *nd;
	struct ram *flash; /* contents of a flash bank, or NULL */
	uint32_t lines; /* interrupt lines that are up */
	struct device *device;
	struct device *helper; /* another chip that it works with, or NULL */
	void *chip; /* the same device by its own type */
	unsigned devfn;
	unsigned saves;
};

struct catalog_entry {
	const char *name;
	/* Plugs the device into the board: sets device and chip. */
	void (*make)(struct board *b);
	/* Something from outside happens to it: a key, a line, the user's button. May be NULL. */
	void (*poke)(struct board *b, uint32_t what);
	bool slow_state; /* megabytes of it */
	unsigned sectors[2]; /* sizes of its disks, if it has some */
};

extern const struct catalog_entry catalog[];
extern const unsigned catalog_size;

const struct catalog_entry *catalog_find(const char *name);
struct board *board_create(const struct catalog_entry *e);
void board_destroy(struct board *b);
/* Carries out what the bytes say; each step is checked for what must hold of every device. */
void board_run(struct board *b, const uint8_t *data, size_t len);

#endif
