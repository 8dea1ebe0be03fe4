/*
 * The time stamp counter and IA32_TSC_ADJUST (SDM 3B 18.17.3) on every engine: either register moves the counter, and the
 * second sums up the moves; the paravirtual clock stays where it is; a pause is no move; both come back with the state.
 */
#include <glib.h>
#include <unistd.h>

#include "base/bytes.h"
#include "kvm_rig.h"

#define MSR_TSC 0x10
#define MSR_TSC_ADJUST 0x3b
#define MSR_KVM_SYSTEM_TIME 0x4b564d01
#define CLOCK_PAGE 0x3000
#define FAR (UINT64_C(1) << 44)	  /* ticks: more than an hour */
#define SOON (UINT64_C(1) << 40)  /* more than the test takes */

static const uint8_t guest_read[] = { 0x0f, 0x32, 0xe6, PORT_END };  /* rdmsr; out PORT_END, al */
static const uint8_t guest_write[] = { 0x0f, 0x30, 0xe6, PORT_END }; /* wrmsr */
static const uint8_t guest_rdtsc[] = { 0x0f, 0x31, 0xe6, PORT_END };
static const uint8_t guest_cpuid[] = { 0x0f, 0xa2, 0xe6, PORT_END };

static void run(struct rig *r, const uint8_t *code, size_t len, uint64_t a, uint64_t c, uint64_t d, struct cpu_state *s)
{
	g_assert_cmpint(mem_write(r->mem, GUEST_BASE, code, len), ==, true);
	g_assert_cmpint(r->ops->get_state(r->vcpu[0], s), ==, 0);
	s->rip = GUEST_BASE;
	s->gpr[RAX] = a;
	s->gpr[RCX] = c;
	s->gpr[RDX] = d;
	g_assert_cmpint(r->ops->set_state(r->vcpu[0], s), ==, 0);
	r->ended = false;
	g_assert_true(rig_run(r));
	g_assert_cmpint(r->ops->get_state(r->vcpu[0], s), ==, 0);
}

static uint64_t msr_read(struct rig *r, uint32_t msr)
{
	struct cpu_state s;

	run(r, guest_read, sizeof(guest_read), 0, msr, 0, &s);
	return (uint32_t)s.gpr[RAX] | s.gpr[RDX] << 32;
}

static void msr_write(struct rig *r, uint32_t msr, uint64_t value)
{
	struct cpu_state s;

	run(r, guest_write, sizeof(guest_write), (uint32_t)value, msr, value >> 32, &s);
}

static uint64_t rdtsc(struct rig *r)
{
	struct cpu_state s;

	run(r, guest_rdtsc, sizeof(guest_rdtsc), 0, 0, 0, &s);
	return (uint32_t)s.gpr[RAX] | s.gpr[RDX] << 32;
}

/* Some hosts' KVM shows guests the host's counter whatever it is told. */
static bool counter_moves(struct rig *r)
{
	struct cpu_state s;
	uint64_t before = rdtsc(r);
	bool moves;

	g_assert_cmpint(r->ops->get_state(r->vcpu[0], &s), ==, 0);
	s.tsc_offset += FAR;
	g_assert_cmpint(r->ops->set_state(r->vcpu[0], &s), ==, 0);
	moves = rdtsc(r) - before >= FAR;
	s.tsc_offset -= FAR;
	g_assert_cmpint(r->ops->set_state(r->vcpu[0], &s), ==, 0);
	return moves;
}

/* The counter is `wanted`, and what has passed since that was so. */
static void check_tsc(struct rig *r, uint64_t wanted)
{
	if (r->ops == &accel_kvm_ops && !counter_moves(r))
		return;
	g_assert_cmphex(msr_read(r, MSR_TSC) - wanted, <, SOON);
	g_assert_cmphex(rdtsc(r) - wanted, <, SOON);
}

static struct rig *start(const struct accel_ops *ops)
{
	static const uint8_t nothing[] = { 0xf4 };
	struct rig *r;

	if (ops == &accel_kvm_ops && access("/dev/kvm", W_OK)) {
		g_test_skip("no /dev/kvm");
		return NULL;
	}
	r = rig_create(ops, false);
	rig_load(r, nothing, sizeof(nothing));
	return r;
}

static void test_offered(const void *ops)
{
	struct rig *r = start(ops);
	struct cpu_state s;

	if (!r)
		return;
	run(r, guest_cpuid, sizeof(guest_cpuid), 7, 0, 0, &s);
	g_assert_cmphex(s.gpr[RBX] & 2, ==, 2);
	run(r, guest_cpuid, sizeof(guest_cpuid), 0x80000007, 0, 0, &s);
	g_assert_cmphex(s.gpr[RDX] & 0x100, ==, 0x100);
	rig_destroy(r);
}

