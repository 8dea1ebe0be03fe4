/*
 * The virtio network card on vhost-net, without a kernel that has it: open and ioctl of this program are wrapped, and what is
 * behind them keeps what it is told, moves frames when asked to, and refuses what a test wants refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <linux/virtio_ring.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "dev/virtio_net.h"
#include "device_state.h"
#include "net/backend.h"
#include "net/vhost.h"
#include "virtio_driver.h"

#define DEVFN (4 << 3)
#define HEADER 12u
#define RX 0
#define TX 1
#define F_MRG (UINT64_C(1) << 15)
#define F_STATUS (UINT64_C(1) << 16)
#define RINGS_KNOWN (F_VERSION_1 | F_INDIRECT | F_EVENT_IDX | F_MRG)
/* Of vhost_open and of vhost_start: owner, features; features, memory, five for each ring, the interface for each. */
#define OPEN_CALLS 2
#define START_CALLS (2 + 5 * 2 + 2)

static const uint8_t mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };

/* ---- the kernel ---- */

static struct kernel {
	int open_error;    /* of /dev/vhost-net */
	uint64_t features; /* it knows */
	int node, tun, wire; /* wire: the other end of the interface */
	unsigned calls, refuse; /* the how many-th call of vhost-net's fails; 0: none */
	unsigned long refused; /* each of these fails */
	uint64_t agreed;
	struct vhost_memory *memory;
	struct { unsigned size, kick, call; int backend; uint16_t last; struct vhost_vring_addr at; } ring[2];
} kernel;

int __real_open(const char *path, int flags, ...);
int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

static int fake_open(const char *path)
{
	int pair[2];

	if (!strcmp(path, "/dev/vhost-net")) {
		if (kernel.open_error) {
			errno = kernel.open_error;
			return -1;
		}
		kernel.node = eventfd(0, EFD_CLOEXEC);
		return kernel.node;
	}
	g_assert_cmpint(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), ==, 0);
	kernel.tun = pair[0];
	kernel.wire = pair[1];
	return kernel.tun;
}

int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	if (!strcmp(path, "/dev/vhost-net") || !strcmp(path, "/dev/net/tun"))
		return fake_open(path);
	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return __real_open(path, flags, mode);
}

int __wrap_open64(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return __wrap_open(path, flags, mode);
}

static void keep_memory(const struct vhost_memory *m)
{
	g_free(kernel.memory);
	kernel.memory = g_memdup2(m, sizeof(*m) + m->nregions * sizeof(m->regions[0]));
}

static int vhost_call(unsigned long request, void *argument)
{
	const struct vhost_vring_file *file = argument;
	struct vhost_vring_state *state = argument;

	if (++kernel.calls == kernel.refuse || request == kernel.refused) {
		errno = EFAULT;
		return -1;
	}
	switch (request) {
	case VHOST_SET_OWNER: break;
	case VHOST_GET_FEATURES: *(uint64_t *)argument = kernel.features; break;
	case VHOST_SET_FEATURES:
		g_assert_cmphex(*(uint64_t *)argument & ~kernel.features, ==, 0);
		kernel.agreed = *(uint64_t *)argument;
		break;
	case VHOST_SET_MEM_TABLE: keep_memory(argument); break;
	case VHOST_SET_VRING_NUM: kernel.ring[state->index].size = state->num; break;
	case VHOST_SET_VRING_BASE:
		g_assert_cmpint(kernel.ring[state->index].backend, <, 0);
		kernel.ring[state->index].last = (uint16_t)state->num;
		break;
	case VHOST_GET_VRING_BASE: state->num = kernel.ring[state->index].last; break;
	case VHOST_SET_VRING_ADDR: kernel.ring[*(unsigned *)argument].at = *(struct vhost_vring_addr *)argument; break;
	case VHOST_SET_VRING_KICK: kernel.ring[file->index].kick = (unsigned)file->fd; break;
	case VHOST_SET_VRING_CALL: kernel.ring[file->index].call = (unsigned)file->fd; break;
	case VHOST_NET_SET_BACKEND:
		g_assert_true(file->fd < 0 || file->fd == kernel.tun);
		kernel.ring[file->index].backend = file->fd;
		break;
	default: g_assert_not_reached();
	}
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	void *argument;
	va_list ap;

	va_start(ap, request);
	argument = va_arg(ap, void *);
	va_end(ap);
	if (fd == kernel.node)
		return vhost_call(request, argument);
	if (fd == kernel.tun) {
		g_assert_true(request == TUNSETIFF || request == TUNSETVNETHDRSZ || request == TUNSETOFFLOAD);
		return 0;
	}
	return __real_ioctl(fd, request, argument);
}

