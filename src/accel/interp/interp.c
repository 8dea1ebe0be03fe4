/* The interpreter as an engine: vCPUs, the run loop, interrupts and exceptions between blocks. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "accel/interp/core.h"
#include "base/log.h"

void blocks_written_unseen(struct interp *in, uint64_t gpa, uint64_t len)
{
	bool any = false;

	if (!len)
		return;
	/* What was written is visible before the page is found not to be code. */
	atomic_thread_fence(memory_order_seq_cst);
	for (uint64_t page = gpa >> PAGE_SHIFT; page <= (gpa + len - 1) >> PAGE_SHIFT && page < in->pages; page++) {
		if (atomic_load_explicit(&in->code[page], memory_order_relaxed)) {
			atomic_fetch_add(&in->written[page], 1);
			any = true;
		}
	}
	if (!any)
		return;
	atomic_fetch_add(&in->code_unseen, 1);
	in->hooks->code_changed(in, gpa, len);
}

static void code_written(void *opaque, uint64_t gpa, size_t len) { blocks_written_unseen(opaque, gpa, len); }

int interp_init(struct interp *in, const struct accel_config *cfg, const struct accel_ops *ops, const struct interp_hooks *hooks)
{
	in->accel.ops = ops;
	in->cfg = *cfg;
	in->hooks = hooks;
	in->tsc_hz = host_tsc_hz();
	in->pages = UINT64_C(1) << (36 - PAGE_SHIFT);
	in->code = calloc(in->pages, sizeof(*in->code));
	in->written = calloc(in->pages, sizeof(*in->written));
	in->cpus = g_new0(struct icpu *, cfg->cpus);
	g_mutex_init(&in->code_lock);
	if (!in->code || !in->written)
		return -ENOMEM;
	mem_set_code_listener(cfg->mem, code_written, in);
	return 0;
}

void interp_finish(struct interp *in)
{
	mem_set_code_listener(in->cfg.mem, NULL, NULL);
	free((void *)in->code);
	free((void *)in->written);
	g_free(in->cpus);
	g_mutex_clear(&in->code_lock);
}

/* Blocks are compared with `written` when they are looked up; nothing else hangs on the map. */
static void ignore_flush(struct icpu *cpu, enum flush_kind kind, uint64_t lin) { }
static void ignore_switch(struct icpu *cpu, unsigned from, unsigned to, bool kept) { }
static void ignore_drop(struct icpu *cpu, unsigned space) { }
static void ignore_store(struct icpu *cpu, uint64_t gpa, unsigned len, bool released) { }
static void ignore_change(struct interp *in, uint64_t gpa, uint64_t len) { }
static void ignore_poke(struct icpu *cpu) {}

static const struct interp_hooks no_hooks = { ignore_flush, ignore_switch, ignore_drop, ignore_store, ignore_change, ignore_poke };

static void interp_close(struct accel *a)
{
	if (!a)
		return;
	interp_finish((struct interp *)a);
	g_free(a);
}

static struct accel *interp_open(const struct accel_config *cfg, GError **error)
{
	struct interp *in = g_new0(struct interp, 1);

	if (interp_init(in, cfg, &accel_interp_ops, &no_hooks)) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOMEM, "no memory for the interpreter's page tables");
		interp_close(&in->accel);
		return NULL;
	}
	return &in->accel;
}

int interp_map_ram(struct accel *a, unsigned index, const struct mem_slot *slot) { return 0; }
int interp_unmap_ram(struct accel *a, unsigned index) { return 0; }

/* Fast stores do not mark pages: a page counts as dirty while any vCPU may store to it fast, so
 * the entries are dropped when the log is read. */
static void interp_dirty_log(struct accel *a, unsigned index, const struct mem_slot *slot)
{
	atomic_fetch_add(&((struct interp *)a)->code_epoch, 1);
}

void icpu_finish(struct icpu *cpu)
{
	vector_finish(cpu);
	blocks_finish(cpu);
	mmu_finish(cpu);
}

