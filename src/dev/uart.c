/*
 * 16550A (National PC16550D). Bytes leave at once, whatever the divisor says; the receiver takes from
 * the host only what its FIFO has room for, so nothing is lost but by the guest's own hand. The
 * divisor matters for the receive timeout: four characters' time.
 */
#include "dev/uart.h"

#include <glib.h>
#include <errno.h>

#define FIFO_SIZE 16
#define CLOCK_HZ 1843200

enum reg { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RDA 0x01
#define IER_THRE 0x02
#define IER_RLS 0x04
#define IER_MSI 0x08

#define IIR_NONE 0x01
#define IIR_MSI 0x00
#define IIR_THRE 0x02
#define IIR_RDA 0x04
#define IIR_RLS 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFOS 0xc0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_KEPT 0xc9 /* enable, DMA mode, trigger level */

#define LCR_STOP 0x04
#define LCR_PARITY 0x08
#define LCR_DLAB 0x80

#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10

#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_THRE 0x20
#define LSR_TEMT 0x40

#define MSR_DCTS 0x01
#define MSR_TERI 0x04
#define MSR_DELTAS 0x0f
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

#define TX_CHARACTER_NS 6700 /* ten bits at 1.5 Mbit/s */

struct uart {
	struct device device; /* must be first */
	struct irq irq;
	struct clock *clock;
	struct timer *timeout, *tx_empty;
	struct chardev *cd;
	struct region *region;
	uint8_t ier, fcr, lcr, mcr, msr, scr;
	uint16_t divisor;
	uint8_t rx[FIFO_SIZE], rx_head, rx_count;
	bool overrun;      /* LSR OE */
	int64_t tx_done;   /* when the line has taken what was written, clock ns */
	bool thre_pending; /* the transmitter's interrupt has not been identified yet */
	bool timed_out;    /* characters have waited for four character times */
	bool irq_level;
};

/* ---- interrupts ---- */

static unsigned rx_capacity(const struct uart *u)
{
	return u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart *u)
{
	static const uint8_t levels[] = { 1, 4, 8, 14 };

	return u->fcr & FCR_ENABLE ? levels[u->fcr >> 6] : 1;
}

/* The enabled interrupt of the highest priority (PC16550D table III). */
static uint8_t pending_interrupt(const struct uart *u)
{
	if ((u->ier & IER_RLS) && u->overrun)
		return IIR_RLS;
	if ((u->ier & IER_RDA) && u->rx_count >= rx_trigger(u))
		return IIR_RDA;
	if ((u->ier & IER_RDA) && u->timed_out)
		return IIR_TIMEOUT;
	if ((u->ier & IER_THRE) && u->thre_pending)
		return IIR_THRE;
	if ((u->ier & IER_MSI) && (u->msr & MSR_DELTAS))
		return IIR_MSI;
	return IIR_NONE;
}

static void update_irq(struct uart *u)
{
	/* OUT2 opens the PC's buffer between the chip and the bus. */
	bool level = (u->mcr & MCR_OUT2) && pending_interrupt(u) != IIR_NONE;

	if (level == u->irq_level)
		return;
	u->irq_level = level;
	irq_set(&u->irq, level);
}

/* Start, data, parity and stop bits. */
static int64_t character_ns(const struct uart *u)
{
	unsigned bits = 1 + 5 + (u->lcr & 3) + !!(u->lcr & LCR_PARITY) + (u->lcr & LCR_STOP ? 2 : 1);

	return (int64_t)bits * 16 * (u->divisor ? u->divisor : 1) * NS_PER_SEC / CLOCK_HZ;
}

/* Counts anew from each character that comes in or is read. */
static void restart_timeout(struct uart *u)
{
	u->timed_out = false;
	if ((u->fcr & FCR_ENABLE) && u->rx_count)
		timer_arm(u->timeout, clock_now(u->clock) + 4 * character_ns(u));
	else
		timer_cancel(u->timeout);
}

static void timeout_due(void *opaque)
{
	struct uart *u = opaque;

	u->timed_out = u->rx_count > 0;
	update_irq(u);
}

/* ---- receiver ---- */

/* From the host, or from the transmitter in loopback; only the latter can overrun. */
static void rx_push(struct uart *u, uint8_t byte)
{
	if (u->rx_count < rx_capacity(u)) {
		u->rx[(u->rx_head + u->rx_count++) % FIFO_SIZE] = byte;
	} else {
		u->overrun = true;
		/* Without FIFO the new character takes the place of the old one. */
		if (!(u->fcr & FCR_ENABLE))
			u->rx[u->rx_head] = byte;
	}
	restart_timeout(u);
}

static void rx_clear(struct uart *u)
{
	u->rx_head = u->rx_count = 0;
	restart_timeout(u);
}

static size_t host_can_receive(void *opaque)
{
	struct uart *u = opaque;

	return u->mcr & MCR_LOOP ? 0 : rx_capacity(u) - MIN(u->rx_count, rx_capacity(u));
}

static void host_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct uart *u = opaque;

