/*
 * The KVM engine against the interpreter: the same small guests, the same devices, and equal states, memory and
 * accesses at the end; moves between the engines half-way; kicks, dirty log, interrupts, SMP, the self-test.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "kvm_rig.h"

/* Of all guests. */
#define PAGE_TABLES 0x10000u
#define PAGE_TABLES_END 0x14000u
#define GUEST(name) extern const uint8_t guest_##name[], guest_##name##_end[]
GUEST(real);
GUEST(protected);
GUEST(long);
GUEST(smp);
GUEST(interrupts);
GUEST(busy);

struct image {
	const uint8_t *start, *end;
	bool full; /* everything, which hosts that emulate kernels may lack: 32-bit paging, IRET in 32-bit code, SYSCALL */
};

static const struct image images[] = {
	{ guest_real, guest_real_end },
	{ guest_protected, guest_protected_end },
	{ guest_protected, guest_protected_end, true },
	{ guest_long, guest_long_end },
	{ guest_long, guest_long_end, true },
};

static struct rig *start(const struct accel_ops *ops, const struct image *g, bool log_dirty)
{
	struct rig *r = rig_create(ops, log_dirty);

	rig_load(r, g->start, (size_t)(g->end - g->start));
	r->ram->host[0x500] = g->full;
	/* QEMU's TCG ends with "invalid tss type" when ring 3 is left by way of a task register that VMRUN has loaded. */
	r->ram->host[0x501] = g_getenv("KVM_TEST_RELOAD_TR") != NULL;
	return r;
}

/* Hosts that emulate kernels are known by paging: they have it in long mode alone, and drop the bit. */
static bool host_lacks(const struct image *g)
{
	struct rig *r;
	struct cpu_state s;

	if (!g->full)
		return false;
	r = start(&accel_kvm_ops, g, false);
	r->ops->get_state(r->vcpu[0], &s);
	s.cr0 = CR0_PE | CR0_PG | CR0_ET;
	r->ops->set_state(r->vcpu[0], &s);
	r->ops->get_state(r->vcpu[0], &s);
	rig_destroy(r);
	if (!(s.cr0 & CR0_PG))
		g_test_skip("this host's KVM emulates kernels, with paging in long mode only");
	return !(s.cr0 & CR0_PG);
}

static void run_to_end(struct rig *r)
{
	while (!r->ended) {
		if (!rig_run(r)) {
			g_test_message("%s", r->log->str);
			g_test_fail();
			return;
		}
	}
}

static void compare(struct rig *a, struct rig *b)
{
	struct cpu_state sa, sb;
	g_autofree char *diff = NULL;

	a->ops->get_state(a->vcpu[0], &sa);
	b->ops->get_state(b->vcpu[0], &sb);
	diff = cpu_state_diff(&sa, &sb);
	g_assert_cmpstr(diff, ==, "");
	g_assert_cmpstr(a->log->str, ==, b->log->str);
	for (unsigned i = 0; i < RAM_SIZE; i += 4) {
		uint32_t va = ld32le(a->ram->host + i), vb = ld32le(b->ram->host + i);

		/* A processor may set accessed and dirty bits of page tables ahead of need. */
		if (i >= PAGE_TABLES && i < PAGE_TABLES_END)
			va |= 0x60, vb |= 0x60;
		if (va != vb)
			g_error("memory at %x: %x %x", i, va, vb);
	}
	g_assert_cmpmem(a->rom->host, ROM_SIZE, b->rom->host, ROM_SIZE);
}

static void test_same(gconstpointer data)
{
	struct rig *k, *i = start(&accel_interp_ops, data, false);

	run_to_end(i);
	if (!host_lacks(data)) {
		k = start(&accel_kvm_ops, data, false);
		run_to_end(k);
		compare(i, k);
		rig_destroy(k);
	}
	rig_destroy(i);
}

/* Half of the guest under one engine, the rest under the other. */
static void move(const struct accel_ops *from, const struct accel_ops *to, const struct image *g)
{
	struct rig *a = start(from, g, false), *b = start(to, g, false), *whole = start(&accel_interp_ops, g, false);

	g_assert_true(rig_run(a));
	g_assert_true(a->moved && !a->ended);
	rig_copy(b, a);
	run_to_end(b);
	run_to_end(whole);
	compare(whole, b);
	rig_destroy(a);
	rig_destroy(b);
	rig_destroy(whole);
}

