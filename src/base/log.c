/* Trace sink: one mask, one stream, whole lines. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/bytes.h"

unsigned trace_enabled_mask;
static FILE *trace_sink;

static const struct {
	const char *name;
	enum trace_kind kind;
} trace_names[] = {
	{ "exec", TRACE_EXEC }, { "int", TRACE_INT }, { "io", TRACE_IO },   { "mmio", TRACE_MMIO },
	{ "irq", TRACE_IRQ },   { "cpu", TRACE_CPU }, { "bt", TRACE_BT },   { "dev", TRACE_DEV },
};

static const char *kind_name(enum trace_kind kind)
{
	for (size_t i = 0; i < ARRAY_LEN(trace_names); i++) {
		if (trace_names[i].kind == kind)
			return trace_names[i].name;
	}
	return "?";
}

int trace_parse(const char *list, unsigned *mask)
{
	unsigned found = 0;

	while (*list) {
		size_t len = strcspn(list, ",");
		size_t i;

		for (i = 0; i < ARRAY_LEN(trace_names); i++) {
			if (strlen(trace_names[i].name) == len && !strncmp(list, trace_names[i].name, len))
				break;
		}
		if (i == ARRAY_LEN(trace_names))
			return -EINVAL;
		found |= trace_names[i].kind;
		list += len;
		if (*list == ',')
			list++;
	}
	*mask = found;
	return 0;
}

void trace_open(unsigned mask, FILE *sink)
{
	trace_enabled_mask = mask;
	trace_sink = sink;
}

unsigned trace_mask(void)
{
	return trace_enabled_mask;
}

void trace_printf(enum trace_kind kind, const char *fmt, ...)
{
	va_list ap;

	if (!trace_sink)
		return;
	flockfile(trace_sink);
	fprintf(trace_sink, "%s: ", kind_name(kind));
	va_start(ap, fmt);
	vfprintf(trace_sink, fmt, ap);
	va_end(ap);
	fputc('\n', trace_sink);
	funlockfile(trace_sink);
}
