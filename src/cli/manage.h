/* Commands on running machines: ps, stop, pause, resume, reset, screen, screenshot, type, key, monitor. */
#ifndef CLI_MANAGE_H
#define CLI_MANAGE_H

#include <stdbool.h>

/* -1 when `command` is none of them, otherwise the exit status. argv[0] is the first argument after it. */
int manage_command(const char *command, int argc, char **argv);
const char *const *manage_command_names(unsigned *count);

#endif
