/* Inside of the 82540EM, shared by e1000.c (registers), e1000_rx.c, e1000_tx.c and e1000_nvm.c. */
#ifndef DEV_E1000_INTERNAL_H
#define DEV_E1000_INTERNAL_H

#include "bus/pci.h"
#include "dev/e1000.h"
#include "dev/eeprom93c46.h"
#include "host/clock.h"
#include "net/netdev.h"

#define E1000_REG_SPACE 0x6000

/* Register offsets (SDM 13.2). */
enum {
	CTRL = 0x0000, STATUS = 0x0008, EECD = 0x0010, EERD = 0x0014, CTRL_EXT = 0x0018, MDIC = 0x0020, FCAL = 0x0028,
	FCAH = 0x002c, FCT = 0x0030, VET = 0x0038, ICR = 0x00c0, ITR = 0x00c4, ICS = 0x00c8, IMS = 0x00d0, IMC = 0x00d8,
	RCTL = 0x0100, FCTTV = 0x0170, TCTL = 0x0400, TIPG = 0x0410, AIT = 0x0458, LEDCTL = 0x0e00, PBA = 0x1000,
	FCRTL = 0x2160, FCRTH = 0x2168, RDBAL = 0x2800, RDBAH = 0x2804, RDLEN = 0x2808, RDH = 0x2810, RDT = 0x2818,
	RDTR = 0x2820, RXDCTL = 0x2828, RADV = 0x282c, RSRPD = 0x2c00, TDBAL = 0x3800, TDBAH = 0x3804, TDLEN = 0x3808,
	TDH = 0x3810, TDT = 0x3818, TIDV = 0x3820, TXDCTL = 0x3828, TADV = 0x382c, TSPMT = 0x3830,
	STATS_FIRST = 0x4000, MPC = 0x4010, PRC64 = 0x405c, GPRC = 0x4074, BPRC = 0x4078, MPRC = 0x407c, GPTC = 0x4080,
	GORCL = 0x4088, GOTCL = 0x4090, RNBC = 0x40a0, RUC = 0x40a4, ROC = 0x40ac, TORL = 0x40c0, TOTL = 0x40c8, TPR = 0x40d0,
	TPT = 0x40d4, PTC64 = 0x40d8, MPTC = 0x40f0, BPTC = 0x40f4, TSCTC = 0x40f8, STATS_LAST = 0x40fc,
	RXCSUM = 0x5000, MTA = 0x5200, RA = 0x5400, VFTA = 0x5600, WUC = 0x5800, WUFC = 0x5808, WUS = 0x5810, MANC = 0x5820,
	IPAV = 0x5838, IP4AT = 0x5840, FFMT = 0x5900, FFLT = 0x5f00,
};

enum { CTRL_SLU = 1 << 6, CTRL_RST = 1 << 26, CTRL_VME = 1 << 30 };
enum { STATUS_LU = 1 << 1 };
enum { ICR_TXDW = 1 << 0, ICR_TXQE = 1 << 1, ICR_LSC = 1 << 2, ICR_RXDMT0 = 1 << 4, ICR_RXO = 1 << 6, ICR_RXT0 = 1 << 7,
       ICR_MDAC = 1 << 9 };
enum { RCTL_EN = 1 << 1, RCTL_UPE = 1 << 3, RCTL_MPE = 1 << 4, RCTL_LPE = 1 << 5, RCTL_LOOPBACK = 3 << 6, RCTL_BAM = 1 << 15,
       RCTL_VFE = 1 << 18, RCTL_BSEX = 1 << 25, RCTL_SECRC = 1 << 26 };
enum { TCTL_EN = 1 << 1, TCTL_PSP = 1 << 3 };

/* The offload parameters of a context descriptor (SDM 3.3.6). */
struct e1000_context {
	uint8_t ip_start, ip_offset, tcp_start, tcp_offset, header_len;
	uint16_t ip_end, tcp_end, mss;
	bool tcp;
};

struct e1000 {
	struct pci_dev pci; /* must be first */
	struct netdev *nd;
	struct clock *clock;
	struct timer *throttle; /* no interrupt until it fires */
	struct timer *tx_later; /* what exceeded a kick's budget */
	uint32_t reg[E1000_REG_SPACE / 4];
	uint32_t io_address;
	uint16_t phy[32];
	struct eeprom93c46 eeprom;
	bool irq_level;

	struct e1000_context context, tso;
	uint8_t *frame; /* being gathered: E1000_FRAME_ROOM bytes */
	uint32_t frame_len;
	bool frame_started, frame_bad, frame_tso, frame_ip_sum, frame_tcp_sum, frame_vlan;
	uint16_t frame_tag;
};

/* Room for a VLAN tag in front and padding behind. */
#define E1000_FRAME_ROOM (NETDEV_MAX_FRAME + 64)

static inline uint32_t *e1000_reg(struct e1000 *e, unsigned offset) { return &e->reg[offset / 4]; }

void e1000_interrupt(struct e1000 *e, uint32_t causes);
/* Adds to a 32-bit counter that sticks at its maximum, or to a pair that is 64 bits wide. */
void e1000_count(struct e1000 *e, unsigned offset);
void e1000_count64(struct e1000 *e, unsigned offset, uint32_t n);
/* Good frames by size class and kind; `good` is GPRC or GPTC. */
void e1000_count_frame(struct e1000 *e, bool tx, const uint8_t *frame, size_t len);

/* e1000_rx.c */
bool e1000_can_receive(void *opaque);
void e1000_receive(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *offload);
/* e1000_tx.c */
void e1000_transmit(struct e1000 *e);
void e1000_tx_reset(struct e1000 *e);
/* e1000_nvm.c: EEPROM and PHY */
void e1000_eeprom_fill(struct e1000 *e, const uint8_t mac[6]);
uint32_t e1000_eecd_read(struct e1000 *e);
void e1000_eecd_write(struct e1000 *e, uint32_t value);
void e1000_eerd_write(struct e1000 *e, uint32_t value);
void e1000_phy_reset(struct e1000 *e);
void e1000_mdic_write(struct e1000 *e, uint32_t value);
/* The link went up or down, or the PHY was told to negotiate: status bits and the interrupt. */
void e1000_link_update(struct e1000 *e, bool up);

#endif
