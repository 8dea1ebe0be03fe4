/* Physical region descriptor tables: AHCI 1.3.1, 4.2.3.3. */
#include "base/bytes.h"
#include "dev/ahci_internal.h"

#define DESCRIPTOR_SIZE 16

void ahci_table_start(struct ahci_table *t, uint64_t at, uint32_t entries)
{
	*t = (struct ahci_table){ .at = at, .entries = entries };
}

static bool next_region(struct ahci *ahci, struct ahci_table *t)
{
	uint8_t d[DESCRIPTOR_SIZE];

	if (!t->entries || !pci_dma_read(&ahci->pci, t->at, d, sizeof(d)))
		return false;
	t->entries--;
	t->at += sizeof(d);
	t->addr = ld64le(d) & ~UINT64_C(1);
	t->left = (ld32le(d + 12) & 0x3fffff) + 1;
	return true;
}

size_t ahci_table_copy(struct ahci *ahci, struct ahci_table *t, void *p, size_t len, bool to_guest)
{
	uint8_t *at = p;
	size_t done = 0;

	while (done < len) {
		uint32_t n;
		bool ok;

		if (!t->left && !next_region(ahci, t))
			break;
		n = (uint32_t)MIN(t->left, len - done);
		ok = to_guest ? pci_dma_write(&ahci->pci, t->addr, at + done, n) : pci_dma_read(&ahci->pci, t->addr, at + done, n);
		if (!ok)
			break;
		t->addr += n;
		t->left -= n;
		done += n;
	}
	t->moved += (uint32_t)done;
	return done;
}

void ahci_table_state(struct ahci_table *t, struct state *s)
{
	state_u64(s, "table_at", &t->at);
	state_u32(s, "table_entries", &t->entries);
	state_u64(s, "table_addr", &t->addr);
	state_u32(s, "table_left", &t->left);
	state_u32(s, "table_moved", &t->moved);
	if (state_loading(s) && !state_error(s) && (t->entries > 0xffff || t->left > 0x400000))
		state_fail(s, "ahci: descriptor table out of range");
}