static void test_move(gconstpointer data)
{
	if (host_lacks(data))
		return;
	move(&accel_interp_ops, &accel_kvm_ops, data);
	move(&accel_kvm_ops, &accel_interp_ops, data);
	move(&accel_kvm_ops, &accel_kvm_ops, data);
}

/* ---- states ---- */

static void fill_state(struct cpu_state *s)
{
	cpu_state_reset(s, true);
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = 0x0123456789abcdefu * (i + 3);
	s->rip = 0x1234;
	s->rflags = 2 | RFLAGS_CF | RFLAGS_IF | RFLAGS_ID;
	s->cr2 = 0xdead000;
	s->dr[0] = 0x1000;
	s->dr[3] = 0x4000;
	s->dr6 = 0xffff0ff1;
	s->dr7 = 0x401;
	s->star = 0x0018000800000000;
	s->lstar = 0xffffffff81000000;
	s->cstar = 0xffffffff82000000;
	s->fmask = 0x47700;
	s->kernel_gs_base = 0xffff888000000000;
	s->sysenter_cs = 8;
	/* AMD's keep 32 bits. */
	s->sysenter_esp = 0x81001000;
	s->sysenter_eip = 0x83000000;
	s->pat = 0x0407050600070106;
	s->mtrr_def_type = 0xc06;
	s->mtrr_fixed[0] = 0x0606060606060606;
	s->mtrr_base[0] = 0xc0000000;
	s->mtrr_mask[0] = 0xffc0000800;
	s->tsc_offset = UINT64_C(0xffffff0000000000);
	s->nmi_masked = true;
	s->nmi_pending = true;
	st16le(s->xsave, 0x27f);
	st32le(s->xsave + 24, 0x1f00);
	for (unsigned i = 0; i < 16; i++)
		s->xsave[160 + 16 * i] = (uint8_t)(i + 1);
	s->xsave[32 + 9] = 0x40;
}

static void test_round_trip(void)
{
	const struct image g = { guest_busy, guest_busy_end };
	struct rig *r = start(&accel_kvm_ops, &g, false);
	struct cpu_state s, got, again;
	g_autofree char *diff = NULL, *diff2 = NULL;

	fill_state(&s);
	g_assert_cmpint(r->ops->set_state(r->vcpu[0], &s), ==, 0);
	g_assert_cmpint(r->ops->get_state(r->vcpu[0], &got), ==, 0);
	diff = cpu_state_diff(&s, &got);
	g_assert_cmpstr(diff, ==, "");
	/* Some hosts show their own counter whatever they are told; where it is unstable, KVM makes up for what it loses. */
	if (got.tsc_offset)
		g_assert_cmpint(ABS((int64_t)(s.tsc_offset - got.tsc_offset)), <, INT64_C(1) << 33);
	g_assert_cmpint(r->ops->set_state(r->vcpu[0], &got), ==, 0);
	g_assert_cmpint(r->ops->get_state(r->vcpu[0], &again), ==, 0);
	diff2 = cpu_state_diff(&got, &again);
	g_assert_cmpstr(diff2, ==, "");
	/* A processor that waits and one that is halted. */
	s.mp_state = MP_WAIT_SIPI;
	r->ops->set_state(r->vcpu[0], &s);
	r->ops->get_state(r->vcpu[0], &got);
	g_assert_cmpint(got.mp_state, ==, MP_WAIT_SIPI);
	s.mp_state = MP_HALTED;
	s.interrupt_shadow = true;
	s.nmi_pending = false;
	r->ops->set_state(r->vcpu[0], &s);
	r->ops->get_state(r->vcpu[0], &got);
	g_assert_cmpint(got.mp_state, ==, MP_HALTED);
	g_assert_true(got.interrupt_shadow);
	/* An exception that is half-way. */
	s.mp_state = MP_RUNNING;
	s.event_pending = s.event_has_error = true;
	s.event_vector = EXC_GP;
	s.event_kind = 3;
	s.event_error = 0x18;
	r->ops->set_state(r->vcpu[0], &s);
	r->ops->get_state(r->vcpu[0], &got);
	g_assert_true(got.event_pending && got.event_has_error);
	g_assert_cmpint(got.event_vector, ==, EXC_GP);
	g_assert_cmphex(got.event_error, ==, 0x18);
	rig_destroy(r);
}

