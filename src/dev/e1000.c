/*
 * The Intel 82540EM gigabit Ethernet controller (8086:100e): registers, interrupts, state. From the
 * PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (317453), "SDM" below.
 * Management, wake-up and flow control frames are not modelled: the wire is never busy.
 */
#include "dev/e1000.h"

#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/e1000_internal.h"

#define ITR_TICK_NS 256
#define RING_LEN_MASK 0xfff80

/* What a plain write stores; registers that do more are in reg_write, all others are read-only. */
static const struct {
	uint16_t first, last;
	uint32_t mask;
} stored[] = {
	{ CTRL_EXT, CTRL_EXT, 0xffffffff }, { FCAL, FCAH, 0xffffffff }, { FCT, FCT, 0xffff }, { VET, VET, 0xffff },
	{ ITR, ITR, 0xffff }, { FCTTV, FCTTV, 0xffff }, { TIPG, TIPG, 0x3fffffff }, { AIT, AIT, 0xffff },
	{ LEDCTL, LEDCTL, 0xffffffff }, { PBA, PBA, 0xffff }, { FCRTL, FCRTH, 0xfffffff8 },
	{ RDBAL, RDBAL, 0xfffffff0 }, { RDBAH, RDBAH, 0xffffffff }, { RDLEN, RDLEN, RING_LEN_MASK }, { RDH, RDH, 0xffff },
	{ RDTR, RDTR, 0xffff }, { RXDCTL, RXDCTL, 0xffffffff }, { RADV, RADV, 0xffff }, { RSRPD, RSRPD, 0xfff },
	{ TDBAL, TDBAL, 0xfffffff0 }, { TDBAH, TDBAH, 0xffffffff }, { TDLEN, TDLEN, RING_LEN_MASK }, { TDH, TDH, 0xffff },
	{ TIDV, TIDV, 0xffff }, { TXDCTL, TXDCTL, 0xffffffff }, { TADV, TADV, 0xffff }, { TSPMT, TSPMT, 0xffffffff },
	{ RXCSUM, RXCSUM, 0x7ff }, { MTA, MTA + 0x1fc, 0xffffffff }, { RA, RA + 0x7c, 0xffffffff },
	{ VFTA, VFTA + 0x1fc, 0xffffffff }, { WUC, WUC, 0xf }, { WUFC, WUFC, 0xf00ff }, { MANC, MANC, 0xffffffff },
	{ IPAV, IPAV, 0xffffffff }, { IP4AT, IP4AT + 0x1c, 0xffffffff }, { FFMT, FFMT + 0x3fc, 0xf }, { FFLT, FFLT + 0x1c, 0x7ff },
};

/* ---- counters ---- */

void e1000_count(struct e1000 *e, unsigned offset)
{
	uint32_t *r = e1000_reg(e, offset);

	if (*r != UINT32_MAX)
		++*r;
}

void e1000_count64(struct e1000 *e, unsigned offset, uint32_t n)
{
	uint32_t *r = e1000_reg(e, offset);
	uint64_t old = r[0] | (uint64_t)r[1] << 32, sum;

	if (!checked_add(old, n, &sum))
		sum = UINT64_MAX;
	r[0] = (uint32_t)sum;
	r[1] = (uint32_t)(sum >> 32);
}

void e1000_count_frame(struct e1000 *e, bool tx, const uint8_t *frame, size_t len)
{
	static const uint16_t limit[] = { 64, 127, 255, 511, 1023 };
	bool broadcast = ld32le(frame) == UINT32_MAX && ld16le(frame + 4) == 0xffff;
	uint32_t bytes = (uint32_t)MAX(len, 60) + 4;
	unsigned size = 0;

	while (size < ARRAY_LEN(limit) && bytes > limit[size])
		size++;
	e1000_count(e, (tx ? PTC64 : PRC64) + 4 * size);
	e1000_count(e, tx ? TPT : TPR);
	e1000_count(e, tx ? GPTC : GPRC);
	e1000_count64(e, tx ? GOTCL : GORCL, bytes);
	e1000_count64(e, tx ? TOTL : TORL, bytes);
	if (broadcast)
		e1000_count(e, tx ? BPTC : BPRC);
	else if (frame[0] & 1)
		e1000_count(e, tx ? MPTC : MPRC);
}

/* ---- interrupts ---- */

static void irq_update(struct e1000 *e)
{
	bool want = *e1000_reg(e, ICR) & *e1000_reg(e, IMS);

	if (want && !e->irq_level) {
		/* Throttled: the interval since the last interrupt has to pass. */
		if (timer_deadline(e->throttle) >= 0)
			return;
		if (*e1000_reg(e, ITR))
			timer_arm(e->throttle, clock_now(e->clock) + (int64_t)*e1000_reg(e, ITR) * ITR_TICK_NS);
	}
	if (want != e->irq_level) {
		e->irq_level = want;
		pci_set_intx(&e->pci, want);
	}
}

static void throttle_over(void *opaque)
{
	irq_update(opaque);
}

void e1000_interrupt(struct e1000 *e, uint32_t causes)
{
	*e1000_reg(e, ICR) |= causes;
	irq_update(e);
}

