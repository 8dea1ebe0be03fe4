/* Counting guest mistakes: see the device contract. */
#include "bus/device.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"

void device_guest_error(struct device *d, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	d->guest_errors++;
	if (!trace_on(TRACE_DEV))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	trace_printf(TRACE_DEV, "%s: %s", d->id ? d->id : d->ops->name, text);
}

int device_load(struct device *d, struct state *s)
{
	int err = d->ops->state(d, s);

	if (err)
		d->ops->reset(d);
	return err;
}
