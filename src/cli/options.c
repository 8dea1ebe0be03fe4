/* Options of `guise run`: one table, values checked as they are read. */
#include "cli/options.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "block/file_http.h"
#include "cli/arguments.h"
#include "cli/net_option.h"
#include "cli/progress.h"
#include "dev/fdc.h"
#include "fw/detect.h"

enum option_id {
	OPT_ENGINE, OPT_CPU, OPT_CPUS, OPT_BT_CACHE, OPT_MEMORY, OPT_HUGE_PAGES, OPT_KERNEL, OPT_INITRD, OPT_APPEND, OPT_CDROM, OPT_DISK, OPT_FLOPPY,
	OPT_BOOT, OPT_FIRMWARE, OPT_NET, OPT_CAPTURE, OPT_DISPLAY, OPT_SERIAL, OPT_CONSOLE, OPT_NAME, OPT_DETACH, OPT_QMP, OPT_DEBUGCON, OPT_DEBUG_EXIT, OPT_TEST_DEVICE,
	OPT_NO_REBOOT, OPT_ON_PANIC, OPT_TABLET, OPT_TRACE, OPT_TRACE_FILE, OPT_STATS, OPT_PAUSED, OPT_HELP,
};

static const struct cli_option options[] = {
	{ "engine", "auto|kvm|bt|interp", "what runs the guest's instructions (auto)", OPT_ENGINE },
	{ "cpu", "MODEL[,+feat,-feat]", "host, max, x86-64-v1..v3, qemu64, qemu32 (max)", OPT_CPU },
	{ "cpus", "N", "virtual CPUs (1)", OPT_CPUS },
	{ "bt-cache", "SIZE", "the translator's code and what it knows of it, all processors' together (48M)", OPT_BT_CACHE },
	{ "memory", "SIZE", "guest memory, such as 512M or 2G (512M)", OPT_MEMORY },
	{ "huge-pages", "on|off", "guest memory in the host's huge pages: faster, and taken 2 MiB at a time (on)", OPT_HUGE_PAGES },
	{ "kernel", "FILE", "boot this Linux, PVH or multiboot kernel directly", OPT_KERNEL },
	{ "initrd", "FILE", "initial RAM disk for the kernel", OPT_INITRD },
	{ "append", "STRING", "kernel command line", OPT_APPEND },
	{ "cdrom", "FILE[,bus=ide|sata][,bootindex=N]", "CD-ROM image", OPT_CDROM },
	{ "disk", "FILE[,format=raw|qcow2][,bus=ide|virtio|sata][,readonly][,snapshot][,werror=report|stop|enospc][,rerror=…][,bootindex=N]", "hard disk image", OPT_DISK },
	{ "floppy", "FILE[,format=raw|qcow2][,readonly][,snapshot][,werror=…][,rerror=…][,bootindex=N]", "floppy disk image; twice for two drives", OPT_FLOPPY },
	{ "boot", "cd|disk|floppy|net[,...]", "boot order", OPT_BOOT },
	{ "firmware", "bios|uefi[,vars=FILE]|PATH", "firmware (bios: SeaBIOS; uefi: OVMF, its variables kept by --name)", OPT_FIRMWARE },
	{ "net", "none|user[,..]|tap=IF|socket=PATH", "network card and what it is plugged into (user); repeat for more", OPT_NET },
	{ "capture", "FILE", "write the first card's frames to a pcap file", OPT_CAPTURE },
	{ "display", "auto|none|text|window|vnc[=ADDR:PORT|=unix:PATH][,...]", "the guest's screen (text: in the terminal)", OPT_DISPLAY },
	{ "serial", "stdio|none|pty|file:F|unix:F", "first serial port; repeat for the others", OPT_SERIAL },
	{ "console", "stdio|none|pty|file:F|unix:F", "a virtio console, hvc0 in Linux", OPT_CONSOLE },
	{ "name", "NAME", "the machine's name", OPT_NAME },
	{ "detach", NULL, "run in the background", OPT_DETACH },
	{ "qmp", "unix:PATH", "another QMP socket, beside the one in the runtime directory", OPT_QMP },
	{ "debugcon", "FILE|stdio", "bytes written to port 0x402", OPT_DEBUGCON },
	{ "debug-exit", NULL, "a write of v to port 0xf4 ends with status (v<<1)|1", OPT_DEBUG_EXIT },
	{ "test-device", NULL, "the test suites' pc-testdev", OPT_TEST_DEVICE },
	{ "tablet", NULL, "a USB tablet as pointer (there by itself with window and vnc)", OPT_TABLET },
	{ "on-panic", "poweroff|pause|reset|ignore", "when the guest's kernel panics (poweroff, status 1)", OPT_ON_PANIC },
	{ "no-reboot", NULL, "end with status 3 where the guest would reset", OPT_NO_REBOOT },
	{ "trace", "LIST", "of exec,int,io,mmio,irq,cpu,bt,dev", OPT_TRACE },
	{ "trace-file", "FILE", "where the trace goes (standard error)", OPT_TRACE_FILE },
	{ "stats", NULL, "print the engine's counters at the end", OPT_STATS },
	{ "paused", NULL, "start paused", OPT_PAUSED },
	{ "help", NULL, "this list", OPT_HELP },
};