static void *kernel_at(uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < kernel.memory->nregions; i++) {
		const struct vhost_memory_region *r = &kernel.memory->regions[i];

		if (gpa >= r->guest_phys_addr && gpa - r->guest_phys_addr + len <= r->memory_size)
			return (void *)(uintptr_t)(r->userspace_addr + gpa - r->guest_phys_addr);
	}
	return NULL;
}

static bool taken_over(void) { return kernel.ring[RX].backend >= 0 && kernel.ring[TX].backend >= 0; }

/* The next buffer of a ring, of one descriptor; it is used with `len` bytes, and the driver called. NULL: there is none. */
static void *kernel_take(unsigned index, uint32_t len)
{
	typeof(kernel.ring[0]) *r = &kernel.ring[index];
	const struct vring_avail *avail = (void *)(uintptr_t)r->at.avail_user_addr;
	struct vring_used *used = (void *)(uintptr_t)r->at.used_user_addr;
	const struct vring_desc *d;
	const uint64_t one = 1;
	uint16_t head;

	if (!taken_over() || avail->idx == r->last)
		return NULL;
	head = avail->ring[r->last % r->size];
	d = (const struct vring_desc *)(uintptr_t)r->at.desc_user_addr + head;
	used->ring[r->last % r->size] = (struct vring_used_elem){ head, len };
	used->idx = ++r->last;
	g_assert_cmpint(write((int)r->call, &one, sizeof(one)), ==, sizeof(one));
	g_assert_cmpuint(len, <=, d->len);
	return kernel_at(d->addr, d->len);
}

/* ---- the machine ---- */

struct doorbell { uint64_t gpa; int fd; };

struct rig {
	struct drv d;
	pthread_mutex_t lock; /* the test's, but while it waits */
	struct netdev *nd;
	struct virtio_net *n;
	uint64_t page;
	GArray *doorbells;
	struct { int fd; struct pci_message m; } irqfd[4];
	unsigned irqfds;
	bool engine; /* it has eventfds */
	char *why;
	unsigned refusals;
};

static int engine_doorbell(void *opaque, uint64_t gpa, unsigned len, int fd, bool on)
{
	struct rig *r = opaque;
	const struct doorbell new = { gpa, fd };

	g_assert_cmpuint(len, ==, 2);
	for (unsigned i = 0; i < r->doorbells->len; i++) {
		const struct doorbell *b = &g_array_index(r->doorbells, struct doorbell, i);

		if (b->gpa != gpa)
			continue;
		g_assert_false(on);
		g_assert_cmpint(b->fd, ==, fd);
		g_array_remove_index(r->doorbells, i);
		return 0;
	}
	g_assert_true(on);
	if (!r->engine)
		return -ENOTSUP;
	g_array_append_val(r->doorbells, new);
	return 0;
}

static int engine_irqfd(void *opaque, int fd, uint64_t address, uint32_t data, bool on)
{
	struct rig *r = opaque;

	for (unsigned i = 0; i < r->irqfds; i++) {
		if (r->irqfd[i].fd != fd)
			continue;
		g_assert_false(on);
		g_assert_cmpuint(r->irqfd[i].m.data, ==, data);
		r->irqfd[i] = r->irqfd[--r->irqfds];
		return 0;
	}
	g_assert_true(on);
	if (!r->engine)
		return -ENOTSUP;
	r->irqfd[r->irqfds].fd = fd;
	r->irqfd[r->irqfds++].m = (struct pci_message){ address, data };
	return 0;
}

static void refused(void *opaque, const char *why)
{
	struct rig *r = opaque;

	g_free(r->why);
	r->why = g_strdup(why);
	r->refusals++;
}

