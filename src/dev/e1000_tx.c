/*
 * Transmission of the 82540EM (SDM 3.3, 3.4, 3.5): legacy, context and data descriptors, checksum
 * insertion, TCP segmentation, VLAN tags, loopback. Segmentation and transport checksums are left
 * to the back end's side as far as it can do them.
 */
#include <string.h>

#include "base/bytes.h"
#include "dev/e1000_internal.h"
#include "net/offload.h"

/* Descriptors in one go, so that no ring holds the machine's lock for long. */
#define TX_BUDGET 512

enum { CMD_EOP = 1 << 0, CMD_IC = 1 << 2, CMD_TSE = 1 << 2, CMD_RS = 1 << 3, CMD_RPS = 1 << 4, CMD_DEXT = 1 << 5, CMD_VLE = 1 << 6 };
enum { TUCMD_TCP = 1 << 0, TUCMD_TSE = 1 << 2 };
enum { POPTS_IXSM = 1 << 0, POPTS_TXSM = 1 << 1 };
enum { STATUS_DD = 1 << 0 };

struct tx_desc {
	uint64_t address;
	uint32_t lower, upper;
};

static void context_take(struct e1000 *e, const struct tx_desc *d)
{
	uint8_t tucmd = (uint8_t)(d->lower >> 24);
	struct e1000_context *c = tucmd & TUCMD_TSE ? &e->tso : &e->context;

	*c = (struct e1000_context){
		.ip_start = (uint8_t)d->address,
		.ip_offset = (uint8_t)(d->address >> 8),
		.ip_end = (uint16_t)(d->address >> 16),
		.tcp_start = (uint8_t)(d->address >> 32),
		.tcp_offset = (uint8_t)(d->address >> 40),
		.tcp_end = (uint16_t)(d->address >> 48),
		.header_len = (uint8_t)(d->upper >> 8),
		.mss = (uint16_t)(d->upper >> 16),
		.tcp = tucmd & TUCMD_TCP,
	};
}

/* Inclusive end, 0 for the end of the frame. False when the field lies outside. */
static bool sum_insert(uint8_t *frame, size_t len, size_t start, size_t offset, size_t end)
{
	end = end && end + 1 < len ? end + 1 : len;
	if (start >= end || offset + 2 > len)
		return false;
	st16be(frame + offset, net_sum_finish(net_sum(0, frame + start, end - start)));
	return true;
}

/* A tag goes in behind the addresses. */
static void tag_insert(struct e1000 *e)
{
	memmove(e->frame + 16, e->frame + 12, e->frame_len - 12);
	st16be(e->frame + 12, (uint16_t)*e1000_reg(e, VET));
	st16be(e->frame + 14, e->frame_tag);
	e->frame_len += 4;
}

static bool sums_prepare(struct e1000 *e, struct net_offload *o)
{
	const struct e1000_context *c = &e->context;
	bool ok = true;

	if (e->frame_ip_sum)
		ok = sum_insert(e->frame, e->frame_len, c->ip_start, c->ip_offset, c->ip_end);
	if (!e->frame_tcp_sum)
		return ok;
	if (c->tcp_end || c->tcp_offset < c->tcp_start)
		return sum_insert(e->frame, e->frame_len, c->tcp_start, c->tcp_offset, c->tcp_end) && ok;
	*o = (struct net_offload){
		.flags = NET_NEEDS_CSUM,
		.csum_start = c->tcp_start,
		.csum_offset = (uint16_t)(c->tcp_offset - c->tcp_start),
	};
	return ok;
}

static bool looped_back(struct e1000 *e)
{
	return (*e1000_reg(e, RCTL) & RCTL_LOOPBACK) || (e->phy[0] & 1 << 14);
}

static void send(struct e1000 *e, const struct net_offload *o)
{
	const struct iovec iov = { e->frame, e->frame_len };

	e1000_count_frame(e, true, e->frame, e->frame_len);
	if (looped_back(e)) {
		if (o->flags & NET_NEEDS_CSUM && net_offload_valid(o, e->frame_len))
			net_checksum_fill(e->frame, e->frame_len, o);
		if (!o->gso && e1000_can_receive(e))
			e1000_receive(e, e->frame, e->frame_len, &(struct net_offload){ 0 });
	} else if (!netdev_send(e->nd, &iov, 1, o)) {
		device_guest_error(&e->pci.device, "frame with checksum offsets outside of it");
	}
}

