/* A virtio console (virtio 1.2, 5.3) with one port, hvc0 in Linux, on a character stream. */
#ifndef DEV_VIRTIO_CONSOLE_H
#define DEV_VIRTIO_CONSOLE_H

#include "bus/device.h"
#include "bus/pci.h"
#include "host/chardev.h"
#include "host/clock.h"

struct virtio_console;

/* Attaches to cd (may be NULL: output is dropped), which must outlive the device. NULL when devfn is taken. */
struct virtio_console *virtio_console_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct chardev *cd);
struct device *virtio_console_device(struct virtio_console *c);
/* The host's terminal has this many characters: tells the driver. */
void virtio_console_resize(struct virtio_console *c, uint16_t columns, uint16_t rows);

#endif
