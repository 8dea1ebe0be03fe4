/*
 * diffrun: the same deterministic machine under two engines, in step, until the first difference of registers,
 * flags, memory or how it ends. Time moves with the instructions; each engine has a board of its own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "cli/options.h"
#include "machine/pc.h"
#include "machine/vm.h"
#include "x86/walk.h"

#define NS_PER_INSTRUCTION 20
#define NS_WHILE_HALTED 10000
#define HALTED_LIMIT 1000000u  /* waits of that length without a wake-up: the guest has ended */
#define CATCH_UP_LIMIT 500000u /* instructions of a handler that hardware does not step through */
#define TRAIL 12

struct side {
	struct vm *vm;
	struct vcpu *vcpu;
	struct cpu_state before, now;
	bool halted;
	char *stopped; /* why it cannot go on */
};

struct diffrun {
	struct side a, b; /* a steps by single instructions, b by what its engine can */
	uint64_t count, limit;
	unsigned memory_every;
	bool forgive_cpuid; /* for hosts that show their own whatever KVM is told */
	uint64_t memory_checked; /* count at the last comparison of memory */
	struct trail {
		struct cpu_state s;
		uint8_t code[15];
		unsigned len;
	} trail[TRAIL];
	uint64_t steps; /* of b */
	bool asked;     /* the host, in this step */
	uint64_t forgiven; /* answers of the host's own time and chance, and undefined flags, that were carried over */
};

/* ---- what an instruction is ---- */

static unsigned code_at(struct side *s, const struct cpu_state *at, uint8_t bytes[15])
{
	unsigned n = 0;

	while (n < 15) {
		uint64_t gpa, lin = at->seg[SEG_CS].base + at->rip + n;
		unsigned piece;

		if (!(at->efer & EFER_LMA))
			lin = (uint32_t)lin;
		piece = MIN(15 - n, PAGE_SIZE - (unsigned)(lin & (PAGE_SIZE - 1)));
		if (!walk_address(s->vm->mem, at, lin, &gpa) || !mem_read(s->vm->mem, gpa, bytes + n, piece))
			break;
		n += piece;
	}
	return n;
}

static bool disassemble(const struct trail *t, ZydisDisassembledInstruction *in)
{
	const struct x86_segment *cs = &t->s.seg[SEG_CS];
	bool is_64 = (t->s.efer & EFER_LMA) && (cs->attr & SEG_ATTR_L);
	ZydisMachineMode mode = is_64 ? ZYDIS_MACHINE_MODE_LONG_64
				: cs->attr & SEG_ATTR_DB ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16;

	return t->len && ZYAN_SUCCESS(ZydisDisassembleIntel(mode, t->s.rip, t->code, t->len, in));
}

static void print_insn(const struct trail *t, const char *note)
{
	ZydisDisassembledInstruction in;
	bool known = disassemble(t, &in);

	printf("  %04x:%lx  %s%s\n", t->s.seg[SEG_CS].selector, (unsigned long)t->s.rip, known ? in.text : "(no instruction)", note);
}

/* The flags that the manuals leave open after this instruction. */
static uint64_t undefined_flags(const struct trail *t)
{
	ZydisDisassembledInstruction in;

	return disassemble(t, &in) && in.info.cpu_flags ? in.info.cpu_flags->undefined & RFLAGS_STATUS : 0;
}

/* RDTSC, RDTSCP, RDRAND, RDSEED, and RDMSR of the time stamp counter: no two runs answer alike. */
static bool asks_the_host(const struct diffrun *d, const struct trail *t)
{
	const uint8_t *b = t->code;
	unsigned n = t->len, i = 0;

	while (i < n && (b[i] == 0x66 || b[i] == 0xf2 || b[i] == 0xf3 || (b[i] & 0xf0) == 0x40))
		i++;
	if (i + 3 > n || b[i] != 0x0f)
		return false;
	if (b[i + 1] == 0xa2)
		return d->forgive_cpuid;
	return b[i + 1] == 0x31 || (b[i + 1] == 0x01 && b[i + 2] == 0xf9) || (b[i + 1] == 0xc7 && b[i + 2] >= 0xf0) ||
	       (b[i + 1] == 0x32 && (uint32_t)t->s.gpr[RCX] == 0x10);
}

/* ---- stepping ---- */

