/*
 * UHCI host controller: Universal Host Controller Interface Design Guide 1.1. Every millisecond the
 * controller follows one entry of the guest's frame list; here frames are caught up with in steps,
 * longer ones while nothing moves. A frame's walk has a budget, whatever its links say.
 */
#include "dev/uhci.h"

#include <glib.h>
#include <string.h>

#include "base/bytes.h"

enum reg { CMD = 0x00, STS = 0x02, INTR = 0x04, FRNUM = 0x06, FRBASE = 0x08, SOFMOD = 0x0c, PORTSC = 0x10 };

#define CMD_RUN 0x0001
#define CMD_HCRESET 0x0002
#define CMD_GRESET 0x0004
#define CMD_MASK 0x00ff

#define STS_INT 0x01
#define STS_ERROR 0x02
#define STS_RESUME 0x04
#define STS_HOST_ERROR 0x08
#define STS_PROCESS_ERROR 0x10
#define STS_HALTED 0x20

#define INTR_ERROR 0x01
#define INTR_RESUME 0x02
#define INTR_COMPLETE 0x04
#define INTR_SHORT 0x08

#define PORT_CONNECTED 0x0001
#define PORT_CONNECT_CHANGE 0x0002
#define PORT_ENABLED 0x0004
#define PORT_ENABLE_CHANGE 0x0008
#define PORT_ALWAYS 0x0080
#define PORT_RESET 0x0200
#define PORT_SUSPEND 0x1000

#define LINK_END 0x1
#define LINK_QUEUE 0x2
#define LINK_DEPTH 0x4

#define TD_ACTLEN 0x7ff
#define TD_CRC (1u << 18)
#define TD_NAK (1u << 19)
#define TD_BABBLE (1u << 20)
#define TD_STALLED (1u << 22)
#define TD_ACTIVE (1u << 23)
#define TD_COMPLETE_INT (1u << 24)
#define TD_ISOCHRONOUS (1u << 25)
#define TD_ERRORS (3u << 27)
#define TD_SHORT (1u << 29)

#define FRAME (NS_PER_SEC / 1000)
#define BUSY_STEP (1 * FRAME)
#define IDLE_STEP (8 * FRAME)
#define MAX_CATCH_UP 32
#define LINKS_A_FRAME 256
#define BYTES_A_FRAME 1280
#define PACKET_MAX 1280

struct uhci {
	struct pci_dev pci; /* must be first */
	struct clock *clock;
	struct timer *timer;
	int64_t frame_time; /* when the current frame began; 0 while halted */
	uint16_t cmd, sts, intr, frnum;
	uint32_t frbase;
	uint8_t sofmod;
	uint16_t port[UHCI_PORTS];
	bool completed, was_short; /* the two reasons behind STS_INT */
	bool busy; /* something moved in the last frame */
	struct usb_device *plugged[UHCI_PORTS];
};

struct td {
	uint32_t link, control, token, buffer;
};

enum outcome { TD_DONE, TD_DONE_SHORT, TD_WAITS, TD_INACTIVE, TD_FAILED };

/* ---- interrupts ---- */

static void update_irq(struct uhci *u)
{
	bool level = (u->completed && (u->intr & INTR_COMPLETE)) || (u->was_short && (u->intr & INTR_SHORT)) ||
		     ((u->sts & STS_ERROR) && (u->intr & INTR_ERROR)) || ((u->sts & STS_RESUME) && (u->intr & INTR_RESUME)) ||
		     (u->sts & (STS_HOST_ERROR | STS_PROCESS_ERROR));

	pci_set_intx(&u->pci, level);
}

/* ---- transfers ---- */

static void stop(struct uhci *u)
{
	u->sts |= STS_HALTED;
	u->frame_time = 0;
	timer_cancel(u->timer);
}

static struct usb_device *find_device(struct uhci *u, unsigned address)
{
	for (unsigned i = 0; i < UHCI_PORTS; i++)
		if (u->plugged[i] && (u->port[i] & PORT_ENABLED) && u->plugged[i]->address == address)
			return u->plugged[i];
	return NULL;
}

static enum outcome td_fail(struct uhci *u, struct td *t, uint32_t why)
{
	t->control = (t->control & ~(TD_ACTIVE | TD_ERRORS)) | why;
	u->sts |= STS_ERROR;
	if (t->control & TD_COMPLETE_INT) {
		u->sts |= STS_INT;
		u->completed = true;
	}
	return TD_FAILED;
}

static enum outcome td_complete(struct uhci *u, struct td *t, unsigned pid, unsigned want, unsigned got)
{
	bool is_short = pid == USB_PID_IN && got < want;