int icpu_init(struct icpu *cpu, struct interp *in, unsigned index)
{
	cpu->vcpu.ops = in->accel.ops;
	cpu->vcpu.accel = &in->accel;
	cpu->vcpu.index = index;
	cpu->interp = in;
	cpu->host = in->cfg.host;
	cpu->mem = in->cfg.mem;
	cpu->model = in->cfg.cpu;
	cpu->away = true;
	cpu->pauses = PAUSES_A_TURN;
	cpu_state_reset(&cpu->s, index == 0);
	if (mmu_init(cpu) || blocks_init(cpu) || vector_init(cpu)) {
		icpu_finish(cpu);
		return -ENOMEM;
	}
	cpu_mode_changed(cpu);
	in->cpus[index] = cpu;
	return 0;
}

static void interp_vcpu_destroy(struct vcpu *v)
{
	if (!v)
		return;
	icpu_finish((struct icpu *)v);
	free(v);
}

static struct vcpu *interp_vcpu_create(struct accel *a, unsigned index, GError **error)
{
	struct icpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) & ~(size_t)63);

	if (cpu)
		memset(cpu, 0, sizeof(*cpu));
	if (!cpu || icpu_init(cpu, (struct interp *)a, index)) {
		free(cpu);
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOMEM, "no memory for virtual CPU %u", index);
		return NULL;
	}
	return &cpu->vcpu;
}

/* ---- what happens between blocks ---- */

static void trace_event(struct icpu *cpu, uint8_t vector, uint32_t error, const char *what)
{
	trace(TRACE_INT, "cpu%u %s %u error %x at %04x:%lx cr2 %lx", cpu->vcpu.index, what, vector, error,
	      cpu->s.seg[SEG_CS].selector, (unsigned long)cpu->s.rip, (unsigned long)cpu->s.cr2);
}

/* Takes what waits; true when run() has to end. */
bool icpu_take_requests(struct icpu *cpu, struct vcpu_exit *exit)
{
	uint32_t irq = atomic_load_explicit(&cpu->irq, memory_order_acquire);

	if (irq & VCPU_KICK) {
		atomic_fetch_and(&cpu->irq, ~(uint32_t)VCPU_KICK);
		exit->kind = VCPU_EXIT_KICKED;
		return true;
	}
	if (irq & VCPU_INIT) {
		atomic_fetch_and(&cpu->irq, ~(uint32_t)VCPU_INIT);
		exit->kind = VCPU_EXIT_INIT;
		return true;
	}
	if (cpu->s.interrupt_shadow)
		return false;
	if ((irq & VCPU_NMI) && !cpu->s.nmi_masked) {
		atomic_fetch_and(&cpu->irq, ~(uint32_t)VCPU_NMI);
		cpu->s.mp_state = MP_RUNNING;
		cpu->s.nmi_masked = true;
		trace_event(cpu, EXC_NMI, 0, "NMI");
		deliver_event(cpu, EXC_NMI, false, 0, EVENT_NMI);
	} else if ((irq & VCPU_INTR) && (cpu->s.rflags & RFLAGS_IF)) {
		int vector = cpu->host->interrupt_ack(cpu->host->opaque, cpu->vcpu.index);

		if (vector >= 0) {
			cpu->s.mp_state = MP_RUNNING;
			trace_event(cpu, (uint8_t)vector, 0, "interrupt");
			deliver_event(cpu, (uint8_t)vector, false, 0, EVENT_EXTERNAL);
		}
	}
	return false;
}

/* What another engine had begun to deliver when the state was taken: the first thing that happens here. */
static void deliver_begun(struct icpu *cpu)
{
	static const enum event_source sources[] = { [0] = EVENT_EXTERNAL, [2] = EVENT_NMI, [3] = EVENT_EXCEPTION, [4] = EVENT_SOFT };
	enum event_source source = sources[cpu->s.event_kind];

	cpu->s.event_pending = false;
	cpu->s.mp_state = MP_RUNNING;
	/* cs:rip is still at the instruction of a software interrupt: it is done again. */
	if (source == EVENT_SOFT)
		return;
	if (source == EVENT_NMI)
		cpu->s.nmi_masked = true;
	trace_event(cpu, cpu->s.event_vector, cpu->s.event_error, "event begun elsewhere");
	deliver_event(cpu, cpu->s.event_vector, cpu->s.event_has_error, cpu->s.event_error, source);
}

