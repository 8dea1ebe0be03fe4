/*
 * The interpreter against vectors captured from a real 80286 in real mode (SingleStepTests, MOO format):
 * each is one instruction and a HLT; registers, defined flags and memory must be equal.
 *
 *	real_mode_test DIRECTORY [FILE...]
 */
#include <glib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>
#include <zlib.h>

#include <Zydis/Zydis.h>

#include "accel/accel.h"
#include "base/bytes.h"

#define MOO_REGS 14
enum { MOO_AX, MOO_BX, MOO_CX, MOO_DX, MOO_CS, MOO_SS, MOO_DS, MOO_ES, MOO_SP, MOO_BP, MOO_SI, MOO_DI, MOO_IP, MOO_FLAGS };
#define RAM_SIZE (2u << 20)
#define RUN_INSTRUCTIONS 4

struct regs {
	uint16_t present;
	uint16_t value[MOO_REGS];
};

struct side {
	struct regs regs, mask;
	const uint8_t *ram; /* 32-bit address and byte, repeated */
	uint32_t ram_count;
};

struct moo_test {
	uint32_t index;
	char name[64];
	bool has_exception;
	struct side init, final;
};

struct bench {
	struct mem *mem;
	struct ram *ram;
	struct accel *accel;
	struct vcpu *vcpu;
	unsigned run, failed, excused, shown;
};

/* Flags that a 386 and later leave undefined, or compute otherwise than the 286 did. */
static const struct {
	const char *mnemonic;
	uint16_t flags;
} undefined_flags[] = {
	{ "div", RFLAGS_STATUS },
	{ "idiv", RFLAGS_STATUS },
	{ "mul", RFLAGS_SF | RFLAGS_ZF | RFLAGS_AF | RFLAGS_PF },
	{ "imul", RFLAGS_SF | RFLAGS_ZF | RFLAGS_AF | RFLAGS_PF },
	{ "aaa", RFLAGS_OF | RFLAGS_SF | RFLAGS_ZF | RFLAGS_PF },
	{ "aas", RFLAGS_OF | RFLAGS_SF | RFLAGS_ZF | RFLAGS_PF },
	{ "aad", RFLAGS_OF | RFLAGS_AF | RFLAGS_CF },
	{ "aam", RFLAGS_OF | RFLAGS_AF | RFLAGS_CF },
	{ "daa", RFLAGS_OF },
	{ "das", RFLAGS_OF },
	{ "shl", RFLAGS_AF },
	{ "sal", RFLAGS_AF },
};

/* Vectors that cannot pass on a 386 or later, by what the instruction is and does. */
static const struct {
	const char *part; /* of the test's name */
	bool only_faults;
	const char *why;
} differences[] = {
	{ "lock ", false, "a 286 ignores LOCK where a 386 raises #UD" },
	{ "fs", true, "a 286 has no FS" },
	{ "gs", true, "a 286 has no GS" },
	{ "ins", true, "a 286 moves the index before a fault" },
	{ "outs", true, "a 286 moves the index before a fault" },
	{ "movs", true, "a 286 moves the index before a fault" },
	{ "cmps", true, "a 286 moves the index before a fault" },
	{ "stos", true, "a 286 moves the index before a fault" },
	{ "lods", true, "a 286 moves the index before a fault" },
	{ "scas", true, "a 286 moves the index before a fault" },
};

/* ---- the engine's surroundings: open bus, no devices ---- */

static uint64_t port_read(void *o, unsigned cpu, uint16_t port, unsigned len) { return UINT64_MAX; }
static void port_write(void *o, unsigned cpu, uint16_t port, unsigned len, uint64_t v) { }
static uint64_t mmio_read(void *o, unsigned cpu, uint64_t gpa, unsigned len) { return UINT64_MAX; }
static void mmio_write(void *o, unsigned cpu, uint64_t gpa, unsigned len, uint64_t v) { }
static int interrupt_ack(void *o, unsigned cpu) { return -1; }
static bool apic_msr_read(void *o, unsigned cpu, uint32_t msr, uint64_t *v) { return false; }
static bool apic_msr_write(void *o, unsigned cpu, uint32_t msr, uint64_t v) { return false; }
static uint8_t tpr_read(void *o, unsigned cpu) { return 0; }
static void tpr_write(void *o, unsigned cpu, uint8_t cr8) { }
static int64_t clock_ns(void *o) { return 0; }
static void tsc_adjusted(void *o, unsigned cpu, uint64_t adjust) { }
static void ioapic_eoi(void *o, uint8_t vector) { }
static bool fpu_error(void *o, unsigned cpu, bool pending) { return true; }

