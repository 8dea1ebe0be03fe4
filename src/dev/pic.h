/* The 8259A interrupt controller pair of a PC, with the ELCR (82371AB 4.2.2, Intel 8259A datasheet). */
#ifndef DEV_PIC_H
#define DEV_PIC_H

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"

struct pic;

/* Ports 0x20, 0xa0 and 0x4d0; `intr` is the master's output. */
struct pic *pic_create(struct space *ports, struct irq intr);
struct device *pic_device(struct pic *p);
/* Line 0 to 15; line 2 is the cascade and has no input. */
void pic_set_irq(struct pic *p, int line, bool level);
/* The CPU's interrupt acknowledge: the vector (a spurious one when the request has gone). */
int pic_ack(struct pic *p);

#endif