static void layout_changed(void *opaque, const struct mem_slot *slot, unsigned index, bool added)
{
	struct rig *r = opaque;

	if (netdev_vhost(r->nd))
		vhost_layout(netdev_vhost(r->nd), added ? MEM_MAX_SLOTS : index);
}

/* A card on a tap interface, with the kernel's help if vhost_open succeeds. */
static bool set_up(struct rig *r, bool engine, GError **error)
{
	struct net_config c = { .kind = NET_TAP, .target = (char *)"tap0" };
	const struct eventfds e = { engine_doorbell, engine_irqfd, r };
	const struct mem_listener listener = { layout_changed, r };
	bool helped;

	memset(r, 0, sizeof(*r));
	r->engine = engine;
	r->doorbells = g_array_new(false, false, sizeof(struct doorbell));
	pthread_mutex_init(&r->lock, NULL);
	pthread_mutex_lock(&r->lock);
	drv_init(&r->d);
	pci_bus_set_eventfds(r->d.bus, &e);
	r->nd = netdev_open(&c, &r->lock, NULL);
	g_assert_nonnull(r->nd);
	helped = vhost_open(r->nd, r->d.mem, error);
	r->n = virtio_net_create(r->d.bus, DEVFN, r->d.clock, r->nd, mac, 1, "net0");
	virtio_net_on_refusal(r->n, refused, r);
	mem_set_listener(r->d.mem, &listener);
	r->page = drv_alloc(&r->d, 1 << 16, 4096);
	drv_probe(&r->d, DEVFN);
	return helped;
}

static void kernel_reset(void)
{
	g_free(kernel.memory);
	kernel = (struct kernel){ .features = RINGS_KNOWN, .node = -1, .tun = -1, .wire = -1, .ring = { { .backend = -1 }, { .backend = -1 } } };
}

static void take_down(struct rig *r)
{
	virtio_net_device(r->n)->ops->destroy(virtio_net_device(r->n));
	g_assert_cmpuint(r->doorbells->len, ==, 0);
	g_assert_cmpuint(r->irqfds, ==, 0);
	pthread_mutex_unlock(&r->lock);
	netdev_destroy(r->nd);
	drv_finish(&r->d);
	close(kernel.wire);
	g_array_unref(r->doorbells);
	g_free(r->why);
	kernel_reset();
}

static void begin(struct rig *r)
{
	g_assert_true(drv_negotiate(&r->d, (RINGS_KNOWN | F_STATUS) & drv_offered(&r->d)));
	drv_msix(&r->d, 2);
	for (unsigned i = 0; i < 3; i++)
		drv_queue_setup(&r->d, i, 16);
	drv_ok(&r->d);
}

/* The card decides who works on its rings when it is kicked. */
static void start(struct rig *r)
{
	begin(r);
	drv_kick(&r->d, RX);
}

#define WAIT_FOR(r, condition) do { \
	gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC; \
	while (!(condition)) { \
		g_assert_cmpint(g_get_monotonic_time(), <, end); \
		pthread_mutex_unlock(&(r)->lock); \
		g_usleep(1000); \
		pthread_mutex_lock(&(r)->lock); \
	} \
} while (0)

static bool signalled(unsigned fd)
{
	uint64_t count;

	return read((int)fd, &count, sizeof(count)) == sizeof(count);
}

static void give(struct rig *r, unsigned ring, uint32_t len, bool write)
{
	const struct drv_buf b = { r->page + 4096 * ring, len, write };

	drv_add(&r->d, ring, &b, 1, false);
}

static bool used(struct rig *r, unsigned ring)
{
	uint32_t id, len;

	return drv_used(&r->d, ring, &id, &len);
}

static void fill(uint8_t *frame, uint8_t seed)
{
	memset(frame, 0, HEADER);
	for (unsigned i = HEADER; i < HEADER + 60; i++)
		frame[i] = (uint8_t)(seed + i);
	memcpy(frame + HEADER, mac, 6);
}

