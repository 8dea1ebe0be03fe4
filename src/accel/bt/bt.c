/* The translator as an engine: the interpreter's vCPU with a code cache beside it. */
#include "accel/bt/bt.h"
#include "accel/bt/tier.h"
#include "accel/bt/window.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <x86intrin.h>

/* With the rest of the process it stays below 64 MiB. */
#define CACHE_DEFAULT (48u << 20)
/* How long a vCPU lets alone a lock that it has not got: long for one that a counter is behind, short for one that is
 * held while something is done, where who waited too long meets it taken again. */
#define CONTENDED_NS 300u

static void poll_others(struct interp *in)
{
	for (unsigned i = 0; i < in->cfg.cpus; i++) {
		if (in->cpus[i])
			icpu_poke(in->cpus[i]);
	}
}

/* ---- changes of code ---- */

static void tell(struct bt_cpu *b, uint64_t gpa, uint64_t len)
{
	struct bt_inbox *in = &b->inbox;

	g_mutex_lock(&in->lock);
	if (in->count < INBOX_SIZE) {
		in->change[in->count].gpa = gpa;
		in->change[in->count++].len = len;
	} else {
		in->count = INBOX_SIZE + 1;
	}
	g_mutex_unlock(&in->lock);
	icpu_poke(&b->cpu);
}

static void code_stored(struct icpu *cpu, uint64_t gpa, unsigned len, bool released)
{
	struct bt *bt = (struct bt *)cpu->interp;

	if (released) {
		gpa &= ~(uint64_t)(PAGE_SIZE - 1);
		len = PAGE_SIZE;
	}
	for (unsigned i = 0; i < bt->interp.cfg.cpus; i++) {
		struct bt_cpu *b = (struct bt_cpu *)bt->interp.cpus[i];

		if (b && &b->cpu == cpu)
			bt_code_changed(b, gpa, len);
		else if (b)
			tell(b, gpa, len);
	}
}

static void code_changed(struct interp *in, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < in->cfg.cpus; i++) {
		if (in->cpus[i])
			tell((struct bt_cpu *)in->cpus[i], gpa, len);
	}
}

static const struct interp_hooks hooks = { bt_flushed, bt_switched, bt_dropped, code_stored, code_changed, bt_poked };

/* ---- the engine ---- */

static void host_features(struct bt *bt)
{
	unsigned a, c, d, ebx = 0, ecx = 0;

	__cpuid(1, a, ebx, ecx, d);
	bt->avx = ecx >> 28 & 1;
	bt->xsave = ecx >> 27 & 1;
	if (__get_cpuid_count(7, 0, &a, &ebx, &c, &d))
		bt->bmi2 = ebx >> 8 & 1;
}

/* PAUSEs that take so many nanoseconds: one takes ten cycles or more than a hundred, by the host's make. */
static unsigned pauses_in(unsigned ns, uint64_t tsc_hz)
{
	enum { ROUNDS = 4, PAUSES = 32, PAUSES_MAX = 512 };
	uint64_t best = UINT64_MAX, ticks = ns * (tsc_hz / 1000000) / 1000;

	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t start = __rdtsc();

		for (unsigned i = 0; i < PAUSES; i++)
			_mm_pause();
		best = MIN(best, __rdtsc() - start);
	}
	return (unsigned)MIN(ticks * PAUSES / MAX(best, PAUSES), PAUSES_MAX);
}

static void bt_close(struct accel *a)
{
	if (!a)
		return;
	bt_signals_finish((struct bt *)a);
	interp_finish((struct interp *)a);
	g_free(a);
}

static struct accel *bt_open(const struct accel_config *cfg, GError **error)
{
	struct bt *bt = g_new0(struct bt, 1);
	struct accel_config inner = *cfg;