static void settle(struct side *s)
{
	vm_lock(s->vm);
	for (unsigned i = 0; i < s->vm->pc->drives; i++) {
		if (s->vm->pc->drive[i].blk)
			blk_drain(s->vm->pc->drive[i].blk);
	}
	vm_unlock(s->vm);
	s->vm->ops->get_state(s->vcpu, &s->now);
	s->halted = s->now.mp_state == MP_HALTED;
}

static void step(struct side *s)
{
	struct vcpu_exit exit;

	s->before = s->now;
	do {
		if (s->vm->requests) {
			s->stopped = g_strdup_printf("the guest asks the machine for something (%x)", s->vm->requests);
			break;
		}
		s->vm->ops->run(s->vcpu, &exit);
	} while (exit.kind == VCPU_EXIT_KICKED);
	if (!s->stopped && exit.kind == VCPU_EXIT_SHUTDOWN)
		s->stopped = g_strdup("triple fault");
	else if (!s->stopped && exit.kind != VCPU_EXIT_DEBUG && exit.kind != VCPU_EXIT_HALT)
		s->stopped = g_strdup_printf("exit %d: %s", exit.kind, exit.message);
	settle(s);
}

static void advance(struct side *s, int64_t ns)
{
	vm_lock(s->vm);
	clock_advance(s->vm->clock, ns);
	vm_unlock(s->vm);
}

static bool same_registers(const struct diffrun *d)
{
	const struct cpu_state *a = &d->a.now, *b = &d->b.now;

	return a->rip == b->rip && a->seg[SEG_CS].selector == b->seg[SEG_CS].selector && !memcmp(a->gpr, b->gpr, sizeof(a->gpr)) &&
	       !((a->rflags ^ b->rflags) & ~(uint64_t)RFLAGS_RF);
}

/*
 * Hardware's single step stops after each round of a repeated string instruction, and not in an interrupt's or
 * exception's handler that it enters, but after it. The side that is behind goes on until both are at one place.
 */
static void catch_up(struct diffrun *d)
{
	struct cpu_state a = d->a.now, b = d->b.now;

	for (unsigned i = 0; i < CATCH_UP_LIMIT && !same_registers(d) && !d->b.stopped && d->b.now.rip == d->b.before.rip; i++)
		step(&d->b);
	for (unsigned i = 0; i < CATCH_UP_LIMIT && !same_registers(d) && !d->a.stopped && !d->a.halted; i++)
		step(&d->a);
	/* In vain: what is told is the first difference. */
	if (!same_registers(d)) {
		d->a.now = a;
		d->b.now = b;
	}
}

/* ---- comparing ---- */

static const struct trail *last(const struct diffrun *d)
{
	return &d->trail[(d->count - 1) % TRAIL];
}

static void print_trail(struct diffrun *d)
{
	uint64_t n = MIN(d->count, TRAIL);

	for (uint64_t i = n; i; i--)
		print_insn(&d->trail[(d->count - i) % TRAIL], i == 1 ? "   <- the last one" : "");
}

static bool report(struct diffrun *d, const char *what)
{
	printf("diffrun: %s and %s differ after %lu instructions: %s\n", d->a.vm->ops->name, d->b.vm->ops->name,
	       (unsigned long)d->count, what);
	print_trail(d);
	return false;
}

/* What may differ does not differ from here on. */
static bool carry_over(struct diffrun *d)
{
	d->forgiven++;
	d->b.now = d->a.now;
	return !d->b.vm->ops->set_state(d->b.vcpu, &d->a.now) || report(d, "the state cannot be carried over");
}

static bool compare_state(struct diffrun *d)
{
	struct cpu_state a = d->a.now, b = d->b.now;
	g_autofree char *diff = NULL, *again = NULL, *what = NULL;
	uint64_t open = 0;

	/* RF lives until the next instruction's end, which the engines see at different moments. */
	a.rflags &= ~(uint64_t)RFLAGS_RF;
	b.rflags &= ~(uint64_t)RFLAGS_RF;
	a.interrupt_shadow = b.interrupt_shadow = false;
	diff = cpu_state_diff(&a, &b);
	if (!*diff)
		return true;
	if (a.rflags != b.rflags)
		open = undefined_flags(last(d));
	if (open) {
		b.rflags = (b.rflags & ~open) | (a.rflags & open);
		again = cpu_state_diff(&a, &b);
	}
	if ((again && !*again) || (d->asked && a.rip == b.rip))
		return carry_over(d);
	what = g_strdup_printf("registers (%s, then %s)\n%s", d->a.vm->ops->name, d->b.vm->ops->name, diff);
	return report(d, what);
}

