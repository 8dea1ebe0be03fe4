/*
 * The Realtek RTL8139C+ fast Ethernet controller (10ec:8139, revision 0x20): registers, interrupts,
 * EEPROM, PHY, state. From the RTL8139C+ data sheet (1.5) and the RTL8139 programming guide.
 * Wake-up and flow control frames are not modelled.
 */
#include "dev/rtl8139.h"

#include <glib.h>
#include <string.h>

#include "dev/rtl8139_internal.h"

#define COUNT_NS 30 /* of a PCI clock */

enum { EECR_OUT = 1 << 0, EECR_IN = 1 << 1, EECR_CLOCK = 1 << 2, EECR_SELECT = 1 << 3, EECR_PINS = 0x0e, EECR_MODE = 0xc0,
       EECR_PROGRAM = 0x80, EECR_UNLOCK = 0xc0 };
enum { BMSR_LINK = 0x04, BMSR_NEGOTIATED = 0x20, BMCR_RESET = 1 << 15, BMCR_RESTART = 1 << 9 };
enum { DTCCR_DUMP = 1 << 3 };

/* Bits that a plain write stores. Registers from `locked` on take writes only while unlocked. */
struct writable {
	uint8_t first, last, mask;
	bool locked;
};

static const struct writable writable[] = {
	{ IDR0, IDR0 + 5, 0xff, true }, { MAR0, MAR0 + 7, 0xff, false }, { TSD0, RBSTART + 3, 0xff, false },
	{ CR, CR, CR_TE | CR_RE, false }, { CAPR, CAPR + 1, 0xff, false }, { IMR, IMR + 1, 0xff, false },
	{ TCR, TCR, 0xf1, false }, { TCR + 1, TCR + 2, 0x07, false }, { TCR + 3, TCR + 3, 0x03, false },
	{ RCR, RCR + 2, 0xff, false }, { RCR + 3, RCR + 3, 0x0f, false }, { EECR, EECR, EECR_PINS | EECR_MODE, false },
	{ CONFIG1, CONFIG1, 0xf3, true }, { TIMERINT, TIMERINT + 3, 0xff, false }, { MSR, MSR, 0xc0, true },
	{ CONFIG3, CONFIG4, 0xff, true }, { MULINT, MULINT, 0xff, false }, { MULINT + 1, MULINT + 1, 0x0f, false },
	{ BMCR, BMCR + 1, 0xff, true }, { ANAR, ANAR + 1, 0xff, false }, { PHY1_PARM, WAKE + 0x4f, 0xff, false },
	{ CONFIG5, CONFIG5, 0xff, false }, { TPPOLL, TPPOLL, 0xc1, false }, { CPCR, CPCR, 0x7f, false },
	{ CPCR + 1, CPCR + 1, 0x03, false }, { INTRMIT, INTRMIT + 1, 0xff, false }, { RDSAR + 1, RDSAR + 7, 0xff, false },
	{ ETTHR, ETTHR, 0x3f, false },
};

static uint8_t write_mask(const struct rtl8139 *r, unsigned at)
{
	bool unlocked = (r->reg[EECR] & EECR_MODE) == EECR_UNLOCK;

	for (unsigned i = 0; i < ARRAY_LEN(writable); i++) {
		if (at >= writable[i].first && at <= writable[i].last)
			return writable[i].locked && !unlocked ? 0 : writable[i].mask;
	}
	return 0;
}

/* ---- interrupts, counter, link ---- */

static void irq_update(struct rtl8139 *r)
{
	pci_set_intx(&r->pci, rtl8139_get16(r, ISR) & rtl8139_get16(r, IMR));
}

void rtl8139_interrupt(struct rtl8139 *r, unsigned causes)
{
	st16le(r->reg + ISR, (uint16_t)(rtl8139_get16(r, ISR) | causes));
	irq_update(r);
}

static uint32_t counter(const struct rtl8139 *r)
{
	return (uint32_t)((clock_now(r->clock) - r->count_start) / COUNT_NS);
}

static void timeout_plan(struct rtl8139 *r)
{
	uint32_t at = rtl8139_get32(r, TIMERINT), left = at - counter(r);

	if (!at)
		timer_cancel(r->timeout);
	else
		timer_arm(r->timeout, clock_now(r->clock) + (left ? left : INT64_C(1) << 32) * COUNT_NS);
}

static void timeout_due(void *opaque)
{
	struct rtl8139 *r = opaque;

	rtl8139_interrupt(r, ISR_TIMEOUT);
	timeout_plan(r);
}

