/* What the command lines share: options from a table, words that are nearly right, and errors that say what to write instead. */
#ifndef CLI_ARGUMENTS_H
#define CLI_ARGUMENTS_H

#include <glib.h>
#include <stdbool.h>
#include <stdio.h>

struct cli_option {
	const char *name;  /* without its dashes */
	const char *value; /* what it takes, for the list, or NULL */
	const char *help;
	int id;
};

/* Reads "--name", "--name=value" or "--name value" at argv[*at], and leaves *at on its last word. Returns the option, its
 * value in *value (NULL where it takes none), or NULL with an error; `help` is the command that lists them. */
const struct cli_option *cli_option_next(const struct cli_option *options, size_t count, const char *help, int argc, char **argv,
					 int *at, const char **value, GError **error);
/* The list, what an option does from column `width` + 3 on. */
void cli_options_print(const struct cli_option *options, size_t count, int width, FILE *to);

/* The candidate nearest to `word` by edit distance (at most 3), or NULL. */
const char *nearest_word(const char *word, const char *const *candidates, size_t count);

GQuark cli_error_quark(void);
/* Sets the error of a command line that is not right; returns false. */
bool cli_fail(GError **error, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
