/* The user's runtime directory for sockets, and the lock that makes a machine's name unique. */
#ifndef HOST_RUNTIME_H
#define HOST_RUNTIME_H

#include <glib.h>
#include <stdbool.h>

/* $XDG_RUNTIME_DIR/guise, /run/user/UID/guise or /tmp/guise-UID: made if missing, mode 0700, owned by
 * the user (refused otherwise). The caller frees it. */
char *runtime_dir(GError **error);
/* "DIR/NAME.qmp". */
char *runtime_socket(const char *name, GError **error);
/* Takes the name: an open, locked file, or -1 when another process has it. Kept until exit. */
int runtime_claim(const char *name, GError **error);
/* Names with a living owner. Free with g_strfreev. */
char **runtime_names(GError **error);

#endif
