/*
 * Reception of the 82540EM (SDM 3.2): address, multicast and VLAN filters, VLAN stripping, checksum
 * status, the descriptor ring.
 */
#include <string.h>

#include "base/bytes.h"
#include "dev/e1000_internal.h"
#include "net/offload.h"

enum { RX_DD = 1 << 0, RX_EOP = 1 << 1, RX_IXSM = 1 << 2, RX_VP = 1 << 3, RX_TCPCS = 1 << 5, RX_IPCS = 1 << 6, RX_PIF = 1 << 7 };
enum { RXCSUM_IP = 1 << 8, RXCSUM_TCP = 1 << 9 };
enum { FCS = 4, MIN_FRAME = 60, MAX_FRAME = 1522 - FCS, MAX_LONG = 16384 - FCS };

static uint32_t buffer_size(struct e1000 *e)
{
	static const uint16_t plain[4] = { 2048, 1024, 512, 256 }, extended[4] = { 2048, 16384, 8192, 4096 };
	uint32_t rctl = *e1000_reg(e, RCTL);

	return rctl & RCTL_BSEX ? extended[rctl >> 16 & 3] : plain[rctl >> 16 & 3];
}

static uint32_t free_descriptors(struct e1000 *e)
{
	uint32_t count = *e1000_reg(e, RDLEN) / 16, head = *e1000_reg(e, RDH), tail = *e1000_reg(e, RDT);

	if (head >= count || tail >= count)
		return 0;
	return tail >= head ? tail - head : tail + count - head;
}

static bool enabled(struct e1000 *e)
{
	return (*e1000_reg(e, RCTL) & RCTL_EN) && (*e1000_reg(e, STATUS) & STATUS_LU) && (e->pci.config[4] & 4);
}

/* A receiver that is off takes frames and loses them, as a wire does. */
bool e1000_can_receive(void *opaque)
{
	struct e1000 *e = opaque;
	uint32_t largest = *e1000_reg(e, RCTL) & RCTL_LPE ? 9018 + FCS : MAX_FRAME + FCS;
	uint32_t need = (largest + buffer_size(e) - 1) / buffer_size(e), count = *e1000_reg(e, RDLEN) / 16;

	if (!enabled(e) || count < 2)
		return true;
	return free_descriptors(e) >= MIN(need, count - 1);
}

static bool tagged(struct e1000 *e, const uint8_t *frame)
{
	return ld16be(frame + 12) == (uint16_t)*e1000_reg(e, VET);
}

static bool multicast_match(struct e1000 *e, const uint8_t *mac)
{
	static const uint8_t shift[4] = { 4, 3, 2, 0 };
	unsigned hash = (ld16le(mac + 4) >> shift[*e1000_reg(e, RCTL) >> 12 & 3]) & 0xfff;

	return e->reg[MTA / 4 + (hash >> 5)] >> (hash & 31) & 1;
}

static bool address_match(struct e1000 *e, const uint8_t *mac)
{
	for (unsigned i = 0; i < 16; i++) {
		uint32_t low = e->reg[RA / 4 + 2 * i], high = e->reg[RA / 4 + 2 * i + 1];

		if (high >> 31 && low == ld32le(mac) && (uint16_t)high == ld16le(mac + 4))
			return true;
	}
	return false;
}

/* *exact: the whole address was compared, so the driver need not. */
static bool filter(struct e1000 *e, const uint8_t *frame, size_t len, bool *exact)
{
	static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };
	uint32_t rctl = *e1000_reg(e, RCTL);

	*exact = true;
	if (tagged(e, frame) && (rctl & RCTL_VFE)) {
		unsigned vid = len >= 18 ? ld16be(frame + 14) & 0xfff : 0;

		if (!(e->reg[VFTA / 4 + (vid >> 5)] >> (vid & 31) & 1))
			return false;
	}
	if (!memcmp(frame, broadcast, 6) && (rctl & RCTL_BAM))
		return true;
	if (address_match(e, frame))
		return true;
	*exact = false;
	if (frame[0] & 1)
		return (rctl & RCTL_MPE) || multicast_match(e, frame);
	return rctl & RCTL_UPE;
}

