/* The VM process: makes the machine, its monitor and its display, runs the main loop. */
#include "cli/run.h"

#include <errno.h>
#include <glib-unix.h>
#include <glib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/arguments.h"
#include "cli/front_end.h"
#include "cli/escape.h"
#include "cli/options.h"
#include "host/runtime.h"
#include "machine/pc.h"
#include "machine/vm.h"
#include "monitor/qmp.h"
#include "net/netdev.h"
#include "monitor/typist.h"

struct run {
	struct run_options options;
	struct vm *vm;
	struct qmp *qmp;
	struct front_end front_end;
	GMainLoop *loop;
	int status;
	struct escape escape;
	int ready_pipe;
};

static void on_event(void *opaque, enum vm_event event, bool guest)
{
	struct run *r = opaque;

	if (r->qmp)
		qmp_vm_event(r->qmp, event, guest);
}

static void on_ended(void *opaque, int status)
{
	struct run *r = opaque;

	r->status = status;
	g_main_loop_quit(r->loop);
}

static gboolean on_signal(gpointer opaque)
{
	struct run *r = opaque;

	vm_request(r->vm, VM_REQ_QUIT);
	return G_SOURCE_CONTINUE;
}

static bool open_trace(struct run *r, GError **error)
{
	FILE *f = stderr;

	if (!r->options.trace)
		return true;
	if (r->options.trace_file) {
		f = fopen(r->options.trace_file, "we");
		if (!f) {
			g_set_error(error, cli_error_quark(), 1, "--trace-file %s: %s", r->options.trace_file, g_strerror(errno));
			return false;
		}
	}
	trace_open(r->options.trace, f);
	return true;
}

/* Goes to the background once the machine stands: the parent waits for a byte and leaves. */
static bool detach(struct run *r)
{
	int fds[2];
	pid_t pid;
	char byte;

	if (pipe(fds) < 0 || (pid = fork()) < 0) {
		fprintf(stderr, "guise: --detach: %s\n", g_strerror(errno));
		_exit(1);
	}
	if (pid) {
		close(fds[1]);
		_exit(read(fds[0], &byte, 1) == 1 ? 0 : 1);
	}
	close(fds[0]);
	setsid();
	r->ready_pipe = fds[1];
	return true;
}

static void tell_ready(struct run *r)
{
	if (r->ready_pipe < 0)
		return;
	if (write(r->ready_pipe, "k", 1) == 1) {
		close(r->ready_pipe);
		r->ready_pipe = -1;
	}
	if (freopen("/dev/null", "r", stdin) && freopen("/dev/null", "w", stdout) && freopen("/dev/null", "w", stderr))
		return;
}

static bool set_up(struct run *r, GError **error)
{
	const struct vm_listener listener = { on_event, on_ended, r };
	g_autofree char *socket = NULL;
	g_autofree char *name = g_strdup(r->options.vm.name);
	bool paused = r->options.vm.paused;

	if (!open_trace(r, error) || runtime_claim(name, error) < 0)
		return false;
	prctl(PR_SET_NAME, name);
	r->vm = vm_create(&r->options.vm, escape_filter, &r->escape, error);
	if (!r->vm)
		return false;
	r->escape.vm = r->vm;
	vm_set_listener(r->vm, &listener);
	socket = runtime_socket(name, error);
	if (!socket)
		return false;
	/* The machine is found under its name wherever else it listens. */
	r->qmp = qmp_create(r->vm);
	if (!qmp_listen(r->qmp, socket, error) || (r->options.qmp && strcmp(r->options.qmp, socket) && !qmp_listen(r->qmp, r->options.qmp, error)))
		return false;
	fprintf(stderr, "engine: %s; machine: %s\n", r->vm->engine_why, name);
	for (unsigned i = 0; i < VM_MAX_NICS && r->vm->pc->net[i]; i++)
		fprintf(stderr, "network: %s\n", netdev_describe(r->vm->pc->net[i]));
	if (!front_end_start(&r->front_end, &r->options.display, r->vm, &r->escape, error))
		return false;
	if (!paused)
		vm_resume(r->vm);
	return true;
}

int run_command(int argc, char **argv)
{
	struct run r = { .ready_pipe = -1 };
	GError *err = NULL;

	if (!run_options_parse(&r.options, argc, argv, &err)) {
		fprintf(stderr, "guise: %s\n", err->message);
		r.status = err->domain == cli_error_quark() ? 2 : 1;
		g_error_free(err);
		run_options_finish(&r.options);
		return r.status;
	}
	if (r.options.help) {
		run_options_help();
		run_options_finish(&r.options);
		return 0;
	}
	if (r.options.detach)
		detach(&r);
	signal(SIGPIPE, SIG_IGN);
	escape_init(&r.escape);
	r.loop = g_main_loop_new(NULL, FALSE);
	if (set_up(&r, &err)) {
		g_unix_signal_add(SIGINT, on_signal, &r);
		g_unix_signal_add(SIGTERM, on_signal, &r);
		g_unix_signal_add(SIGHUP, on_signal, &r);
		tell_ready(&r);
		g_main_loop_run(r.loop);
	} else {
		r.status = 1;
	}
	front_end_stop(&r.front_end);
	qmp_destroy(r.qmp);
	if (r.vm) {
		if (r.options.stats) {
			GString *text = g_string_new(NULL);

			r.vm->ops->print_stats(r.vm->accel, text);
			fputs(text->str, stderr);
			g_string_free(text, TRUE);
		}
		typist_stop(r.vm);
		vm_destroy(r.vm);
	}
	if (err) {
		fprintf(stderr, "guise: %s\n", err->message);
		g_error_free(err);
	}
	escape_finish(&r.escape);
	g_main_loop_unref(r.loop);
	run_options_finish(&r.options);
	return r.status;
}