static const struct accel_host host = {
	.port_read = port_read, .port_write = port_write, .mmio_read = mmio_read, .mmio_write = mmio_write,
	.interrupt_ack = interrupt_ack, .apic_msr_read = apic_msr_read, .apic_msr_write = apic_msr_write,
	.tpr_read = tpr_read, .tpr_write = tpr_write, .clock_ns = clock_ns, .tsc_adjusted = tsc_adjusted, .ioapic_eoi = ioapic_eoi, .fpu_error = fpu_error,
};

/* A test that does not come to its HLT is told to leave, and fails. */
static struct vcpu *watched;

static void time_is_up(int signal)
{
	watched->ops->kick(watched);
}

/* ---- the file format ---- */

static uint8_t *read_gzip(const char *path, size_t *len)
{
	gzFile f = gzopen(path, "rb");
	GByteArray *all = g_byte_array_new();
	uint8_t buf[65536];
	int n;

	if (!f)
		return NULL;
	while ((n = gzread(f, buf, sizeof(buf))) > 0)
		g_byte_array_append(all, buf, (guint)n);
	gzclose(f);
	*len = all->len;
	return g_byte_array_free(all, FALSE);
}

static void parse_regs(const uint8_t *p, struct regs *r)
{
	r->present = ld16le(p);
	p += 2;
	for (unsigned i = 0; i < MOO_REGS; i++) {
		if (r->present & 1u << i) {
			r->value[i] = ld16le(p);
			p += 2;
		}
	}
}

static void parse_side(const uint8_t *p, const uint8_t *end, struct side *s)
{
	while (p + 8 <= end) {
		uint32_t len = ld32le(p + 4);
		const uint8_t *body = p + 8;

		if (!memcmp(p, "REGS", 4))
			parse_regs(body, &s->regs);
		else if (!memcmp(p, "RMSK", 4))
			parse_regs(body, &s->mask);
		else if (!memcmp(p, "RAM ", 4)) {
			s->ram_count = ld32le(body);
			s->ram = body + 4;
		}
		p = body + len;
	}
}

static void parse_test(const uint8_t *p, const uint8_t *end, struct moo_test *t)
{
	memset(t, 0, sizeof(*t));
	t->index = ld32le(p);
	p += 4;
	while (p + 8 <= end) {
		uint32_t len = ld32le(p + 4);
		const uint8_t *body = p + 8;

		if (!memcmp(p, "NAME", 4))
			g_strlcpy(t->name, (const char *)body + 4, MIN(sizeof(t->name), ld32le(body) + 1));
		else if (!memcmp(p, "EXCP", 4))
			t->has_exception = true;
		else if (!memcmp(p, "INIT", 4))
			parse_side(body, body + len, &t->init);
		else if (!memcmp(p, "FINA", 4))
			parse_side(body, body + len, &t->final);
		p = body + len;
	}
}

/* ---- running one ---- */

static const uint8_t gpr_of[MOO_REGS] = { [MOO_AX] = RAX, [MOO_BX] = RBX, [MOO_CX] = RCX, [MOO_DX] = RDX,
					  [MOO_SP] = RSP, [MOO_BP] = RBP, [MOO_SI] = RSI, [MOO_DI] = RDI };
static const uint8_t seg_of[MOO_REGS] = { [MOO_CS] = SEG_CS, [MOO_SS] = SEG_SS, [MOO_DS] = SEG_DS, [MOO_ES] = SEG_ES };
static const char *const reg_name[MOO_REGS] = { "ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags" };

static void load_state(struct cpu_state *s, const struct regs *r)
{
	cpu_state_reset(s, true);
	for (unsigned i = 0; i < MOO_REGS; i++) {
		if (i >= MOO_CS && i <= MOO_ES) {
			struct x86_segment *seg = &s->seg[seg_of[i]];

			seg->selector = r->value[i];
			seg->base = (uint64_t)r->value[i] << 4;
		} else if (i == MOO_IP) {
			s->rip = r->value[i];
		} else if (i == MOO_FLAGS) {
			s->rflags = (r->value[i] & 0x0fff) | 2;
		} else {
			s->gpr[gpr_of[i]] = r->value[i];
		}
	}
}

static uint16_t reg_now(const struct cpu_state *s, unsigned i)
{
	if (i >= MOO_CS && i <= MOO_ES)
		return s->seg[seg_of[i]].selector;
	if (i == MOO_IP)
		return (uint16_t)s->rip;
	if (i == MOO_FLAGS)
		return (uint16_t)s->rflags;
	return (uint16_t)s->gpr[gpr_of[i]];
}