static void trace_insn(struct icpu *cpu, const struct insn *in)
{
	char text[128];

	insn_print(cpu, in, cpu->s.rip, text, sizeof(text));
	trace(TRACE_EXEC, "cpu%u %04x:%lx %s", cpu->vcpu.index, cpu->s.seg[SEG_CS].selector, (unsigned long)cpu->s.rip, text);
	trace(TRACE_CPU, "ax %lx cx %lx dx %lx bx %lx sp %lx bp %lx si %lx di %lx fl %lx", cpu->s.gpr[RAX], cpu->s.gpr[RCX],
	      cpu->s.gpr[RDX], cpu->s.gpr[RBX], cpu->s.gpr[RSP], cpu->s.gpr[RBP], cpu->s.gpr[RSI], cpu->s.gpr[RDI], cpu->s.rflags);
}

static uint64_t rip_mask(const struct icpu *cpu)
{
	return cpu->code_bits == 64 ? UINT64_MAX : cpu->code_bits == 32 ? 0xffffffffu : 0xffffu;
}

/* One instruction with everything that fast execution leaves out: TF, the interrupt shadow. */
void icpu_step(struct icpu *cpu, const struct insn *in)
{
	bool shadow = cpu->s.interrupt_shadow, blocks;
	uint64_t before = cpu->s.rflags, start = cpu->s.rip;

	if (cpu->debug_on)
		debug_before(cpu);
	/* RF holds for one instruction; what loads it anew (IRET) does so for the next. */
	cpu->s.rflags &= ~(uint64_t)RFLAGS_RF;
	cpu->next_rip = (start + in->length) & rip_mask(cpu);
	in->fn(cpu, in);
	cpu->s.rip = cpu->next_rip;
	if (cpu->s.rip == start)
		cpu->s.rflags |= before & RFLAGS_RF; /* a repeated string instruction goes on */
	/* SDM 3A 6.8.3: a load of SS holds debug traps off as well, STI does not. */
	blocks = cpu->s.interrupt_shadow && !shadow && in->mnemonic != ZYDIS_MNEMONIC_STI;
	if (shadow)
		cpu->s.interrupt_shadow = false;
	/* SYSCALL traps by the flag that it leaves, everything else by the one it found. */
	if (in->mnemonic == ZYDIS_MNEMONIC_SYSCALL)
		before = cpu->s.rflags;
	if ((before & RFLAGS_TF) && !blocks)
		cpu->debug_hit |= DR6_SINGLE_STEP;
	if (cpu->debug_hit && !blocks) {
		uint32_t causes = cpu->debug_hit;

		cpu->debug_hit = 0;
		debug_raise(cpu, causes);
	}
}

/* One instruction of a block that reaches over the end of the code segment, where the rest of it does not follow. */
static void run_at_limit(struct icpu *cpu, const struct insn *in)
{
	if (cpu->s.rip + in->length - 1 > cpu->s.seg[SEG_CS].limit)
		cpu_raise_error(cpu, EXC_GP, 0);
	cpu->next_rip = (cpu->s.rip + in->length) & rip_mask(cpu);
	in->fn(cpu, in);
	cpu->s.rip = cpu->next_rip;
	atomic_fetch_add_explicit(&cpu->vcpu.instructions, 1, memory_order_relaxed);
}

static void run_block(struct icpu *cpu, const struct block *b)
{
	const struct insn *in = b->insn, *end = in + b->count;
	uint64_t mask = rip_mask(cpu);

	cpu->block_ends = false;
	if ((cpu->s.rflags & (RFLAGS_TF | RFLAGS_RF)) || cpu->s.interrupt_shadow || cpu->stepping || cpu->debug_on || trace_on(TRACE_EXEC | TRACE_CPU)) {
		if (trace_on(TRACE_EXEC | TRACE_CPU))
			trace_insn(cpu, in);
		atomic_fetch_add_explicit(&cpu->vcpu.instructions, 1, memory_order_relaxed);
		icpu_step(cpu, in);
		return;
	}
	if (cpu->code_bits != 64 && cpu->s.rip + b->length - 1 > cpu->s.seg[SEG_CS].limit) {
		run_at_limit(cpu, in);
		return;
	}
	do {
		uint64_t after = (cpu->s.rip + in->length) & mask;

		cpu->next_rip = after;
		in->fn(cpu, in);
		cpu->s.rip = cpu->next_rip;
		in++;
		if (cpu->block_ends || cpu->s.rip != after)
			break;
	} while (in < end);
	atomic_store_explicit(&cpu->vcpu.instructions,
			      atomic_load_explicit(&cpu->vcpu.instructions, memory_order_relaxed) + (uint64_t)(in - b->insn),
			      memory_order_relaxed);
}

