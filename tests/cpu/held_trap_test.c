/*
 * A data breakpoint met by a load of SS is held off (SDM 3A 6.8.3). A software interrupt that follows does not lose it: the
 * debug trap comes between the interrupt and the first instruction of its handler. On both software engines.
 */
#include <glib.h>

#include "accel/accel.h"
#include "kvm_rig.h"

static const uint8_t guest[] = {
	0xc7, 0x06, 0x04, 0x00, 0x40, 0x80,	   /* mov word [4], db */
	0xc7, 0x06, 0x06, 0x00, 0x00, 0x00,	   /* mov word [6], 0 */
	0xc7, 0x06, 0x0c, 0x00, 0x50, 0x80,	   /* mov word [12], bp */
	0xc7, 0x06, 0x0e, 0x00, 0x00, 0x00,	   /* mov word [14], 0 */
	0x66, 0xb8, 0x00, 0x90, 0x00, 0x00,	   /* mov eax, 0x9000 */
	0x0f, 0x23, 0xc0,			   /* mov dr0, eax */
	0x66, 0xb8, 0x01, 0x04, 0x07, 0x00,	   /* two bytes, read or written */
	0x0f, 0x23, 0xf8,			   /* mov dr7, eax */
	0x8e, 0x16, 0x00, 0x90,			   /* mov ss, [0x9000] */
	0xcc,					   /* int3 */
	0xe6, PORT_END,				   /* out PORT_END, al */
	[0x40] = 0xb0, 0x01, 0xe6, 0x80, 0xcf,	   /* db: mov al, 1; out 0x80, al; iret */
	[0x50] = 0xb0, 0x03, 0xe6, 0x80, 0xcf,	   /* bp: mov al, 3; out 0x80, al; iret */
};

static void test_order(const void *ops)
{
	struct rig *r = rig_create(ops, false);

	rig_load(r, guest, sizeof(guest));
	g_assert_true(rig_run(r));
	g_assert_true(g_str_has_prefix(r->log->str, "out1 0080 1\nout1 0080 3\nout1 00f4 3\n"));
	rig_destroy(r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_data_func("/held-trap/interp", &accel_interp_ops, test_order);
	g_test_add_data_func("/held-trap/bt", &accel_bt_ops, test_order);
	return g_test_run();
}