/* Whether the mnemonic stands in the name as a word, after prefixes or not. */
static bool names(const struct moo_test *t, const char *mnemonic)
{
	const char *at = strstr(t->name, mnemonic);

	return at && (at == t->name || at[-1] == ' ') && !g_ascii_isalpha(at[strlen(mnemonic)]);
}

/* A 286 refuses instructions of more than 10 bytes; later ones only those of more than 15. */
static bool too_long(struct bench *b, const struct moo_test *t)
{
	uint8_t code[15];
	ZydisDecoder decoder;
	ZydisDecodedInstruction insn;

	mem_read(b->mem, ((uint32_t)t->init.regs.value[MOO_CS] << 4) + t->init.regs.value[MOO_IP], code, sizeof(code));
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code, sizeof(code), &insn)) && insn.length > 10;
}

static bool excused(struct bench *b, const struct moo_test *t)
{
	for (unsigned i = 0; i < ARRAY_LEN(differences); i++) {
		if (strstr(t->name, differences[i].part) && (t->has_exception || !differences[i].only_faults))
			return true;
	}
	return t->has_exception && too_long(b, t);
}

/* Flags that say nothing here: the file's own, the CPUs' differences, IOPL and NT and bit 15. */
static uint16_t flags_checked(const struct moo_test *t, const struct regs *file_mask)
{
	uint16_t mask = 0x0fff;

	if (file_mask->present & 1u << MOO_FLAGS)
		mask &= file_mask->value[MOO_FLAGS];
	if (t->final.mask.present & 1u << MOO_FLAGS)
		mask &= t->final.mask.value[MOO_FLAGS];
	for (unsigned i = 0; i < ARRAY_LEN(undefined_flags); i++) {
		if (names(t, undefined_flags[i].mnemonic))
			mask &= (uint16_t)~undefined_flags[i].flags;
	}
	return mask;
}

static void put_ram(struct bench *b, const struct side *s)
{
	uint8_t gp[4];

	for (uint32_t i = 0; i < s->ram_count; i++) {
		uint8_t v = s->ram[i * 5 + 4];

		mem_write(b->mem, ld32le(s->ram + i * 5) & 0xffffff, &v, 1);
	}
	/* Faults of the stack segment have their own vector on a 386. */
	mem_read(b->mem, EXC_GP * 4, gp, sizeof(gp));
	mem_write(b->mem, EXC_SS * 4, gp, sizeof(gp));
}

/* Whether the byte is of the FLAGS that an exception has pushed, above the return address. */
static bool is_flags_byte(const struct moo_test *t, uint32_t address, unsigned *shift)
{
	uint16_t sp = (uint16_t)(t->final.regs.value[MOO_SP] + 4);
	uint32_t at = ((uint32_t)t->init.regs.value[MOO_SS] << 4) + sp;

	if (!t->has_exception || address - at > 1)
		return false;
	*shift = (address - at) * 8;
	return true;
}

/* Compares; writes the first difference to `what`. */
static bool same(struct bench *b, const struct moo_test *t, const struct regs *file_mask, const struct cpu_state *s, char *what,
		 size_t size)
{
	uint16_t flags = flags_checked(t, file_mask);

	for (unsigned i = 0; i < MOO_REGS; i++) {
		uint16_t want = t->final.regs.present & 1u << i ? t->final.regs.value[i] : t->init.regs.value[i];
		uint16_t mask = i == MOO_FLAGS ? flags : 0xffff, now = reg_now(s, i);

		if ((now ^ want) & mask) {
			g_snprintf(what, size, "%s is %04x, not %04x", reg_name[i], now, want);
			return false;
		}
	}
	for (uint32_t i = 0; i < t->final.ram_count; i++) {
		uint32_t address = ld32le(t->final.ram + i * 5) & 0xffffff;
		uint8_t want = t->final.ram[i * 5 + 4], now = 0, mask = 0xff;
		unsigned shift;

		mem_read(b->mem, address, &now, 1);
		if (is_flags_byte(t, address, &shift))
			mask = (uint8_t)(flags >> shift);
		if ((now ^ want) & mask) {
			g_snprintf(what, size, "[%05x] is %02x, not %02x", address, now, want);
			return false;
		}
	}
	return true;
}

/* Leaves no bytes behind for the next test. */
static void wipe(struct bench *b)
{
	static const uint8_t zero[4096];

	for (uint32_t at = 0; at < RAM_SIZE; at += sizeof(zero)) {
		uint8_t now[sizeof(zero)];

		mem_read(b->mem, at, now, sizeof(now));
		if (memcmp(now, zero, sizeof(zero)))
			mem_write(b->mem, at, zero, sizeof(zero));
	}
}