/* A frame each way, by the kernel. */
static void frames_by_kernel(struct rig *r, uint8_t seed)
{
	uint8_t frame[HEADER + 60], *at;

	fill(frame, seed);
	mem_write(r->d.mem, r->page + 4096, frame, sizeof(frame));
	give(r, TX, sizeof(frame), false);
	drv_kick(&r->d, TX);
	g_assert_true(signalled(kernel.ring[TX].kick));
	at = kernel_take(TX, 0);
	g_assert_nonnull(at);
	g_assert_cmpmem(at, sizeof(frame), frame, sizeof(frame));
	g_assert_true(used(r, TX));
	give(r, RX, 2048, true);
	at = kernel_take(RX, sizeof(frame));
	g_assert_nonnull(at);
	g_assert_true(used(r, RX));
}

/* And by the process. */
static void frames_by_us(struct rig *r, uint8_t seed)
{
	uint8_t frame[HEADER + 60], got[HEADER + 60];

	g_assert_false(taken_over());
	fill(frame, seed);
	mem_write(r->d.mem, r->page + 4096, frame, sizeof(frame));
	give(r, TX, sizeof(frame), false);
	drv_kick(&r->d, TX);
	g_assert_true(used(r, TX));
	g_assert_cmpint(recv(kernel.wire, got, sizeof(got), 0), ==, sizeof(got));
	g_assert_cmpmem(got + HEADER, 60, frame + HEADER, 60);
	give(r, RX, 2048, true);
	drv_kick(&r->d, RX);
	g_assert_cmpint(send(kernel.wire, frame, sizeof(frame), 0), ==, sizeof(frame));
	WAIT_FOR(r, used(r, RX));
}

/* ---- the tests ---- */

static void test_frames(void)
{
	struct rig r;

	g_assert_true(set_up(&r, false, NULL));
	start(&r);
	g_assert_true(taken_over());
	g_assert_cmphex(kernel.agreed, ==, RINGS_KNOWN);
	g_assert_cmpuint(r.refusals, ==, 0);
	frames_by_kernel(&r, 1);
	/* The engine has no eventfds: our thread makes interrupts of the calls. */
	WAIT_FOR(&r, r.d.msi[RX + 1] && r.d.msi[TX + 1]);
	/* A reset gives the rings back, another driver starts from nothing. */
	drv_common_write(&r.d, 0x14, 1, 0);
	g_assert_false(taken_over());
	start(&r);
	g_assert_true(taken_over());
	frames_by_kernel(&r, 2);
	/* So does bus mastering that is taken away, and the places in the rings are kept. */
	pci_config_write(r.d.bus, DEVFN, 4, 2, 2);
	g_assert_false(taken_over());
	pci_config_write(r.d.bus, DEVFN, 4, 2, 6);
	g_assert_true(taken_over());
	g_assert_cmpuint(kernel.ring[TX].last, ==, 1);
	frames_by_kernel(&r, 3);
	take_down(&r);
}

/* Kicks and calls go between the guest and the kernel by themselves where the engine can do that. */
static void test_eventfds(void)
{
	struct rig r;
	unsigned before;

	g_assert_true(set_up(&r, true, NULL));
	start(&r);
	g_assert_cmpuint(r.doorbells->len, ==, 2);
	g_assert_cmpuint(r.irqfds, ==, 2);
	for (unsigned i = 0; i < 2; i++) {
		g_assert_cmphex(r.irqfd[i].m.address, ==, 0xfee00000);
		g_assert_cmpuint(r.irqfd[i].m.data, ==, i + 1);
		g_assert_cmpint(r.irqfd[i].fd, ==, kernel.ring[i].call);
	}
	/* Nobody here reads the calls. */
	before = r.d.msi[TX + 1];
	frames_by_kernel(&r, 1);
	pthread_mutex_unlock(&r.lock);
	g_usleep(20000);
	pthread_mutex_lock(&r.lock);
	g_assert_cmpuint(r.d.msi[TX + 1], ==, before);
	g_assert_true(signalled(kernel.ring[TX].call) && signalled(kernel.ring[RX].call));
	/* A vector that is masked is pending, and sent later. */
	space_write(r.d.mmio, 0xfe010000 + 16 * (TX + 1) + 12, 4, 1);
	g_assert_cmpuint(r.irqfds, ==, 1);
	frames_by_kernel(&r, 2);
	WAIT_FOR(&r, space_read(r.d.mmio, 0xfe010000 + 0x800, 8) == 1 << (TX + 1));
	g_assert_cmpuint(r.d.msi[TX + 1], ==, before);
	space_write(r.d.mmio, 0xfe010000 + 16 * (TX + 1) + 12, 4, 0);
	g_assert_cmpuint(r.d.msi[TX + 1], ==, before + 1);
	g_assert_cmpuint(r.irqfds, ==, 2);
	/* Another message, another vector. */
	space_write(r.d.mmio, 0xfe010000 + 16 * (TX + 1) + 8, 4, 77);
	g_assert_cmpuint(r.irqfd[1].m.data, ==, 77);
	drv_common_write(&r.d, 0x16, 2, TX);
	drv_common_write(&r.d, 0x1a, 2, RX + 1);
	g_assert_cmpuint(r.irqfd[1].m.data, ==, RX + 1);
	drv_common_write(&r.d, 0x1a, 2, 0xffff);
	g_assert_cmpuint(r.irqfds, ==, 1);
	take_down(&r);
}