void icpu_deliver_fault(struct icpu *cpu)
{
	uint32_t held = cpu->exc_soft ? cpu->debug_hit : 0;

	cpu->block_ends = false;
	cpu->debug_hit = 0;
	cpu->s.mp_state = MP_RUNNING; /* a trap after HLT */
	trace_event(cpu, cpu->exc_vector, cpu->exc_error, cpu->exc_soft ? "software interrupt" : "exception");
	deliver_event(cpu, cpu->exc_vector, cpu->exc_has_error, cpu->exc_error, cpu->exc_soft ? EVENT_SOFT : EVENT_EXCEPTION);
	cpu->s.interrupt_shadow = false;
	cpu->debug_hit |= held;
}

bool icpu_run_block(struct icpu *cpu)
{
	const struct block *b = blocks_lookup(cpu);

	if (!b)
		return false;
	run_block(cpu, b);
	return true;
}

bool icpu_stopped(struct icpu *cpu, struct vcpu_exit *exit)
{
	if (cpu->shutdown) {
		cpu->shutdown = false;
		cpu->s.mp_state = MP_SHUTDOWN;
		exit->kind = VCPU_EXIT_SHUTDOWN;
		return true;
	}
	if (cpu->s.event_pending)
		deliver_begun(cpu);
	if (atomic_load_explicit(&cpu->irq, memory_order_relaxed) && icpu_take_requests(cpu, exit))
		return true;
	if (cpu->s.mp_state != MP_RUNNING) {
		exit->kind = VCPU_EXIT_HALT;
		return true;
	}
	return false;
}

/* Whether there is nothing that icpu_stopped would look at. */
static inline bool goes_on(struct icpu *cpu)
{
	return !cpu->shutdown && !cpu->s.event_pending && cpu->s.mp_state == MP_RUNNING &&
	       !atomic_load_explicit(&cpu->irq, memory_order_relaxed);
}

static void run_until_exit(struct icpu *cpu, struct vcpu_exit *exit)
{
	volatile bool stepped = false;

	mmu_sync(cpu);
	if (sigsetjmp(cpu->fault, 0)) {
		icpu_deliver_fault(cpu);
		stepped = true;
	}
	for (;;) {
		if (cpu->stepping && stepped && !cpu->shutdown) {
			exit->kind = VCPU_EXIT_DEBUG;
			return;
		}
		if (!goes_on(cpu) && icpu_stopped(cpu, exit))
			return;
		mmu_sync(cpu);
		if (!icpu_run_block(cpu)) {
			exit->kind = VCPU_EXIT_ERROR;
			g_strlcpy(exit->message, "no memory for decoded code", sizeof(exit->message));
			return;
		}
		stepped = true;
	}
}

static void interp_run(struct vcpu *v, struct vcpu_exit *exit)
{
	struct icpu *cpu = (struct icpu *)v;

	memset(exit, 0, sizeof(*exit));
	mmu_arrive(cpu);
	run_until_exit(cpu, exit);
	mmu_leave(cpu);
}

void icpu_poke(struct icpu *cpu)
{
	atomic_store_explicit(&cpu->poll, 1, memory_order_seq_cst);
	cpu->interp->hooks->poked(cpu);
}

void interp_set_irq(struct vcpu *v, unsigned bits, bool level)
{
	struct icpu *cpu = (struct icpu *)v;

	if (level) {
		atomic_fetch_or(&cpu->irq, bits);
		icpu_poke(cpu);
	} else {
		atomic_fetch_and(&cpu->irq, ~(uint32_t)bits);
	}
}