static void run_test(struct bench *b, const char *file, const struct moo_test *t, const struct regs *file_mask)
{
	struct vcpu_exit exit = { 0 };
	struct cpu_state s;
	char what[80] = "";
	bool ok;

	put_ram(b, &t->init);
	if (excused(b, t)) {
		b->excused++;
		wipe(b);
		return;
	}
	load_state(&s, &t->init.regs);
	b->vcpu->ops->set_state(b->vcpu, &s);
	setitimer(ITIMER_REAL, &(struct itimerval){ .it_value.tv_usec = 300000 }, NULL);
	b->vcpu->ops->run(b->vcpu, &exit);
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	b->vcpu->ops->get_state(b->vcpu, &s);
	b->run++;
	ok = exit.kind == VCPU_EXIT_HALT;
	if (!ok)
		g_snprintf(what, sizeof(what), "ended with exit %d", exit.kind);
	ok = ok && same(b, t, file_mask, &s, what, sizeof(what));
	if (!ok) {
		b->failed++;
		if (b->shown++ < 40)
			printf("# %s %u: %s%s: %s\n", file, t->index, t->name, t->has_exception ? " (exception)" : "", what);
	}
	wipe(b);
}

static void run_file(struct bench *b, const char *dir, const char *file)
{
	g_autofree char *path = g_build_filename(dir, file, NULL);
	struct regs mask = { 0 };
	size_t len = 0;
	uint8_t *data = read_gzip(path, &len), *p = data, *end = data + len;
	unsigned before = b->failed;

	while (p && p + 8 <= end) {
		uint32_t size = ld32le(p + 4);

		if (!memcmp(p, "RMSK", 4))
			parse_regs(p + 8, &mask);
		p += 8 + size;
	}
	for (p = data; p && p + 8 <= end; p += 8 + ld32le(p + 4)) {
		struct moo_test t;

		if (memcmp(p, "TEST", 4))
			continue;
		parse_test(p + 8, p + 8 + ld32le(p + 4), &t);
		run_test(b, file, &t, &mask);
	}
	if (b->failed != before)
		printf("# %s: %u failed\n", file, b->failed - before);
	g_free(data);
}

static void bench_init(struct bench *b, const struct accel_ops *ops)
{
	static struct cpu_model model;
	static struct accel_config cfg;
	uint32_t words[CPUID_WORDS];
	GError *err = NULL;

	interp_supported_words(words);
	b->mem = mem_create();
	b->ram = ram_create("ram", RAM_SIZE, &err);
	if (!b->ram || !cpu_model_parse("max", words, 1, &model, &err))
		g_error("%s", err->message);
	mem_map(b->mem, 0, RAM_SIZE, b->ram, 0, false);
	cfg = (struct accel_config){ .mem = b->mem, .host = &host, .cpu = &model, .cpus = 1 };
	b->accel = ops->open(&cfg, &err);
	b->vcpu = b->accel ? ops->vcpu_create(b->accel, 0, &err) : NULL;
	if (!b->vcpu)
		g_error("%s", err->message);
}

static gint by_name(gconstpointer a, gconstpointer b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(int argc, char **argv)
{
	struct bench b = { 0 };
	const char *dir = argc > 1 ? argv[1] : ".";
	GDir *d = g_dir_open(dir, 0, NULL);
	g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(g_free);
	const char *name;

	if (!d) {
		printf("1..0 # skip: no vectors in %s\n", dir);
		return 77;
	}
	while ((name = g_dir_read_name(d))) {
		if (g_str_has_suffix(name, ".MOO.gz") && (argc < 3 || g_str_has_prefix(name, argv[2])))
			g_ptr_array_add(files, g_strdup(name));
	}
	g_dir_close(d);
	g_ptr_array_sort(files, by_name);
	bench_init(&b, &accel_interp_ops);
	watched = b.vcpu;
	signal(SIGALRM, time_is_up);
	for (guint i = 0; i < files->len; i++)
		run_file(&b, dir, files->pdata[i]);
	b.vcpu->ops->vcpu_destroy(b.vcpu);
	accel_interp_ops.close(b.accel);
	mem_destroy(b.mem);
	ram_destroy(b.ram);
	printf("%u vectors, %u differences, %u that no 386 can pass\n", b.run, b.failed, b.excused);
	return b.run && !b.failed ? 0 : 1;
}
