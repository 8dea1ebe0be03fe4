/*
 * The 82540EM's EEPROM (SDM 5: 64 words behind a microwire interface and a read register) and its
 * integrated M88E1011 PHY (SDM 8.11; IEEE 802.3 clause 22 registers through MDIC).
 */
#include <string.h>

#include "base/bytes.h"
#include "dev/e1000_internal.h"

enum { EECD_SK = 1 << 0, EECD_CS = 1 << 1, EECD_DI = 1 << 2, EECD_DO = 1 << 3, EECD_FWE = 3 << 4, EECD_REQ = 1 << 6,
       EECD_GNT = 1 << 7, EECD_PRES = 1 << 8 };
enum { EERD_START = 1 << 0, EERD_DONE = 1 << 4 };
enum { MDIC_WRITE = 1 << 26, MDIC_READ = 2 << 26, MDIC_READY = 1 << 28, MDIC_INT = 1 << 29, MDIC_ERROR = 1 << 30 };

enum { PHY_CONTROL = 0, PHY_STATUS, PHY_ID1, PHY_ID2, PHY_ADVERTISE, PHY_PARTNER, PHY_EXPANSION, PHY_1000_CONTROL = 9,
       PHY_1000_STATUS, PHY_EXTENDED = 15, PHY_SPECIFIC_CONTROL, PHY_SPECIFIC_STATUS, PHY_EXTENDED_CONTROL = 20 };
enum { PHY_RESET = 1 << 15, PHY_RESTART = 1 << 9, PHY_NEGOTIATE = 1 << 12 };
enum { PHY_LINK = 1 << 2, PHY_NEGOTIATED = 1 << 5 };

/* ---- EEPROM ---- */

void e1000_eeprom_fill(struct e1000 *e, const uint8_t mac[6])
{
	static const uint16_t words[64] = {
		[0x03] = 0x0000, [0x08] = 0x3000, [0x09] = 0x1000, [0x0a] = 0x6403, [0x0b] = 0x001e, [0x0c] = 0x8086,
		[0x0d] = 0x100e, [0x0e] = 0x8086, [0x0f] = 0x3040, [0x11] = 0x0008, [0x21] = 0x7061, [0x22] = 0x280c,
		[0x23] = 0x00c8, [0x24] = 0x00c8, [0x26] = 0x0602, [0x2f] = 0x0602,
	};
	uint16_t sum = 0;

	memcpy(e->eeprom.word, words, sizeof(words));
	for (unsigned i = 0; i < 3; i++)
		e->eeprom.word[i] = ld16le(mac + 2 * i);
	for (unsigned i = 0; i < 63; i++)
		sum += e->eeprom.word[i];
	e->eeprom.word[63] = (uint16_t)(0xbaba - sum);
}

uint32_t e1000_eecd_read(struct e1000 *e)
{
	uint32_t v = *e1000_reg(e, EECD) | EECD_PRES;

	if (v & EECD_REQ)
		v |= EECD_GNT;
	return v | (eeprom93c46_out(&e->eeprom) ? EECD_DO : 0);
}

void e1000_eecd_write(struct e1000 *e, uint32_t value)
{
	*e1000_reg(e, EECD) = value & (EECD_SK | EECD_CS | EECD_DI | EECD_FWE | EECD_REQ);
	eeprom93c46_pins(&e->eeprom, value & EECD_CS, value & EECD_SK, value & EECD_DI);
}

void e1000_eerd_write(struct e1000 *e, uint32_t value)
{
	unsigned word = value >> 8 & 0xff;

	if (!(value & EERD_START)) {
		*e1000_reg(e, EERD) = value & 0xff00;
		return;
	}
	*e1000_reg(e, EERD) = EERD_DONE | (value & 0xff00) | (uint32_t)(word < 64 ? e->eeprom.word[word] : 0xffff) << 16;
}

/* ---- PHY ---- */

void e1000_link_update(struct e1000 *e, bool up)
{
	if (up) {
		*e1000_reg(e, STATUS) |= STATUS_LU;
		e->phy[PHY_STATUS] |= PHY_LINK | PHY_NEGOTIATED;
		e->phy[PHY_SPECIFIC_STATUS] |= 0x0400;
		e->phy[PHY_PARTNER] = 0xcde1;
		e->phy[PHY_1000_STATUS] = 0x3c00;
	} else {
		*e1000_reg(e, STATUS) &= ~(uint32_t)STATUS_LU;
		e->phy[PHY_STATUS] &= (uint16_t)~(PHY_LINK | PHY_NEGOTIATED);
		e->phy[PHY_SPECIFIC_STATUS] &= (uint16_t)~0x0400;
		e->phy[PHY_PARTNER] = 0;
		e->phy[PHY_1000_STATUS] = 0;
	}
	e1000_interrupt(e, ICR_LSC);
}

void e1000_phy_reset(struct e1000 *e)
{
	memset(e->phy, 0, sizeof(e->phy));
	e->phy[PHY_CONTROL] = 0x1140;
	e->phy[PHY_STATUS] = 0x7949;
	e->phy[PHY_ID1] = 0x0141;
	e->phy[PHY_ID2] = 0x0c20;
	e->phy[PHY_ADVERTISE] = 0x0de1;
	e->phy[PHY_EXPANSION] = 0x000d;
	e->phy[PHY_1000_CONTROL] = 0x0e00;
	e->phy[PHY_EXTENDED] = 0x3000;
	e->phy[PHY_SPECIFIC_CONTROL] = 0x0360;
	e->phy[PHY_SPECIFIC_STATUS] = 0xa800;
	e->phy[PHY_EXTENDED_CONTROL] = 0x0d60;
}

static void phy_write(struct e1000 *e, unsigned reg, uint16_t v)
{
	switch (reg) {
	case PHY_CONTROL:
		if (v & PHY_RESET)
			e1000_phy_reset(e);
		else
			e->phy[PHY_CONTROL] = v & 0x7fff & ~PHY_RESTART;
		/* Negotiation with the other end of this cable takes no time. */
		if (v & (PHY_RESET | PHY_RESTART))
			e1000_link_update(e, netdev_link(e->nd));
		break;
	case PHY_STATUS:
	case PHY_ID1:
	case PHY_ID2:
	case PHY_PARTNER:
	case PHY_EXPANSION:
	case PHY_1000_STATUS:
	case PHY_EXTENDED:
	case PHY_SPECIFIC_STATUS:
		break; /* read-only */
	default:
		e->phy[reg] = v;
		break;
	}
}

void e1000_mdic_write(struct e1000 *e, uint32_t value)
{
	unsigned reg = value >> 16 & 31, address = value >> 21 & 31;
	uint32_t result = value & 0x03ffffff & ~0xffffu;

	if (address != 1)
		result |= MDIC_ERROR;
	else if ((value & (3u << 26)) == MDIC_READ)
		result |= e->phy[reg];
	else if ((value & (3u << 26)) == MDIC_WRITE)
		phy_write(e, reg, (uint16_t)value);
	else
		result |= MDIC_ERROR;
	if ((value & (3u << 26)) == MDIC_WRITE)
		result |= value & 0xffff;
	*e1000_reg(e, MDIC) = result | MDIC_READY | (value & (3u << 26)) | (value & MDIC_INT);
	if (value & MDIC_INT)
		e1000_interrupt(e, ICR_MDAC);
}