/* What the card can say about checksums: right, or nothing at all. */
static uint8_t sum_status(struct e1000 *e, const uint8_t *frame, size_t len, const struct net_offload *o)
{
	uint32_t rxcsum = *e1000_reg(e, RXCSUM);
	struct net_headers h;
	uint8_t status;

	if (!(o->flags & NET_DATA_VALID) || !(rxcsum & (RXCSUM_IP | RXCSUM_TCP)) || !net_headers_find(frame, len, &h))
		return RX_IXSM;
	status = rxcsum & RXCSUM_TCP ? RX_TCPCS : 0;
	return status | (rxcsum & RXCSUM_IP && !h.v6 ? RX_IPCS : 0);
}

/* One descriptor's share; false when its buffer or the ring is not memory. */
static bool fill(struct e1000 *e, const uint8_t *data, uint32_t data_len, uint32_t len, uint8_t status, uint16_t tag)
{
	uint64_t at = (*e1000_reg(e, RDBAL) | (uint64_t)*e1000_reg(e, RDBAH) << 32) + *e1000_reg(e, RDH) * 16;
	uint32_t count = *e1000_reg(e, RDLEN) / 16, *head = e1000_reg(e, RDH);
	static const uint8_t zeros[MIN_FRAME + FCS];
	uint8_t raw[16];
	bool ok;

	if (!pci_dma_read(&e->pci, at, raw, sizeof(raw)))
		return false;
	ok = ld64le(raw) == 0 || pci_dma_write(&e->pci, ld64le(raw), data, data_len);
	if (ok && ld64le(raw) && len > data_len)
		ok = pci_dma_write(&e->pci, ld64le(raw) + data_len, zeros, len - data_len);
	st16le(raw + 8, (uint16_t)len);
	st16le(raw + 10, 0);
	raw[12] = status;
	raw[13] = 0;
	st16le(raw + 14, tag);
	*head = *head + 1 == count ? 0 : *head + 1;
	return pci_dma_write(&e->pci, at + 8, raw + 8, 8) && ok;
}

/* Cuts the frame, its padding and its FCS (zeros: nobody checks it behind the MAC) into buffers. */
static bool deliver(struct e1000 *e, const uint8_t *frame, uint32_t len, uint8_t status, uint16_t tag)
{
	uint32_t padded = MAX(len, MIN_FRAME), total = padded + (*e1000_reg(e, RCTL) & RCTL_SECRC ? 0 : FCS);
	uint32_t size = buffer_size(e);

	if ((total + size - 1) / size > free_descriptors(e)) {
		e1000_count(e, MPC);
		e1000_count(e, RNBC);
		e1000_interrupt(e, ICR_RXO);
		return false;
	}
	for (uint32_t at = 0; at < total; at += size) {
		uint32_t part = MIN(size, total - at), data = at < len ? MIN(part, len - at) : 0;
		bool last = at + part == total;

		if (!fill(e, frame + MIN(at, len), data, part, (uint8_t)(RX_DD | (last ? RX_EOP | status : 0)), last ? tag : 0)) {
			device_guest_error(&e->pci.device, "receive buffer or ring outside of memory");
			return false;
		}
	}
	return true;
}

static void tell(struct e1000 *e)
{
	uint32_t causes = ICR_RXT0, count = *e1000_reg(e, RDLEN) / 16, threshold = *e1000_reg(e, RCTL) >> 8 & 3;

	if (free_descriptors(e) <= count >> (threshold + 1))
		causes |= ICR_RXDMT0;
	e1000_interrupt(e, causes);
}

void e1000_receive(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *o)
{
	struct e1000 *e = opaque;
	uint8_t stripped[MAX_LONG + FCS], status;
	uint16_t tag = 0;
	bool exact;

	if (!enabled(e) || len < 14)
		return;
	if (len > MAX_LONG || (len > MAX_FRAME && !(*e1000_reg(e, RCTL) & RCTL_LPE))) {
		e1000_count(e, ROC);
		return;
	}
	if (!filter(e, frame, len, &exact))
		return;
	status = sum_status(e, frame, len, o) | (exact ? 0 : RX_PIF);
	e1000_count_frame(e, false, frame, len);
	if (len >= 18 && tagged(e, frame) && (*e1000_reg(e, CTRL) & CTRL_VME)) {
		tag = ld16be(frame + 14);
		status |= RX_VP;
		memcpy(stripped, frame, 12);
		memcpy(stripped + 12, frame + 16, len - 16);
		frame = stripped;
		len -= 4;
	}
	if (deliver(e, frame, (uint32_t)len, status, tag))
		tell(e);
}