/* The guest moves the registers: doorbells go with them. */
static void test_bar_moved(void)
{
	uint32_t bar;
	struct rig r;
	uint64_t at[2];

	g_assert_true(set_up(&r, true, NULL));
	start(&r);
	for (unsigned i = 0; i < 2; i++)
		at[i] = g_array_index(r.doorbells, struct doorbell, i).gpa;
	bar = pci_config_read(r.d.bus, DEVFN, 0x20, 4) & ~15u;
	pci_config_write(r.d.bus, DEVFN, 0x20, 4, bar + 0x100000);
	g_assert_cmpuint(r.doorbells->len, ==, 2);
	for (unsigned i = 0; i < 2; i++)
		g_assert_cmphex(g_array_index(r.doorbells, struct doorbell, i).gpa, ==, at[i] + 0x100000);
	g_assert_true(taken_over());
	/* Decoded nowhere: no doorbells. */
	pci_config_write(r.d.bus, DEVFN, 4, 2, 4);
	g_assert_cmpuint(r.doorbells->len, ==, 0);
	pci_config_write(r.d.bus, DEVFN, 4, 2, 6);
	g_assert_cmpuint(r.doorbells->len, ==, 2);
	pci_config_write(r.d.bus, DEVFN, 0x20, 4, bar);
	frames_by_kernel(&r, 1);
	take_down(&r);
}

static void test_link(void)
{
	struct rig r;

	g_assert_true(set_up(&r, true, NULL));
	start(&r);
	for (unsigned i = 0; i < 20; i++) {
		frames_by_kernel(&r, (uint8_t)i);
		netdev_set_link(r.nd, false);
		g_assert_false(taken_over());
		g_assert_cmpuint(r.doorbells->len, ==, 0);
		g_assert_cmpuint(r.irqfds, ==, 0);
		/* What the driver sends meanwhile is lost, and given back. */
		give(&r, TX, HEADER + 60, false);
		drv_kick(&r.d, TX);
		g_assert_true(used(&r, TX));
		netdev_set_link(r.nd, true);
		g_assert_true(taken_over());
		g_assert_cmpuint(kernel.ring[TX].last, ==, 2 * i + 2);
		g_assert_cmpuint(kernel.ring[RX].last, ==, i + 1);
		/* Both rings are looked at for what came before. */
		g_assert_true(signalled(kernel.ring[TX].kick) && signalled(kernel.ring[RX].kick));
	}
	take_down(&r);
}

static bool told(uint64_t gpa) { return kernel_at(gpa, PAGE_SIZE); }

