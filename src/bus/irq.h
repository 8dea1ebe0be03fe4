/* An interrupt line as a tiny value: who to tell, and as which number. */
#ifndef BUS_IRQ_H
#define BUS_IRQ_H

#include <stdbool.h>
#include <stddef.h>

struct irq {
	void (*set)(void *opaque, int line, bool level);
	void *opaque;
	int line;
};

/* Unconnected lines (set NULL) are allowed and do nothing. */
static inline void irq_set(const struct irq *irq, bool level)
{
	if (irq->set)
		irq->set(irq->opaque, irq->line, level);
}

static inline void irq_pulse(const struct irq *irq)
{
	irq_set(irq, true);
	irq_set(irq, false);
}

#endif