/* ---- registers ---- */

static void software_reset(struct e1000 *e)
{
	timer_cancel(e->throttle);
	e1000_tx_reset(e);
	memset(e->reg, 0, sizeof(e->reg));
	eeprom93c46_reset(&e->eeprom);
	*e1000_reg(e, CTRL) = 0x00140240;
	*e1000_reg(e, STATUS) = 0x00000281;
	*e1000_reg(e, LEDCTL) = 0x00000602;
	*e1000_reg(e, PBA) = 0x00100030;
	*e1000_reg(e, VET) = 0x8100;
	*e1000_reg(e, RXCSUM) = 0x300;
	e->reg[RA / 4] = e->eeprom.word[0] | (uint32_t)e->eeprom.word[1] << 16;
	e->reg[RA / 4 + 1] = e->eeprom.word[2] | UINT32_C(0x80000000);
	if (netdev_link(e->nd))
		*e1000_reg(e, STATUS) |= STATUS_LU;
	irq_update(e);
}

static void ctrl_write(struct e1000 *e, uint32_t v)
{
	if (v & CTRL_RST) {
		software_reset(e);
		return;
	}
	if (v >> 31) {
		e1000_phy_reset(e);
		e1000_link_update(e, netdev_link(e->nd));
	}
	*e1000_reg(e, CTRL) = v & 0x7fffffff;
}

static bool store(struct e1000 *e, unsigned offset, uint32_t v)
{
	for (unsigned i = 0; i < ARRAY_LEN(stored); i++) {
		if (offset >= stored[i].first && offset <= stored[i].last) {
			*e1000_reg(e, offset) = v & stored[i].mask;
			return true;
		}
	}
	return false;
}

static void reg_write(struct e1000 *e, unsigned offset, uint32_t v)
{
	switch (offset) {
	case CTRL: ctrl_write(e, v); break;
	case EECD: e1000_eecd_write(e, v); break;
	case EERD: e1000_eerd_write(e, v); break;
	case MDIC: e1000_mdic_write(e, v); break;
	case ICR:
		*e1000_reg(e, ICR) &= ~v;
		irq_update(e);
		break;
	case ICS: e1000_interrupt(e, v); break;
	case IMS:
		*e1000_reg(e, IMS) |= v;
		irq_update(e);
		break;
	case IMC:
		*e1000_reg(e, IMS) &= ~v;
		irq_update(e);
		break;
	case RCTL:
		*e1000_reg(e, RCTL) = v;
		netdev_accept_input(e->nd);
		break;
	case RDT:
		*e1000_reg(e, RDT) = v & 0xffff;
		netdev_accept_input(e->nd);
		break;
	case TCTL:
		*e1000_reg(e, TCTL) = v;
		e1000_transmit(e);
		break;
	case TDT:
		*e1000_reg(e, TDT) = v & 0xffff;
		e1000_transmit(e);
		break;
	case WUS: *e1000_reg(e, WUS) &= ~v; break;
	default:
		if (!store(e, offset, v))
			device_guest_error(&e->pci.device, "write of 0x%x to register 0x%x", v, offset);
		break;
	}
}

static uint32_t reg_read(struct e1000 *e, unsigned offset)
{
	uint32_t *r = e1000_reg(e, offset), v = *r;

	if (offset == ICR) {
		*r = 0;
		irq_update(e);
	} else if (offset == ICS) {
		v = *e1000_reg(e, ICR);
	} else if (offset == EECD) {
		v = e1000_eecd_read(e);
	} else if (offset >= STATS_FIRST && offset <= STATS_LAST) {
		*r = 0; /* counters clear when read */
	}
	return v;
}

static uint64_t mmio_read(void *o, uint64_t offset, unsigned len)
{
	return offset < E1000_REG_SPACE ? reg_read(o, (unsigned)offset & ~3u) : 0;
}

static void mmio_write(void *o, uint64_t offset, unsigned len, uint64_t v)
{
	if (offset < E1000_REG_SPACE)
		reg_write(o, (unsigned)offset & ~3u, (uint32_t)v);
}

/* IOADDR and IODATA (SDM 13.2.2): a window to the same registers. */
static uint64_t io_read(void *o, uint64_t offset, unsigned len)
{
	struct e1000 *e = o;

	if (offset == 0)
		return e->io_address;
	return offset == 4 ? mmio_read(o, e->io_address, 4) : 0;
}

static void io_write(void *o, uint64_t offset, unsigned len, uint64_t v)
{
	struct e1000 *e = o;

	if (offset == 0)
		e->io_address = v & 0x1fffc;
	else if (offset == 4)
		mmio_write(o, e->io_address, 4, v);
}

/* ---- the back end's callbacks ---- */

static void can_send(void *opaque)
{
	e1000_transmit(opaque);
}

static void tx_continue(void *opaque)
{
	e1000_transmit(opaque);
}

static void link_changed(void *opaque, bool up)
{
	e1000_link_update(opaque, up);
}

/* ---- the contract ---- */

