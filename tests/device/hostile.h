/*
 * Drivers that know how a chip is set up and then mean it ill: rings, tables and command blocks in guest memory with
 * whatever the bytes say, then the register that starts the chip on them. A step for board_run; blind accesses alone
 * would take a fuzzer too long to find a ring that runs.
 */
#ifndef TESTS_HOSTILE_H
#define TESTS_HOSTILE_H

#include <stddef.h>
#include <stdint.h>

#define HOSTILE_QUEUES 8

struct board;

/* What happens, as a string that is eaten from the front; at its end come zeros. */
struct bytes {
	const uint8_t *at;
	size_t left;
};

uint64_t bytes_take(struct bytes *in, unsigned len);

/* What the virtio driver remembers. */
struct hostile {
	uint64_t features;
	uint16_t size[HOSTILE_QUEUES], avail[HOSTILE_QUEUES];
	bool wrapped[HOSTILE_QUEUES];
};

/* Gives every BAR an address (0xe0000000 + 32 MiB each, or port 0xc000 + 0x400 each) and sets the command register. */
void board_map_bars(struct board *b, unsigned command);

void hostile_virtio(struct board *b, struct bytes *in);
void hostile_e1000(struct board *b, struct bytes *in);
void hostile_rtl8139(struct board *b, struct bytes *in);
void hostile_ide(struct board *b, struct bytes *in);
void hostile_ahci(struct board *b, struct bytes *in);
void hostile_uhci(struct board *b, struct bytes *in);
void hostile_fdc(struct board *b, struct bytes *in);
void hostile_fw_cfg(struct board *b, struct bytes *in);

#endif