static void test_impossible_state(void)
{
	const struct image g = { guest_busy, guest_busy_end };
	struct rig *r = start(&accel_kvm_ops, &g, false);
	struct cpu_state s;

	cpu_state_reset(&s, true);
	s.mp_state = 9;
	g_assert_cmpint(r->ops->set_state(r->vcpu[0], &s), ==, -EINVAL);
	cpu_state_reset(&s, true);
	s.cr0 = CR0_PG;
	g_assert_cmpint(r->ops->set_state(r->vcpu[0], &s), ==, -EINVAL);
	rig_destroy(r);
}

static void test_apic_state(void)
{
	const struct image g = { guest_busy, guest_busy_end };
	struct rig *r = start(&accel_kvm_ops, &g, false);
	struct apic_state s, got;

	g_assert_cmpint(r->ops->get_apic(r->vcpu[1], &s), ==, 0);
	g_assert_cmphex(s.base, ==, 0xfee00800);
	g_assert_cmpint(s.id, ==, 1);
	s.tpr = 0x20;
	s.svr = 0x1ff;
	s.ldr = 0x02000000;
	s.lvt[0] = 0x10030;
	s.lvt[3] = 0x700;
	s.irr[2] = 2;
	s.tmr[2] = 2;
	s.isr[1] = 1;
	s.timer_divide = 0xb;
	s.timer_init = s.timer_now = 0xfffffff0;
	g_assert_cmpint(r->ops->set_apic(r->vcpu[1], &s), ==, 0);
	g_assert_cmpint(r->ops->get_apic(r->vcpu[1], &got), ==, 0);
	/* The timer has gone on. */
	g_assert_cmpuint(got.timer_now, <, s.timer_now);
	g_assert_cmpuint(got.timer_now, >, s.timer_now - 1000000000u);
	got.timer_now = s.timer_now;
	g_assert_cmpmem(&s, sizeof(s), &got, sizeof(got));
	/* x2APIC mode keeps the ID where it is. */
	s.base |= 0x400;
	s.ldr = 2;
	g_assert_cmpint(r->ops->set_apic(r->vcpu[1], &s), ==, 0);
	g_assert_cmpint(r->ops->get_apic(r->vcpu[1], &got), ==, 0);
	g_assert_cmpint(got.id, ==, 1);
	g_assert_cmphex(got.base, ==, 0xfee00c00);
	g_assert_cmphex(got.ldr, ==, 2);
	s.tpr = 0x100;
	g_assert_cmpint(r->ops->set_apic(r->vcpu[1], &s), ==, -EINVAL);
	rig_destroy(r);
}

/* ---- kicks and the dirty log ---- */

struct runner {
	struct rig *rig;
	unsigned cpu;
	_Atomic unsigned left; /* times that run() has ended */
	_Atomic bool stop;
};

static void *run_loop(void *opaque)
{
	struct runner *t = opaque;
	struct vcpu_exit exit;

	while (!t->stop) {
		t->rig->ops->run(t->rig->vcpu[t->cpu], &exit);
		if (exit.kind != VCPU_EXIT_KICKED)
			g_string_append_printf(t->rig->log, "cpu %u: exit %d %s\n", t->cpu, exit.kind, exit.message);
		t->left++;
	}
	return NULL;
}

/* Every kick is answered, at whatever moment it comes. */
static void test_kick(void)
{
	const struct image g = { guest_busy, guest_busy_end };
	struct rig *r = start(&accel_kvm_ops, &g, false);
	struct runner t = { .rig = r };
	struct vcpu_exit exit;
	pthread_t thread;

	/* Before run() is called. */
	r->ops->kick(r->vcpu[0]);
	r->ops->run(r->vcpu[0], &exit);
	g_assert_cmpint(exit.kind, ==, VCPU_EXIT_KICKED);
	pthread_create(&thread, NULL, run_loop, &t);
	for (unsigned i = 0; i < 2000; i++) {
		unsigned before = t.left;
		gint64 since = g_get_monotonic_time();

		for (volatile unsigned spin = 0; spin < i * 7 % 1000; spin++)
			;
		r->ops->kick(r->vcpu[0]);
		while (t.left == before && g_get_monotonic_time() - since < 5 * G_USEC_PER_SEC)
			g_thread_yield();
		g_assert_cmpuint(t.left, >, before);
	}
	t.stop = true;
	r->ops->kick(r->vcpu[0]);
	pthread_join(thread, NULL);
	g_assert_null(strstr(r->log->str, "exit"));
	rig_destroy(r);
}

