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
#include "hostile.h"

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
	struct hostile hostile;
};

struct catalog_entry {
	const char *name;
	/* Plugs the device into the board: sets device and chip. */
	void (*make)(struct board *b);
	/* Something from outside happens to it: a key, a line, the user's button. May be NULL. */
	void (*poke)(struct board *b, uint32_t what);
	/* A driver that means it ill sets the chip to work. May be NULL. */
	void (*hostile)(struct board *b, struct bytes *in);
	/* Before a save that is to be the same after a load: loading would tell the guest something. May be NULL. */
	void (*settle)(struct board *b);
	bool slow_state; /* megabytes of it */
	unsigned sectors[2]; /* sizes of its disks, if it has some */
};

extern const struct catalog_entry catalog[];
extern const unsigned catalog_size;

const struct catalog_entry *catalog_find(const char *name);
/* What the board's devices are wired to: lines that it keeps, messages that it drops. */
struct irq board_irq(struct board *b, int line);
extern const struct msi_sink board_no_msi;

struct board *board_create(const struct catalog_entry *e);
void board_destroy(struct board *b);
/* device_check_restore of what board_save saved, with the board around it as it must be. */
GByteArray *board_save(struct board *b);
void board_check_restore(struct board *b, GByteArray *saved);
/* Carries out what the bytes say; each step is checked for what must hold of every device. */
void board_run(struct board *b, const uint8_t *data, size_t len);

#endif