	for (size_t i = 0; i < len; i++)
		rx_push(u, data[i]);
	update_irq(u);
}

static uint8_t rx_read(struct uart *u)
{
	uint8_t byte = u->rx[u->rx_head];

	if (!u->rx_count)
		return byte;
	u->rx_count--;
	if (u->fcr & FCR_ENABLE)
		u->rx_head = (u->rx_head + 1) % FIFO_SIZE;
	restart_timeout(u);
	/* The line falls before it may rise again for what was waiting in the host. */
	update_irq(u);
	chardev_accept_input(u->cd);
	return byte;
}

/* ---- transmitter ---- */

static void tx_empty_due(void *opaque)
{
	struct uart *u = opaque;

	u->thre_pending = true;
	update_irq(u);
}

/*
 * The host takes a character at once, so the status says that the transmitter is empty, and a guest that polls is not
 * held up. But its interrupt handler must come to an end, which a line gives it by being slow: a FIFO's worth may be
 * written without a wait, then the interrupt comes when a fast line would have taken it.
 */
static void tx_write(struct uart *u, uint8_t byte)
{
	int64_t now = clock_now(u->clock);

	u->thre_pending = false;
	update_irq(u);
	if (u->mcr & MCR_LOOP)
		rx_push(u, byte);
	else
		chardev_write(u->cd, &byte, 1);
	/* Never further ahead than a FIFO and the character on the line. */
	u->tx_done = CLAMP(u->tx_done, now, now + FIFO_SIZE * TX_CHARACTER_NS) + TX_CHARACTER_NS;
	if (!(u->ier & IER_THRE) || (u->mcr & MCR_LOOP) || u->tx_done - now <= FIFO_SIZE * TX_CHARACTER_NS) {
		timer_cancel(u->tx_empty);
		tx_empty_due(u);
	} else {
		timer_arm(u->tx_empty, u->tx_done);
	}
}

/* ---- modem lines ---- */

