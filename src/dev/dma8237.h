/* The pair of 8237A DMA controllers of a PC with their page registers: channels 0 to 3 move bytes, 5 to 7 words. */
#ifndef DEV_DMA8237_H
#define DEV_DMA8237_H

#include <stdbool.h>
#include <stddef.h>

#include "bus/device.h"
#include "bus/space.h"
#include "mem/mem.h"

struct dma8237;

struct dma8237 *dma8237_create(struct space *ports, struct mem *mem);
struct device *dma8237_device(struct dma8237 *d);

/* Tells the chip on a channel (one only) that the channel may move data now: it has been unmasked. */
void dma8237_attach(struct dma8237 *d, unsigned channel, void (*ready)(void *opaque), void *opaque);

/*
 * Moves up to len bytes between the chip and memory, as far as the channel is programmed for that direction.
 * Returns how many; *end says that the count has come to its end (TC). 0 without an end: the channel is masked.
 */
size_t dma8237_to_memory(struct dma8237 *d, unsigned channel, const void *p, size_t len, bool *end);
size_t dma8237_from_memory(struct dma8237 *d, unsigned channel, void *p, size_t len, bool *end);

#endif