void interp_kick(struct vcpu *v)
{
	interp_set_irq(v, VCPU_KICK, true);
}

bool interp_has_work(struct vcpu *v)
{
	struct icpu *cpu = (struct icpu *)v;
	uint32_t irq = atomic_load(&cpu->irq);

	if (irq & (VCPU_KICK | VCPU_INIT))
		return true;
	if (cpu->s.mp_state != MP_HALTED)
		return false;
	return ((irq & VCPU_NMI) && !cpu->s.nmi_masked) || ((irq & VCPU_INTR) && (cpu->s.rflags & RFLAGS_IF));
}

void interp_set_step(struct vcpu *v, bool on)
{
	((struct icpu *)v)->stepping = on;
}

int interp_get_state(struct vcpu *v, struct cpu_state *s)
{
	struct icpu *cpu = (struct icpu *)v;

	*s = cpu->s;
	s->nmi_pending = atomic_load(&cpu->irq) & VCPU_NMI;
	return 0;
}

int interp_set_state(struct vcpu *v, const struct cpu_state *s)
{
	struct icpu *cpu = (struct icpu *)v;

	if ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE))
		return -EINVAL;
	if ((s->efer & EFER_LMA) && !(s->cr4 & CR4_PAE))
		return -EINVAL;
	if (s->event_pending && (s->event_kind > 4 || s->event_kind == 1))
		return -EINVAL;
	cpu->s = *s;
	interp_set_irq(v, VCPU_NMI, s->nmi_pending);
	cpu->s.rflags |= 2;
	vector_load_state(cpu);
	cpu->shutdown = false;
	cpu_mode_changed(cpu);
	mmu_flush_all(cpu);
	debug_changed(cpu);
	return 0;
}

static void interp_print_stats(struct accel *a, GString *out)
{
	struct interp *in = (struct interp *)a;

	for (unsigned i = 0; i < in->cfg.cpus; i++) {
		struct icpu *cpu = in->cpus[i];

		if (cpu)
			g_string_append_printf(out, "cpu%u: %" G_GUINT64_FORMAT " instructions, %" G_GUINT64_FORMAT " blocks decoded, %" G_GUINT64_FORMAT " TLB fills\n",
					       i, (guint64)cpu->vcpu.instructions, (guint64)blocks_decoded(cpu), (guint64)cpu->mmu->fills);
	}
}

int interp_send_msi(struct accel *a, uint64_t address, uint32_t data) { return -ENOTSUP; }
int interp_route_pin(struct accel *a, unsigned pin, uint64_t address, uint32_t data) { return -ENOTSUP; }
int interp_doorbell(struct accel *a, uint64_t gpa, unsigned len, int fd, bool on) { return -ENOTSUP; }
int interp_irqfd(struct accel *a, int fd, uint64_t address, uint32_t data, bool on) { return -ENOTSUP; }
int interp_get_apic(struct vcpu *v, struct apic_state *s) { return -ENOTSUP; }
int interp_set_apic(struct vcpu *v, const struct apic_state *s) { return -ENOTSUP; }
void interp_resume(struct accel *a) { }

const struct accel_ops accel_interp_ops = {
	.name = "interp",
	.caps = { .deterministic = true },
	.open = interp_open,
	.close = interp_close,
	.map_ram = interp_map_ram,
	.unmap_ram = interp_unmap_ram,
	.dirty_log = interp_dirty_log,
	.vcpu_create = interp_vcpu_create,
	.vcpu_destroy = interp_vcpu_destroy,
	.run = interp_run,
	.kick = interp_kick,
	.set_irq = interp_set_irq,
	.get_state = interp_get_state,
	.set_state = interp_set_state,
	.has_work = interp_has_work,
	.set_step = interp_set_step,
	.print_stats = interp_print_stats,
	.send_msi = interp_send_msi,
	.route_pin = interp_route_pin,
	.doorbell = interp_doorbell,
	.irqfd = interp_irqfd,
	.get_apic = interp_get_apic,
	.set_apic = interp_set_apic,
	.resume = interp_resume,
};
