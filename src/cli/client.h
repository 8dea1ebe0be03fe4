/* Talking to running machines by their QMP sockets, and nothing else. */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

struct client;

/* Connects to the named machine and negotiates. */
struct client *client_open(const char *name, GError **error);
void client_close(struct client *c); /* NULL accepted */
/* Sends a command (args taken over, may be NULL) and returns its "return" node, owned by the caller. */
JsonNode *client_execute(struct client *c, const char *command, JsonObject *args, GError **error);
/* Waits until the machine closes the connection, at most `seconds`; false when it did not. */
bool client_wait_end(struct client *c, unsigned seconds);

#endif