	host_features(bt);
	tier_init(bt);
	bt->check = getenv("GUISE_BT_CHECK") != NULL;
	bt_host_make(bt, cfg->host);
	inner.host = &bt->inner;
	if (bt_signals_init(bt) || interp_init(&bt->interp, &inner, &accel_bt_ops, &hooks)) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOMEM, "no memory for the translator");
		bt_close(&bt->interp.accel);
		return NULL;
	}
	bt->pauses = pauses_in(CONTENDED_NS, bt->interp.tsc_hz);
	if (!bt->xsave) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOSYS, "this processor has no XSAVE; use --engine interp");
		bt_close(&bt->interp.accel);
		return NULL;
	}
	return &bt->interp.accel;
}

static int bt_map_ram(struct accel *a, unsigned index, const struct mem_slot *slot)
{
	poll_others((struct interp *)a);
	return 0;
}

static int bt_unmap_ram(struct accel *a, unsigned index)
{
	poll_others((struct interp *)a);
	return 0;
}

static void bt_dirty_log(struct accel *a, unsigned index, const struct mem_slot *slot)
{
	atomic_fetch_add(&((struct interp *)a)->code_epoch, 1);
	windows_forget((struct bt *)a);
	poll_others((struct interp *)a);
}

static void bt_vcpu_destroy(struct vcpu *v)
{
	struct bt_cpu *b = (struct bt_cpu *)v;

	if (!b)
		return;
	b->cpu.interp->cpus[v->index] = NULL;
	bt_thread_leave(b);
	icpu_finish(&b->cpu);
	windows_finish(b);
	bt_cache_finish(b);
	g_mutex_clear(&b->inbox.lock);
	free(b->alt_stack);
	munmap(b, sizeof(*b));
}

static struct vcpu *bt_vcpu_create(struct accel *a, unsigned index, GError **error)
{
	struct interp *in = (struct interp *)a;
	/* Most of it is never touched. */
	void *memory = mmap(NULL, sizeof(struct bt_cpu), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct bt_cpu *b = memory == MAP_FAILED ? NULL : memory;
	size_t cache = in->cfg.bt_cache ? in->cfg.bt_cache : CACHE_DEFAULT;

	if (b) {
		b->cpu.interp = in;
		b->cpu.mmu = &b->mmu;
		b->cpu.interp = in;
		b->mode = MODE_NONE;
		g_mutex_init(&b->inbox.lock);
		if (!bt_thread_init(b) && !bt_cache_init(b, cache / in->cfg.cpus) && !icpu_init(&b->cpu, in, index)) {
			if (bt_of(b)->tier2 != TIER2_OFF)
				windows_init(b, in->cfg.cpus);
			return &b->cpu.vcpu;
		}
		bt_vcpu_destroy(&b->cpu.vcpu);
	}
	g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOMEM, "no memory for virtual CPU %u", index);
	return NULL;
}

static void print_cpu(const struct bt_cpu *b, GString *out)
{
	const struct bt_stats *s = &b->stats;

	g_string_append_printf(out, "cpu%u: %lu blocks, %lu guest bytes -> %lu, %lu flushes, %lu evictions, %lu invalidated, %lu KiB in use\n",
			       b->cpu.vcpu.index, s->blocks, s->guest_bytes, s->host_bytes, s->flushes, s->evictions, s->invalidated, bt_cache_bytes(b) >> 10);
	g_string_append_printf(out, "cpu%u: %lu blocks moved to other addresses, %lu not\n", b->cpu.vcpu.index, s->moved, s->unmoved);
	g_string_append_printf(out, "cpu%u: %lu links, %lu again, %lu pages looked up, %lu look-ups, %lu polls, %lu entries, %lu gates, %lu strings, %lu blocks interpreted\n",
			       b->cpu.vcpu.index, s->links, s->relinks, s->pages, s->misses, s->polls, s->enters, s->gates, s->strings, s->interp_blocks);
	g_string_append_printf(out, "cpu%u: %lu TLB misses, %lu fills, %lu/%lu address spaces known/switched to, %lu to the interpreter, %lu faults, %lu host faults, %lu/%lu FP loads/saves\n",
			       b->cpu.vcpu.index, s->slow_fill, b->mmu.fills, b->mmu.kept, b->mmu.switches, s->slow_interp, s->faults,
			       s->native_faults, s->fp_loads, s->fp_saves);
}

