/* The command line of `guise run`, into a vm_config. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "cli/display_option.h"
#include "machine/config.h"

struct run_options {
	struct vm_config vm;
	struct display_option display;
	char *qmp;     /* unix:PATH or NULL: the runtime directory */
	unsigned trace;
	char *trace_file;
	char *capture; /* pcap file of the first card */
	bool no_net;   /* --net none */
	bool detach;
	bool stats;
	bool help;
};

/* argv[0] is the first argument after "run". Errors say what to write instead. */
bool run_options_parse(struct run_options *o, int argc, char **argv, GError **error);
void run_options_finish(struct run_options *o);
void run_options_help(void);

#endif
