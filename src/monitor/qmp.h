/*
 * QMP: the machine protocol that QEMU's tools speak, over a Unix socket (QEMU QMP reference).
 * Runs on the main loop.
 */
#ifndef MONITOR_QMP_H
#define MONITOR_QMP_H

#include <glib.h>
#include <json-glib/json-glib.h>

#include "machine/vm.h"

struct qmp;

struct qmp *qmp_create(struct vm *vm);
/* Listens at `path` too (a stale socket is replaced, mode 0600). */
bool qmp_listen(struct qmp *q, const char *path, GError **error);
/* Closes and removes the sockets. NULL accepted. */
void qmp_destroy(struct qmp *q);
void qmp_vm_event(struct qmp *q, enum vm_event event, bool guest);
/* Sends an event to all sessions; data may be NULL; takes it over. */
void qmp_event(struct qmp *q, const char *name, JsonObject *data);

/* A command: fills and returns the reply (a new node), or NULL with error. Main thread, no lock. */
typedef JsonNode *(*qmp_command)(struct vm *vm, JsonObject *args, GError **error);
qmp_command qmp_find_command(const char *name);
const char *const *qmp_command_names(size_t *count);
GQuark qmp_error_quark(void);
enum { QMP_ERROR_GENERIC, QMP_ERROR_NOT_FOUND };

/* The human monitor: the text a command line prints. The caller frees it. */
char *hmp_execute(struct vm *vm, const char *line);

#endif