/* What is plugged in is always ready; in loopback the outputs are the inputs. */
static uint8_t modem_lines(const struct uart *u)
{
	if (!(u->mcr & MCR_LOOP))
		return u->cd ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
	return (u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) | (u->mcr & MCR_OUT1 ? MSR_RI : 0) |
	       (u->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void update_modem(struct uart *u)
{
	uint8_t lines = modem_lines(u), changed = (uint8_t)((u->msr ^ lines) & 0xf0);

	/* The ring indicator tells its trailing edge only. */
	if (lines & MSR_RI)
		changed &= (uint8_t)~MSR_RI;
	u->msr = (uint8_t)(lines | (u->msr & MSR_DELTAS) | changed >> 4);
}

/* ---- registers ---- */

static void write_fcr(struct uart *u, uint8_t value)
{
	bool toggled = (u->fcr ^ value) & FCR_ENABLE;

	u->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
	if (toggled || (value & FCR_CLEAR_RX))
		rx_clear(u);
	update_irq(u);
	chardev_accept_input(u->cd);
}

static void write_ier(struct uart *u, uint8_t value)
{
	uint8_t rising = (uint8_t)(value & ~u->ier);

	u->ier = value & 0x0f;
	/* Enabled while the transmitter is empty, it interrupts at once. */
	if ((rising & IER_THRE) && timer_deadline(u->tx_empty) < 0)
		u->thre_pending = true;
	update_irq(u);
}

static void write_mcr(struct uart *u, uint8_t value)
{
	u->mcr = value & 0x1f;
	update_modem(u);
	update_irq(u);
	chardev_accept_input(u->cd);
}

static uint8_t read_iir(struct uart *u)
{
	uint8_t id = pending_interrupt(u);

	if (id == IIR_THRE) {
		u->thre_pending = false;
		update_irq(u);
	}
	return id | (u->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t read_lsr(struct uart *u)
{
	uint8_t value = LSR_THRE | LSR_TEMT | (u->rx_count ? LSR_DR : 0) | (u->overrun ? LSR_OE : 0);

	u->overrun = false;
	update_irq(u);
	return value;
}

static uint8_t read_msr(struct uart *u)
{
	uint8_t value = u->msr;

	u->msr &= (uint8_t)~MSR_DELTAS;
	update_irq(u);
	return value;
}

static uint64_t uart_read(void *opaque, uint64_t offset, unsigned len)
{
	struct uart *u = opaque;
	bool dlab = u->lcr & LCR_DLAB;

	switch ((enum reg)offset) {
	case REG_DATA: return dlab ? u->divisor & 0xff : rx_read(u);
	case REG_IER: return dlab ? u->divisor >> 8 : u->ier;
	case REG_IIR: return read_iir(u);
	case REG_LCR: return u->lcr;
	case REG_MCR: return u->mcr;
	case REG_LSR: return read_lsr(u);
	case REG_MSR: return read_msr(u);
	case REG_SCR: break;
	}
	return u->scr;
}

static void uart_write(void *opaque, uint64_t offset, unsigned len, uint64_t v)
{
	struct uart *u = opaque;
	bool dlab = u->lcr & LCR_DLAB;
	uint8_t value = (uint8_t)v;

	switch ((enum reg)offset) {
	case REG_DATA:
		if (dlab)
			u->divisor = (uint16_t)((u->divisor & 0xff00) | value);
		else
			tx_write(u, value);
		break;
	case REG_IER:
		if (dlab)
			u->divisor = (uint16_t)(value << 8 | (u->divisor & 0xff));
		else
			write_ier(u, value);
		break;
	case REG_IIR: write_fcr(u, value); break;
	case REG_LCR: u->lcr = value; break;
	case REG_MCR: write_mcr(u, value); break;
	case REG_LSR:
	case REG_MSR: device_guest_error(&u->device, "write of %02x to a status register", value); break;
	case REG_SCR: u->scr = value; break;
	}
}

/* ---- the contract ---- */

static void uart_reset(struct device *d)
{
	struct uart *u = (struct uart *)d;

	u->ier = u->fcr = u->lcr = u->mcr = u->scr = 0;
	u->divisor = 12; /* 9600 baud */
	u->overrun = false;
	u->thre_pending = false;
	u->tx_done = 0;
	timer_cancel(u->tx_empty);
	u->msr = modem_lines(u);
	rx_clear(u);
	update_irq(u);
	chardev_accept_input(u->cd);
}

static int uart_state(struct device *d, struct state *s)
{
	struct uart *u = (struct uart *)d;
	int64_t deadline = timer_deadline(u->timeout), tx_deadline = timer_deadline(u->tx_empty);

	state_u8(s, "ier", &u->ier);
	state_u8(s, "fcr", &u->fcr);
	state_u8(s, "lcr", &u->lcr);
	state_u8(s, "mcr", &u->mcr);
	state_u8(s, "msr", &u->msr);
	state_u8(s, "scr", &u->scr);
	state_u16(s, "divisor", &u->divisor);
	state_bytes(s, "rx", u->rx, sizeof(u->rx));
	state_u8(s, "rx-head", &u->rx_head);
	state_u8(s, "rx-count", &u->rx_count);
	state_bool(s, "overrun", &u->overrun);
	state_bool(s, "thre-pending", &u->thre_pending);
	state_bool(s, "timed-out", &u->timed_out);
	state_i64(s, "deadline", &deadline);
	state_i64(s, "tx-done", &u->tx_done);
	state_i64(s, "tx-deadline", &tx_deadline);
	if (!state_loading(s))
		return state_error(s);
	if ((u->ier & 0xf0) || (u->fcr & ~FCR_KEPT) || (u->mcr & 0xe0) || u->rx_head >= FIFO_SIZE ||
	    u->rx_count > rx_capacity(u))
		state_fail(s, "a 16550 register is out of range");
	if (state_error(s))
		return -EINVAL;
	if (deadline >= 0)
		timer_arm(u->timeout, deadline);
	else
		timer_cancel(u->timeout);
	if (tx_deadline >= 0)
		timer_arm(u->tx_empty, tx_deadline);
	else
		timer_cancel(u->tx_empty);
	update_irq(u);
	return 0;
}

static void uart_destroy(struct device *d)
{
	struct uart *u = (struct uart *)d;

	chardev_attach(u->cd, NULL);
	timer_free(u->timeout);
	timer_free(u->tx_empty);
	region_destroy(u->region);
	g_free(u);
}

static const struct device_ops uart_ops = { "uart16550", 2, uart_reset, uart_state, uart_destroy };

struct uart *uart_create(struct space *ports, uint16_t base, struct irq irq, struct clock *clock, struct chardev *cd,
			 const char *id)
{
	static const struct region_ops ops = { uart_read, uart_write, 1, 1 };
	struct uart *u = g_new0(struct uart, 1);

	u->device.ops = &uart_ops;
	u->device.id = id;
	u->irq = irq;
	u->clock = clock;
	u->cd = cd;
	u->timeout = timer_new(clock, timeout_due, u);
	u->tx_empty = timer_new(clock, tx_empty_due, u);
	u->region = space_add(ports, id, base, 8, &ops, u);
	uart_reset(&u->device);
	chardev_attach(cd, &(struct chardev_client){ host_can_receive, host_receive, u });
	return u;
}

struct device *uart_device(struct uart *u)
{
	return &u->device;
}