static bool compare_page(struct diffrun *d, const struct mem_slot *a, const struct mem_slot *b, uint64_t gpa)
{
	const uint8_t *pa = mem_slot_host(a, gpa), *pb = mem_slot_host(b, gpa);
	g_autofree char *what = NULL;
	unsigned i;

	if (!memcmp(pa, pb, PAGE_SIZE))
		return true;
	for (i = 0; pa[i] == pb[i]; i++)
		;
	what = g_strdup_printf("memory at %lx is %02x and %02x, written in the last %lu instructions", (unsigned long)(gpa + i), pa[i],
			       pb[i], (unsigned long)(d->count - d->memory_checked));
	return report(d, what);
}

/* The pages that either side has written since the last time. */
static bool compare_memory(struct diffrun *d)
{
	for (unsigned n = 0; n < MEM_MAX_SLOTS; n++) {
		const struct mem_slot *a = mem_slot(d->a.vm->mem, n), *b = mem_slot(d->b.vm->mem, n);

		if (!a && !b)
			continue;
		if (!a || !b || a->gpa != b->gpa || a->size != b->size || a->readonly != b->readonly)
			return report(d, "memory maps");
		d->a.vm->ops->dirty_log(d->a.vm->accel, n, a);
		d->b.vm->ops->dirty_log(d->b.vm->accel, n, b);
		for (uint64_t at = 0; at < a->size; at += PAGE_SIZE) {
			bool wa = ram_test_clear_dirty(a->ram, a->ram_offset + at, PAGE_SIZE, DIRTY_SNAPSHOT);
			bool wb = ram_test_clear_dirty(b->ram, b->ram_offset + at, PAGE_SIZE, DIRTY_SNAPSHOT);

			if ((wa || wb) && !compare_page(d, a, b, a->gpa + at))
				return false;
		}
	}
	d->memory_checked = d->count;
	return true;
}

static void step_noted(struct diffrun *d)
{
	struct trail *t = &d->trail[d->count++ % TRAIL];

	t->s = d->a.now;
	t->len = code_at(&d->a, &t->s, t->code);
	d->asked |= asks_the_host(d, t);
	step(&d->a);
}

/* Both halted: time passes until something wakes them. False when nothing ever does. */
static bool wait_halted(struct diffrun *d)
{
	for (unsigned i = 0; i < HALTED_LIMIT; i++) {
		if (d->a.vm->ops->has_work(d->a.vcpu))
			return true;
		advance(&d->a, NS_WHILE_HALTED);
		advance(&d->b, NS_WHILE_HALTED);
	}
	return false;
}

static bool ended(struct diffrun *d, bool *same)
{
	if (!d->a.stopped && !d->b.stopped)
		return false;
	/* Both in the same step, or one of them has not noticed. */
	if (!d->a.stopped)
		step(&d->a);
	if (!d->b.stopped)
		step(&d->b);
	*same = d->a.stopped && d->b.stopped && !strcmp(d->a.stopped, d->b.stopped);
	if (!*same) {
		g_autofree char *what = g_strdup_printf("%s; %s", d->a.stopped ? d->a.stopped : "goes on",
							d->b.stopped ? d->b.stopped : "goes on");

		report(d, what);
	} else {
		printf("diffrun: both end the same way after %lu instructions: %s\n", (unsigned long)d->count, d->a.stopped);
		*same = compare_memory(d);
	}
	return true;
}

/* True when no difference was found. */
static bool run(struct diffrun *d)
{
	bool same = true;

	settle(&d->a);
	settle(&d->b);
	while (d->count < d->limit) {
		uint64_t had = atomic_load(&d->b.vcpu->instructions), n;

		if (d->a.halted && d->b.halted && !wait_halted(d)) {
			printf("diffrun: both halt for good after %lu instructions\n", (unsigned long)d->count);
			return compare_memory(d);
		}
		step(&d->b);
		n = atomic_load(&d->b.vcpu->instructions) - had;
		n = MAX(n, 1);
		d->asked = false;
		d->steps++;
		for (uint64_t i = 0; i < n && !d->a.stopped; i++)
			step_noted(d);
		if (ended(d, &same))
			return same;
		if (d->a.now.rip != d->b.now.rip)
			catch_up(d);
		if (!compare_state(d))
			return false;
		if (d->count - d->memory_checked >= d->memory_every && !compare_memory(d))
			return false;
		advance(&d->a, (int64_t)n * NS_PER_INSTRUCTION);
		advance(&d->b, (int64_t)n * NS_PER_INSTRUCTION);
	}
	printf("diffrun: no difference in %lu instructions\n", (unsigned long)d->count);
	return compare_memory(d);
}

