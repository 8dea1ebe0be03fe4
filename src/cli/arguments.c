/* Options by their table, and the nearest word for one that is not in it. */
#include "cli/arguments.h"

#include <stdarg.h>
#include <string.h>

#include "base/bytes.h"

GQuark cli_error_quark(void)
{
	return g_quark_from_static_string("guise-cli");
}

bool cli_fail(GError **error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (error)
		*error = g_error_new_valist(cli_error_quark(), 2, fmt, ap);
	va_end(ap);
	return false;
}

static unsigned edit_distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	unsigned row[64];

	if (lb >= ARRAY_LEN(row))
		return 99;
	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			best = MIN(best, row[j] + 1);
			row[j] = MIN(best, row[j - 1] + 1);
		}
	}
	return row[lb];
}

const char *nearest_word(const char *word, const char *const *candidates, size_t count)
{
	const char *best = NULL;
	unsigned least = 4;

	for (size_t i = 0; i < count; i++) {
		unsigned d = edit_distance(word, candidates[i]);

		if (d < least) {
			least = d;
			best = candidates[i];
		}
	}
	return best;
}

static const struct cli_option *find_option(const struct cli_option *options, size_t count, const char *help, const char *name,
					    GError **error)
{
	g_autofree const char **names = g_new(const char *, count);
	const char *near;

	for (size_t i = 0; i < count; i++) {
		if (!strcmp(options[i].name, name))
			return &options[i];
		names[i] = options[i].name;
	}
	near = nearest_word(name, names, count);
	if (near)
		cli_fail(error, "unknown option --%s; did you mean --%s?", name, near);
	else
		cli_fail(error, "unknown option --%s; `%s` lists them", name, help);
	return NULL;
}

const struct cli_option *cli_option_next(const struct cli_option *options, size_t count, const char *help, int argc, char **argv,
					 int *at, const char **value, GError **error)
{
	const char *word = argv[*at] + 2, *equals = strchr(word, '=');
	g_autofree char *name = equals ? g_strndup(word, (gsize)(equals - word)) : g_strdup(word);
	const struct cli_option *opt = find_option(options, count, help, name, error);

	if (!opt)
		return NULL;
	*value = equals ? equals + 1 : NULL;
	if (!opt->value && equals) {
		cli_fail(error, "--%s takes no value", name);
		return NULL;
	}
	if (opt->value && !equals) {
		if (*at + 1 == argc) {
			cli_fail(error, "--%s needs a value: %s", name, opt->value);
			return NULL;
		}
		*value = argv[++*at];
	}
	return opt;
}

void cli_options_print(const struct cli_option *options, size_t count, int width, FILE *to)
{
	for (size_t i = 0; i < count; i++) {
		g_autofree char *left = g_strdup_printf("--%s %s", options[i].name, options[i].value ? options[i].value : "");

		fprintf(to, "  %-*s %s\n", width, left, options[i].help);
	}
}
