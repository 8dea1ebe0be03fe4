/*
 * Reception of the RTL8139C+: the classic ring (one buffer that frames run through, data sheet 5.4)
 * and the C+ descriptor ring (9.2), with address filters, VLAN stripping and checksum status.
 */
#include <string.h>

#include "dev/rtl8139_internal.h"
#include "net/offload.h"

enum { FCS = 4, HEADER = 4, MIN_FRAME = 60, MAX_FRAME = 1536, MAX_LONG = 4096 };
enum { HEAD_ROK = 1 << 0, HEAD_BAR = 1 << 13, HEAD_PAM = 1 << 14, HEAD_MAR = 1 << 15 };
enum { CP_SIZE = 0x1fff, CP_TCP = 1 << 16, CP_UDP = 2 << 16, CP_BAR = 1 << 24, CP_PAM = 1 << 25, CP_MAR = 1 << 26, CP_LS = 1 << 28,
       CP_FS = 1 << 29, CP_EOR = 1 << 30, CP_VLAN = 1 << 16 };
#define CP_OWN (1u << 31)
#define RING_ENTRIES 64
#define RETRY_NS INT64_C(1000000)

static bool enabled(const struct rtl8139 *r)
{
	return (r->reg[CR] & CR_RE) && (r->pci.config[4] & 4);
}

static bool plus(const struct rtl8139 *r)
{
	return rtl8139_get16(r, CPCR) & CPCR_RX;
}

/* ---- the classic ring ---- */

static uint32_t ring_size(const struct rtl8139 *r)
{
	return 8192u << (rtl8139_get32(r, RCR) >> 11 & 3);
}

static uint32_t ring_read(const struct rtl8139 *r)
{
	return (rtl8139_get16(r, CAPR) + 16u) & (ring_size(r) - 1);
}

bool rtl8139_rx_empty(const struct rtl8139 *r)
{
	return ring_read(r) == (r->rx_write & (ring_size(r) - 1));
}

static bool ring_room(const struct rtl8139 *r, uint32_t frame)
{
	uint32_t size = ring_size(r), room = (size + ring_read(r) - r->rx_write) & (size - 1);

	/* Equal pointers mean empty, so it never fills up wholly. */
	return !room || room > ((frame + HEADER + FCS + 3) & ~3u) + 4;
}

/* Wraps, unless RCR.WRAP has the last frame run on beyond the end. */
static bool ring_write(struct rtl8139 *r, const void *data, uint32_t len)
{
	uint32_t size = ring_size(r), start = rtl8139_get32(r, RBSTART), part = MIN(len, size - r->rx_write);
	bool ok;

	if ((rtl8139_get32(r, RCR) & RCR_WRAP) && size < 65536)
		part = len;
	ok = pci_dma_write(&r->pci, start + (uint64_t)r->rx_write, data, part);
	if (part < len)
		ok = pci_dma_write(&r->pci, start, (const uint8_t *)data + part, len - part) && ok;
	r->rx_write += len;
	if (r->rx_write >= size && part < len)
		r->rx_write -= size;
	return ok;
}

static bool ring_deliver(struct rtl8139 *r, const uint8_t *frame, uint32_t len, unsigned kind)
{
	static const uint8_t fcs[FCS];
	uint8_t header[HEADER];
	uint32_t size = ring_size(r);
	bool ok;

	if (!ring_room(r, len))
		return false;
	st16le(header, (uint16_t)(HEAD_ROK | kind));
	st16le(header + 2, (uint16_t)(len + FCS));
	/* The header never wraps: frames begin on a doubleword. */
	ok = ring_write(r, header, HEADER);
	r->rx_write &= size - 1;
	ok = ring_write(r, frame, len) && ok;
	ok = ring_write(r, fcs, FCS) && ok;
	r->rx_write = ((r->rx_write + 3) & ~3u) & (size - 1);
	st16le(r->reg + CBR, (uint16_t)r->rx_write);
	if (!ok)
		device_guest_error(&r->pci.device, "receive buffer outside of memory");
	return true;
}

/* ---- the C+ ring ---- */

static uint64_t descriptor_at(const struct rtl8139 *r)
{
	return ld64le(r->reg + RDSAR) + r->rx_index * 16u;
}

static bool descriptor_free(struct rtl8139 *r)
{
	uint8_t raw[4];

	return pci_dma_read(&r->pci, descriptor_at(r), raw, sizeof(raw)) && (ld32le(raw) & CP_OWN);
}

static uint32_t sum_status(const struct rtl8139 *r, const uint8_t *frame, size_t len, const struct net_offload *o)
{
	struct net_headers h;

	if (!(o->flags & NET_DATA_VALID) || !(rtl8139_get16(r, CPCR) & CPCR_RX_SUM) || !net_headers_find(frame, len, &h) || h.v6)
		return 0;
	return h.protocol == 6 ? CP_TCP : CP_UDP;
}

