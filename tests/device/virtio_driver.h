/*
 * The driver's side of a virtio device for tests: a machine of a PCI bus and 4 MiB of RAM, probing
 * by the capability list, split and packed rings in guest memory, kicks, used buffers, interrupts.
 */
#ifndef TESTS_VIRTIO_DRIVER_H
#define TESTS_VIRTIO_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "bus/pci.h"
#include "host/clock.h"

#define DRV_RAM (4u << 20)
#define DRV_QUEUES 8

#define F_INDIRECT (UINT64_C(1) << 28)
#define F_EVENT_IDX (UINT64_C(1) << 29)
#define F_VERSION_1 (UINT64_C(1) << 32)
#define F_PACKED (UINT64_C(1) << 34)
#define F_RING_RESET (UINT64_C(1) << 40)

#define S_DRIVER_OK 0x04
#define S_FEATURES_OK 0x08
#define S_NEEDS_RESET 0x40

struct drv_queue {
	uint16_t size;
	uint64_t desc, driver, device;
	uint16_t next_desc, avail, used; /* packed: positions in the ring */
	bool avail_wrap, used_wrap;
	uint16_t slots[256]; /* packed: ring positions of each id */
};

struct drv {
	struct space *ports, *mmio;
	struct mem *mem;
	struct ram *ram;
	struct pci_bus *bus;
	struct clock *clock;
	unsigned devfn;
	uint64_t common, isr, config, notify; /* addresses */
	unsigned notify_multiplier;
	uint64_t features;
	uint64_t alloc; /* next free guest address */
	struct drv_queue q[DRV_QUEUES];
	unsigned msi[128]; /* messages by their data */
	bool intx;
};

struct drv_buf {
	uint64_t gpa;
	uint32_t len;
	bool write;
};

void drv_init(struct drv *d);
void drv_finish(struct drv *d);
uint64_t drv_alloc(struct drv *d, uint32_t len, uint32_t align);

/* BARs, memory decoding and bus mastering on, capabilities read. */
void drv_probe(struct drv *d, unsigned devfn);
uint64_t drv_offered(struct drv *d);
/* Reset, acknowledge, features; whether FEATURES_OK stayed. */
bool drv_negotiate(struct drv *d, uint64_t features);
/* Rings of `size` in fresh memory, registers written, enabled. */
void drv_queue_setup(struct drv *d, unsigned q, uint16_t size);
void drv_ok(struct drv *d);
/* Vector n sends data n; queue q gets vector q + 1, configuration 0. Before drv_queue_setup's enable is fine too. */
void drv_msix(struct drv *d, unsigned queues);
uint8_t drv_status(struct drv *d);

uint32_t drv_common_read(struct drv *d, unsigned reg, unsigned len);
void drv_common_write(struct drv *d, unsigned reg, unsigned len, uint32_t value);
uint32_t drv_config_read(struct drv *d, unsigned offset, unsigned len);

/* Makes a chain available; returns its id. `indirect`: by a table in fresh memory. */
uint16_t drv_add(struct drv *d, unsigned q, const struct drv_buf *b, unsigned n, bool indirect);
void drv_kick(struct drv *d, unsigned q);
/* The next used buffer. */
bool drv_used(struct drv *d, unsigned q, uint32_t *id, uint32_t *len);
void drv_desc(struct drv *d, uint64_t table, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next);
/* Split rings: makes `head` available without building a chain. */
void drv_avail(struct drv *d, unsigned q, uint16_t head);

static inline void drv_poke16(struct drv *d, uint64_t gpa, uint16_t v) { mem_write(d->mem, gpa, &v, 2); }
static inline uint16_t drv_peek16(struct drv *d, uint64_t gpa) { return mem_read16(d->mem, gpa); }

#endif
