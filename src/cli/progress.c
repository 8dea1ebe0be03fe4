/* A progress line: what is done, how much of it, how fast. */
#include "cli/progress.h"

#include <glib.h>
#include <stdio.h>
#include <unistd.h>

#define BAR 30u
#define INTERVAL 100000

void progress_begin(struct progress *p, const char *what)
{
	*p = (struct progress){ .what = what, .shown = isatty(STDERR_FILENO), .started = g_get_monotonic_time() };
}

void progress_update(struct progress *p, uint64_t done, uint64_t total)
{
	int64_t now = g_get_monotonic_time(), spent = now - p->started;
	g_autofree char *rate = NULL;
	char bar[BAR + 1];
	unsigned full;

	if (!p->shown || !total || now - p->drawn < INTERVAL)
		return;
	p->drawn = now;
	full = (unsigned)((double)done / (double)total * BAR);
	for (unsigned i = 0; i < BAR; i++)
		bar[i] = i < full ? '=' : i == full ? '>' : ' ';
	bar[BAR] = 0;
	rate = g_format_size_full(spent > 0 ? (guint64)((double)done * 1e6 / (double)spent) : 0, G_FORMAT_SIZE_IEC_UNITS);
	fprintf(stderr, "\r%s [%s] %3.0f %%  %s/s\x1b[K", p->what, bar, (double)done * 100 / (double)total, rate);
	fflush(stderr);
}

void progress_end(struct progress *p)
{
	if (p->shown && p->drawn)
		fputs("\r\x1b[K", stderr);
}
