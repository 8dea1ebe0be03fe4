/* Which display a user asked for, and how. */
#include "cli/display_option.h"

#include <string.h>

#include "cli/arguments.h"

static const char *const kinds[] = { "auto", "none", "text", "window", "vnc" };

static bool take_vnc_word(struct display_option *d, const char *word)
{
	static const char *const names[] = { "password-file=", "tls-cert=", "tls-key=" };
	char **const files[] = { &d->password_file, &d->tls_certificate, &d->tls_key };

	if (!strcmp(word, "tls=anonymous"))
		return d->tls_anonymous = true;
	if (!strcmp(word, "allow-plain"))
		return d->allow_plain = true;
	for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
		if (g_str_has_prefix(word, names[i])) {
			g_free(*files[i]);
			*files[i] = g_strdup(word + strlen(names[i]));
			return true;
		}
	}
	return false;
}

static bool take_word(struct display_option *d, const char *word, GError **error)
{
	bool vnc = !strcmp(d->kind, "vnc");

	if (!strcmp(d->kind, "window") && !strcmp(word, "full-screen")) {
		d->full_screen = true;
		return true;
	}
	if (vnc && take_vnc_word(d, word))
		return true;
	return cli_fail(error, "--display %s: '%s' is not known there; %s", d->kind, word,
			vnc ? "it takes password-file=FILE, tls-cert=FILE, tls-key=FILE, tls=anonymous and allow-plain"
			    : "window takes full-screen");
}

bool display_option_parse(struct display_option *d, const char *text, GError **error)
{
	g_auto(GStrv) words = g_strsplit(text, ",", -1);
	char *equals;
	const char *near;

	display_option_finish(d);
	if (!words[0])
		return cli_fail(error, "--display: one of auto, none, text, window, vnc");
	equals = strchr(words[0], '=');
	if (equals)
		*equals = 0;
	if (!g_strv_contains((const char *const[]){ "auto", "none", "text", "window", "vnc", NULL }, words[0])) {
		near = nearest_word(words[0], kinds, G_N_ELEMENTS(kinds));
		return near ? cli_fail(error, "--display %s: did you mean %s?", words[0], near)
			    : cli_fail(error, "--display %s: one of auto, none, text, window, vnc", words[0]);
	}
	d->kind = g_strdup(words[0]);
	if (equals && strcmp(d->kind, "vnc"))
		return cli_fail(error, "--display %s takes no address", d->kind);
	if (equals)
		d->address = g_strdup(equals + 1);
	for (char **w = words + 1; *w; w++)
		if (!take_word(d, *w, error))
			return false;
	if (!d->tls_certificate != !d->tls_key)
		return cli_fail(error, "--display vnc: tls-cert and tls-key go together");
	if (d->allow_plain && !d->tls_certificate && !d->tls_anonymous)
		return cli_fail(error, "--display vnc: allow-plain goes with tls-cert or tls=anonymous; without these nothing is encrypted");
	return true;
}

void display_option_finish(struct display_option *d)
{
	g_free(d->kind);
	g_free(d->address);
	g_free(d->password_file);
	g_free(d->tls_certificate);
	g_free(d->tls_key);
	*d = (struct display_option){ 0 };
}
