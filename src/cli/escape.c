/* Ctrl-a on a serial console. */
#include "cli/escape.h"

#include <stdio.h>

#include "machine/vm.h"
#include "monitor/qmp.h"

#define CTRL_A 1
#define LINE_MAX_BYTES 1024
#define PROMPT "(guise) "

void escape_init(struct escape *e)
{
	e->line = g_string_new(NULL);
}

void escape_finish(struct escape *e)
{
	g_string_free(e->line, TRUE);
}

/* A line typed on the monitor, on its way to the main loop, where commands run. */
struct order {
	struct vm *vm;
	char *text;
};

static void order_free(gpointer opaque)
{
	struct order *o = opaque;

	g_free(o->text);
	g_free(o);
}

static gboolean carry_out(gpointer opaque)
{
	struct order *o = opaque;
	g_autofree char *answer = hmp_execute(o->vm, o->text);

	fprintf(stderr, "%s" PROMPT, answer);
	return G_SOURCE_REMOVE;
}

static void line_done(struct escape *e)
{
	struct order *o = g_new(struct order, 1);

	fputs("\r\n", stderr);
	*o = (struct order){ e->vm, g_strdup(e->line->str) };
	g_string_truncate(e->line, 0);
	g_idle_add_full(G_PRIORITY_DEFAULT, carry_out, o, order_free);
}

void escape_monitor_key(struct escape *e, uint8_t byte)
{
	switch (byte) {
	case '\r':
	case '\n':
		line_done(e);
		break;
	case '\b':
	case 0x7f:
		if (e->line->len) {
			g_string_truncate(e->line, e->line->len - 1);
			fputs("\b \b", stderr);
		}
		break;
	case 0x15: /* Ctrl-u */
		g_string_truncate(e->line, 0);
		fputs("\r\033[K" PROMPT, stderr);
		break;
	default:
		if (byte >= ' ' && byte < 0x7f && e->line->len < LINE_MAX_BYTES) {
			g_string_append_c(e->line, (char)byte);
			fputc(byte, stderr);
		}
		break;
	}
}

static void print_help(void)
{
	fputs("\r\nCtrl-a x  end the machine\r\nCtrl-a c  the monitor, and back to the guest\r\n"
	      "Ctrl-a h  this help\r\nCtrl-a Ctrl-a  send Ctrl-a\r\n",
	      stderr);
}

void escape_monitor(struct escape *e, bool on)
{
	e->monitor = on;
	g_string_truncate(e->line, 0);
	fputs(e->monitor ? "\r\nMonitor: help lists the commands, Ctrl-a c goes back to the guest.\r\n" PROMPT : "\r\n", stderr);
}

bool escape_filter(void *opaque, uint8_t byte)
{
	struct escape *e = opaque;

	if (!e->pending) {
		e->pending = byte == CTRL_A;
		if (!e->pending && e->monitor)
			escape_monitor_key(e, byte);
		return e->pending || e->monitor;
	}
	e->pending = false;
	switch (byte) {
	case CTRL_A:
		/* The guest gets this one. */
		return e->monitor;
	case 'x':
		if (e->vm)
			vm_request(e->vm, VM_REQ_QUIT);
		return true;
	case 'c':
		if (e->vm)
			escape_monitor(e, !e->monitor);
		return true;
	case 'h':
	case '?':
		print_help();
		return true;
	default:
		return true;
	}
}
