/*
 * The host bridge and memory controller 82441FX (8086:1237): PAM and SMRAM registers.
 * Intel 440FX PCIset data sheet, 3.2.
 */
#include "dev/i440fx.h"

#include <string.h>

#define PAM0 I440FX_PAM
#define PAM_COUNT 7
#define SMRAM 0x72

struct i440fx {
	struct pci_dev pci;
	struct i440fx_pam cb;
	uint8_t shown[13];
};

/* PAM0's low half is reserved; its high half is the BIOS segment. */
static uint8_t segment_bits(const struct i440fx *h, unsigned segment)
{
	unsigned nibble = segment + 1;

	return h->pci.config[PAM0 + nibble / 2] >> (nibble & 1 ? 4 : 0) & 3;
}

static void pam_update(struct i440fx *h, bool force)
{
	for (unsigned i = 0; i < 13; i++) {
		uint8_t bits = segment_bits(h, i);

		if (bits == h->shown[i] && !force)
			continue;
		h->shown[i] = bits;
		if (h->cb.pam)
			h->cb.pam(h->cb.opaque, i, bits & 1, bits & 2);
	}
}

static void config_written(struct pci_dev *p, unsigned offset, unsigned len)
{
	if (offset < PAM0 + PAM_COUNT && offset + len > PAM0)
		pam_update((struct i440fx *)p, false);
}

static void i440fx_reset(struct device *d)
{
	struct i440fx *h = (struct i440fx *)d;

	pci_dev_reset(&h->pci);
	memset(&h->pci.config[PAM0], 0, PAM_COUNT);
	h->pci.config[SMRAM] = 0x02;
	pam_update(h, true);
}

static int i440fx_state(struct device *d, struct state *s)
{
	struct i440fx *h = (struct i440fx *)d;

	if (!pci_dev_state(&h->pci, s) && state_loading(s))
		pam_update(h, true);
	return state_error(s);
}

static void i440fx_destroy(struct device *d)
{
	struct i440fx *h = (struct i440fx *)d;

	pci_dev_finish(&h->pci);
	g_free(h);
}

static const struct device_ops ops = { "i440fx", 1, i440fx_reset, i440fx_state, i440fx_destroy };

struct i440fx *i440fx_create(struct pci_bus *bus, const struct i440fx_pam *pam)
{
	static const struct pci_ids ids = { 0x8086, 0x1237, 0x1af4, 0x1100, 0x060000, 2 };
	struct i440fx *h = g_new0(struct i440fx, 1);

	h->pci.device = (struct device){ .ops = &ops, .id = "i440fx" };
	if (pam)
		h->cb = *pam;
	if (pci_dev_init(&h->pci, bus, 0, &ids, 0)) {
		g_free(h);
		return NULL;
	}
	h->pci.config_written = config_written;
	h->pci.wmask[PAM0] = 0x30;
	memset(&h->pci.wmask[PAM0 + 1], 0x33, PAM_COUNT - 1);
	h->pci.wmask[SMRAM] = 0x78;
	h->pci.config[SMRAM] = 0x02;
	return h;
}

struct device *i440fx_device(struct i440fx *h)
{
	return &h->pci.device;
}