static bool descriptor_deliver(struct rtl8139 *r, const uint8_t *frame, uint32_t len, uint32_t status, uint32_t tag)
{
	uint64_t at = descriptor_at(r);
	static const uint8_t fcs[FCS];
	uint32_t first;
	uint8_t raw[16];

	if (!pci_dma_read(&r->pci, at, raw, sizeof(raw)))
		return false;
	first = ld32le(raw);
	if (!(first & CP_OWN) || (first & CP_SIZE) < len + FCS)
		return false;
	if (!pci_dma_write(&r->pci, ld64le(raw + 8), frame, len) || !pci_dma_write(&r->pci, ld64le(raw + 8) + len, fcs, FCS))
		device_guest_error(&r->pci.device, "receive buffer outside of memory");
	st32le(raw + 4, tag);
	pci_dma_write(&r->pci, at + 4, raw + 4, 4);
	st32le(raw, (first & CP_EOR) | CP_FS | CP_LS | status | (len + FCS));
	pci_dma_write(&r->pci, at, raw, 4);
	r->rx_index = first & CP_EOR ? 0 : (r->rx_index + 1) % RING_ENTRIES;
	return true;
}

/* ---- filters ---- */

/* Bit 5..0: the high bits of the Ethernet CRC over the address. */
static unsigned multicast_hash(const uint8_t *mac)
{
	uint32_t crc = 0xffffffff;

	for (unsigned i = 0; i < 6; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			bool carry = (crc >> 31) ^ (mac[i] >> bit & 1);

			crc = crc << 1 ^ (carry ? 0x04c11db7 : 0);
		}
	}
	return crc >> 26;
}

/* Whether to take it, and what it is in terms of the classic header. */
static bool filter(const struct rtl8139 *r, const uint8_t *frame, unsigned *kind)
{
	uint32_t rcr = rtl8139_get32(r, RCR);
	bool broadcast = ld32le(frame) == UINT32_MAX && ld16le(frame + 4) == 0xffff;
	unsigned hash;

	if (broadcast) {
		*kind = HEAD_BAR;
		return rcr & (RCR_AB | RCR_AAP);
	}
	if (frame[0] & 1) {
		hash = multicast_hash(frame);
		*kind = HEAD_MAR;
		return (rcr & RCR_AAP) || ((rcr & RCR_AM) && (r->reg[MAR0 + hash / 8] >> (hash & 7) & 1));
	}
	*kind = memcmp(frame, r->reg + IDR0, 6) ? 0 : HEAD_PAM;
	return (rcr & RCR_AAP) || (*kind && (rcr & RCR_APM));
}

/* ---- the back end's side ---- */

void rtl8139_rx_restart(struct rtl8139 *r)
{
	r->rx_write = 0;
	r->rx_index = 0;
	r->rx_patience = 0;
	timer_cancel(r->rx_retry);
}

/* A receiver that is off takes frames and loses them, as a wire does. C+ drivers give descriptors
 * back without telling, so one looks again after a while, ever less often. */
bool rtl8139_can_receive(void *opaque)
{
	struct rtl8139 *r = opaque;
	bool room;

	if (!enabled(r))
		return true;
	if (!plus(r))
		return ring_room(r, MAX_FRAME);
	room = descriptor_free(r);
	if (room) {
		r->rx_patience = 0;
	} else if (timer_deadline(r->rx_retry) < 0) {
		timer_arm(r->rx_retry, clock_now(r->clock) + (RETRY_NS << r->rx_patience));
		r->rx_patience = (uint8_t)MIN(r->rx_patience + 1, 7);
	}
	return room;
}

static void count(struct rtl8139 *r, unsigned kind)
{
	r->tally.rx_ok++;
	r->tally.rx_unicast += kind == HEAD_PAM;
	r->tally.rx_broadcast += kind == HEAD_BAR;
	r->tally.rx_multicast += kind == HEAD_MAR;
}

static bool plus_receive(struct rtl8139 *r, uint8_t *frame, uint32_t len, unsigned kind, const struct net_offload *o)
{
	uint32_t status = sum_status(r, frame, len, o), tag = 0;

	status |= kind == HEAD_BAR ? CP_BAR : kind == HEAD_MAR ? CP_MAR : kind == HEAD_PAM ? CP_PAM : 0;
	if ((rtl8139_get16(r, CPCR) & CPCR_RX_VLAN) && ld16be(frame + 12) == 0x8100) {
		tag = CP_VLAN | ld16le(frame + 14);
		memmove(frame + 12, frame + 16, len - 16);
		len = MAX(len - 4, MIN_FRAME);
	}
	return descriptor_deliver(r, frame, len, status, tag);
}

void rtl8139_receive(void *opaque, const uint8_t *data, size_t len, const struct net_offload *o)
{
	struct rtl8139 *r = opaque;
	uint8_t frame[MAX_LONG + 4] = { 0 };
	unsigned kind;
	bool taken;

	if (!enabled(r) || len < 14 || !filter(r, data, &kind))
		return;
	if (len > (plus(r) ? MAX_LONG : MAX_FRAME)) {
		rtl8139_interrupt(r, ISR_RER);
		return;
	}
	memcpy(frame, data, len);
	len = MAX(len, MIN_FRAME);
	taken = plus(r) ? plus_receive(r, frame, (uint32_t)len, kind, o) : ring_deliver(r, frame, (uint32_t)len, kind);
	if (taken) {
		count(r, kind);
		rtl8139_interrupt(r, ISR_ROK);
	} else {
		r->tally.rx_missed++;
		st16le(r->reg + MPC, (uint16_t)(rtl8139_get16(r, MPC) + 1));
		rtl8139_interrupt(r, ISR_RXOVW);
	}
}