static bool parse_size(const char *option, const char *text, uint64_t *out, GError **error)
{
	char *end;
	uint64_t n;
	unsigned shift = 20;

	errno = 0;
	n = strtoull(text, &end, 10);
	switch (*end) {
	case 'K': case 'k': shift = 10; end++; break;
	case 'M': case 'm': shift = 20; end++; break;
	case 'G': case 'g': shift = 30; end++; break;
	case 'T': case 't': shift = 40; end++; break;
	default: break;
	}
	if (errno || end == text || *end || text[0] == '-' || n > UINT64_MAX >> shift)
		return cli_fail(error, "--%s %s: not a size; write it as 512M or 2G", option, text);
	n <<= shift;
	if (n < 1 << 20)
		return cli_fail(error, "--%s %s: the smallest is 1M", option, text);
	*out = n & ~UINT64_C(0xfff);
	return true;
}

static bool parse_cpus(const char *text, unsigned *out, GError **error)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end || end == text || n < 1 || n > VM_MAX_CPUS)
		return cli_fail(error, "--cpus %s: a number from 1 to %d", text, VM_MAX_CPUS);
	*out = (unsigned)n;
	return true;
}

static bool parse_bus(struct vm_disk *d, const char *bus)
{
	static const char *const name[] = { [DISK_IDE] = "ide", [DISK_VIRTIO] = "virtio", [DISK_SATA] = "sata" };

	for (unsigned i = 0; i < ARRAY_LEN(name); i++) {
		if (strcmp(bus, name[i]))
			continue;
		d->bus = (enum disk_bus)i;
		return true;
	}
	return false;
}

/* "werror=" and "rerror=": what becomes of a request that the host fails. */
static bool parse_on_error(struct vm_disk *d, const char *part)
{
	static const char *const name[] = { [BLK_ERROR_REPORT] = "report", [BLK_ERROR_STOP] = "stop", [BLK_ERROR_ENOSPC] = "enospc" };
	bool write = g_str_has_prefix(part, "werror=");

	if (!write && !g_str_has_prefix(part, "rerror="))
		return false;
	for (unsigned i = BLK_ERROR_REPORT; i < ARRAY_LEN(name); i++) {
		if (strcmp(part + strlen("werror="), name[i]))
			continue;
		*(write ? &d->on_write_error : &d->on_read_error) = (enum blk_on_error)i;
		return true;
	}
	return false;
}

/* "bootindex=N": the smallest is tried first. */
static bool parse_boot_index(struct vm_disk *d, const char *part)
{
	guint64 n;

	if (!g_str_has_prefix(part, "bootindex=") ||
	    !g_ascii_string_to_unsigned(part + strlen("bootindex="), 10, 0, VM_MAX_BOOT_INDEX - 1, &n, NULL))
		return false;
	d->boot_index = (unsigned)n + 1;
	return true;
}

