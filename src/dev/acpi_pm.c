/*
 * Power management of the 82371AB PIIX4 (8086:7113, function 3): the ACPI fixed registers, the SMI
 * command port, the SMBus host controller (nobody answers on the bus) and the reset control register.
 * Intel 82371AB data sheet, chapter 7 and 11.3; ACPI 6.4 chapter 4.8.
 */
#include "dev/acpi_pm.h"

#include <glib.h>
#include <string.h>

#include "base/bytes.h"

#define PM_HZ 3579545
#define TIMER_MASK 0xffffff

/* Configuration space. */
enum { CFG_PMBA = 0x40, CFG_DEVACTB = 0x58, CFG_PMREGMISC = 0x80, CFG_SMBBA = 0x90, CFG_SMBHSTCFG = 0xd2 };
enum { SMB_BASE = 0x700, GPE_BASE = 0xafe0 };

enum { STS_TIMER = 1 << 0, STS_GLOBAL = 1 << 5, STS_BUTTON = 1 << 8, STS_RTC = 1 << 10, STS_WAKE = 1 << 15 };
enum { PM_EVENTS = STS_TIMER | STS_GLOBAL | STS_BUTTON | STS_RTC };
enum { CNT_SCI_EN = 1 << 0, CNT_TYPE_SHIFT = 10, CNT_SLEEP = 1 << 13, CNT_KEPT = 0x1c03 };
enum { SLEEP_OFF = 0 }; /* the type that \_S5 names */
enum { APM_ACPI_ENABLE = 0xf1, APM_ACPI_DISABLE = 0xf0 };

enum { SMB_STATUS = 0, SMB_CONTROL = 2, SMB_COMMAND, SMB_ADDRESS, SMB_DATA0, SMB_DATA1, SMB_BLOCK, SMB_REGS = 16 };
enum { SMB_FAILED = 1 << 4, SMB_DEV_ERR = 1 << 2, SMB_W1C = 0x1e, SMB_INTEREN = 1 << 0, SMB_KILL = 1 << 1, SMB_START = 1 << 6 };

struct acpi_pm {
	struct pci_dev pci; /* must be first */
	struct clock *clock;
	struct timer *overflow;
	struct irq sci;
	uint16_t pm_base; /* after reset */
	struct acpi_pm_callbacks cb;
	struct region *pm, *gpe, *smb, *apm, *rcr;

	uint16_t status, enable, control;
	int64_t overflow_at; /* ticks at which bit 23 changes next */
	uint16_t gpe_status, gpe_enable;
	uint8_t apm_command, apm_data, reset_control;
	uint8_t smb_reg[SMB_REGS];
	uint8_t smb_block[32], smb_block_at;
};

/* ---- the timer ---- */

static int64_t pm_ticks(const struct acpi_pm *pm)
{
	return (int64_t)((__int128)clock_now(pm->clock) * PM_HZ / NS_PER_SEC);
}

static void overflow_plan(struct acpi_pm *pm)
{
	const int64_t half = (TIMER_MASK + 1) / 2;

	pm->overflow_at = (pm_ticks(pm) / half + 1) * half;
}

static void timer_look(struct acpi_pm *pm)
{
	if (pm_ticks(pm) >= pm->overflow_at)
		pm->status |= STS_TIMER;
}

/* ---- interrupts ---- */

static bool smb_wants_irq(const struct acpi_pm *pm)
{
	/* INTRSEL 4 picks IRQ 9. */
	return (pm->pci.config[CFG_SMBHSTCFG] >> 1 & 7) == 4 && (pm->smb_reg[SMB_CONTROL] & SMB_INTEREN) &&
	       (pm->smb_reg[SMB_STATUS] & SMB_W1C);
}

static void sci_update(struct acpi_pm *pm)
{
	bool level;

	timer_look(pm);
	level = (pm->status & pm->enable & PM_EVENTS) || (pm->gpe_status & pm->gpe_enable);
	level = (level && (pm->control & CNT_SCI_EN)) || smb_wants_irq(pm);
	irq_set(&pm->sci, level);
	/* The overflow is timed only while it would interrupt; else it is noticed when looked at. */
	if ((pm->enable & STS_TIMER) && !(pm->status & STS_TIMER))
		timer_arm(pm->overflow, (int64_t)((__int128)pm->overflow_at * NS_PER_SEC / PM_HZ) + 1);
	else
		timer_cancel(pm->overflow);
}