static void link_show(struct rtl8139 *r, bool up)
{
	uint16_t bmsr = 0x7809 | (up ? BMSR_LINK | BMSR_NEGOTIATED : 0);

	st16le(r->reg + BMSR, bmsr);
	st16le(r->reg + ANLPAR, up ? 0x05e1 : 0);
	r->reg[MSR] = (uint8_t)((r->reg[MSR] & 0xc0) | 0x10 | (up ? 0 : 0x04));
}

static void link_changed(void *opaque, bool up)
{
	struct rtl8139 *r = opaque;

	link_show(r, up);
	rtl8139_interrupt(r, ISR_LINK);
}

/* ---- registers ---- */

/* What CR.RST does; addresses and the EEPROM's say stay. */
static void soft_reset(struct rtl8139 *r)
{
	uint8_t mac[6];

	memcpy(mac, r->reg + IDR0, 6);
	memset(r->reg, 0, sizeof(r->reg));
	memcpy(r->reg + IDR0, mac, 6);
	for (unsigned n = 0; n < 4; n++)
		st32le(r->reg + TSD0 + 4 * n, TSD_OWN);
	st16le(r->reg + CAPR, 0xfff0);
	st32le(r->reg + TCR, 0x74800000);
	r->reg[CONFIG0] = 0x10;
	r->reg[CONFIG1] = 0x0c;
	r->reg[CONFIG3] = 0x01;
	r->reg[MSR] = 0xc0;
	st16le(r->reg + BMCR, 0x3100);
	st16le(r->reg + ANAR, 0x05e1);
	st16le(r->reg + ANER, 0x0001);
	r->count_start = clock_now(r->clock);
	rtl8139_rx_restart(r);
	rtl8139_tx_restart(r);
	link_show(r, netdev_link(r->nd));
	timeout_plan(r);
	irq_update(r);
}

static void tally_dump(struct rtl8139 *r)
{
	uint64_t at = ld64le(r->reg + DTCCR) & ~UINT64_C(63);
	const struct rtl8139_tally *t = &r->tally;
	uint8_t out[64] = { 0 };

	st64le(out, t->tx_ok);
	st64le(out + 8, t->rx_ok);
	st16le(out + 28, t->rx_missed);
	st64le(out + 40, t->rx_unicast);
	st64le(out + 48, t->rx_broadcast);
	st32le(out + 56, t->rx_multicast);
	if (!pci_dma_write(&r->pci, at, out, sizeof(out)))
		device_guest_error(&r->pci.device, "counters dumped outside of memory");
	r->reg[DTCCR] &= (uint8_t)~DTCCR_DUMP;
}

static bool plus(const struct rtl8139 *r)
{
	return rtl8139_get16(r, CPCR) & (CPCR_TX | CPCR_RX);
}

static void eeprom_write(struct rtl8139 *r)
{
	uint8_t v = r->reg[EECR];

	/* Auto-load: the chip goes back to what the EEPROM says. */
	if ((v & EECR_MODE) == 0x40) {
		r->reg[EECR] = 0;
		for (unsigned i = 0; i < 3; i++)
			st16le(r->reg + IDR0 + 2 * i, r->eeprom.word[7 + i]);
		return;
	}
	if ((v & EECR_MODE) == EECR_PROGRAM)
		eeprom93c46_pins(&r->eeprom, v & EECR_SELECT, v & EECR_CLOCK, v & EECR_IN);
	else
		eeprom93c46_pins(&r->eeprom, false, false, false);
}

static void command_write(struct rtl8139 *r, uint8_t old, uint8_t v)
{
	if (v & CR_RST) {
		soft_reset(r);
		return;
	}
	if (!(old & CR_RE) && (v & CR_RE))
		rtl8139_rx_restart(r);
	if (!(old & CR_TE) && (v & CR_TE))
		rtl8139_tx_restart(r);
	netdev_accept_input(r->nd);
	rtl8139_transmit(r);
}