	t->control = (t->control & ~(TD_ACTIVE | TD_NAK | TD_ACTLEN)) | ((got - 1) & TD_ACTLEN);
	if (t->control & TD_COMPLETE_INT) {
		u->sts |= STS_INT;
		u->completed = true;
	}
	if (!is_short || !(t->control & TD_SHORT))
		return TD_DONE;
	u->sts |= STS_INT;
	u->was_short = true;
	return TD_DONE_SHORT;
}

/* Carries one descriptor out. `bytes` is what is left of the frame. */
static enum outcome td_run(struct uhci *u, struct td *t, unsigned *bytes)
{
	unsigned pid = t->token & 0xff, len = ((t->token >> 21) + 1) & 0x7ff;
	struct usb_device *d;
	uint8_t data[PACKET_MAX];
	int n;

	if (!(t->control & TD_ACTIVE))
		return TD_INACTIVE;
	if (len > PACKET_MAX || (pid != USB_PID_IN && pid != USB_PID_OUT && pid != USB_PID_SETUP)) {
		u->sts |= STS_PROCESS_ERROR;
		u->cmd &= ~CMD_RUN;
		stop(u);
		device_guest_error(&u->pci.device, "a transfer descriptor with token 0x%08x", t->token);
		return TD_FAILED;
	}
	if (len > *bytes)
		return TD_WAITS;
	d = find_device(u, t->token >> 8 & 0x7f);
	if (!d)
		return td_fail(u, t, TD_CRC | TD_STALLED);
	if (pid != USB_PID_IN && !pci_dma_read(&u->pci, t->buffer, data, len)) {
		u->sts |= STS_HOST_ERROR;
		return TD_WAITS;
	}
	n = usb_packet(d, pid, t->token >> 15 & 15, data, len);
	if (n == USB_NAK) {
		t->control |= TD_NAK;
		return TD_WAITS;
	}
	if (n < 0)
		return td_fail(u, t, TD_STALLED);
	if (pid == USB_PID_IN && n && !pci_dma_write(&u->pci, t->buffer, data, (size_t)n)) {
		u->sts |= STS_HOST_ERROR;
		return TD_WAITS;
	}
	*bytes -= (unsigned)n;
	u->busy = true;
	return td_complete(u, t, pid, len, (unsigned)n);
}

/* ---- schedule ---- */

static bool read_words(struct uhci *u, uint32_t gpa, uint32_t *to, unsigned n)
{
	uint8_t b[16];

	if (!pci_dma_read(&u->pci, gpa, b, 4 * n)) {
		u->sts |= STS_HOST_ERROR;
		return false;
	}
	for (unsigned i = 0; i < n; i++)
		to[i] = ld32le(b + 4 * i);
	return true;
}

static void write_word(struct uhci *u, uint32_t gpa, uint32_t v)
{
	uint8_t b[4];

	st32le(b, v);
	if (!pci_dma_write(&u->pci, gpa, b, sizeof(b)))
		u->sts |= STS_HOST_ERROR;
}

/* The transfer descriptor at *link; afterwards *link is where the walk goes on. In a queue `across` leads
 * to the next one, and `element` is the place of the queue's own pointer. */
static bool step_td(struct uhci *u, uint32_t *link, bool queued, uint32_t across, uint32_t element, unsigned *bytes)
{
	uint32_t at = *link & ~15u, words[4], before;
	enum outcome outcome;
	struct td t;

	if (!read_words(u, at, words, 4))
		return false;
	t = (struct td){ words[0], words[1], words[2], words[3] };
	before = t.control;
	outcome = td_run(u, &t, bytes);
	if (t.control != before)
		write_word(u, at + 4, t.control);
	if (!queued) {
		*link = t.link;
		return true;
	}
	if (outcome != TD_DONE) {
		*link = across;
		return true;
	}
	write_word(u, element, t.link);
	*link = t.link & LINK_DEPTH && !(t.link & LINK_END) ? t.link & ~LINK_DEPTH : across;
	return true;
}

static void run_frame(struct uhci *u)
{
	unsigned bytes = BYTES_A_FRAME;
	uint32_t link, across = LINK_END, element = 0;
	bool queued = false;

	if (!read_words(u, u->frbase + 4 * (u->frnum & 1023), &link, 1))
		return;
	for (unsigned n = 0; n < LINKS_A_FRAME && !(link & LINK_END) && (u->cmd & CMD_RUN); n++) {
		uint32_t queue[2];

		if (!(link & LINK_QUEUE)) {
			if (!step_td(u, &link, queued, across, element, &bytes))
				return;
			/* Through with the queue, or with the first level of it. */
			if (link == across)
				queued = false;
			continue;
		}
		element = (link & ~15u) + 4;
		if (!read_words(u, link & ~15u, queue, 2))
			return;
		across = queue[0];
		queued = !(queue[1] & LINK_END);
		link = queued ? queue[1] : across;
	}
}