static void overflow_due(void *opaque)
{
	sci_update(opaque);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
	pm->status |= STS_BUTTON;
	sci_update(pm);
}

/* ---- PM registers ---- */

static void control_write(struct acpi_pm *pm, uint16_t v)
{
	unsigned type = v >> CNT_TYPE_SHIFT & 7;

	pm->control = v & CNT_KEPT;
	if (!(v & CNT_SLEEP))
		return;
	if (type == SLEEP_OFF) {
		if (pm->cb.poweroff)
			pm->cb.poweroff(pm->cb.opaque);
	} else {
		device_guest_error(&pm->pci.device, "sleep type %u, which the DSDT does not offer", type);
	}
}

static uint16_t pm_get16(struct acpi_pm *pm, unsigned at)
{
	switch (at) {
	case 0x00:
		timer_look(pm);
		return pm->status;
	case 0x02: return pm->enable;
	case 0x04: return pm->control;
	case 0x08: return (uint16_t)(pm_ticks(pm) & TIMER_MASK);
	case 0x0a: return (uint16_t)((pm_ticks(pm) & TIMER_MASK) >> 16);
	case 0x0c: return pm->gpe_status;
	case 0x0e: return pm->gpe_enable;
	default: return 0;
	}
}

static void pm_set16(struct acpi_pm *pm, unsigned at, uint16_t v)
{
	switch (at) {
	case 0x00:
		timer_look(pm);
		pm->status &= (uint16_t)~v;
		if (v & STS_TIMER)
			overflow_plan(pm);
		break;
	case 0x02: pm->enable = v & PM_EVENTS; break;
	case 0x04: control_write(pm, v); break;
	case 0x0c: pm->gpe_status &= (uint16_t)~v; break;
	case 0x0e: pm->gpe_enable = v; break;
	default: return;
	}
	sci_update(pm);
}

/* Registers are 16 bits wide; a byte written alone keeps the other, or leaves it be where 1 clears. */
static void write_wide(struct acpi_pm *pm, unsigned at, unsigned len, uint64_t value)
{
	bool clears = at < 2 || (at & ~1u) == 0x0c;

	if (len == 1) {
		unsigned shift = 8 * (at & 1);
		uint16_t old = clears ? 0 : pm_get16(pm, at & ~1u);

		pm_set16(pm, at & ~1u, (uint16_t)((old & ~(0xffu << shift)) | (value & 0xff) << shift));
		return;
	}
	for (unsigned i = 0; i + 1 < len; i += 2)
		pm_set16(pm, at + i, (uint16_t)(value >> (8 * i)));
}

static uint64_t pm_read(void *o, uint64_t offset, unsigned len)
{
	struct acpi_pm *pm = o;

	if (offset == 8 && len == 4)
		return (uint64_t)pm_ticks(pm) & TIMER_MASK;
	if (len == 1)
		return pm_get16(pm, (unsigned)offset & ~1u) >> (8 * (offset & 1)) & 0xff;
	return pm_get16(pm, (unsigned)offset) | (len == 4 ? (uint64_t)pm_get16(pm, (unsigned)offset + 2) << 16 : 0);
}

static void pm_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	write_wide(o, (unsigned)offset, len, value);
}

/* The block that the FADT names shows the chip's own GPSTS and GPEN. */
static uint64_t gpe_read(void *o, uint64_t offset, unsigned len)
{
	return pm_read(o, offset + 0x0c, len);
}

static void gpe_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	write_wide(o, (unsigned)offset + 0x0c, len, value);
}

/* ---- ports 0xb2, 0xb3 and 0xcf9 ---- */

static uint64_t apm_read(void *o, uint64_t offset, unsigned len)
{
	struct acpi_pm *pm = o;

	return offset ? pm->apm_data : pm->apm_command;
}

static void apm_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	struct acpi_pm *pm = o;

	if (offset) {
		pm->apm_data = (uint8_t)value;
		return;
	}
	pm->apm_command = (uint8_t)value;
	if (value == APM_ACPI_ENABLE)
		pm->control |= CNT_SCI_EN;
	else if (value == APM_ACPI_DISABLE)
		pm->control &= (uint16_t)~CNT_SCI_EN;
	sci_update(pm);
}