static void test_dirty_log(void)
{
	const struct image g = { guest_busy, guest_busy_end };
	struct rig *r = start(&accel_kvm_ops, &g, true);
	unsigned found = 0;

	memset(r->ram->dirty, 0, RAM_SIZE >> PAGE_SHIFT);
	g_assert_true(rig_run(r));
	for (unsigned i = 0; i < MEM_MAX_SLOTS; i++) {
		if (mem_slot(r->mem, i))
			r->ops->dirty_log(r->accel, i, mem_slot(r->mem, i));
	}
	g_assert_true(ram_test_clear_dirty(r->ram, 0x20000, 1, DIRTY_VGA));
	g_assert_true(ram_test_clear_dirty(r->ram, 0x40123, 1, DIRTY_SNAPSHOT));
	g_assert_false(ram_test_clear_dirty(r->ram, 0x41000, PAGE_SIZE, DIRTY_VGA));
	for (unsigned i = 0; i < RAM_SIZE >> PAGE_SHIFT; i++)
		found += r->ram->dirty[i] != 0;
	/* What the kernel itself touches (accessed bits, stack) may add a page or two. */
	g_assert_cmpuint(found, <=, 5);
	/* The log starts anew with each reading. */
	memset(r->ram->dirty, 0, RAM_SIZE >> PAGE_SHIFT);
	r->ops->dirty_log(r->accel, 0, mem_slot(r->mem, 0));
	g_assert_false(ram_test_clear_dirty(r->ram, 0x20000, 1, DIRTY_VGA));
	rig_destroy(r);
}

/* ---- interrupts ---- */

static void raise_one(struct rig *r, int fd, unsigned n)
{
	const uint64_t one = 1;

	switch (n % 3) {
	case 0:
		r->vector = 0x20;
		r->ops->set_irq(r->vcpu[0], VCPU_INTR, true);
		break;
	case 1:
		/* Level-triggered, to processor 0: by us, and by the kernel. */
		if (n % 2)
			g_assert_cmpint(r->ops->send_msi(r->accel, 0xfee00000, 0xc040), ==, 0);
		else
			g_assert_cmpint(write(fd, &one, sizeof(one)), ==, sizeof(one));
		break;
	default:
		r->ops->set_irq(r->vcpu[0], VCPU_NMI, true);
		break;
	}
}

static void *end_loop(void *opaque)
{
	struct runner *t = opaque;

	t->stop = !rig_run(t->rig);
	t->left = 1;
	return NULL;
}