/* RAM that comes and goes while the kernel runs; ROM, and RAM that is watched, are no business of its. */
static void test_layout(void)
{
	struct ram *more = ram_create("more", 1 << 20, NULL), *watched = ram_create("watched", 1 << 20, NULL);
	struct rig r;
	int slot[3];

	g_assert_true(set_up(&r, true, NULL));
	start(&r);
	watched->log_dirty = true;
	slot[0] = mem_map(r.d.mem, 0x10000000, 1 << 20, more, 0, false);
	slot[1] = mem_map(r.d.mem, 0x20000000, 1 << 20, watched, 0, false);
	slot[2] = mem_map(r.d.mem, 0x30000000, 1 << 19, more, 1 << 19, true);
	g_assert_true(told(0) && told(0x10000000));
	g_assert_false(told(0x20000000) || told(0x30000000));
	frames_by_kernel(&r, 1);
	mem_unmap(r.d.mem, slot[0]);
	g_assert_true(told(0));
	g_assert_false(told(0x10000000));
	/* Shadowed by what can be written, and back. */
	mem_unmap(r.d.mem, slot[2]);
	slot[2] = mem_map(r.d.mem, 0x30000000, 1 << 19, more, 1 << 19, false);
	g_assert_true(told(0x30000000));
	for (unsigned i = 0; i < 50; i++) {
		slot[0] = mem_map(r.d.mem, 0x10000000, 1 << 20, more, 0, false);
		frames_by_kernel(&r, (uint8_t)i);
		mem_unmap(r.d.mem, slot[0]);
	}
	/* A layout that the kernel refuses ends its work; nothing that was given to it is lost. */
	give(&r, TX, HEADER + 60, false);
	kernel.refused = VHOST_SET_MEM_TABLE;
	mem_unmap(r.d.mem, slot[1]);
	g_assert_cmpuint(r.refusals, ==, 1);
	g_assert_nonnull(strstr(r.why, "memory"));
	clock_advance(r.d.clock, 1);
	g_assert_true(used(&r, TX));
	g_assert_cmpint(recv(kernel.wire, (uint8_t[256]){ 0 }, 256, 0), >, 0);
	frames_by_us(&r, 9);
	mem_unmap(r.d.mem, slot[2]);
	take_down(&r);
	ram_destroy(more);
	ram_destroy(watched);
}

static void test_pause(void)
{
	struct rig r;

	g_assert_true(set_up(&r, true, NULL));
	start(&r);
	frames_by_kernel(&r, 1);
	vhost_pause(netdev_vhost(r.nd), true);
	g_assert_false(taken_over());
	/* What happens to the link meanwhile starts nothing. */
	netdev_set_link(r.nd, false);
	netdev_set_link(r.nd, true);
	g_assert_false(taken_over());
	vhost_pause(netdev_vhost(r.nd), false);
	g_assert_true(taken_over());
	frames_by_kernel(&r, 2);
	/* The interface does not come back. */
	vhost_pause(netdev_vhost(r.nd), true);
	kernel.refused = VHOST_NET_SET_BACKEND;
	vhost_pause(netdev_vhost(r.nd), false);
	g_assert_cmpuint(r.refusals, ==, 1);
	g_assert_nonnull(strstr(r.why, "tap"));
	frames_by_us(&r, 3);
	take_down(&r);
}

/* The saved state has the rings as the driver sees them, and the kernel goes on after. */
static void test_state(void)
{
	struct rig r;

	g_assert_true(set_up(&r, true, NULL));
	start(&r);
	frames_by_kernel(&r, 1);
	g_byte_array_unref(device_save(virtio_net_device(r.n)));
	g_assert_true(taken_over());
	frames_by_kernel(&r, 2);
	take_down(&r);
}

/* Without /dev/vhost-net, or the right to it. */
static void test_no_node(void)
{
	static const struct { int error; const char *word; } cases[] = { { ENOENT, "modprobe" }, { EACCES, "allowed" }, { EMFILE, "open files" } };

	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		GError *error = NULL;
		struct rig r;

		kernel.open_error = cases[i].error;
		g_assert_false(set_up(&r, true, &error));
		g_assert_nonnull(strstr(error->message, "/dev/vhost-net"));
		g_assert_nonnull(strstr(error->message, cases[i].word));
		g_assert_null(netdev_vhost(r.nd));
		g_assert_null(strstr(netdev_describe(r.nd), "vhost"));
		start(&r);
		frames_by_us(&r, 1);
		g_error_free(error);
		take_down(&r);
	}
}