/* What follows from a write, by where its first byte went; multi-byte registers act on any of theirs. */
static void written(struct rtl8139 *r, unsigned at, unsigned len, uint32_t value)
{
	const bool tsd = at < TSD0 + 16 && at + len > TSD0;

	if (tsd && plus(r) && at == DTCCR && (value & DTCCR_DUMP))
		tally_dump(r);
	else if (tsd && !plus(r))
		rtl8139_transmit(r);
	else if (at < CAPR + 2 && at + len > CAPR)
		netdev_accept_input(r->nd);
	else if (at < BMCR + 2 && at + len > BMCR)
		r->reg[BMCR + 1] &= (uint8_t)~((BMCR_RESET | BMCR_RESTART) >> 8);
	if (at <= EECR && at + len > EECR)
		eeprom_write(r);
	if (at <= TPPOLL && at + len > TPPOLL) {
		if (r->reg[TPPOLL] & 1)
			rtl8139_interrupt(r, ISR_SW);
		r->reg[TPPOLL] &= 0xc0;
		rtl8139_transmit(r);
	}
	if (at < TCTR + 4 && at + len > TCTR)
		r->count_start = clock_now(r->clock);
	if (at < TIMERINT + 4 && at + len > TCTR)
		timeout_plan(r);
	if (at < MPC + 4 && at + len > MPC)
		st32le(r->reg + MPC, 0);
	/* Rings start over where their addresses are set. */
	if (at < RDSAR + 4 && at + len > RDSAR)
		r->rx_index = 0;
	if (at < TNPDS + 4 && at + len > TNPDS && (r->reg[CR] & CR_TE) == 0)
		r->tx_index[0] = 0;
	if (at < THPDS + 4 && at + len > THPDS && (r->reg[CR] & CR_TE) == 0)
		r->tx_index[1] = 0;
}

static void rtl8139_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	struct rtl8139 *r = o;
	unsigned at = (unsigned)offset;
	uint8_t command = r->reg[CR];

	for (unsigned i = 0; i < len; i++) {
		uint8_t v = (uint8_t)(value >> (8 * i)), mask = write_mask(r, at + i);

		if (at + i == ISR || at + i == ISR + 1)
			r->reg[at + i] &= (uint8_t)~v;
		else
			r->reg[at + i] = (uint8_t)((r->reg[at + i] & ~mask) | (v & mask));
		if (at + i == CR)
			command_write(r, command, (uint8_t)(v & (CR_RST | CR_TE | CR_RE)));
	}
	written(r, at, len, (uint32_t)value);
	if (at < ISR + 2 && at + len > IMR) {
		irq_update(r);
		/* A driver acknowledges what it has taken in. */
		netdev_accept_input(r->nd);
	}
}

/* Registers that are computed when looked at. */
static void refresh(struct rtl8139 *r)
{
	uint16_t all = 0;

	st32le(r->reg + TCTR, counter(r));
	r->reg[CR] = (uint8_t)((r->reg[CR] & ~CR_BUFE) | (rtl8139_rx_empty(r) ? CR_BUFE : 0));
	r->reg[EECR] = (uint8_t)((r->reg[EECR] & ~EECR_OUT) | (eeprom93c46_out(&r->eeprom) ? EECR_OUT : 0));
	for (unsigned n = 0; n < 4; n++) {
		uint32_t tsd = rtl8139_get32(r, TSD0 + 4 * n);

		all |= (uint16_t)((tsd & TSD_OWN ? 1u : 0) << n | (tsd & TSD_TOK ? 0x1000u : 0) << n);
	}
	st16le(r->reg + TSAD, all);
}

static uint64_t rtl8139_read(void *o, uint64_t offset, unsigned len)
{
	struct rtl8139 *r = o;

	refresh(r);
	return ld_le(r->reg + offset, len);
}

/* ---- the back end's callbacks ---- */

static void can_send(void *opaque)
{
	rtl8139_transmit(opaque);
}

static void tx_continue(void *opaque)
{
	rtl8139_transmit(opaque);
}

static void rx_again(void *opaque)
{
	netdev_accept_input(((struct rtl8139 *)opaque)->nd);
}

/* ---- the contract ---- */

static void rtl8139_reset(struct device *d)
{
	struct rtl8139 *r = (struct rtl8139 *)d;

	pci_dev_reset(&r->pci);
	eeprom93c46_reset(&r->eeprom);
	for (unsigned i = 0; i < 3; i++)
		st16le(r->reg + IDR0 + 2 * i, r->eeprom.word[7 + i]);
	r->tally = (struct rtl8139_tally){ 0 };
	soft_reset(r);
}

static void timers_state(struct rtl8139 *r, struct state *s)
{
	struct timer *const timer[] = { r->timeout, r->tx_later, r->rx_retry };

	for (unsigned i = 0; i < ARRAY_LEN(timer); i++) {
		int64_t deadline = timer_deadline(timer[i]);

		state_i64(s, "deadline", &deadline);
		if (!state_loading(s) || state_error(s))
			continue;
		timer_cancel(timer[i]);
		if (deadline >= 0)
			timer_arm(timer[i], deadline);
	}
}