static uint64_t rcr_read(void *o, uint64_t offset, unsigned len)
{
	return ((struct acpi_pm *)o)->reset_control;
}

/* The rising edge of bit 2 resets; hard or soft makes no difference here. */
static void rcr_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	struct acpi_pm *pm = o;
	bool rises = (value & 4) && !(pm->reset_control & 4);

	pm->reset_control = value & 0x0e;
	if (rises && pm->cb.reset)
		pm->cb.reset(pm->cb.opaque);
}

/* ---- SMBus ---- */

static uint64_t smb_read(void *o, uint64_t offset, unsigned len)
{
	struct acpi_pm *pm = o;
	uint8_t v;

	switch (offset) {
	case SMB_CONTROL:
		pm->smb_block_at = 0;
		return pm->smb_reg[SMB_CONTROL] & 0x1f;
	case SMB_BLOCK:
		v = pm->smb_block[pm->smb_block_at];
		pm->smb_block_at = (pm->smb_block_at + 1) & 31;
		return v;
	default:
		return pm->smb_reg[offset];
	}
}

static void smb_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	struct acpi_pm *pm = o;

	switch (offset) {
	case SMB_STATUS:
		pm->smb_reg[SMB_STATUS] &= (uint8_t)~(value & SMB_W1C);
		break;
	case SMB_CONTROL:
		pm->smb_reg[SMB_CONTROL] = value & 0x1d;
		if (value & SMB_KILL)
			pm->smb_reg[SMB_STATUS] |= SMB_FAILED;
		else if (value & SMB_START) /* no acknowledge comes back */
			pm->smb_reg[SMB_STATUS] |= SMB_DEV_ERR;
		break;
	case SMB_BLOCK:
		pm->smb_block[pm->smb_block_at] = (uint8_t)value;
		pm->smb_block_at = (pm->smb_block_at + 1) & 31;
		return;
	case SMB_COMMAND:
	case SMB_ADDRESS:
	case SMB_DATA0:
	case SMB_DATA1:
	case 8: /* slave control and shadow command */
	case 9:
		pm->smb_reg[offset] = (uint8_t)value;
		return;
	default:
		return;
	}
	sci_update(pm);
}

/* ---- the contract ---- */

static void place(struct region *r, bool on, unsigned base)
{
	if (on && base) {
		if (!region_mapped(r) || region_base(r) != base)
			region_map(r, base);
	} else {
		region_unmap(r);
	}
}

static void remap(struct acpi_pm *pm)
{
	const uint8_t *c = pm->pci.config;

	place(pm->pm, c[CFG_PMREGMISC] & 1, ld16le(c + CFG_PMBA) & 0xffc0u);
	place(pm->smb, c[CFG_SMBHSTCFG] & 1, ld16le(c + CFG_SMBBA) & 0xfff0u);
}

static void config_written(struct pci_dev *pci, unsigned offset, unsigned len)
{
	struct acpi_pm *pm = (struct acpi_pm *)pci;

	remap(pm);
	sci_update(pm);
}

static void acpi_pm_reset(struct device *d)
{
	struct acpi_pm *pm = (struct acpi_pm *)d;
	uint8_t *c = pm->pci.config;

	pci_dev_reset(&pm->pci);
	c[0x07] = 0x02;
	c[0x3c] = 9;
	st32le(c + CFG_PMBA, pm->pm_base | 1u);
	st32le(c + CFG_SMBBA, SMB_BASE | 1);
	c[CFG_PMREGMISC] = 1;
	c[CFG_SMBHSTCFG] = 9;
	/* APMC_EN reads as set: to firmware this says that SMM is set up already. There is none. */
	st32le(c + CFG_DEVACTB, 1u << 25);
	pm->status = pm->enable = pm->control = pm->gpe_status = pm->gpe_enable = 0;
	pm->apm_command = pm->apm_data = pm->reset_control = pm->smb_block_at = 0;
	memset(pm->smb_reg, 0, sizeof(pm->smb_reg));
	memset(pm->smb_block, 0, sizeof(pm->smb_block));
	overflow_plan(pm);
	remap(pm);
	sci_update(pm);
}