/* A kernel that knows less: no virtio 1.0 is not enough, the rest is not offered to the guest. */
static void test_features(void)
{
	static const uint64_t without[] = { F_INDIRECT, F_EVENT_IDX, F_MRG, F_INDIRECT | F_EVENT_IDX | F_MRG };
	GError *error = NULL;
	struct rig r;

	kernel.features &= ~F_VERSION_1;
	g_assert_false(set_up(&r, true, &error));
	g_assert_nonnull(strstr(error->message, "virtio 1.0"));
	g_error_free(error);
	start(&r);
	frames_by_us(&r, 1);
	take_down(&r);
	for (unsigned i = 0; i < G_N_ELEMENTS(without); i++) {
		kernel.features &= ~without[i];
		g_assert_true(set_up(&r, true, NULL));
		g_assert_cmphex(drv_offered(&r.d) & RINGS_KNOWN, ==, RINGS_KNOWN & ~without[i]);
		g_assert_cmphex(drv_offered(&r.d) & (F_PACKED | F_RING_RESET), ==, 0);
		start(&r);
		frames_by_kernel(&r, 1);
		take_down(&r);
	}
}

/* Each call may fail: at the start vhost_open says why, later frames go through the process, and it is said once. */
static void test_each_call_refused(void)
{
	for (unsigned n = 1; n <= OPEN_CALLS + START_CALLS; n++) {
		GError *error = NULL;
		struct rig r;
		bool opened;

		kernel.refuse = n;
		opened = set_up(&r, true, &error);
		g_assert_cmpint(opened, ==, n > OPEN_CALLS);
		if (!opened)
			g_assert_true(g_str_has_prefix(error->message, "vhost-net: "));
		g_clear_error(&error);
		start(&r);
		g_assert_cmpuint(r.refusals, ==, opened);
		if (opened)
			g_assert_true(g_str_has_prefix(r.why, "vhost-net: "));
		for (unsigned i = 0; i < 5; i++)
			frames_by_us(&r, (uint8_t)i);
		netdev_set_link(r.nd, false);
		netdev_set_link(r.nd, true);
		frames_by_us(&r, 6);
		g_assert_cmpuint(r.refusals, ==, opened);
		g_assert_cmpuint(r.doorbells->len, ==, 0);
		g_assert_cmpuint(r.irqfds, ==, 0);
		take_down(&r);
	}
	/* None was left out. */
	{
		struct rig r;

		kernel.refuse = OPEN_CALLS + START_CALLS + 1;
		g_assert_true(set_up(&r, true, NULL));
		start(&r);
		g_assert_true(taken_over());
		take_down(&r);
	}
}

/* Rings that are not in RAM, or half in it. */
static void test_rings_elsewhere(void)
{
	static const uint64_t at[] = { 0x90000000, DRV_RAM - 64, UINT64_MAX - 63 };

	for (unsigned i = 0; i < G_N_ELEMENTS(at); i++) {
		struct rig r;

		g_assert_true(set_up(&r, true, NULL));
		g_assert_true(drv_negotiate(&r.d, RINGS_KNOWN));
		drv_queue_setup(&r.d, RX, 16);
		drv_common_write(&r.d, 0x16, 2, TX);
		drv_common_write(&r.d, 0x18, 2, 16);
		for (unsigned reg = 0x20; reg <= 0x30; reg += 8) {
			drv_common_write(&r.d, reg, 4, (uint32_t)at[i]);
			drv_common_write(&r.d, reg + 4, 4, (uint32_t)(at[i] >> 32));
		}
		drv_common_write(&r.d, 0x1c, 2, 1);
		drv_ok(&r.d);
		drv_kick(&r.d, RX);
		g_assert_false(taken_over());
		take_down(&r);
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	kernel_reset();
	g_test_add_func("/vhost/frames", test_frames);
	g_test_add_func("/vhost/eventfds", test_eventfds);
	g_test_add_func("/vhost/bar-moved", test_bar_moved);
	g_test_add_func("/vhost/link", test_link);
	g_test_add_func("/vhost/layout", test_layout);
	g_test_add_func("/vhost/pause", test_pause);
	g_test_add_func("/vhost/state", test_state);
	g_test_add_func("/vhost/no-node", test_no_node);
	g_test_add_func("/vhost/features", test_features);
	g_test_add_func("/vhost/each-call-refused", test_each_call_refused);
	g_test_add_func("/vhost/rings-elsewhere", test_rings_elsewhere);
	return g_test_run();
}
