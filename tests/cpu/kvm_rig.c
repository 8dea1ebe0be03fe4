/* The board of the KVM tests: every access is logged, every read has an answer of its own. */
#include "kvm_rig.h"

#include <string.h>

#include "base/bytes.h"

static uint64_t answer(struct rig *r, uint64_t where, unsigned len)
{
	r->reads++;
	return ((where * 0x9e3779b97f4a7c15u) ^ (r->reads * 0x0101010101010101u)) & mask_bytes(len);
}

static uint64_t port_read(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
	struct rig *r = opaque;
	uint64_t v = answer(r, port, len);

	g_string_append_printf(r->log, "in%u %04x %lx\n", len, port, (unsigned long)v);
	return v;
}

static void port_write(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint64_t value)
{
	struct rig *r = opaque;

	g_string_append_printf(r->log, "out%u %04x %lx\n", len, port, (unsigned long)value);
	if (port == PORT_MOVE)
		r->moved = true;
	if (port == PORT_END)
		r->ended = true;
	if (port == PORT_END || port == PORT_MOVE)
		r->ops->kick(r->vcpu[cpu]);
	if (port >= 0xe0 && port <= 0xef && r->event)
		r->event(r, cpu, port);
}

static uint64_t mmio_read(void *opaque, unsigned cpu, uint64_t gpa, unsigned len)
{
	struct rig *r = opaque;
	uint64_t v = answer(r, gpa, len);

	g_string_append_printf(r->log, "read%u %lx %lx\n", len, (unsigned long)gpa, (unsigned long)v);
	return v;
}

static void mmio_write(void *opaque, unsigned cpu, uint64_t gpa, unsigned len, uint64_t value)
{
	g_string_append_printf(((struct rig *)opaque)->log, "write%u %lx %lx\n", len, (unsigned long)gpa, (unsigned long)value);
}

/* The line falls with the acknowledgement. */
static int interrupt_ack(void *opaque, unsigned cpu)
{
	struct rig *r = opaque;
	int v = r->vector;

	r->vector = -1;
	r->ops->set_irq(r->vcpu[cpu], VCPU_INTR, false);
	if (r->hold_at_ack)
		r->ops->kick(r->vcpu[cpu]);
	return v;
}

static bool apic_msr_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value)
{
	*value = 0xfee00800u | (cpu == 0 ? 0x100u : 0);
	return msr == 0x1b;
}

static bool apic_msr_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value) { return false; }
static uint8_t tpr_read(void *opaque, unsigned cpu) { return 0; }
static void tpr_write(void *opaque, unsigned cpu, uint8_t cr8) { }
static int64_t clock_ns(void *opaque) { return 1000000; }

static bool fpu_error(void *o, unsigned cpu, bool pending) { return false; }
static void tsc_adjusted(void *opaque, unsigned cpu, uint64_t adjust) { ((struct rig *)opaque)->tsc_adjust = adjust; }

static void ioapic_eoi(void *opaque, uint8_t vector)
{
	struct rig *r = opaque;

	r->eois++;
	r->last_eoi = vector;
}

static void slot_changed(void *opaque, const struct mem_slot *slot, unsigned index, bool added)
{
	struct rig *r = opaque;

	if (added)
		g_assert_cmpint(r->ops->map_ram(r->accel, index, slot), ==, 0);
	else
		r->ops->unmap_ram(r->accel, index);
}

static void make_model(struct cpu_model *m)
{
	uint32_t kvm[CPUID_WORDS], interp[CPUID_WORDS];
	GError *error = NULL;

	kvm_supported_words(kvm);
	interp_supported_words(interp);
	for (unsigned i = 0; i < CPUID_WORDS; i++)
		kvm[i] &= interp[i];
	g_assert_true(cpu_model_parse("max", kvm, RIG_CPUS, m, &error));
}

struct rig *rig_create(const struct accel_ops *ops, bool log_dirty)
{
	struct rig *r = g_new0(struct rig, 1);
	struct accel_config cfg = { .host = &r->host, .cpu = &r->model, .cpus = RIG_CPUS };
	const struct mem_listener listener = { slot_changed, r };
	GError *error = NULL;

	r->ops = ops;
	r->vector = -1;
	r->log = g_string_new(NULL);
	r->host = (struct accel_host){ r, port_read, port_write, mmio_read, mmio_write, interrupt_ack, apic_msr_read,
				       apic_msr_write, tpr_read, tpr_write, clock_ns, fpu_error, tsc_adjusted, ioapic_eoi };
	make_model(&r->model);
	r->mem = cfg.mem = mem_create();
	r->accel = ops->open(&cfg, &error);
	g_assert_no_error(error);
	r->ram = ram_create("rig", RAM_SIZE, &error);
	r->rom = ram_create("rig-rom", ROM_SIZE, &error);
	g_assert_no_error(error);
	memset(r->rom->host, 0x3c, ROM_SIZE);
	r->ram->log_dirty = log_dirty;
	mem_set_listener(r->mem, &listener);
	g_assert_cmpint(mem_map(r->mem, 0, 0xa0000, r->ram, 0, false), >=, 0);
	g_assert_cmpint(mem_map(r->mem, ROM_BASE, ROM_SIZE, r->rom, 0, true), >=, 0);
	g_assert_cmpint(mem_map(r->mem, 0x100000, RAM_SIZE - 0x100000, r->ram, 0x100000, false), >=, 0);
	for (unsigned i = 0; i < RIG_CPUS; i++) {
		r->vcpu[i] = ops->vcpu_create(r->accel, i, &error);
		g_assert_no_error(error);
	}
	return r;
}

void rig_destroy(struct rig *r)
{
	for (unsigned i = 0; i < RIG_CPUS; i++)
		r->ops->vcpu_destroy(r->vcpu[i]);
	for (int i = 0; i < MEM_MAX_SLOTS; i++)
		mem_unmap(r->mem, i);
	r->ops->close(r->accel);
	ram_destroy(r->ram);
	ram_destroy(r->rom);
	mem_destroy(r->mem);
	g_string_free(r->log, TRUE);
	g_free(r);
}

void rig_load(struct rig *r, const uint8_t *image, size_t len)
{
	memcpy(r->ram->host + GUEST_BASE, image, len);
	for (unsigned i = 0; i < RIG_CPUS; i++) {
		struct cpu_state s;

		cpu_state_reset(&s, i == 0);
		s.seg[SEG_CS].selector = 0;
		s.seg[SEG_CS].base = 0;
		s.rip = GUEST_BASE;
		g_assert_cmpint(r->ops->set_state(r->vcpu[i], &s), ==, 0);
	}
}

bool rig_run(struct rig *r)
{
	struct vcpu_exit exit;

	r->moved = false;
	while (!r->ended && !r->moved) {
		r->ops->run(r->vcpu[0], &exit);
		if (exit.kind != VCPU_EXIT_KICKED && exit.kind != VCPU_EXIT_HALT) {
			g_string_append_printf(r->log, "stopped: %d %s\n", exit.kind, exit.message);
			return false;
		}
	}
	return true;
}

void rig_copy(struct rig *to, struct rig *from)
{
	struct cpu_state s;

	memcpy(to->ram->host, from->ram->host, RAM_SIZE);
	to->reads = from->reads;
	to->ended = from->ended;
	g_string_assign(to->log, from->log->str);
	g_assert_cmpint(from->ops->get_state(from->vcpu[0], &s), ==, 0);
	g_assert_cmpint(to->ops->set_state(to->vcpu[0], &s), ==, 0);
}
