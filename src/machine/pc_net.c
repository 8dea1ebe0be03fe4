/* Network cards of the board: the back end, the card, the boot ROM of the distribution's iPXE. */
#include <errno.h>
#include <gio/gio.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/e1000.h"
#include "dev/rtl8139.h"
#include "dev/virtio_net.h"
#include "machine/pc.h"
#include "machine/vm.h"
#include "net/netdev.h"
#include "net/vhost.h"

#define ROM_DIR "/usr/lib/ipxe/qemu/"

/* Firmware takes an image only if its PCI data structure names the card (PCI Firmware 3.0, 5.1.2);
 * iPXE's virtio image names the transitional device. The header's checksum is kept. */
static void rom_adopt(uint8_t *rom, gsize len, uint16_t vendor, uint16_t device)
{
	for (gsize at = 0; at + 0x1a <= len && ld16le(rom + at) == 0xaa55;) {
		gsize pcir = at + ld16le(rom + at + 0x18);
		uint8_t *image = rom + at;

		if (pcir + 0x18 > len || memcmp(rom + pcir, "PCIR", 4))
			return;
		if (rom[pcir + 0x14] == 0) {
			uint8_t before = (uint8_t)(rom[pcir + 4] + rom[pcir + 5] + rom[pcir + 6] + rom[pcir + 7]);
			uint8_t after = (uint8_t)(vendor + (vendor >> 8) + device + (device >> 8));

			image[6] = (uint8_t)(image[6] + before - after);
		}
		st16le(rom + pcir + 4, vendor);
		st16le(rom + pcir + 6, device);
		if ((rom[pcir + 0x15] & 0x80) || !ld16le(rom + pcir + 0x10))
			return;
		at += 512u * ld16le(rom + pcir + 0x10);
	}
}

/* Without the image the card works, but does not boot. */
static void rom_load(struct pci_dev *p, const char *name)
{
	g_autofree char *path = g_strconcat(ROM_DIR, name, NULL);
	g_autofree char *rom = NULL;
	gsize len;

	if (!g_file_get_contents(path, &rom, &len, NULL) || len > 1 << 20)
		return;
	rom_adopt((uint8_t *)rom, len, ld16le(p->config), ld16le(p->config + 2));
	pci_rom(p, rom, (uint32_t)len);
}

/* Alone on its network a card needs no name of its own; among others it takes one from the machine's. */
static void default_mac(const struct vm_config *c, unsigned i, uint8_t mac[6])
{
	uint32_t n = c->nic[i].net.kind == NET_USER ? 0x123456 : g_str_hash(c->name);

	mac[0] = 0x52;
	mac[1] = 0x54;
	mac[2] = 0x00;
	n += i;
	mac[3] = (uint8_t)(n >> 16);
	mac[4] = (uint8_t)(n >> 8);
	mac[5] = (uint8_t)n;
}

/* ---- vhost-net ---- */

/* Why the kernel may not move the card's frames, or NULL. */
static const char *vhost_obstacle(const struct vm *vm, const struct vm_nic *n)
{
	if (n->model != NIC_VIRTIO)
		return "the card must be model=virtio";
	if (!vm->kernel_apic)
		return "the engine must be kvm, since others have to know what is written to memory";
	if (n->capture)
		return "capture= needs the frames to come by here";
	return NULL;
}

static bool vhost_begin(struct pc *pc, const struct vm_nic *n, unsigned i, GError **error)
{
	const char *obstacle = vhost_obstacle(pc->vm, n);
	bool must = n->net.vhost == NET_VHOST_ON;

	if (n->net.kind != NET_TAP || n->net.vhost == NET_VHOST_OFF)
		return true;
	if (obstacle && must) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED, "vhost=on: %s", obstacle);
		return false;
	}
	return obstacle || vhost_open(pc->net[i], pc->vm->mem, must ? error : NULL) || !must;
}

static void vhost_refused(void *opaque, const char *why)
{
	g_printerr("guise: %s; frames go through the machine's process instead\n", why);
}

void pc_net_pause(struct pc *pc, bool paused)
{
	for (unsigned i = 0; i < VM_MAX_NICS && pc->net[i]; i++) {
		if (netdev_vhost(pc->net[i]))
			vhost_pause(netdev_vhost(pc->net[i]), paused);
	}
}