/* Frames that have passed since the last look. */
static void catch_up(struct uhci *u)
{
	int64_t now = clock_now(u->clock), passed = (now - u->frame_time) / FRAME;

	u->busy = false;
	/* After a long stop the guest sees time pass, but nothing of what would have been in it. */
	if (passed > MAX_CATCH_UP) {
		u->frnum += (uint16_t)(passed - MAX_CATCH_UP);
		u->frame_time += (passed - MAX_CATCH_UP) * FRAME;
		passed = MAX_CATCH_UP;
	}
	for (; passed > 0 && (u->cmd & CMD_RUN); passed--) {
		run_frame(u);
		u->frnum = (u->frnum + 1) & 0x7ff;
		/* The frame may have been the one that stopped everything. */
		if (u->cmd & CMD_RUN)
			u->frame_time += FRAME;
	}
	u->frnum &= 0x7ff;
	update_irq(u);
}

static void tick(void *opaque)
{
	struct uhci *u = opaque;

	catch_up(u);
	if (u->cmd & CMD_RUN)
		timer_arm(u->timer, u->frame_time + (u->busy ? BUSY_STEP : IDLE_STEP));
}

static void start(struct uhci *u)
{
	u->sts &= ~STS_HALTED;
	u->frame_time = clock_now(u->clock);
	timer_arm(u->timer, u->frame_time + BUSY_STEP);
}

/* A device has something to tell: the next frame comes in time. */
static void wake(void *opaque)
{
	struct uhci *u = opaque;

	if ((u->cmd & CMD_RUN) && timer_deadline(u->timer) > u->frame_time + BUSY_STEP)
		timer_arm(u->timer, u->frame_time + BUSY_STEP);
}

/* ---- registers ---- */

static void controller_reset(struct uhci *u)
{
	timer_cancel(u->timer);
	u->frame_time = 0;
	u->cmd = u->intr = u->frnum = 0;
	u->sts = STS_HALTED;
	u->frbase = 0;
	u->sofmod = 0x40;
	u->completed = u->was_short = false;
	for (unsigned i = 0; i < UHCI_PORTS; i++) {
		u->port[i] = PORT_ALWAYS | (u->plugged[i] ? PORT_CONNECTED | PORT_CONNECT_CHANGE : 0);
		if (u->plugged[i])
			usb_reset(u->plugged[i]);
	}
	update_irq(u);
}

static uint64_t uhci_read(void *opaque, uint64_t offset, unsigned len)
{
	struct uhci *u = opaque;
	int64_t passed;

	switch (offset) {
	case CMD: return u->cmd;
	case STS: return u->sts;
	case INTR: return u->intr;
	case FRNUM:
		passed = u->cmd & CMD_RUN ? (clock_now(u->clock) - u->frame_time) / FRAME : 0;
		return (u->frnum + (uint64_t)passed) & 0x7ff;
	case FRBASE: return u->frbase & 0xffff;
	case FRBASE + 2: return u->frbase >> 16;
	case SOFMOD: return u->sofmod;
	case PORTSC: return u->port[0];
	case PORTSC + 2: return u->port[1];
	default: return 0xff7f; /* no third port: bit 7 would say that there is one */
	}
}

static void write_command(struct uhci *u, uint16_t value)
{
	bool was_running = u->cmd & CMD_RUN;

	if (value & (CMD_HCRESET | CMD_GRESET)) {
		controller_reset(u);
		/* The host controller's reset ends by itself, the bus's when the guest says so. */
		u->cmd = value & CMD_GRESET;
		return;
	}
	u->cmd = value & CMD_MASK;
	if (!was_running && (u->cmd & CMD_RUN))
		start(u);
	else if (was_running && !(u->cmd & CMD_RUN))
		stop(u);
}

static void write_port(struct uhci *u, unsigned i, uint16_t value)
{
	uint16_t *p = &u->port[i];

	if ((value & PORT_RESET) && !(*p & PORT_RESET) && u->plugged[i])
		usb_reset(u->plugged[i]);
	*p &= ~(value & (PORT_CONNECT_CHANGE | PORT_ENABLE_CHANGE));
	*p = (*p & (PORT_CONNECTED | PORT_CONNECT_CHANGE | PORT_ENABLE_CHANGE)) | PORT_ALWAYS |
	     (value & (PORT_ENABLED | PORT_RESET | PORT_SUSPEND));
	if (!u->plugged[i] || (*p & PORT_RESET))
		*p &= ~PORT_ENABLED;
}