static void e1000_reset(struct device *d)
{
	struct e1000 *e = (struct e1000 *)d;

	pci_dev_reset(&e->pci);
	e->irq_level = false;
	e->io_address = 0;
	e1000_phy_reset(e);
	software_reset(e);
	e1000_link_update(e, netdev_link(e->nd));
	*e1000_reg(e, ICR) = 0;
}

static void context_state(struct state *s, struct e1000_context *c)
{
	state_u8(s, "ip-start", &c->ip_start);
	state_u8(s, "ip-offset", &c->ip_offset);
	state_u16(s, "ip-end", &c->ip_end);
	state_u8(s, "tcp-start", &c->tcp_start);
	state_u8(s, "tcp-offset", &c->tcp_offset);
	state_u16(s, "tcp-end", &c->tcp_end);
	state_u8(s, "header-len", &c->header_len);
	state_u16(s, "mss", &c->mss);
	state_bool(s, "tcp", &c->tcp);
}

static void frame_state(struct e1000 *e, struct state *s)
{
	state_u32(s, "frame-len", &e->frame_len);
	if (state_loading(s) && e->frame_len > NETDEV_MAX_FRAME) {
		e->frame_len = 0;
		state_fail(s, "a frame of more than %u bytes", NETDEV_MAX_FRAME);
	}
	state_bytes(s, "frame", e->frame, e->frame_len);
	state_bool(s, "frame-started", &e->frame_started);
	state_bool(s, "frame-bad", &e->frame_bad);
	state_bool(s, "frame-tso", &e->frame_tso);
	state_bool(s, "frame-ip-sum", &e->frame_ip_sum);
	state_bool(s, "frame-tcp-sum", &e->frame_tcp_sum);
}

static int e1000_state(struct device *d, struct state *s)
{
	struct e1000 *e = (struct e1000 *)d;
	int64_t throttle = timer_deadline(e->throttle), later = timer_deadline(e->tx_later);

	pci_dev_state(&e->pci, s);
	state_bytes(s, "registers", e->reg, sizeof(e->reg));
	state_bytes(s, "phy", e->phy, sizeof(e->phy));
	eeprom93c46_state(&e->eeprom, s);
	state_u32(s, "io-address", &e->io_address);
	state_bool(s, "irq-level", &e->irq_level);
	state_i64(s, "throttle", &throttle);
	state_i64(s, "tx-later", &later);
	context_state(s, &e->context);
	context_state(s, &e->tso);
	frame_state(e, s);
	if (!state_loading(s))
		return state_error(s);
	if (!state_error(s) && ((e->io_address & ~0x1fffcu) ||
				(*e1000_reg(e, RDLEN) & ~RING_LEN_MASK) || (*e1000_reg(e, TDLEN) & ~RING_LEN_MASK) ||
				*e1000_reg(e, ITR) > 0xffff))
		state_fail(s, "an 82540EM register is out of range");
	if (state_error(s)) {
		e1000_reset(d);
		return state_error(s);
	}
	timer_cancel(e->throttle);
	timer_cancel(e->tx_later);
	if (throttle >= 0)
		timer_arm(e->throttle, throttle);
	if (later >= 0)
		timer_arm(e->tx_later, later);
	pci_set_intx(&e->pci, e->irq_level);
	return 0;
}

static void e1000_destroy(struct device *d)
{
	struct e1000 *e = (struct e1000 *)d;

	netdev_attach(e->nd, NULL);
	timer_free(e->throttle);
	timer_free(e->tx_later);
	pci_dev_finish(&e->pci);
	g_free(e->frame);
	g_free(e);
}

static const struct device_ops ops = { "e1000", 1, e1000_reset, e1000_state, e1000_destroy };

struct e1000 *e1000_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct netdev *nd, const uint8_t mac[6],
			   const char *id)
{
	static const struct pci_ids ids = { 0x8086, 0x100e, 0x8086, 0x001e, 0x020000, 2 };
	static const struct region_ops mmio = { mmio_read, mmio_write, 4, 4 };
	static const struct region_ops io = { io_read, io_write, 4, 4 };
	struct e1000 *e = g_new0(struct e1000, 1);
	const struct netdev_client client = { e1000_can_receive, e1000_receive, can_send, link_changed, e };

	e->pci.device = (struct device){ .ops = &ops, .id = id };
	if (pci_dev_init(&e->pci, bus, devfn, &ids, 1)) {
		g_free(e);
		return NULL;
	}
	e->nd = nd;
	e->clock = clock;
	e->throttle = timer_new(clock, throttle_over, e);
	e->tx_later = timer_new(clock, tx_continue, e);
	e->frame = g_malloc(E1000_FRAME_ROOM);
	e1000_eeprom_fill(e, mac);
	pci_bar_mmio(&e->pci, 0, "e1000", 128 * 1024, false, false, &mmio, e);
	pci_bar_io(&e->pci, 1, "e1000-io", 64, &io, e);
	netdev_attach(nd, &client);
	e1000_reset(&e->pci.device);
	return e;
}

struct pci_dev *e1000_pci(struct e1000 *e)
{
	return &e->pci;
}