void pc_net_layout(struct pc *pc, unsigned leaving)
{
	for (unsigned i = 0; i < VM_MAX_NICS && pc->net[i]; i++) {
		if (netdev_vhost(pc->net[i]))
			vhost_layout(netdev_vhost(pc->net[i]), leaving);
	}
}

/* ---- while it runs ---- */

bool pc_net_set_link(struct pc *pc, const char *id, bool up, GError **error)
{
	for (unsigned i = 0; i < VM_MAX_NICS && pc->net[i]; i++) {
		if (strcmp(pc->net_id[i], id))
			continue;
		vm_lock(pc->vm);
		netdev_set_link(pc->net[i], up);
		vm_unlock(pc->vm);
		return true;
	}
	g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "there is no network card %s; info network lists them", id);
	return false;
}

void pc_net_info(struct pc *pc, GString *out)
{
	static const char *const models[] = { [NIC_VIRTIO] = "virtio", [NIC_E1000] = "e1000", [NIC_RTL8139] = "rtl8139" };

	for (unsigned i = 0; i < VM_MAX_NICS && pc->net[i]; i++) {
		const struct netdev_stats *s = netdev_stats(pc->net[i]);

		g_string_append_printf(out, "%s: %s, %s; link %s; sent %" G_GUINT64_FORMAT " frames (%" G_GUINT64_FORMAT " dropped), received %"
				       G_GUINT64_FORMAT " (%" G_GUINT64_FORMAT " dropped)\n", pc->net_id[i], models[pc->vm->config.nic[i].model],
				       netdev_describe(pc->net[i]), netdev_link(pc->net[i]) ? "up" : "down", s->tx_frames, s->tx_dropped,
				       s->rx_frames, s->rx_dropped);
	}
}

/* ---- the card ---- */

/* The kernel drives one pair; frames of one are spread over several by us alone. */
static struct pci_dev *virtio_card(struct pc *pc, unsigned i, unsigned devfn, const uint8_t mac[6])
{
	unsigned pairs = netdev_vhost(pc->net[i]) ? 1 : MIN(pc->vm->cpus, VIRTIO_NET_MAX_PAIRS);
	struct virtio_net *v = virtio_net_create(pc->pci, devfn, pc->vm->clock, pc->net[i], mac, pairs, pc->net_id[i]);

	if (!v)
		return NULL;
	virtio_net_on_refusal(v, vhost_refused, pc);
	return virtio_net_pci(v);
}

static struct pci_dev *card_create(struct pc *pc, const struct vm_nic *n, unsigned i, unsigned devfn, const uint8_t mac[6])
{
	struct vm *vm = pc->vm;

	switch (n->model) {
	case NIC_VIRTIO:
		return virtio_card(pc, i, devfn, mac);
	case NIC_E1000: {
		struct e1000 *e = e1000_create(pc->pci, devfn, vm->clock, pc->net[i], mac, pc->net_id[i]);

		return e ? e1000_pci(e) : NULL;
	}
	case NIC_RTL8139: {
		struct rtl8139 *r = rtl8139_create(pc->pci, devfn, vm->clock, pc->net[i], mac, pc->net_id[i]);

		return r ? rtl8139_pci(r) : NULL;
	}
	}
	return NULL;
}

struct device *pc_nic_create(struct pc *pc, unsigned i, unsigned devfn, GError **error)
{
	static const char *const rom[] = { [NIC_VIRTIO] = "efi-virtio.rom", [NIC_E1000] = "efi-e1000.rom",
					 [NIC_RTL8139] = "efi-rtl8139.rom" };
	const struct vm_nic *n = &pc->vm->config.nic[i];
	struct pci_dev *card;
	uint8_t mac[6];

	pc->net[i] = netdev_open(&n->net, &pc->vm->lock, error);
	if (!pc->net[i] || !vhost_begin(pc, n, i, error) || (n->capture && !netdev_capture(pc->net[i], n->capture, error)))
		return NULL;
	if (n->mac_given)
		memcpy(mac, n->mac, 6);
	else
		default_mac(&pc->vm->config, i, mac);
	g_snprintf(pc->net_id[i], sizeof(pc->net_id[i]), "net%u", i);
	card = card_create(pc, n, i, devfn, mac);
	if (!card) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "network card %u finds its PCI slot taken", i);
		return NULL;
	}
	rom_load(card, rom[n->model]);
	return &card->device;
}