static void uhci_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct uhci *u = opaque;

	switch (offset) {
	case CMD:
		write_command(u, (uint16_t)value);
		break;
	case STS:
		u->sts &= (uint16_t)~(value & 0x1f);
		if (value & STS_INT)
			u->completed = u->was_short = false;
		break;
	case INTR:
		u->intr = value & 15;
		break;
	case FRNUM:
		if (!(u->cmd & CMD_RUN))
			u->frnum = value & 0x7ff;
		break;
	case FRBASE:
		u->frbase = (u->frbase & 0xffff0000) | (value & 0xf000);
		break;
	case FRBASE + 2:
		u->frbase = (u->frbase & 0xffff) | (uint32_t)(value & 0xffff) << 16;
		break;
	case SOFMOD:
		u->sofmod = value & 0x7f;
		break;
	case PORTSC:
	case PORTSC + 2:
		write_port(u, (offset - PORTSC) / 2, (uint16_t)value);
		break;
	}
	update_irq(u);
}

/* ---- life ---- */

void uhci_plug(struct uhci *u, unsigned port, struct usb_device *device)
{
	if (u->plugged[port])
		u->plugged[port]->wake = NULL;
	u->plugged[port] = device;
	u->port[port] = (u->port[port] & ~(PORT_CONNECTED | PORT_ENABLED)) | PORT_CONNECT_CHANGE | (device ? PORT_CONNECTED : 0);
	if (!device)
		return;
	usb_reset(device);
	device->wake = wake;
	device->wake_opaque = u;
}

static void uhci_reset(struct device *d)
{
	struct uhci *u = (struct uhci *)d;

	pci_dev_reset(&u->pci);
	st16le(&u->pci.config[0xc0], 0x2000);
	controller_reset(u);
}

static int uhci_state(struct device *d, struct state *s)
{
	struct uhci *u = (struct uhci *)d;

	pci_dev_state(&u->pci, s);
	state_i64(s, "frame_time", &u->frame_time);
	state_u16(s, "cmd", &u->cmd);
	state_u16(s, "sts", &u->sts);
	state_u16(s, "intr", &u->intr);
	state_u16(s, "frnum", &u->frnum);
	state_u32(s, "frbase", &u->frbase);
	state_u8(s, "sofmod", &u->sofmod);
	state_u16(s, "port1", &u->port[0]);
	state_u16(s, "port2", &u->port[1]);
	state_bool(s, "completed", &u->completed);
	state_bool(s, "was_short", &u->was_short);
	if (!state_loading(s) || state_error(s))
		return state_error(s);
	if ((u->cmd & ~CMD_MASK) || (u->intr & ~15) || u->frnum > 0x7ff || (u->frbase & 0xfff) ||
	    u->frame_time > clock_now(u->clock) || u->frame_time < 0) {
		state_fail(s, "UHCI register out of range");
		return state_error(s);
	}
	/* What is plugged in is this machine's. */
	for (unsigned i = 0; i < UHCI_PORTS; i++)
		u->port[i] = (u->port[i] & ~PORT_CONNECTED) | PORT_ALWAYS | (u->plugged[i] ? PORT_CONNECTED : 0);
	if (u->cmd & CMD_RUN)
		timer_arm(u->timer, u->frame_time + BUSY_STEP);
	else
		timer_cancel(u->timer);
	update_irq(u);
	return state_error(s);
}

static void uhci_destroy(struct device *d)
{
	struct uhci *u = (struct uhci *)d;

	timer_free(u->timer);
	pci_dev_finish(&u->pci);
	g_free(u);
}

static const struct device_ops ops = { "uhci", 1, uhci_reset, uhci_state, uhci_destroy };

struct uhci *uhci_create(struct pci_bus *bus, unsigned devfn, struct clock *clock)
{
	static const struct pci_ids ids = { 0x8086, 0x7020, 0x1af4, 0x1100, 0x0c0300, 1 };
	static const struct region_ops region_ops = { uhci_read, uhci_write, 2, 2 };
	struct uhci *u = g_new0(struct uhci, 1);

	u->pci.device = (struct device){ .ops = &ops, .id = "usb0" };
	if (pci_dev_init(&u->pci, bus, devfn, &ids, 4)) {
		g_free(u);
		return NULL;
	}
	u->clock = clock;
	u->timer = timer_new(clock, tick, u);
	u->pci.config[0x60] = 0x10; /* USB 1.0 and the legacy support register of a BIOS without a claim on it */
	st16le(&u->pci.config[0xc0], 0x2000);
	st16le(&u->pci.wmask[0xc0], 0x20bf);
	pci_bar_io(&u->pci, 4, "uhci", 32, &region_ops, u);
	controller_reset(u);
	return u;
}

struct device *uhci_device(struct uhci *u)
{
	return &u->pci.device;
}