static void print_tier2(const struct bt_cpu *b, GString *out)
{
	const struct window_stats w = windows_stats(b);

	if (!b->windows) {
		g_string_append_printf(out, "cpu%u: no tier 2\n", b->cpu.vcpu.index);
		return;
	}
	g_string_append_printf(out, "cpu%u: tier 2: %lu of %lu samples, %lu address spaces that last, %lu blocks hot, %lu instructions back, %lu misses; pages: %u mapped, %lu in %lu steps, %lu large, "
			       "%lu dropped, %lu evicted, %lu protected\n", b->cpu.vcpu.index, b->heat.taken_hot, b->heat.taken, b->stats.lasting, b->stats.promoted, b->stats.demoted,
			       b->stats.window_faults, w.now, w.pages, w.fills, w.large, w.dropped, w.evicted, w.protected);
}

/* What translation costs, and what a block's code is made of. */
static void print_translation(const struct bt_cpu *b, GString *out)
{
	const struct bt_stats *s = &b->stats;
	double blocks = s->blocks ? (double)s->blocks : 1, guest = s->guest_bytes ? (double)s->guest_bytes : 1;

	g_string_append_printf(out, "cpu%u: a block: %.2f us to translate, %.1f bytes -> %.1f (%.1f times), %.1f of them ways to C; %.2f records, %.2f exits\n",
			       b->cpu.vcpu.index, (double)s->translate_tsc * 1e6 / (double)b->cpu.interp->tsc_hz / blocks,
			       (double)s->guest_bytes / blocks, (double)s->host_bytes / blocks, (double)s->host_bytes / guest,
			       (double)s->later_bytes / blocks, (double)s->records / blocks, (double)s->ways_out / blocks);
}

/* The instructions that went to the interpreter most often. */
static void print_mnemonics(const struct bt_cpu *b, GString *out)
{
	bool done[ZYDIS_MNEMONIC_MAX_VALUE + 1] = { false };

	for (unsigned n = 0; n < 16; n++) {
		unsigned best = 0;

		for (unsigned i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
			if (!done[i] && b->stats.by_mnemonic[i] > b->stats.by_mnemonic[best])
				best = i;
		}
		if (done[best] || !b->stats.by_mnemonic[best])
			return;
		done[best] = true;
		g_string_append_printf(out, "cpu%u: interpreted %s %lu\n", b->cpu.vcpu.index, ZydisMnemonicGetString((ZydisMnemonic)best),
				       b->stats.by_mnemonic[best]);
	}
}

static void bt_print_stats(struct accel *a, GString *out)
{
	struct interp *in = (struct interp *)a;

	for (unsigned i = 0; i < in->cfg.cpus; i++) {
		if (in->cpus[i]) {
			print_cpu((const struct bt_cpu *)in->cpus[i], out);
			print_tier2((const struct bt_cpu *)in->cpus[i], out);
			print_translation((const struct bt_cpu *)in->cpus[i], out);
			print_mnemonics((const struct bt_cpu *)in->cpus[i], out);
		}
	}
}

const struct accel_ops accel_bt_ops = {
	.name = "bt",
	.open = bt_open,
	.close = bt_close,
	.map_ram = bt_map_ram,
	.unmap_ram = bt_unmap_ram,
	.dirty_log = bt_dirty_log,
	.vcpu_create = bt_vcpu_create,
	.vcpu_destroy = bt_vcpu_destroy,
	.run = bt_run,
	.kick = interp_kick,
	.set_irq = interp_set_irq,
	.get_state = interp_get_state,
	.set_state = interp_set_state,
	.has_work = interp_has_work,
	.set_step = bt_set_step,
	.print_stats = bt_print_stats,
	.send_msi = interp_send_msi,
	.route_pin = interp_route_pin,
	.doorbell = interp_doorbell,
	.irqfd = interp_irqfd,
	.get_apic = interp_get_apic,
	.set_apic = interp_set_apic,
	.resume = interp_resume,
};