/* FILE[,part...]: `option` is "disk", which has bus=, or "floppy". */
static bool parse_image(struct vm_disk *d, const char *option, const char *text, GError **error)
{
	g_auto(GStrv) parts = g_strsplit(text, ",", -1);
	bool has_bus = !strcmp(option, "disk");

	if (!parts[0] || !*parts[0])
		return cli_fail(error, "--%s: a file name is missing", option);
	memset(d, 0, sizeof(*d));
	for (char **p = parts + 1; *p; p++) {
		if (!strcmp(*p, "format=raw"))
			d->format = BLK_RAW;
		else if (!strcmp(*p, "format=qcow2"))
			d->format = BLK_QCOW2;
		else if (!strcmp(*p, "readonly"))
			d->readonly = true;
		else if (!strcmp(*p, "snapshot"))
			d->snapshot = true;
		else if (!parse_on_error(d, *p) && !parse_boot_index(d, *p) && (!has_bus || !g_str_has_prefix(*p, "bus=") || !parse_bus(d, *p + 4)))
			return cli_fail(error, "--%s: unknown part \"%s\"; there are format=raw|qcow2, %sreadonly, snapshot, "
					"werror=report|stop|enospc, rerror=report|stop|enospc, bootindex=N", option, *p,
					has_bus ? "bus=ide|virtio|sata, " : "");
	}
	d->path = g_strdup(parts[0]);
	return true;
}

static bool parse_disk(struct vm_config *c, const char *text, GError **error)
{
	if (c->disks == VM_MAX_DISKS)
		return cli_fail(error, "--disk: at most %d disks", VM_MAX_DISKS);
	if (!parse_image(&c->disk[c->disks], "disk", text, error))
		return false;
	c->disks++;
	return true;
}

/* A path may hold commas: parts are looked for at its end. */
static bool parse_cdrom(struct vm_config *c, const char *text, GError **error)
{
	g_autofree char *path = g_strdup(text);
	struct vm_disk d = { 0 };
	char *part;

	while ((part = strrchr(path, ',')) && (parse_boot_index(&d, part + 1) || (g_str_has_prefix(part, ",bus=") && parse_bus(&d, part + 5))))
		*part = 0;
	if (d.bus == DISK_VIRTIO)
		return cli_fail(error, "--cdrom: a CD-ROM drive is on bus=ide or bus=sata");
	g_free(c->cdrom.path);
	c->cdrom = d;
	c->cdrom.path = g_steal_pointer(&path);
	return true;
}

static bool parse_floppy(struct vm_config *c, const char *text, GError **error)
{
	if (c->floppies == VM_MAX_FLOPPIES)
		return cli_fail(error, "--floppy: at most %d drives", VM_MAX_FLOPPIES);
	if (!parse_image(&c->floppy[c->floppies], "floppy", text, error))
		return false;
	c->floppies++;
	return true;
}

static bool one_of(const char *name, const char *value, const char *const *words, GError **error)
{
	g_autofree char *list = NULL;

	if (g_strv_contains(words, value))
		return true;
	list = g_strjoinv(", ", (char **)words);
	return cli_fail(error, "--%s %s: this build has %s", name, value, list);
}

static bool check_boot(const char *text, GError **error)
{
	g_auto(GStrv) parts = g_strsplit(text, ",", -1);

	for (char **p = parts; *p; p++) {
		if (!one_of("boot", *p, (const char *const[]){ "cd", "disk", "floppy", "net", NULL }, error))
			return false;
	}
	return true;
}

static bool check_stream(const char *option, const char *spec, GError **error)
{
	if (!strcmp(spec, "stdio") || !strcmp(spec, "none") || !strcmp(spec, "pty") || g_str_has_prefix(spec, "file:") ||
	    g_str_has_prefix(spec, "unix:"))
		return true;
	return cli_fail(error, "--%s %s: one of stdio, none, pty, file:F, unix:F", option, spec);
}

static bool parse_panic(const char *value, enum panic_action *action, GError **error)
{
	static const char *const words[] = { "poweroff", "pause", "reset", "ignore", NULL };

	for (unsigned i = 0; words[i]; i++) {
		if (!strcmp(value, words[i])) {
			*action = i;
			return true;
		}
	}
	return one_of("on-panic", value, words, error);
}

static void set_string(char **to, const char *value)
{
	g_free(*to);
	*to = g_strdup(value);
}

/* A path may hold commas; only "uefi" has parts. */
static bool parse_firmware(struct vm_config *c, const char *value, GError **error)
{
	set_string(&c->uefi_vars, NULL);
	if (!g_str_has_prefix(value, "uefi,")) {
		set_string(&c->firmware, value);
		return true;
	}
	if (!g_str_has_prefix(value, "uefi,vars=") || !value[strlen("uefi,vars=")])
		return cli_fail(error, "--firmware %s: after \"uefi\" there is vars=FILE", value);
	set_string(&c->firmware, "uefi");
	set_string(&c->uefi_vars, value + strlen("uefi,vars="));
	return true;
}