static void tally_state(struct rtl8139_tally *t, struct state *s)
{
	state_u64(s, "tx-ok", &t->tx_ok);
	state_u64(s, "rx-ok", &t->rx_ok);
	state_u64(s, "rx-unicast", &t->rx_unicast);
	state_u64(s, "rx-broadcast", &t->rx_broadcast);
	state_u32(s, "rx-multicast", &t->rx_multicast);
	state_u16(s, "rx-missed", &t->rx_missed);
}

static int rtl8139_state(struct device *d, struct state *s)
{
	struct rtl8139 *r = (struct rtl8139 *)d;

	pci_dev_state(&r->pci, s);
	state_bytes(s, "registers", r->reg, sizeof(r->reg));
	eeprom93c46_state(&r->eeprom, s);
	state_i64(s, "count-start", &r->count_start);
	state_u32(s, "rx-write", &r->rx_write);
	state_u8(s, "rx-index", &r->rx_index);
	state_u8(s, "rx-patience", &r->rx_patience);
	state_u8(s, "tx-index", &r->tx_index[0]);
	state_u8(s, "tx-index-high", &r->tx_index[1]);
	state_u8(s, "tx-next", &r->tx_next);
	tally_state(&r->tally, s);
	state_u32(s, "frame-len", &r->frame_len);
	if (state_loading(s) && r->frame_len > NETDEV_MAX_FRAME) {
		r->frame_len = 0;
		state_fail(s, "a frame of more than %u bytes", NETDEV_MAX_FRAME);
	}
	state_bytes(s, "frame", r->frame, r->frame_len);
	state_bool(s, "frame-bad", &r->frame_bad);
	timers_state(r, s);
	if (!state_loading(s))
		return state_error(s);
	if (!state_error(s) && (r->rx_write >= 65536 || (r->rx_write & 3) || r->rx_index > 63 || r->tx_index[0] > 63 ||
				r->tx_index[1] > 63 || r->tx_next > 3 || r->rx_patience > 7 || r->count_start < 0 ||
				r->count_start > clock_now(r->clock)))
		state_fail(s, "an RTL8139 register is out of range");
	if (state_error(s))
		rtl8139_reset(d);
	else
		irq_update(r);
	return state_error(s);
}

static void rtl8139_destroy(struct device *d)
{
	struct rtl8139 *r = (struct rtl8139 *)d;

	netdev_attach(r->nd, NULL);
	timer_free(r->timeout);
	timer_free(r->tx_later);
	timer_free(r->rx_retry);
	pci_dev_finish(&r->pci);
	g_free(r->frame);
	g_free(r);
}

static const struct device_ops ops = { "rtl8139", 1, rtl8139_reset, rtl8139_state, rtl8139_destroy };

static void eeprom_fill(struct rtl8139 *r, const uint8_t mac[6])
{
	static const uint16_t words[10] = { 0x8129, 0x10ec, 0x8139, 0x1af4, 0x1100, 0x4020, 0xe110 };

	memcpy(r->eeprom.word, words, sizeof(words));
	for (unsigned i = 0; i < 3; i++)
		r->eeprom.word[7 + i] = ld16le(mac + 2 * i);
}

struct rtl8139 *rtl8139_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct netdev *nd, const uint8_t mac[6],
			       const char *id)
{
	static const struct pci_ids ids = { 0x10ec, 0x8139, 0x1af4, 0x1100, 0x020000, 0x20 };
	static const struct region_ops region_ops = { rtl8139_read, rtl8139_write, 1, 4 };
	struct rtl8139 *r = g_new0(struct rtl8139, 1);
	const struct netdev_client client = { rtl8139_can_receive, rtl8139_receive, can_send, link_changed, r };

	r->pci.device = (struct device){ .ops = &ops, .id = id };
	if (pci_dev_init(&r->pci, bus, devfn, &ids, 1)) {
		g_free(r);
		return NULL;
	}
	r->nd = nd;
	r->clock = clock;
	r->timeout = timer_new(clock, timeout_due, r);
	r->tx_later = timer_new(clock, tx_continue, r);
	r->rx_retry = timer_new(clock, rx_again, r);
	r->frame = g_malloc(RTL8139_FRAME_ROOM);
	eeprom_fill(r, mac);
	pci_bar_io(&r->pci, 0, "rtl8139-io", 256, &region_ops, r);
	pci_bar_mmio(&r->pci, 1, "rtl8139", 256, false, false, &region_ops, r);
	netdev_attach(nd, &client);
	rtl8139_reset(&r->pci.device);
	return r;
}

struct pci_dev *rtl8139_pci(struct rtl8139 *r)
{
	return &r->pci;
}
