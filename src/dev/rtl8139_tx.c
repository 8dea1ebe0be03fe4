/*
 * Transmission of the RTL8139C+: the four classic descriptors in registers (data sheet 5.3) and the
 * C+ rings of normal and high priority (9.1), with checksums, segmentation and VLAN tags.
 */
#include <string.h>

#include "dev/rtl8139_internal.h"
#include "net/offload.h"

#define RING_ENTRIES 64
/* Descriptors in one go: a ring whose buffers are all given back at once would never end. */
#define TX_BUDGET 256

enum { CP_TCPCS = 1 << 16, CP_UDPCS = 1 << 17, CP_IPCS = 1 << 18, CP_LGSEN = 1 << 27, CP_LS = 1 << 28, CP_FS = 1 << 29,
       CP_EOR = 1 << 30, CP_TAGC = 1 << 17 };
#define CP_OWN (1u << 31)
enum { POLL_NORMAL = 1 << 6, POLL_HIGH = 1 << 7 };

void rtl8139_tx_restart(struct rtl8139 *r)
{
	timer_cancel(r->tx_later);
	r->tx_next = 0;
	r->tx_index[0] = r->tx_index[1] = 0;
	r->frame_len = 0;
	r->frame_bad = false;
}

static void send(struct rtl8139 *r, uint8_t *frame, size_t len, const struct net_offload *o)
{
	const struct iovec iov = { frame, len };

	r->tally.tx_ok++;
	if ((rtl8139_get32(r, TCR) & TCR_LOOPBACK) == TCR_LOOPBACK) {
		if (!o->gso && rtl8139_can_receive(r))
			rtl8139_receive(r, frame, len, &(struct net_offload){ 0 });
	} else {
		netdev_send(r->nd, &iov, 1, o);
	}
}

/* ---- classic ---- */

static void descriptor_send(struct rtl8139 *r, unsigned n)
{
	uint32_t tsd = rtl8139_get32(r, TSD0 + 4 * n), len = tsd & 0x1fff;

	if (len < 14 || !pci_dma_read(&r->pci, rtl8139_get32(r, TSAD0 + 4 * n), r->frame, len))
		device_guest_error(&r->pci.device, "descriptor %u: %u bytes that cannot be sent", n, len);
	else
		send(r, r->frame, len, &(struct net_offload){ 0 });
	st32le(r->reg + TSD0 + 4 * n, tsd | TSD_OWN | TSD_TOK);
}

static void classic_transmit(struct rtl8139 *r)
{
	bool sent = false;

	for (unsigned i = 0; i < 4; i++) {
		unsigned n = (r->tx_next + i) & 3;

		if ((rtl8139_get32(r, TSD0 + 4 * n) & TSD_OWN) || !netdev_can_send(r->nd))
			continue;
		descriptor_send(r, n);
		r->tx_next = (uint8_t)((n + 1) & 3);
		i = (unsigned)-1; /* all four once more, from the next */
		sent = true;
	}
	if (sent)
		rtl8139_interrupt(r, ISR_TOK);
}

/* ---- C+ ---- */

/* The last descriptor of a frame says what to do with it. */
static void frame_finish(struct rtl8139 *r, uint32_t opts1, uint32_t opts2)
{
	struct net_offload o = { 0 };
	bool good = !r->frame_bad && r->frame_len >= 14;

	if (good && (opts1 & CP_LGSEN)) {
		o.gso_size = opts1 >> 16 & 0x7ff;
		good = o.gso_size && net_tso_prepare(r->frame, r->frame_len, &o);
	} else if (good) {
		if (opts1 & (CP_TCPCS | CP_UDPCS))
			net_transport_sum_fill(r->frame, r->frame_len);
		if (opts1 & CP_IPCS)
			net_ip_sum_fill(r->frame, r->frame_len);
	}
	if (good && (opts2 & CP_TAGC)) {
		memmove(r->frame + 16, r->frame + 12, r->frame_len - 12);
		st16be(r->frame + 12, 0x8100);
		st16le(r->frame + 14, (uint16_t)opts2);
		r->frame_len += 4;
		o.csum_start = (uint16_t)(o.csum_start + (o.gso ? 4 : 0));
		o.header_len = (uint16_t)(o.header_len + (o.gso ? 4 : 0));
	}
	if (good)
		send(r, r->frame, r->frame_len, &o);
	else
		device_guest_error(&r->pci.device, "frame of %u bytes that cannot be sent", r->frame_len);
	r->frame_len = 0;
	r->frame_bad = false;
}

/* One descriptor of a ring; false when the driver owns it. */
static bool ring_step(struct rtl8139 *r, uint64_t base, uint8_t *index)
{
	uint64_t at = base + *index * 16u;
	uint32_t opts1, len;
	uint8_t raw[16];

	if (!pci_dma_read(&r->pci, at, raw, sizeof(raw))) {
		device_guest_error(&r->pci.device, "transmit ring outside of memory");
		return false;
	}
	opts1 = ld32le(raw);
	len = opts1 & 0xffff;
	if (!(opts1 & CP_OWN))
		return false;
	if (opts1 & CP_FS) {
		r->frame_len = 0;
		r->frame_bad = false;
	}
	if (len > NETDEV_MAX_FRAME - r->frame_len || !pci_dma_read(&r->pci, ld64le(raw + 8), r->frame + r->frame_len, len))
		r->frame_bad = true;
	else
		r->frame_len += len;
	if (opts1 & CP_LS)
		frame_finish(r, opts1, ld32le(raw + 4));
	/* No longer ours; the offload bits become status: no errors, no collisions. */
	st32le(raw, opts1 & (CP_EOR | CP_FS | CP_LS | 0xffff));
	pci_dma_write(&r->pci, at, raw, 4);
	*index = opts1 & CP_EOR ? 0 : (*index + 1) % RING_ENTRIES;
	return true;
}

static void plus_transmit(struct rtl8139 *r)
{
	const uint64_t base[2] = { ld64le(r->reg + TNPDS), ld64le(r->reg + THPDS) };
	unsigned done = 0;
	bool more = false;

	for (int ring = 1; ring >= 0; ring--) {
		if (!(r->reg[TPPOLL] & (ring ? POLL_HIGH : POLL_NORMAL)))
			continue;
		while (!more && netdev_can_send(r->nd) && ring_step(r, base[ring], &r->tx_index[ring]))
			more = ++done == TX_BUDGET;
	}
	if (more)
		timer_arm(r->tx_later, clock_now(r->clock));
	else if (netdev_can_send(r->nd))
		r->reg[TPPOLL] &= (uint8_t)~(POLL_NORMAL | POLL_HIGH);
	if (done)
		rtl8139_interrupt(r, ISR_TOK | (more ? 0 : ISR_TDU));
}

void rtl8139_transmit(struct rtl8139 *r)
{
	if (!(r->reg[CR] & CR_TE) || !(r->pci.config[4] & 4))
		return;
	if (rtl8139_get16(r, CPCR) & CPCR_TX)
		plus_transmit(r);
	else
		classic_transmit(r);
}
