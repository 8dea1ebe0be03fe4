/* Host checks, one function each: a verdict, what was found, and the next step. */
#include "cli/doctor.h"

#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "accel/accel.h"
#include "base/bytes.h"
#include "host/runtime.h"

static void line(bool ok, const char *what, const char *found, const char *fix)
{
	printf("%s %-10s %s\n", ok ? "[ok]  " : "[lack]", what, found);
	if (!ok && fix)
		printf("                  fix: %s\n", fix);
}

static bool check_engine(void)
{
	g_autofree char *why = NULL;
	g_autoptr(GError) err = NULL;
	const struct accel_ops *ops = accel_choose("auto", &why, &err);

	line(ops != NULL, "engine", ops ? why : err->message, NULL);
	return ops != NULL;
}

static bool check_firmware(void)
{
	static const struct {
		const char *path, *package;
	} files[] = {
		{ "/usr/share/seabios/bios-256k.bin", "seabios" },
		{ "/usr/share/seabios/vgabios-stdvga.bin", "seabios" },
	};
	bool all = true;

	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		bool ok = !access(files[i].path, R_OK);
		g_autofree char *fix = g_strdup_printf("sudo apt-get install %s", files[i].package);

		line(ok, "firmware", files[i].path, fix);
		all &= ok;
	}
	return all;
}

static bool check_memory(void)
{
	struct sysinfo si;
	g_autofree char *text = NULL;
	uint64_t mib;

	if (sysinfo(&si))
		return false;
	mib = (uint64_t)si.totalram * si.mem_unit >> 20;
	text = g_strdup_printf("%" G_GUINT64_FORMAT " MiB in all", mib);
	line(mib >= 1024, "memory", text, "a guest of 512 MiB wants a host of 1 GiB or more");
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
	line(ok, "limits", text, "ulimit -n 1024");
	return ok;
}

static bool check_runtime(void)
{
	g_autoptr(GError) err = NULL;
	g_autofree char *dir = runtime_dir(&err);

	line(dir != NULL, "sockets", dir ? dir : err->message, "set XDG_RUNTIME_DIR to a directory of yours");
	return dir != NULL;
}

int doctor_command(void)
{
	bool ok = check_engine();

	ok &= check_firmware();
	ok &= check_memory();
	ok &= check_limits();
	ok &= check_runtime();
	printf(ok ? "guise can run machines here.\n" : "Something is lacking; see above.\n");
	return ok ? 0 : 1;
}
