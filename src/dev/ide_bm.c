/*
 * The bus-master half of an IDE channel: it moves a command's data as a table of regions in guest memory
 * says. SFF-8038i; Intel 82371FB/82371SB data sheet, 2.7.
 */
#include "base/bytes.h"
#include "dev/ide_internal.h"

#define CMD_START 0x01
#define CMD_TO_MEMORY 0x08
#define CAPABLE 0x60 /* set by firmware, for drivers */

#define END_OF_TABLE 0x80000000u
#define MOST_DESCRIPTORS 8192 /* a table stays within 64 KiB */

void ide_bm_reset(struct ide_bm *bm)
{
	*bm = (struct ide_bm){ 0 };
}

static bool next_region(struct ide_channel *c)
{
	struct ide_bm *bm = &c->bm;
	uint8_t descriptor[8];
	uint32_t count;

	if (!bm->budget || !pci_dma_read(&c->ide->pci, bm->next, descriptor, sizeof(descriptor)))
		return false;
	bm->budget--;
	bm->next += sizeof(descriptor);
	count = ld32le(descriptor + 4);
	bm->addr = ld32le(descriptor) & ~1u;
	bm->left = count & 0xfffe;
	if (!bm->left)
		bm->left = 0x10000;
	bm->last = count & END_OF_TABLE;
	return true;
}

static bool copy_part(struct ide_channel *c, uint8_t *p, size_t len, bool to_guest)
{
	if (!!(c->bm.command & CMD_TO_MEMORY) != to_guest)
		return false;
	if (to_guest)
		return pci_dma_write(&c->ide->pci, c->bm.addr, p, len);
	return pci_dma_read(&c->ide->pci, c->bm.addr, p, len);
}

size_t ide_bm_copy(struct ide_channel *c, void *p, size_t len, bool to_guest)
{
	struct ide_bm *bm = &c->bm;
	size_t done = 0;

	while (ide_bm_running(bm) && done < len) {
		uint32_t n;

		if (!bm->left && !next_region(c)) {
			bm->status = (bm->status & ~BM_ACTIVE) | BM_ERROR;
			device_guest_error(&c->ide->pci.device, "descriptor at 0x%x cannot be read", bm->next);
			break;
		}
		n = (uint32_t)MIN(bm->left, len - done);
		if (!copy_part(c, (uint8_t *)p + done, n, to_guest)) {
			bm->status = (bm->status & ~BM_ACTIVE) | BM_ERROR;
			device_guest_error(&c->ide->pci.device, "DMA of %u bytes at 0x%x failed", n, bm->addr);
			break;
		}
		bm->addr += n;
		bm->left -= n;
		done += n;
		/* The table has ended; if the drive has more, it waits in vain. */
		if (!bm->left && bm->last)
			bm->status &= ~BM_ACTIVE;
	}
	return done;
}

static void write_command(struct ide_channel *c, uint8_t v)
{
	struct ide_bm *bm = &c->bm;
	bool start = v & CMD_START;
	bool started = bm->command & CMD_START;

	/* The direction stays while the engine runs. */
	if (start && started)
		return;
	bm->command = v & (CMD_START | CMD_TO_MEMORY);
	if (!start) {
		bm->status &= ~BM_ACTIVE;
		return;
	}
	bm->status |= BM_ACTIVE;
	bm->next = bm->table;
	bm->budget = MOST_DESCRIPTORS;
	bm->left = 0;
	bm->last = false;
	if (ide_selected(c))
		ata_dma_start(ide_selected(c));
}

static uint8_t read_byte(const struct ide_bm *bm, unsigned offset)
{
	switch (offset) {
	case 0: return bm->command;
	case 2: return bm->status;
	case 4: case 5: case 6: case 7: return (uint8_t)(bm->table >> 8 * (offset - 4));
	default: return 0;
	}
}

static void write_byte(struct ide_channel *c, unsigned offset, uint8_t v)
{
	struct ide_bm *bm = &c->bm;
	unsigned shift = 8 * (offset & 3);

	switch (offset) {
	case 0:
		write_command(c, v);
		break;
	case 2:
		bm->status &= ~(v & (BM_ERROR | BM_INTERRUPT));
		bm->status = (bm->status & ~CAPABLE) | (v & CAPABLE);
		break;
	case 4: case 5: case 6: case 7:
		bm->table = ((bm->table & ~(0xffu << shift)) | (uint32_t)v << shift) & ~3u;
		break;
	}
}

static uint64_t bm_read(void *opaque, uint64_t offset, unsigned len)
{
	struct ide *ide = opaque;
	uint64_t v = 0;

	for (unsigned i = 0; i < len; i++, offset++)
		v |= (uint64_t)read_byte(&ide->channel[offset >> 3].bm, offset & 7) << 8 * i;
	return v;
}

static void bm_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct ide *ide = opaque;

	for (unsigned i = 0; i < len; i++, offset++)
		write_byte(&ide->channel[offset >> 3], offset & 7, (uint8_t)(value >> 8 * i));
}

const struct region_ops ide_bm_ops = { bm_read, bm_write, 1, 4 };

int ide_bm_state(struct ide_bm *bm, struct state *s)
{
	state_u8(s, "bm_command", &bm->command);
	state_u8(s, "bm_status", &bm->status);
	state_u32(s, "bm_table", &bm->table);
	state_u32(s, "bm_next", &bm->next);
	state_u32(s, "bm_budget", &bm->budget);
	state_u32(s, "bm_addr", &bm->addr);
	state_u32(s, "bm_left", &bm->left);
	state_bool(s, "bm_last", &bm->last);
	if (state_loading(s) && !state_error(s) && (bm->budget > MOST_DESCRIPTORS || bm->left > 0x10000))
		state_fail(s, "bus master: out of range");
	return state_error(s);
}
