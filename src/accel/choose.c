/* Choosing an engine: by name, or the first that works. */
#include <string.h>

#include "accel/accel.h"

const struct accel_ops *accel_choose(const char *name, char **why, GError **error)
{
	g_autoptr(GError) kvm = NULL;

	if (!strcmp(name, "bt")) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOSYS, "this build has no bt engine; use --engine auto");
		return NULL;
	}
	if (!strcmp(name, "interp")) {
		*why = g_strdup("interp (as asked)");
		return &accel_interp_ops;
	}
	if (!strcmp(name, "kvm")) {
		if (!kvm_usable(error))
			return NULL;
		*why = g_strdup("kvm (as asked)");
		return &accel_kvm_ops;
	}
	if (kvm_usable(&kvm)) {
		*why = g_strdup("kvm");
		return &accel_kvm_ops;
	}
	*why = g_strdup_printf("interp (%s)", kvm->message);
	return &accel_interp_ops;
}
