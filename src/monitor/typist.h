/* Presses keys for a user at a pace that a guest's keyboard driver can follow. */
#ifndef MONITOR_TYPIST_H
#define MONITOR_TYPIST_H

#include "machine/vm.h"

/* All keys down in order, then up in reverse. Main thread. */
void typist_press(struct vm *vm, const int *codes, unsigned count);
/* False for characters that the US keyboard lacks. "\n" is Enter. */
bool typist_type(struct vm *vm, const char *text, GError **error);
void typist_stop(struct vm *vm);

#endif
