/* Starting the display that was asked for. */
#include "cli/front_end.h"

#include <stdio.h>
#include <string.h>

#include "display/terminal.h"
#include "display/vnc.h"
#include "display/window.h"
#include "machine/pc.h"

static void quit(void *opaque) { vm_request(opaque, VM_REQ_QUIT); }

static void terminal_quit(void *opaque) { quit(((struct escape *)opaque)->vm); }
static void monitor(void *opaque, bool on) { escape_monitor(opaque, on); }
static void monitor_key(void *opaque, uint8_t byte) { escape_monitor_key(opaque, byte); }

static bool start_terminal(struct front_end *f, struct vm *vm, struct escape *escape, GError **error)
{
	const struct terminal_config c = {
		.source = pc_display(vm->pc), .input = &vm->pc->input, .lock = &vm->lock, .name = vm->config.name,
		.quit = terminal_quit, .monitor = monitor, .monitor_key = monitor_key, .opaque = escape,
	};

	f->terminal = terminal_create(&c, error);
	return f->terminal;
}

static bool start_window(struct front_end *f, const struct display_option *d, struct vm *vm, GError **error)
{
	const struct window_config c = {
		.source = pc_display(vm->pc), .input = &vm->pc->input, .lock = &vm->lock, .name = vm->config.name,
		.full_screen = d->full_screen, .quit = quit, .opaque = vm,
	};

	f->window = window_create(&c, error);
	return f->window;
}

/* The first line of the file, so that the password shows in no list of processes. */
static bool read_password(const char *path, char **password, GError **error)
{
	gsize len;

	*password = NULL;
	if (!path)
		return true;
	if (!g_file_get_contents(path, password, &len, error)) {
		g_prefix_error(error, "--display vnc: ");
		return false;
	}
	(*password)[strcspn(*password, "\r\n")] = 0;
	if (**password)
		return true;
	g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "--display vnc: no password in %s", path);
	return false;
}

static bool start_vnc(struct front_end *f, const struct display_option *d, struct vm *vm, GError **error)
{
	g_autofree char *password = NULL;
	struct vnc_config c = {
		.source = pc_display(vm->pc), .input = &vm->pc->input, .lock = &vm->lock, .name = vm->config.name,
		.address = d->address, .tls_certificate = d->tls_certificate, .tls_key = d->tls_key,
		.tls_anonymous = d->tls_anonymous, .plain = d->allow_plain,
	};
	bool tls = d->tls_certificate || d->tls_anonymous;

	if (!read_password(d->password_file, &password, error))
		return false;
	c.password = password;
	f->vnc = vnc_create(&c, error);
	if (f->vnc)
		fprintf(stderr, "display: VNC at %s%s%s\n", vnc_address(f->vnc), password ? ", with a password" : "",
			!tls ? "" : d->allow_plain ? ", with TLS for those who want it" : ", by TLS only");
	return f->vnc;
}

bool front_end_start(struct front_end *f, const struct display_option *d, struct vm *vm, struct escape *escape, GError **error)
{
	if (!strcmp(d->kind, "text"))
		return start_terminal(f, vm, escape, error);
	if (!strcmp(d->kind, "window"))
		return start_window(f, d, vm, error);
	if (!strcmp(d->kind, "vnc"))
		return start_vnc(f, d, vm, error);
	return true;
}

void front_end_stop(struct front_end *f)
{
	terminal_destroy(f->terminal);
	window_destroy(f->window);
	vnc_destroy(f->vnc);
	*f = (struct front_end){ 0 };
}