/* A machine with a name finds its UEFI variables again. */
static void settle_uefi(struct vm_config *c)
{
	g_autofree char *file = NULL;

	if (strcmp(c->firmware, "uefi") || c->uefi_vars || !c->name)
		return;
	file = g_strconcat(c->name, ".vars.fd", NULL);
	c->uefi_vars = g_build_filename(g_get_user_data_dir(), "guise", file, NULL);
}

static bool take(struct run_options *o, const struct cli_option *opt, const char *value, unsigned *serials, GError **error)
{
	struct vm_config *c = &o->vm;

	switch ((enum option_id)opt->id) {
	case OPT_ENGINE:
		set_string(&c->engine, value);
		return one_of("engine", value, (const char *const[]){ "auto", "kvm", "bt", "interp", NULL }, error);
	case OPT_CPU: set_string(&c->cpu, value); return true;
	case OPT_CPUS: return parse_cpus(value, &c->cpus, error);
	case OPT_MEMORY: return parse_size("memory", value, &c->memory, error);
	case OPT_HUGE_PAGES:
		c->small_pages = !strcmp(value, "off");
		return one_of("huge-pages", value, (const char *const[]){ "on", "off", NULL }, error);
	case OPT_BT_CACHE: return parse_size("bt-cache", value, &c->bt_cache, error);
	case OPT_KERNEL: set_string(&c->kernel, value); return true;
	case OPT_INITRD: set_string(&c->initrd, value); return true;
	case OPT_APPEND: set_string(&c->append, value); return true;
	case OPT_CDROM: return parse_cdrom(c, value, error);
	case OPT_DISK: return parse_disk(c, value, error);
	case OPT_FLOPPY: return parse_floppy(c, value, error);
	case OPT_BOOT: set_string(&c->boot, value); return check_boot(value, error);
	case OPT_FIRMWARE: return parse_firmware(c, value, error);
	case OPT_NET: return net_option_parse(&o->vm, &o->no_net, value, error);
	case OPT_CAPTURE: set_string(&o->capture, value); return true;
	case OPT_DISPLAY: return display_option_parse(&o->display, value, error);
	case OPT_SERIAL:
		if (*serials == VM_MAX_SERIAL)
			return cli_fail(error, "--serial: at most %d serial ports", VM_MAX_SERIAL);
		set_string(&c->serial[(*serials)++], value);
		return check_stream("serial", value, error);
	case OPT_CONSOLE: set_string(&c->console, value); return check_stream("console", value, error);
	case OPT_NAME:
		if (!*value || strchr(value, '/') || strlen(value) > 64)
			return cli_fail(error, "--name %s: up to 64 characters, no slash", value);
		set_string(&c->name, value);
		return true;
	case OPT_DETACH: o->detach = true; return true;
	case OPT_QMP:
		if (!g_str_has_prefix(value, "unix:"))
			return cli_fail(error, "--qmp %s: write unix:PATH", value);
		set_string(&o->qmp, value + 5);
		return true;
	case OPT_DEBUGCON:
		g_free(c->debugcon);
		c->debugcon = strcmp(value, "stdio") ? g_strconcat("file:", value, NULL) : g_strdup("stdio");
		return true;
	case OPT_DEBUG_EXIT: c->debug_exit = true; return true;
	case OPT_TEST_DEVICE: c->test_device = true; return true;
	case OPT_TABLET: c->tablet = true; return true;
	case OPT_ON_PANIC: return parse_panic(value, &c->on_panic, error);
	case OPT_NO_REBOOT: c->no_reboot = true; return true;
	case OPT_TRACE:
		if (trace_parse(value, &o->trace))
			return cli_fail(error, "--trace %s: a list of exec,int,io,mmio,irq,cpu,bt,dev", value);
		return true;
	case OPT_TRACE_FILE: set_string(&o->trace_file, value); return true;
	case OPT_STATS: o->stats = true; return true;
	case OPT_PAUSED: c->paused = true; return true;
	case OPT_HELP: o->help = true; return true;
	}
	return false;
}

static void set_defaults(struct run_options *o)
{
	o->vm.engine = g_strdup("auto");
	o->vm.cpu = g_strdup("max");
	o->vm.cpus = 1;
	o->vm.memory = UINT64_C(512) << 20;
	o->vm.firmware = g_strdup("bios");
	o->display.kind = g_strdup("auto");
}

static bool is_floppy(const char *path)
{
	GStatBuf st;

	return !g_stat(path, &st) && fdc_is_standard((uint64_t)st.st_size);
}

