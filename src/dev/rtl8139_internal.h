/* Inside of the RTL8139C+, shared by rtl8139.c (registers), rtl8139_rx.c and rtl8139_tx.c. */
#ifndef DEV_RTL8139_INTERNAL_H
#define DEV_RTL8139_INTERNAL_H

#include "base/bytes.h"
#include "bus/pci.h"
#include "dev/eeprom93c46.h"
#include "dev/rtl8139.h"
#include "host/clock.h"
#include "net/netdev.h"

/* Register offsets (RTL8139C+ data sheet, 6). */
enum {
	IDR0 = 0x00, MAR0 = 0x08, TSD0 = 0x10, DTCCR = 0x10, TSAD0 = 0x20, TNPDS = 0x20, THPDS = 0x28, RBSTART = 0x30, ERBCR = 0x34,
	ERSR = 0x36, CR = 0x37, CAPR = 0x38, CBR = 0x3a, IMR = 0x3c, ISR = 0x3e, TCR = 0x40, RCR = 0x44, TCTR = 0x48, MPC = 0x4c,
	EECR = 0x50, CONFIG0 = 0x51, CONFIG1 = 0x52, TIMERINT = 0x54, MSR = 0x58, CONFIG3 = 0x59, CONFIG4 = 0x5a, MULINT = 0x5c,
	TSAD = 0x60, BMCR = 0x62, BMSR = 0x64, ANAR = 0x66, ANLPAR = 0x68, ANER = 0x6a, PHY1_PARM = 0x78, TW_PARM = 0x7c,
	PHY2_PARM = 0x80, WAKE = 0x84, CONFIG5 = 0xd8, TPPOLL = 0xd9, CPCR = 0xe0, INTRMIT = 0xe2, RDSAR = 0xe4, ETTHR = 0xec,
};

enum { CR_BUFE = 1 << 0, CR_TE = 1 << 2, CR_RE = 1 << 3, CR_RST = 1 << 4 };
enum { ISR_ROK = 1 << 0, ISR_RER = 1 << 1, ISR_TOK = 1 << 2, ISR_TER = 1 << 3, ISR_RXOVW = 1 << 4, ISR_LINK = 1 << 5,
       ISR_TDU = 1 << 7, ISR_SW = 1 << 8, ISR_TIMEOUT = 1 << 14 };
enum { RCR_AAP = 1 << 0, RCR_APM = 1 << 1, RCR_AM = 1 << 2, RCR_AB = 1 << 3, RCR_WRAP = 1 << 7 };
enum { TCR_LOOPBACK = 3 << 17 };
enum { CPCR_TX = 1 << 0, CPCR_RX = 1 << 1, CPCR_RX_SUM = 1 << 5, CPCR_RX_VLAN = 1 << 6 };
enum { TSD_OWN = 1 << 13, TSD_TOK = 1 << 15 };

/* The tally counters that DTCCR dumps. */
struct rtl8139_tally {
	uint64_t tx_ok, rx_ok, rx_unicast, rx_broadcast;
	uint32_t rx_multicast;
	uint16_t rx_missed;
};

#define RTL8139_FRAME_ROOM (NETDEV_MAX_FRAME + 64)

struct rtl8139 {
	struct pci_dev pci; /* must be first */
	struct netdev *nd;
	struct clock *clock;
	struct timer *timeout;  /* TIMERINT */
	struct timer *tx_later; /* what exceeded a kick's budget */
	struct timer *rx_retry; /* looks for descriptors given back, which no register write tells */
	uint8_t rx_patience;    /* how often in vain */
	uint8_t reg[256];
	struct eeprom93c46 eeprom;
	int64_t count_start; /* when TCTR was 0 */
	uint32_t rx_write;   /* where the next frame goes in the classic ring */
	uint8_t rx_index, tx_index[2]; /* C+ rings: normal, high priority */
	uint8_t tx_next;     /* classic: next of the four */
	struct rtl8139_tally tally;
	uint8_t *frame;      /* being gathered by C+ descriptors */
	uint32_t frame_len;
	bool frame_bad;
};

static inline uint16_t rtl8139_get16(const struct rtl8139 *r, unsigned at) { return ld16le(r->reg + at); }
static inline uint32_t rtl8139_get32(const struct rtl8139 *r, unsigned at) { return ld32le(r->reg + at); }

void rtl8139_interrupt(struct rtl8139 *r, unsigned causes);

/* rtl8139_rx.c */
bool rtl8139_can_receive(void *opaque);
void rtl8139_receive(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *offload);
/* Where the driver has read up to in the classic ring, and whether it is empty. */
void rtl8139_rx_restart(struct rtl8139 *r);
bool rtl8139_rx_empty(const struct rtl8139 *r);
/* rtl8139_tx.c */
void rtl8139_transmit(struct rtl8139 *r);
void rtl8139_tx_restart(struct rtl8139 *r);

#endif
