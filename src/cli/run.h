/* `guise run`: the VM process from its command line to its end. */
#ifndef CLI_RUN_H
#define CLI_RUN_H

/* The exit status. argv[0] is the first argument after "run". */
int run_command(int argc, char **argv);

#endif
