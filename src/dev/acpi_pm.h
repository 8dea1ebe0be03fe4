/* Power management of the PIIX4: see acpi_pm.c. */
#ifndef DEV_ACPI_PM_H
#define DEV_ACPI_PM_H

#include "bus/pci.h"
#include "host/clock.h"

struct acpi_pm;

/* What the guest asks of the machine. */
struct acpi_pm_callbacks {
	void (*poweroff)(void *opaque);
	void (*reset)(void *opaque);
	void *opaque;
};

/* `sci` is level triggered, active high. Create it after the PCI bus: 0xcf9 lies inside the
 * bus's own address register. `pm_base` is where the registers are after reset, as the FADT says: a kernel finds them
 * without firmware. */
struct acpi_pm *acpi_pm_create(struct pci_bus *bus, unsigned devfn, struct space *ports, struct irq sci,
			       struct clock *clock, uint16_t pm_base, const struct acpi_pm_callbacks *cb);
struct device *acpi_pm_device(struct acpi_pm *pm);
/* The user presses the button for a moment. */
void acpi_pm_power_button(struct acpi_pm *pm);

#endif