static void test_adjust(const void *ops)
{
	struct rig *r = start(ops);
	uint64_t before, moved;

	if (!r)
		return;
	g_assert_cmphex(msr_read(r, MSR_TSC_ADJUST), ==, 0);
	before = msr_read(r, MSR_TSC);
	msr_write(r, MSR_TSC_ADJUST, FAR);
	g_assert_cmphex(msr_read(r, MSR_TSC_ADJUST), ==, FAR);
	check_tsc(r, before + FAR);
	/* What is written is where to be, not how far to go. */
	msr_write(r, MSR_TSC_ADJUST, FAR);
	check_tsc(r, before + FAR);
	msr_write(r, MSR_TSC_ADJUST, 0);
	check_tsc(r, before);
	/* The counter itself: the adjustment follows. */
	msr_write(r, MSR_TSC, 5 * FAR);
	check_tsc(r, 5 * FAR);
	moved = msr_read(r, MSR_TSC_ADJUST);
	if (ops != &accel_kvm_ops) {
		g_assert_cmphex(5 * FAR - before - moved, <, SOON);
		g_assert_cmphex(r->tsc_adjust, ==, moved);
	}
	msr_write(r, MSR_TSC_ADJUST, 0);
	check_tsc(r, before);
	rig_destroy(r);
}

static void test_state(const void *ops)
{
	struct rig *r = start(ops), *other = start(ops);
	struct cpu_state s, init;
	uint64_t before, adjust;

	if (!r)
		return;
	before = msr_read(r, MSR_TSC);
	msr_write(r, MSR_TSC_ADJUST, 3 * FAR);
	g_assert_cmpint(r->ops->get_state(r->vcpu[0], &s), ==, 0);
	g_assert_cmphex(s.tsc_adjust, ==, 3 * FAR);
	/* Another machine goes on with it. */
	g_assert_cmpint(other->ops->set_state(other->vcpu[0], &s), ==, 0);
	g_assert_cmphex(msr_read(other, MSR_TSC_ADJUST), ==, 3 * FAR);
	check_tsc(other, before + 3 * FAR);
	/* A pause moves the counter and not the adjustment. */
	s.tsc_offset -= FAR;
	g_assert_cmpint(r->ops->set_state(r->vcpu[0], &s), ==, 0);
	g_assert_cmphex(msr_read(r, MSR_TSC_ADJUST), ==, 3 * FAR);
	check_tsc(r, before + 2 * FAR);
	/* INIT leaves both alone, reset clears both. */
	init = s;
	cpu_state_init(&init, true);
	adjust = init.tsc_adjust;
	g_assert_cmphex(adjust, ==, 3 * FAR);
	g_assert_cmphex(init.tsc_offset, ==, s.tsc_offset);
	cpu_state_reset(&init, true);
	g_assert_cmphex(init.tsc_adjust | init.tsc_offset, ==, 0);
	/* The translator puts the process's signals back to what they were when it was opened. */
	rig_destroy(other);
	rig_destroy(r);
}

static int64_t monotonic_ns(void *opaque) { return g_get_monotonic_time() * 1000; }

/* Nanoseconds by the page that the guest shares with the engine. */
static int64_t clock_at(struct rig *r, uint64_t tsc)
{
	uint8_t page[32];
	uint64_t ticks;
	int8_t shift;

	g_assert_true(mem_read(r->mem, CLOCK_PAGE, page, sizeof(page)));
	g_assert_cmpuint(ld32le(page) & 1, ==, 0);
	ticks = tsc - ld64le(page + 8);
	shift = (int8_t)page[28];
	ticks = shift < 0 ? ticks >> -shift : ticks << shift;
	return (int64_t)(ld64le(page + 16) + (uint64_t)((unsigned __int128)ticks * ld32le(page + 24) >> 32));
}

static void test_clock(const void *ops)
{
	struct rig *r = start(ops);
	int64_t before, after;

	r->host.clock_ns = monotonic_ns;
	msr_write(r, MSR_KVM_SYSTEM_TIME, CLOCK_PAGE | 1);
	before = clock_at(r, rdtsc(r));
	msr_write(r, MSR_TSC_ADJUST, FAR);
	after = clock_at(r, rdtsc(r));
	g_assert_cmpint(after - before, >=, 0);
	g_assert_cmpint(after - before, <, INT64_C(60000000000));
	msr_write(r, MSR_TSC, 17);
	after = clock_at(r, rdtsc(r));
	g_assert_cmpint(after - before, >=, 0);
	g_assert_cmpint(after - before, <, INT64_C(60000000000));
	rig_destroy(r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_data_func("/tsc/interp/offered", &accel_interp_ops, test_offered);
	g_test_add_data_func("/tsc/interp/adjust", &accel_interp_ops, test_adjust);
	g_test_add_data_func("/tsc/interp/state", &accel_interp_ops, test_state);
	g_test_add_data_func("/tsc/interp/clock", &accel_interp_ops, test_clock);
	g_test_add_data_func("/tsc/bt/adjust", &accel_bt_ops, test_adjust);
	g_test_add_data_func("/tsc/bt/state", &accel_bt_ops, test_state);
	g_test_add_data_func("/tsc/bt/clock", &accel_bt_ops, test_clock);
	g_test_add_data_func("/tsc/kvm/offered", &accel_kvm_ops, test_offered);
	g_test_add_data_func("/tsc/kvm/adjust", &accel_kvm_ops, test_adjust);
	g_test_add_data_func("/tsc/kvm/state", &accel_kvm_ops, test_state);
	return g_test_run();
}