static void test_interrupts(void)
{
	const struct image g = { guest_interrupts, guest_interrupts_end };
	struct rig *r = start(&accel_kvm_ops, &g, false);
	struct runner t = { .rig = r };
	int fd = eventfd(0, EFD_NONBLOCK), other = eventfd(0, EFD_NONBLOCK);
	pthread_t thread;
	uint64_t left;

	g_assert_true(rig_run(r));
	g_assert_cmpint(r->ops->irqfd(r->accel, other, 0xfee00000, 0x41, true), ==, 0);
	g_assert_cmpint(r->ops->irqfd(r->accel, fd, 0xfee00000, 0xc040, true), ==, 0);
	g_assert_cmpint(r->ops->irqfd(r->accel, other, 0xfee00000, 0x41, false), ==, 0);
	g_assert_cmpint(r->ops->irqfd(r->accel, other, 0xfee00000, 0x41, false), ==, -ENOENT);
	g_assert_cmpint(r->ops->route_pin(r->accel, 9, 0xfee00000, 0xc040), ==, 0);
	g_assert_cmpint(r->ops->route_pin(r->accel, 24, 0xfee00000, 0xc040), ==, -EINVAL);
	pthread_create(&thread, NULL, end_loop, &t);
	/* One after the other, each waking the halted processor. */
	for (unsigned i = 0; i < 30; i++) {
		static const uint16_t at[] = { 0x3000, 0x3002, 0x3004 };
		const uint8_t *count = r->ram->host + at[i % 3];
		gint64 since = g_get_monotonic_time();

		raise_one(r, fd, i);
		while (ld16le((const void *)count) != i / 3 + 1 && g_get_monotonic_time() - since < 5 * G_USEC_PER_SEC)
			g_usleep(50);
		g_assert_cmpuint(ld16le((const void *)count), ==, i / 3 + 1);
	}
	pthread_join(thread, NULL);
	g_assert_false(t.stop);
	g_assert_cmpuint(r->eois, ==, 10);
	g_assert_cmpuint(r->last_eoi, ==, 0x40);
	/* What nobody takes any more stays in the eventfd. */
	g_assert_cmpint(r->ops->irqfd(r->accel, fd, 0xfee00000, 0xc040, false), ==, 0);
	g_assert_cmpint(read(fd, &left, sizeof(left)), <, 0);
	left = 1;
	g_assert_cmpint(write(fd, &left, sizeof(left)), ==, sizeof(left));
	g_assert_cmpint(read(fd, &left, sizeof(left)), ==, sizeof(left));
	close(fd);
	close(other);
	/* Without the route nobody is told. */
	g_assert_cmpint(r->ops->route_pin(r->accel, 9, 0xfee00000, 0x40), ==, 0);
	rig_destroy(r);
}

static void stop_here(struct rig *r, unsigned cpu, uint16_t port)
{
	r->moved = true;
	r->ops->kick(r->vcpu[cpu]);
}

static void expect_handler(struct rig *r)
{
	r->event = stop_here;
	g_assert_true(rig_run(r));
	g_assert_cmpuint(ld16le(r->ram->host + 0x3000), ==, 1);
}

/* What the PIC has given away belongs to the state from then on, at whatever moment the processor is held. */
static void test_held(void)
{
	const struct image g = { guest_interrupts, guest_interrupts_end };
	struct rig *r = start(&accel_kvm_ops, &g, false), *k = start(&accel_kvm_ops, &g, false), *i = start(&accel_interp_ops, &g, false);
	struct vcpu_exit exit;
	struct cpu_state s;

	g_assert_true(rig_run(r));
	r->vector = 0x20;
	r->hold_at_ack = true;
	r->ops->set_irq(r->vcpu[0], VCPU_INTR, true);
	r->ops->run(r->vcpu[0], &exit);
	g_assert_cmpint(exit.kind, ==, VCPU_EXIT_KICKED);
	g_assert_cmpint(r->vector, ==, -1);
	g_assert_cmpint(r->ops->get_state(r->vcpu[0], &s), ==, 0);
	g_assert_true(s.event_pending);
	g_assert_cmpint(s.event_vector, ==, 0x20);
	g_assert_cmpint(s.mp_state, ==, MP_RUNNING);
	rig_copy(k, r);
	rig_copy(i, r);
	expect_handler(r);
	expect_handler(k);
	expect_handler(i);
	rig_destroy(r);
	rig_destroy(k);
	rig_destroy(i);
}

static void test_smp(void)
{
	const struct image g = { guest_smp, guest_smp_end };
	struct rig *r = start(&accel_kvm_ops, &g, false);
	struct runner t = { .rig = r, .cpu = 1 };
	pthread_t thread;

	pthread_create(&thread, NULL, run_loop, &t);
	run_to_end(r);
	t.stop = true;
	r->ops->kick(r->vcpu[1]);
	pthread_join(thread, NULL);
	g_assert_cmpuint(ld32le(r->ram->host + 0x3000), ==, 40000);
	rig_destroy(r);
}

/* ---- single step ---- */

static unsigned steps_to_move(const struct accel_ops *ops)
{
	const struct image g = { guest_busy, guest_busy_end };
	struct rig *r = start(ops, &g, false);
	struct vcpu_exit exit;
	struct cpu_state s;
	unsigned steps = 0;

	r->ops->set_step(r->vcpu[0], true);
	while (!r->moved && steps < 100) {
		r->ops->run(r->vcpu[0], &exit);
		if (exit.kind == VCPU_EXIT_DEBUG)
			steps++;
		else
			g_assert_cmpint(exit.kind, ==, VCPU_EXIT_KICKED);
	}
	r->ops->set_step(r->vcpu[0], false);
	/* The trap flag by which it is done does not show. */
	r->ops->get_state(r->vcpu[0], &s);
	g_assert_cmphex(s.rflags & RFLAGS_TF, ==, 0);
	rig_destroy(r);
	return steps;
}