/* ---- making ---- */

static bool make(struct side *s, const char *engine, int argc, char **argv, const uint32_t limit[CPUID_WORDS])
{
	struct run_options o = { 0 };
	g_autoptr(GError) error = NULL;

	if (!run_options_parse(&o, argc, argv, &error))
		goto fail;
	g_free(o.vm.engine);
	o.vm.engine = g_strdup(engine);
	o.vm.cpus = 1;
	o.vm.stepped = true;
	memcpy(o.vm.cpu_limit, limit, sizeof(o.vm.cpu_limit));
	for (unsigned i = 0; i < o.vm.disks; i++)
		o.vm.disk[i].snapshot = true;
	s->vm = vm_create(&o.vm, NULL, NULL, &error);
	run_options_finish(&o);
	if (!s->vm)
		goto fail;
	s->vcpu = s->vm->vcpus[0].vcpu;
	/* Nobody else waits; requests are noticed by their bits. */
	s->vm->ops->set_step(s->vcpu, true);
	return true;
fail:
	fprintf(stderr, "diffrun: %s: %s\n", engine, error->message);
	return false;
}

/* What both engines can give; time stamps of the host and the x2APIC, which KVM has in its kernel only, left out. */
static bool common_words(const char *a, const char *b, uint32_t words[CPUID_WORDS])
{
	const char *const names[] = { a, b };

	memset(words, 0xff, CPUID_WORDS * sizeof(words[0]));
	for (unsigned n = 0; n < 2; n++) {
		g_autoptr(GError) error = NULL;
		g_autofree char *why = NULL;
		const struct accel_ops *ops = accel_choose(names[n], &why, &error);
		uint32_t one[CPUID_WORDS];

		if (!ops) {
			fprintf(stderr, "diffrun: %s\n", error->message);
			return false;
		}
		accel_supported_words(ops, one);
		for (unsigned i = 0; i < CPUID_WORDS; i++)
			words[i] &= one[i];
	}
	words[CPUID_1_ECX] &= ~(1u << 21 | 1u << 24 | 1u << 31);
	words[CPUID_KVM_EAX] = 0;
	return true;
}

static int usage(void)
{
	fprintf(stderr, "usage: diffrun ENGINE ENGINE [--instructions N] [--memory-every N] [--forgive cpuid] -- OPTIONS OF guise run\n"
			"Runs one machine under both engines, step by step, and stops at the first difference.\n"
			"Exit status: 0 no difference, 1 a difference, 2 it could not be run.\n");
	return 2;
}

int main(int argc, char **argv)
{
	char kvm[] = "kvm";
	struct diffrun d = { .limit = UINT64_MAX, .memory_every = 64 };
	uint32_t words[CPUID_WORDS];
	bool made, same = false;
	int i = 3;

	for (; i + 1 < argc && strcmp(argv[i], "--"); i += 2) {
		if (!strcmp(argv[i], "--instructions"))
			d.limit = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--memory-every"))
			d.memory_every = (unsigned)strtoul(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--forgive") && !strcmp(argv[i + 1], "cpuid"))
			d.forgive_cpuid = true;
		else
			return usage();
	}
	if (i >= argc || strcmp(argv[i], "--"))
		return usage();
	if (!common_words(argv[1], argv[2], words))
		return 2;
	/* The finer one first: KVM's step may be more than one instruction. */
	if (!strcmp(argv[1], "kvm")) {
		argv[1] = argv[2];
		argv[2] = kvm;
	}
	made = make(&d.a, argv[1], argc - i - 1, argv + i + 1, words) && make(&d.b, argv[2], argc - i - 1, argv + i + 1, words);
	if (made) {
		same = run(&d);
		if (d.steps < d.count)
			printf("diffrun: %s made %lu steps of them\n", d.b.vm->ops->name, (unsigned long)d.steps);
		if (d.forgiven)
			printf("diffrun: %lu undefined flags and answers of time or chance were carried over\n", (unsigned long)d.forgiven);
	}
	vm_destroy(d.a.vm);
	vm_destroy(d.b.vm);
	g_free(d.a.stopped);
	g_free(d.b.stopped);
	return !made ? 2 : same ? 0 : 1;
}
