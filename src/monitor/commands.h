/* What the files of QMP commands share. */
#ifndef MONITOR_COMMANDS_H
#define MONITOR_COMMANDS_H

#include "monitor/qmp.h"

/* Replies. Each takes what it is given. */
JsonNode *qmp_take(JsonObject *o);
JsonNode *qmp_take_array(JsonArray *a);
JsonNode *qmp_empty(void);
/* Sets the error; NULL, for `return qmp_fail(...)`. */
JsonNode *qmp_fail(GError **error, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* An argument that must be a string; NULL with error. */
const char *qmp_string_arg(JsonObject *args, const char *name, GError **error);

/* commands_block.c */
JsonNode *qmp_query_block(struct vm *vm, JsonObject *args, GError **error);
JsonNode *qmp_eject(struct vm *vm, JsonObject *args, GError **error);
JsonNode *qmp_change_medium(struct vm *vm, JsonObject *args, GError **error);
JsonNode *qmp_block_resize(struct vm *vm, JsonObject *args, GError **error);
/* Tell of the drives' failures, and of trays that opened or closed, since the last time. */
void qmp_io_errors(struct qmp *q, struct vm *vm);
void qmp_tray_moves(struct qmp *q, struct vm *vm);

/* commands_input.c */
JsonNode *qmp_send_key(struct vm *vm, JsonObject *args, GError **error);
JsonNode *qmp_input_send_event(struct vm *vm, JsonObject *args, GError **error);

#endif
