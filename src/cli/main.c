/* guise: the command line. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "cli/doctor.h"
#include "cli/image.h"
#include "cli/manage.h"
#include "cli/run.h"

static int help(FILE *to)
{
	fputs("usage: guise run [IMAGE] [options]     run a machine (guise run --help lists the options)\n"
	      "       guise ps                        machines that run\n"
	      "       guise stop NAME [--force]       power button, or at once\n"
	      "       guise pause|resume|reset NAME\n"
	      "       guise screen NAME               the text screen, as text\n"
	      "       guise screenshot NAME FILE.png\n"
	      "       guise type NAME TEXT            type on its keyboard (\\n is Enter)\n"
	      "       guise key NAME KEYS             such as ctrl-alt-delete\n"
	      "       guise monitor NAME [COMMAND]\n"
	      "       guise image COMMAND             make, check, convert ... disk images (guise image help)\n"
	      "       guise doctor                    check this host\n"
	      "       guise version\n",
	      to);
	return to == stderr ? 2 : 0;
}

/* Whoever starts us may have closed standard streams: what is opened next must not take their numbers. */
static void open_standard_streams(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	const char *const *names;
	const char *near;
	unsigned count;
	int status;

	open_standard_streams();
	if (argc < 2)
		return help(stderr);
	if (!strcmp(argv[1], "run"))
		return run_command(argc - 2, argv + 2);
	if (!strcmp(argv[1], "image"))
		return image_command(argc - 2, argv + 2);
	if (!strcmp(argv[1], "doctor"))
		return doctor_command();
	if (!strcmp(argv[1], "version") || !strcmp(argv[1], "--version")) {
		puts("guise " GUISE_VERSION);
		return 0;
	}
	if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return help(stdout);
	status = manage_command(argv[1], argc - 2, argv + 2);
	if (status >= 0)
		return status;
	names = manage_command_names(&count);
	near = nearest_word(argv[1], names, count);
	fprintf(stderr, near ? "guise: unknown command %s; did you mean %s?\n" : "guise: unknown command %s; `guise help` lists them\n",
		argv[1], near);
	return 2;
}
