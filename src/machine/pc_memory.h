/* The board's memory map. */
#ifndef MACHINE_PC_MEMORY_H
#define MACHINE_PC_MEMORY_H

#include "machine/pc.h"
#include "mem/mem.h"

/* The first address behind a guest's memory of that size, or behind the ROM. */
uint64_t pc_memory_end(uint64_t memory);
bool pc_memory_create(struct pc *pc, GError **error);
/* NULL pieces are accepted. Unmaps everything. */
void pc_memory_destroy(struct pc *pc);
/* The host bridge's PAM registers: whether segment 0..12 reads from and writes to RAM. */
void pc_memory_pam(struct pc *pc, unsigned segment, bool read_ram, bool write_ram);

#endif
