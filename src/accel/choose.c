/* Choosing an engine: by name, or the first that works. */
#include <string.h>

#include "accel/accel.h"

const struct accel_ops *accel_choose(const char *name, char **why, GError **error)
{
	g_autoptr(GError) kvm = NULL;

	if (!strcmp(name, "bt")) {
		*why = g_strdup("bt (as asked)");
		return &accel_bt_ops;
	}
	if (!strcmp(name, "interp")) {
		*why = g_strdup("interp (as asked)");
		return &accel_interp_ops;
	}
	if (!strcmp(name, "kvm")) {
		/* Who names it gets it, slow or not. */
		if (!kvm_usable(&kvm) && !g_error_matches(kvm, KVM_ERROR, KVM_ERROR_SLOW)) {
			g_propagate_prefixed_error(error, g_steal_pointer(&kvm), "--engine kvm: ");
			return NULL;
		}
		*why = kvm ? g_strdup_printf("kvm (as asked; %s)", kvm->message) : g_strdup("kvm (as asked)");
		return &accel_kvm_ops;
	}
	if (kvm_usable(&kvm)) {
		*why = g_strdup("kvm");
		return &accel_kvm_ops;
	}
	*why = g_strdup_printf("bt (%s)", kvm->message);
	return &accel_bt_ops;
}

void accel_supported_words(const struct accel_ops *ops, uint32_t words[CPUID_WORDS])
{
	if (ops == &accel_kvm_ops)
		kvm_supported_words(words);
	else
		interp_supported_words(words);
}