static bool show_progress(void *opaque, uint64_t done, uint64_t total)
{
	progress_update(opaque, done, total);
	return true;
}

/* An image on a web server is fetched first, unless the cache has it. Returns where it is then. */
static char *fetch_image(const char *url, GError **error)
{
	struct progress p;
	bool ok;

	progress_begin(&p, "fetching");
	ok = http_fetch_all(url, show_progress, &p, error);
	progress_end(&p);
	return ok ? http_cache_path(url) : NULL;
}

/* IMAGE: what it is decides where it goes. */
static bool take_image(struct run_options *o, const char *path, GError **error)
{
	struct vm_config *c = &o->vm;
	bool url = path_is_url(path);
	g_autofree char *local = url ? fetch_image(path, error) : g_strdup(path);
	enum image_kind kind;

	if (!local || !image_detect(local, &kind, error))
		return false;
	switch (kind) {
	case IMAGE_ISO:
		set_string(&c->cdrom.path, path);
		return true;
	case IMAGE_BZIMAGE:
	case IMAGE_ELF:
		set_string(&c->kernel, local);
		return true;
	case IMAGE_DISK:
		if (is_floppy(path) && c->floppies < VM_MAX_FLOPPIES) {
			c->floppy[c->floppies++] = (struct vm_disk){ .path = g_strdup(path), .format = BLK_RAW };
			return true;
		}
		/* fall through */
	case IMAGE_QCOW2:
		if (c->disks == VM_MAX_DISKS)
			return cli_fail(error, "at most %d disks", VM_MAX_DISKS);
		c->disk[c->disks++] = (struct vm_disk){ .path = g_strdup(path), .snapshot = url };
		return true;
	}
	return cli_fail(error, "%s: not an image that can be booted", path);
}

/* Where things go by default: the terminal shows the serial line with a directly booted kernel, the
 * text screen otherwise. */
static void settle_defaults(struct run_options *o)
{
	bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);

	if (!strcmp(o->display.kind, "auto"))
		set_string(&o->display.kind, !o->vm.serial[0] && !o->vm.kernel && terminal && !o->detach ? "text" : "none");
	o->vm.tablet |= !strcmp(o->display.kind, "window") || !strcmp(o->display.kind, "vnc");
	if (!o->vm.serial[0])
		o->vm.serial[0] = g_strdup(!strcmp(o->display.kind, "text") || o->detach || !g_strcmp0(o->vm.console, "stdio") ? "none" : "stdio");
}

bool run_options_parse(struct run_options *o, int argc, char **argv, GError **error)
{
	const char *image = NULL;
	unsigned serials = 0;

	memset(o, 0, sizeof(*o));
	set_defaults(o);
	for (int i = 0; i < argc; i++) {
		const struct cli_option *opt;
		const char *value;

		if (strncmp(argv[i], "--", 2)) {
			if (argv[i][0] == '-' && argv[i][1])
				return cli_fail(error, "%s: options have two dashes; `guise run --help` lists them", argv[i]);
			if (image)
				return cli_fail(error, "%s: one image only (%s was given before); more go with --disk or --cdrom",
						argv[i], image);
			image = argv[i];
			continue;
		}
		opt = cli_option_next(options, ARRAY_LEN(options), "guise run --help", argc, argv, &i, &value, error);
		if (!opt || !take(o, opt, value, &serials, error))
			return false;
	}
	if (o->help)
		return true;
	if (image && !take_image(o, image, error))
		return false;
	if (o->vm.initrd && !o->vm.kernel)
		return cli_fail(error, "--initrd goes with --kernel");
	settle_uefi(&o->vm);
	if (!o->vm.name)
		o->vm.name = g_strdup_printf("guise-%d", (int)getpid());
	settle_defaults(o);
	return net_option_settle(&o->vm, o->no_net, o->capture, error);
}

void run_options_finish(struct run_options *o)
{
	vm_config_finish(&o->vm);
	display_option_finish(&o->display);
	g_free(o->qmp);
	g_free(o->trace_file);
	g_free(o->capture);
}

void run_options_help(void)
{
	fputs("usage: guise run [IMAGE] [options]\n\nIMAGE is an ISO, a hard or floppy disk image, a bzImage or an ELF kernel,\nor the http(s) address of one.\n\n", stdout);
	cli_options_print(options, ARRAY_LEN(options), 42, stdout);
}