static int acpi_pm_state(struct device *d, struct state *s)
{
	struct acpi_pm *pm = (struct acpi_pm *)d;

	/* An overflow that nobody has looked for yet. */
	if (!state_loading(s))
		timer_look(pm);
	pci_dev_state(&pm->pci, s);
	state_u16(s, "status", &pm->status);
	state_u16(s, "enable", &pm->enable);
	state_u16(s, "control", &pm->control);
	state_i64(s, "overflow-at", &pm->overflow_at);
	state_u16(s, "gpe-status", &pm->gpe_status);
	state_u16(s, "gpe-enable", &pm->gpe_enable);
	state_u8(s, "apm-command", &pm->apm_command);
	state_u8(s, "apm-data", &pm->apm_data);
	state_u8(s, "reset-control", &pm->reset_control);
	state_bytes(s, "smb", pm->smb_reg, sizeof(pm->smb_reg));
	state_bytes(s, "smb-block", pm->smb_block, sizeof(pm->smb_block));
	state_u8(s, "smb-block-at", &pm->smb_block_at);
	if (!state_loading(s) || state_error(s))
		return state_error(s);
	if ((pm->enable & ~PM_EVENTS) || (pm->control & ~CNT_KEPT) || pm->smb_block_at > 31 || pm->overflow_at < 0 ||
	    pm->overflow_at > INT64_MAX / NS_PER_SEC * PM_HZ) {
		state_fail(s, "a power management register is out of range");
		acpi_pm_reset(d);
		return state_error(s);
	}
	remap(pm);
	sci_update(pm);
	return state_error(s);
}

static void acpi_pm_destroy(struct device *d)
{
	struct acpi_pm *pm = (struct acpi_pm *)d;

	timer_free(pm->overflow);
	pci_dev_finish(&pm->pci);
	region_destroy(pm->pm);
	region_destroy(pm->gpe);
	region_destroy(pm->smb);
	region_destroy(pm->apm);
	region_destroy(pm->rcr);
	g_free(pm);
}

static const struct device_ops ops = { "piix4-pm", 1, acpi_pm_reset, acpi_pm_state, acpi_pm_destroy };

struct acpi_pm *acpi_pm_create(struct pci_bus *bus, unsigned devfn, struct space *ports, struct irq sci,
			       struct clock *clock, uint16_t pm_base, const struct acpi_pm_callbacks *cb)
{
	static const struct pci_ids ids = { 0x8086, 0x7113, 0x1af4, 0x1100, 0x068000, 3 };
	static const struct region_ops pm_ops = { pm_read, pm_write, 1, 4 };
	static const struct region_ops gpe_ops = { gpe_read, gpe_write, 1, 4 };
	static const struct region_ops smb_ops = { smb_read, smb_write, 1, 1 };
	static const struct region_ops apm_ops = { apm_read, apm_write, 1, 1 };
	static const struct region_ops rcr_ops = { rcr_read, rcr_write, 1, 1 };
	struct acpi_pm *pm = g_new0(struct acpi_pm, 1);

	pm->pci.device = (struct device){ .ops = &ops, .id = "acpi-pm" };
	if (pci_dev_init(&pm->pci, bus, devfn, &ids, 1)) {
		g_free(pm);
		return NULL;
	}
	pm->clock = clock;
	pm->sci = sci;
	pm->pm_base = pm_base;
	pm->cb = *cb;
	pm->overflow = timer_new(clock, overflow_due, pm);
	pm->pm = space_add_unmapped(ports, "acpi-pm", 64, &pm_ops, pm);
	pm->smb = space_add_unmapped(ports, "smbus", SMB_REGS, &smb_ops, pm);
	pm->gpe = space_add(ports, "acpi-gpe", GPE_BASE, 4, &gpe_ops, pm);
	pm->apm = space_add(ports, "apm", 0xb2, 2, &apm_ops, pm);
	pm->rcr = space_add(ports, "reset-control", 0xcf9, 1, &rcr_ops, pm);
	st16le(pm->pci.wmask + CFG_PMBA, 0xffc0);
	st32le(pm->pci.wmask + CFG_DEVACTB, 0xffffffff);
	pm->pci.wmask[CFG_PMREGMISC] = 0x01;
	st16le(pm->pci.wmask + CFG_SMBBA, 0xfff0);
	pm->pci.wmask[CFG_SMBHSTCFG] = 0x0f;
	pm->pci.config_written = config_written;
	acpi_pm_reset(&pm->pci.device);
	return pm;
}

struct device *acpi_pm_device(struct acpi_pm *pm)
{
	return &pm->pci.device;
}