static void frame_finish(struct e1000 *e)
{
	struct net_offload o = { 0 };
	bool good = !e->frame_bad && e->frame_len >= 14;

	if (good && e->frame_tso) {
		o.gso_size = e->tso.mss;
		good = e->tso.mss && e->tso.tcp && net_tso_prepare(e->frame, e->frame_len, &o);
		e1000_count(e, TSCTC);
	} else if (good) {
		good = sums_prepare(e, &o);
	}
	if (good && e->frame_vlan) {
		tag_insert(e);
		o.csum_start = (uint16_t)(o.csum_start + (o.flags ? 4 : 0));
		o.header_len = (uint16_t)(o.header_len + (o.gso ? 4 : 0));
	}
	if (good && e->frame_len < 60 && (*e1000_reg(e, TCTL) & TCTL_PSP)) {
		memset(e->frame + e->frame_len, 0, 60 - e->frame_len);
		e->frame_len = 60;
	}
	if (good)
		send(e, &o);
	else
		device_guest_error(&e->pci.device, "frame of %u bytes that cannot be sent", e->frame_len);
	e->frame_len = 0;
	e->frame_started = e->frame_bad = false;
}

static void frame_start(struct e1000 *e, const struct tx_desc *d)
{
	uint8_t cmd = (uint8_t)(d->lower >> 24);
	bool extended = cmd & CMD_DEXT;

	e->frame_started = true;
	e->frame_tso = extended && (cmd & CMD_TSE);
	e->frame_ip_sum = extended && (d->upper >> 8 & POPTS_IXSM);
	e->frame_tcp_sum = extended && (d->upper >> 8 & POPTS_TXSM);
}

static void frame_add(struct e1000 *e, const struct tx_desc *d, uint32_t len)
{
	if (len > NETDEV_MAX_FRAME - e->frame_len || !pci_dma_read(&e->pci, d->address, e->frame + e->frame_len, len))
		e->frame_bad = true;
	else
		e->frame_len += len;
}

/* Legacy descriptors carry their own checksum range: from CSS to the end, stored at CSO. */
static void legacy_sum(struct e1000 *e, const struct tx_desc *d)
{
	size_t start = d->upper >> 8 & 0xff, offset = d->lower >> 16 & 0xff;

	if (!e->frame_bad && !sum_insert(e->frame, e->frame_len, start, offset, 0))
		device_guest_error(&e->pci.device, "checksum at %zu of a frame of %u bytes", offset, e->frame_len);
}

static void descriptor_run(struct e1000 *e, const struct tx_desc *d)
{
	uint8_t cmd = (uint8_t)(d->lower >> 24);
	unsigned type = d->lower >> 20 & 15;

	if ((cmd & CMD_DEXT) && type == 0) {
		context_take(e, d);
		return;
	}
	if (!e->frame_started)
		frame_start(e, d);
	frame_add(e, d, cmd & CMD_DEXT ? d->lower & 0xfffff : d->lower & 0xffff);
	if (!(cmd & CMD_EOP))
		return;
	e->frame_vlan = (cmd & CMD_VLE) && (*e1000_reg(e, CTRL) & CTRL_VME);
	e->frame_tag = (uint16_t)(d->upper >> 16);
	if (!(cmd & CMD_DEXT) && (cmd & CMD_IC))
		legacy_sum(e, d);
	frame_finish(e);
}

void e1000_tx_reset(struct e1000 *e)
{
	timer_cancel(e->tx_later);
	e->frame_len = 0;
	e->frame_started = e->frame_bad = false;
	e->context = e->tso = (struct e1000_context){ 0 };
}

void e1000_transmit(struct e1000 *e)
{
	uint64_t base = *e1000_reg(e, TDBAL) | (uint64_t)*e1000_reg(e, TDBAH) << 32;
	uint32_t count = *e1000_reg(e, TDLEN) / 16, *head = e1000_reg(e, TDH), tail = *e1000_reg(e, TDT), causes = 0;
	unsigned budget = TX_BUDGET;

	if (!(*e1000_reg(e, TCTL) & TCTL_EN) || *head >= count || tail >= count || *head == tail)
		return;
	while (*head != tail && netdev_can_send(e->nd)) {
		uint64_t at = base + *head * 16;
		uint8_t raw[16], cmd;
		struct tx_desc d;

		if (!budget--) {
			timer_arm(e->tx_later, clock_now(e->clock));
			break;
		}
		if (!pci_dma_read(&e->pci, at, raw, sizeof(raw))) {
			device_guest_error(&e->pci.device, "transmit ring outside of memory");
			break;
		}
		d = (struct tx_desc){ ld64le(raw), ld32le(raw + 8), ld32le(raw + 12) };
		descriptor_run(e, &d);
		cmd = (uint8_t)(d.lower >> 24);
		if (cmd & (CMD_RS | CMD_RPS)) {
			raw[12] |= STATUS_DD;
			pci_dma_write(&e->pci, at + 12, raw + 12, 1);
			causes |= ICR_TXDW;
		}
		*head = *head + 1 == count ? 0 : *head + 1;
	}
	if (*head == tail)
		causes |= ICR_TXQE;
	if (causes)
		e1000_interrupt(e, causes);
}