static void test_step(void)
{
	unsigned kvm = steps_to_move(&accel_kvm_ops), interp = steps_to_move(&accel_interp_ops);

	/* Whether the last one ends by the step or by the kick is the engine's affair. */
	g_assert_cmpuint(kvm, >=, 8);
	g_assert_cmpuint(kvm, <=, 9);
	g_assert_cmpuint(interp, >=, 8);
	g_assert_cmpuint(interp, <=, 9);
}

/* ---- the self-test ---- */

static void test_probe(void)
{
	g_autofree char *path = g_build_filename(g_get_tmp_dir(), "guise-kvm-test-XXXXXX", NULL);
	g_autoptr(GError) missing = NULL, denied = NULL, other = NULL, real = NULL;
	gint64 since;
	bool ok;
	int fd;

	g_assert_false(kvm_probe("/nonexistent/kvm", &missing));
	g_assert_error(missing, KVM_ERROR, KVM_ERROR_MISSING);
	g_assert_nonnull(strstr(missing->message, "modprobe"));
	fd = mkstemp(path);
	g_assert_cmpint(fd, >=, 0);
	g_assert_false(kvm_probe(path, &other));
	g_assert_error(other, KVM_ERROR, KVM_ERROR_API);
	fchmod(fd, 0);
	close(fd);
	if (geteuid() != 0 || seteuid(65534) == 0) {
		g_assert_false(kvm_probe(path, &denied));
		g_assert_error(denied, KVM_ERROR, KVM_ERROR_DENIED);
		g_assert_nonnull(strstr(denied->message, "usermod -aG kvm"));
		g_assert_cmpint(seteuid(getuid()), ==, 0);
	}
	unlink(path);
	since = g_get_monotonic_time();
	ok = kvm_usable(&real);
	g_test_message("self-test: %s, %d us", ok ? "usable" : real->message, (int)(g_get_monotonic_time() - since));
	if (!ok)
		g_assert_error(real, KVM_ERROR, KVM_ERROR_SLOW);
	/* Some ten milliseconds, and room for a busy machine. */
	g_assert_cmpint(g_get_monotonic_time() - since, <, G_USEC_PER_SEC / 2);
}

int main(int argc, char **argv)
{
	g_autoptr(GError) error = NULL;

	g_test_init(&argc, &argv, NULL);
	if (!kvm_usable(&error) && !g_error_matches(error, KVM_ERROR, KVM_ERROR_SLOW)) {
		printf("1..0 # SKIP %s\n", error->message);
		return 77;
	}
	g_test_add_func("/kvm/probe", test_probe);
	g_test_add_func("/kvm/state", test_round_trip);
	g_test_add_func("/kvm/impossible-state", test_impossible_state);
	g_test_add_func("/kvm/apic-state", test_apic_state);
	g_test_add_func("/kvm/kick", test_kick);
	g_test_add_func("/kvm/dirty-log", test_dirty_log);
	g_test_add_func("/kvm/interrupts", test_interrupts);
	g_test_add_func("/kvm/held", test_held);
	g_test_add_func("/kvm/smp", test_smp);
	g_test_add_func("/kvm/step", test_step);
	g_test_add_data_func("/kvm/same/real", &images[0], test_same);
	g_test_add_data_func("/kvm/same/protected", &images[1], test_same);
	g_test_add_data_func("/kvm/same/protected-full", &images[2], test_same);
	g_test_add_data_func("/kvm/same/long", &images[3], test_same);
	g_test_add_data_func("/kvm/same/long-full", &images[4], test_same);
	g_test_add_data_func("/kvm/move/real", &images[0], test_move);
	g_test_add_data_func("/kvm/move/protected", &images[1], test_move);
	g_test_add_data_func("/kvm/move/protected-full", &images[2], test_move);
	g_test_add_data_func("/kvm/move/long", &images[3], test_move);
	g_test_add_data_func("/kvm/move/long-full", &images[4], test_move);
	return g_test_run();
}
