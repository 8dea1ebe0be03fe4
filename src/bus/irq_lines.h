/*
 * Interrupt lines that several chips share, as a wired OR: each chip has an input of its own, and a line is up while
 * any of its inputs is. What the inputs were is part of the machine's state.
 */
#ifndef BUS_IRQ_LINES_H
#define BUS_IRQ_LINES_H

#include "bus/device.h"
#include "bus/irq.h"

#define IRQ_LINES 24
#define IRQ_LINE_INPUTS 32

struct irq_lines;

/* `out` hears of each change of a line, by its number; out.line is not looked at. */
struct irq_lines *irq_lines_create(struct irq out);
/* Another input of the line; at most IRQ_LINE_INPUTS, after which the result is unconnected. */
struct irq irq_lines_input(struct irq_lines *l, unsigned line);
/* Whether one of its inputs is up. */
bool irq_lines_level(const struct irq_lines *l, unsigned line);
struct device *irq_lines_device(struct irq_lines *l);

#endif
