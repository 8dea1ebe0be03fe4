/*
 * Single steps by the host: one block of translated code at a time, entered from the run loop and left at its end, so
 * that another engine can follow by the number of instructions. Blocks are not linked meanwhile.
 */
#include "accel/bt/guest.h"
#include "accel/bt/bt.h"

void bt_set_step(struct vcpu *v, bool on)
{
	struct bt_cpu *b = (struct bt_cpu *)v;

	if (b->cpu.stepping == on)
		return;
	b->cpu.stepping = on;
	bt_cache_flush(b);
}

void bt_unit_begin(struct bt_cpu *b, const struct bt_block *block)
{
	const struct bt_exec *x = bt_exec_page(b, block->lin);
	unsigned at = (unsigned)(block->lin & (PAGE_SIZE - 1)), from = at;

	b->unit.lin = block->lin;
	b->unit.insns = block->insns;
	b->unit.last = UNIT_WHOLE;
	for (unsigned i = 0; i < block->insns; i++) {
		struct guest_insn g;

		b->unit.offset[i] = (uint16_t)(at - from);
		if (at >= PAGE_SIZE || !guest_decode(&g, x->host + at, PAGE_SIZE - at, block->mode & MODE_CODE32 ? 32 : 64))
			break;
		at += g.length;
	}
}

void bt_unit_end(struct bt_cpu *b)
{
	const struct bt_unit *u = &b->unit;
	unsigned done = 0;

	while (done < u->insns && u->offset[done] <= u->last)
		done++;
	atomic_fetch_add_explicit(&b->cpu.vcpu.instructions, done, memory_order_relaxed);
	b->unit.insns = 0;
}
