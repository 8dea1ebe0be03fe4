/* Host checks, one function each: a verdict, what was found, and the next step. */
#include "cli/doctor.h"

#include <glib.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "accel/accel.h"
#include "base/bytes.h"
#include "host/runtime.h"

enum verdict { FINE, LACKS, OPTIONAL };

/* `fix` is shown unless all is fine. */
static void line(enum verdict v, const char *what, const char *found, const char *fix)
{
	static const char *const marks[] = { "[ok]  ", "[lack]", "[opt] " };

	printf("%s %-10s %s\n", marks[v], what, found);
	if (v != FINE && fix)
		printf("                  fix: %s\n", fix);
}

/* Its absence costs speed, not function. The message names the next step. */
static void check_kvm(void)
{
	g_autoptr(GError) err = NULL;

	if (kvm_usable(&err))
		line(FINE, "kvm", "usable: guests run on the processor itself", NULL);
	else
		line(OPTIONAL, "kvm", err->message, NULL);
}

static bool check_engine(void)
{
	g_autofree char *why = NULL;
	g_autoptr(GError) err = NULL;
	const struct accel_ops *ops = accel_choose("auto", &why, &err);

	line(ops ? FINE : LACKS, "engine", ops ? why : err->message, NULL);
	return ops != NULL;
}

static bool check_firmware(void)
{
	static const struct {
		const char *path, *package, *use;
	} files[] = {
		{ "/usr/share/seabios/bios-256k.bin", "seabios", NULL },
		{ "/usr/share/seabios/vgabios-stdvga.bin", "seabios", NULL },
		{ "/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu", "network boot" },
	};
	bool all = true;

	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		bool ok = !access(files[i].path, R_OK);
		g_autofree char *fix = g_strdup_printf("sudo apt-get install %s%s%s", files[i].package, files[i].use ? "   # for " : "",
						       files[i].use ? files[i].use : "");

		line(ok ? FINE : files[i].use ? OPTIONAL : LACKS, "firmware", files[i].path, fix);
		all &= ok || files[i].use;
	}
	return all;
}

/* Disk requests go by io_uring where the kernel lets them, and by threads elsewhere. */
static void check_uring(void)
{
	struct io_uring ring;
	int r = io_uring_queue_init(1, &ring, 0);
	g_autofree char *text = NULL;

	if (r == 0) {
		io_uring_queue_exit(&ring);
		line(FINE, "disks", "io_uring", NULL);
		return;
	}
	text = g_strdup_printf("io_uring: %s; a pool of threads serves disks instead", g_strerror(-r));
	line(OPTIONAL, "disks", text, "sysctl kernel.io_uring_disabled=0, or a container profile that allows io_uring");
}

static void check_network(void)
{
	bool tap = !access("/dev/net/tun", R_OK | W_OK);

	line(FINE, "network", "user networking (libslirp), no privileges needed", NULL);
	line(tap ? FINE : OPTIONAL, "network", tap ? "/dev/net/tun: --net tap=IF" : "/dev/net/tun is not accessible: no --net tap=IF",
	     "sudo modprobe tun; then make a tap of yours: sudo ip tuntap add tap0 mode tap user $USER");
	if (!access("/dev/vhost-net", R_OK | W_OK))
		line(FINE, "network", "/dev/vhost-net: under kvm the kernel moves a tap interface's frames", NULL);
	else
		line(OPTIONAL, "network", "/dev/vhost-net is not accessible: frames of tap interfaces go through the machine's process",
		     "sudo modprobe vhost_net; then let this user open it: sudo setfacl -m u:$USER:rw /dev/vhost-net");
}

static void check_display(void)
{
	const char *where = g_getenv("WAYLAND_DISPLAY");

	if (!where)
		where = g_getenv("DISPLAY");
	if (where) {
		g_autofree char *text = g_strdup_printf("window on %s, VNC (TLS too), text in the terminal", where);

		line(FINE, "display", text, NULL);
	} else {
		line(OPTIONAL, "display", "VNC (TLS too), text in the terminal; no window, for neither DISPLAY nor WAYLAND_DISPLAY is set",
		     "run it in a graphical session, or use --display vnc");
	}
}

/* The translator's windows and every disk mapping count against it. */
static void check_maps(void)
{
	g_autofree char *text = NULL;
	g_autofree char *found = NULL;
	guint64 count;

	if (!g_file_get_contents("/proc/sys/vm/max_map_count", &text, NULL, NULL))
		return;
	count = g_ascii_strtoull(text, NULL, 10);
	found = g_strdup_printf("%" G_GUINT64_FORMAT " memory mappings for a process", count);
	line(count >= 65530 ? FINE : OPTIONAL, "limits", found, "sudo sysctl vm.max_map_count=65530");
}

static bool check_memory(void)
{
	struct sysinfo si;
	g_autofree char *text = NULL;
	uint64_t mib;

	if (sysinfo(&si))
		return false;
	mib = (uint64_t)si.totalram * si.mem_unit >> 20;
	text = g_strdup_printf("%" G_GUINT64_FORMAT " MiB in all, %" G_GUINT64_FORMAT " MiB free", mib,
			       ((uint64_t)si.freeram + si.bufferram) * si.mem_unit >> 20);
	line(mib >= 1024 ? FINE : LACKS, "memory", text, "a guest of 512 MiB wants a host of 1 GiB or more");
	return mib >= 1024;
}

static bool check_limits(void)
{
	struct rlimit rl;
	g_autofree char *text = NULL;
	bool ok;

	getrlimit(RLIMIT_NOFILE, &rl);
	ok = rl.rlim_cur >= 256;
	text = g_strdup_printf("%lu open files", (unsigned long)rl.rlim_cur);
	line(ok ? FINE : LACKS, "limits", text, "ulimit -n 1024");
	return ok;
}

static bool check_runtime(void)
{
	g_autoptr(GError) err = NULL;
	g_autofree char *dir = runtime_dir(&err);

	line(dir ? FINE : LACKS, "sockets", dir ? dir : err->message, "set XDG_RUNTIME_DIR to a directory of yours");
	return dir != NULL;
}

int doctor_command(void)
{
	bool ok;

	check_kvm();
	ok = check_engine();
	ok &= check_firmware();
	check_uring();
	check_network();
	check_display();
	ok &= check_memory();
	ok &= check_limits();
	check_maps();
	ok &= check_runtime();
	printf(ok ? "guise can run machines here.\n" : "Something is lacking; see above.\n");
	return ok ? 0 : 1;
}
