/* The PC/AT's coprocessor error logic: FERR# to IRQ 13, port 0xf0, IGNNE# (82371AB 4.2.6, "Coprocessor Error"). */
#ifndef DEV_COPROCESSOR_H
#define DEV_COPROCESSOR_H

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"

struct coprocessor;

struct coprocessor *coprocessor_create(struct space *ports, struct irq irq13);
struct device *coprocessor_device(struct coprocessor *c);
/* FERR#, from a CPU. Returns IGNNE#: whether the CPU may go on with its error pending. */
bool coprocessor_error(struct coprocessor *c, bool asserted);

#endif
