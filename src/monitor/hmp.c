/* The human monitor: a line in, a text out. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "block/blk.h"
#include "dev/virtio_balloon.h"
#include "machine/pc.h"
#include "machine/pc_drives.h"
#include "monitor/qmp.h"
#include "x86/cpu_state.h"
#include "x86/walk.h"

typedef void (*hmp_fn)(struct vm *vm, char **args, GString *out);

static void get_state(struct vm *vm, unsigned cpu, struct cpu_state *s)
{
	vm_lock(vm);
	vm_hold(vm);
	vm->ops->get_state(vm->vcpus[cpu].vcpu, s);
	vm_release(vm);
	vm_unlock(vm);
}

static void info_status(struct vm *vm, char **args, GString *out)
{
	g_string_append_printf(out, "VM status: %s\n", vm_status_name(vm));
}

static void info_kvm(struct vm *vm, char **args, GString *out)
{
	g_string_append_printf(out, "kvm support: %s\nengine: %s (%s)\n", strcmp(vm->ops->name, "kvm") ? "disabled" : "enabled",
			       vm->ops->name, vm->engine_why);
}

static void print_segment(GString *out, const char *name, const struct x86_segment *s)
{
	g_string_append_printf(out, "%-3s=%04x %016" G_GINT64_MODIFIER "x %08x %04x\n", name, s->selector, s->base, s->limit,
			       s->attr);
}

static void print_registers(GString *out, const struct cpu_state *s)
{
	static const char *const names[] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
					     "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15" };
	static const char *const segs[] = { "ES", "CS", "SS", "DS", "FS", "GS" };

	for (unsigned i = 0; i < 16; i++)
		g_string_append_printf(out, "%s=%016" G_GINT64_MODIFIER "x%c", names[i], s->gpr[i], i % 4 == 3 ? '\n' : ' ');
	g_string_append_printf(out, "RIP=%016" G_GINT64_MODIFIER "x RFL=%08x CPL=%u HLT=%d\n", s->rip, (unsigned)s->rflags,
			       cpu_cpl(s), s->mp_state == MP_HALTED);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		print_segment(out, segs[i], &s->seg[i]);
	print_segment(out, "LDT", &s->ldtr);
	print_segment(out, "TR", &s->tr);
	g_string_append_printf(out, "GDT=     %016" G_GINT64_MODIFIER "x %08x\n", s->gdtr.base, s->gdtr.limit);
	g_string_append_printf(out, "IDT=     %016" G_GINT64_MODIFIER "x %08x\n", s->idtr.base, s->idtr.limit);
	g_string_append_printf(out, "CR0=%08x CR2=%016" G_GINT64_MODIFIER "x CR3=%016" G_GINT64_MODIFIER "x CR4=%08x\n",
			       (unsigned)s->cr0, s->cr2, s->cr3, (unsigned)s->cr4);
	g_string_append_printf(out, "DR6=%016" G_GINT64_MODIFIER "x DR7=%016" G_GINT64_MODIFIER "x\nEFER=%016" G_GINT64_MODIFIER "x\n",
			       s->dr6, s->dr7, s->efer);
}

static void info_registers(struct vm *vm, char **args, GString *out)
{
	bool all = args[0] && !strcmp(args[0], "-a");
	struct cpu_state s;

	for (unsigned i = 0; i < (all ? vm->cpus : 1); i++) {
		get_state(vm, i, &s);
		g_string_append_printf(out, "%sCPU#%u\n", i ? "\n" : "", i);
		print_registers(out, &s);
	}
}

static void print_region(void *opaque, const char *name, uint64_t base, uint64_t size)
{
	g_string_append_printf(opaque, "  %010" G_GINT64_MODIFIER "x-%010" G_GINT64_MODIFIER "x %s\n", base, base + size - 1, name);
}

static void info_mtree(struct vm *vm, char **args, GString *out)
{
	vm_lock(vm);
	g_string_append(out, "memory:\n");
	for (unsigned i = 0; i < MEM_MAX_SLOTS; i++) {
		const struct mem_slot *s = mem_slot(vm->mem, i);

		if (s)
			g_string_append_printf(out, "  %010" G_GINT64_MODIFIER "x-%010" G_GINT64_MODIFIER "x %s%s\n", s->gpa,
					       s->gpa + s->size - 1, s->ram->name, s->readonly ? " (read-only)" : "");
	}
	g_string_append(out, "mmio:\n");
	space_walk(vm->pc->mmio, print_region, out);
	g_string_append(out, "ports:\n");
	space_walk(vm->pc->ports, print_region, out);
	vm_unlock(vm);
}

static void info_pci(struct vm *vm, char **args, GString *out)
{
	vm_lock(vm);
	for (unsigned devfn = 0; devfn < 256; devfn++) {
		struct pci_dev *p = pci_find(vm->pc->pci, devfn);

		if (!p)
			continue;
		g_string_append_printf(out, "  Bus  0, device %3u, function %u:\n    class %04x: PCI device %04x:%04x (%s)\n",
				       devfn >> 3, devfn & 7, ld16le(p->config + 10), ld16le(p->config), ld16le(p->config + 2),
				       p->device.ops->name);
		for (unsigned b = 0; b < 6; b++) {
			if (p->bar[b].size)
				g_string_append_printf(out, "      BAR%u: %s at 0x%08x [size 0x%" G_GINT64_MODIFIER "x]\n", b,
						       p->bar[b].io ? "I/O" : "memory", ld32le(p->config + 0x10 + 4 * b) & ~0xfu,
						       p->bar[b].size);
		}
		if (p->config[0x3d])
			g_string_append_printf(out, "      IRQ %u, pin %c\n", p->config[0x3c], 'A' + p->config[0x3d] - 1);
	}
	vm_unlock(vm);
}

static void info_irq(struct vm *vm, char **args, GString *out)
{
	vm_lock(vm);
	for (unsigned i = 0; i < 24; i++) {
		if (vm->pc->irq_count[i])
			g_string_append_printf(out, "%2u: %" G_GUINT64_FORMAT "\n", i, vm->pc->irq_count[i]);
	}
	vm_unlock(vm);
}

static void info_stats(struct vm *vm, char **args, GString *out)
{
	vm->ops->print_stats(vm->accel, out);
}

static void info_bt(struct vm *vm, char **words, GString *out)
{
	if (vm->ops != &accel_bt_ops)
		g_string_append_printf(out, "this machine runs on %s, not on the translator\n", vm->ops->name);
	else
		info_stats(vm, words, out);
}

static void tlb_line(void *opaque, const struct walk_range *r)
{
	g_string_append_printf(opaque, "%016" G_GINT64_MODIFIER "x: %016" G_GINT64_MODIFIER "x %c%c%c%c%c%c\n", r->lin, r->gpa,
			       r->nx ? 'X' : '-', r->global ? 'G' : '-', r->size > PAGE_SIZE ? 'P' : '-', r->dirty ? 'D' : '-',
			       r->user ? 'U' : '-', r->writable ? 'W' : '-');
}

static void mem_line(void *opaque, const struct walk_range *r)
{
	g_string_append_printf(opaque, "%016" G_GINT64_MODIFIER "x-%016" G_GINT64_MODIFIER "x %016" G_GINT64_MODIFIER "x %cr%c\n",
			       r->lin, r->lin + r->size, r->size, r->user ? 'u' : '-', r->writable ? 'w' : '-');
}

static void info_tlb(struct vm *vm, char **args, GString *out)
{
	struct cpu_state s;

	get_state(vm, 0, &s);
	if (!walk_all(vm->mem, &s, false, tlb_line, out))
		g_string_append(out, "PG disabled\n");
}

static void info_mem(struct vm *vm, char **args, GString *out)
{
	struct cpu_state s;

	get_state(vm, 0, &s);
	if (!walk_all(vm->mem, &s, true, mem_line, out))
		g_string_append(out, "PG disabled\n");
}

/* x and xp: "/COUNT[x|d|u|c][b|h|w|g] ADDRESS". */
static void examine(struct vm *vm, char **args, GString *out, bool physical)
{
	unsigned count = 1, size = 4;
	char format = 'x';
	const char *where = args[0];
	struct cpu_state s;
	uint64_t addr;
	char *end;

	if (where && where[0] == '/') {
		count = (unsigned)strtoul(where + 1, &end, 10);
		count = count < 1 ? 1 : count > 4096 ? 4096 : count;
		for (; *end; end++) {
			switch (*end) {
			case 'b': size = 1; break;
			case 'h': size = 2; break;
			case 'w': size = 4; break;
			case 'g': size = 8; break;
			default: format = *end; break;
			}
		}
		where = args[1];
	}
	if (!where) {
		g_string_append(out, "an address is missing: x /4xw 0x7c00\n");
		return;
	}
	addr = strtoull(where, NULL, 0);
	get_state(vm, 0, &s);
	for (unsigned i = 0; i < count; i++, addr += size) {
		uint64_t gpa = addr, value = 0;

		if (i % (16 / size) == 0)
			g_string_append_printf(out, "%s%016" G_GINT64_MODIFIER "x:", i ? "\n" : "", addr);
		if ((!physical && !walk_address(vm->mem, &s, addr, &gpa)) || !mem_read(vm->mem, gpa, &value, size)) {
			g_string_append(out, " Cannot access memory");
			break;
		}
		if (format == 'd')
			g_string_append_printf(out, " %" G_GINT64_FORMAT, (int64_t)(value << (64 - 8 * size)) >> (64 - 8 * size));
		else if (format == 'u')
			g_string_append_printf(out, " %" G_GUINT64_FORMAT, value);
		else if (format == 'c')
			g_string_append_printf(out, " '%c'", value >= 32 && value < 127 ? (char)value : '.');
		else
			g_string_append_printf(out, " 0x%0*" G_GINT64_MODIFIER "x", (int)size * 2, value);
	}
	g_string_append_c(out, '\n');
}

static void hmp_x(struct vm *vm, char **args, GString *out) { examine(vm, args, out, false); }
static void hmp_xp(struct vm *vm, char **args, GString *out) { examine(vm, args, out, true); }
static void hmp_stop(struct vm *vm, char **args, GString *out) { vm_pause(vm); }
static void hmp_cont(struct vm *vm, char **args, GString *out) { vm_resume(vm); }
static void hmp_reset(struct vm *vm, char **args, GString *out) { vm_reset(vm); }
static void hmp_powerdown(struct vm *vm, char **args, GString *out) { vm_powerdown(vm); }
static void hmp_quit(struct vm *vm, char **args, GString *out) { vm_request(vm, VM_REQ_QUIT); }

static void hmp_sendkey(struct vm *vm, char **args, GString *out)
{
	vm_lock(vm);
	if (!args[0] || input_send_combo(&vm->pc->input, args[0]))
		g_string_append(out, "unknown key; write it as ctrl-alt-delete\n");
	vm_unlock(vm);
}

static void info_balloon(struct vm *vm, char **args, GString *out)
{
	vm_lock(vm);
	g_string_append_printf(out, "balloon: actual=%" G_GUINT64_FORMAT "\n", virtio_balloon_size(vm->pc->balloon) >> 20);
	g_string_append_printf(out, "given back: %" G_GUINT64_FORMAT " MiB by the balloon, %" G_GUINT64_FORMAT " MiB as free pages\n",
			       virtio_balloon_inflated(vm->pc->balloon) >> 20, virtio_balloon_reported(vm->pc->balloon) >> 20);
	vm_unlock(vm);
}

static void hmp_balloon(struct vm *vm, char **args, GString *out)
{
	guint64 mib;

	if (!args[0] || !g_ascii_string_to_unsigned(args[0], 10, 1, G_MAXUINT64 >> 20, &mib, NULL)) {
		g_string_append(out, "write the memory it shall live with, in MiB\n");
		return;
	}
	vm_lock(vm);
	virtio_balloon_set_target(vm->pc->balloon, mib << 20);
	vm_unlock(vm);
}

static void change_medium(struct vm *vm, const char *id, const struct vm_disk *medium, bool force, GString *out)
{
	GError *err = NULL;

	if (pc_change_medium(vm->pc, id, medium, force, &err))
		return;
	g_string_append_printf(out, "Error: %s\n", err->message);
	g_error_free(err);
}

static void hmp_eject(struct vm *vm, char **args, GString *out)
{
	bool force = args[0] && !strcmp(args[0], "-f");
	const char *id = args[force];

	if (!id)
		g_string_append(out, "eject [-f] DRIVE; info block lists them\n");
	else
		change_medium(vm, id, NULL, force, out);
}

static void hmp_change(struct vm *vm, char **args, GString *out)
{
	struct vm_disk medium = { .format = BLK_RAW };

	if (!args[0] || !args[1]) {
		g_string_append(out, "change DRIVE FILE; info block lists the drives\n");
		return;
	}
	medium.path = args[1];
	change_medium(vm, args[0], &medium, false, out);
}

/* MiB unless a suffix says other. */
static void hmp_block_resize(struct vm *vm, char **args, GString *out)
{
	static const char suffixes[] = "bkmgt";
	const char *suffix = NULL;
	char *end = NULL;
	guint64 n = args[0] && args[1] ? g_ascii_strtoull(args[1], &end, 10) : 0;
	unsigned shift = 20;
	GError *err = NULL;

	if (end && *end && !end[1])
		suffix = strchr(suffixes, g_ascii_tolower(*end));
	if (suffix)
		shift = (unsigned)(suffix - suffixes) * 10;
	if (!n || end == args[1] || (*end && !suffix) || n > G_MAXUINT64 >> shift) {
		g_string_append(out, "block_resize DRIVE SIZE, such as 20G; info block lists the drives\n");
		return;
	}
	if (pc_drive_resize(vm->pc, args[0], n << shift, &err))
		return;
	g_string_append_printf(out, "Error: %s\n", err->message);
	g_error_free(err);
}

static void info_block(struct vm *vm, char **args, GString *out)
{
	for (unsigned i = 0; i < vm->pc->drives; i++) {
		const struct pc_drive *d = &vm->pc->drive[i];

		if (!d->blk)
			g_string_append_printf(out, "%s: [not inserted]", d->id);
		else
			g_string_append_printf(out, "%s: %s (%s%s)", d->id, blk_path(d->blk), blk_format_name(d->blk),
					       blk_readonly(d->blk) ? ", read-only" : "");
		if (d->kind != PC_DISK)
			g_string_append_printf(out, ", removable, %slocked, tray %s", pc_drive_locked(vm->pc, d) ? "" : "not ",
					       pc_drive_open(vm->pc, d) ? "open" : "closed");
		g_string_append_c(out, '\n');
	}
}

static void hmp_set_link(struct vm *vm, char **args, GString *out)
{
	bool on = args[0] && args[1] && !strcmp(args[1], "on");
	GError *err = NULL;

	if (!args[0] || !args[1] || (!on && strcmp(args[1], "off"))) {
		g_string_append(out, "set_link CARD on|off; info network lists the cards\n");
		return;
	}
	if (pc_net_set_link(vm->pc, args[0], on, &err))
		return;
	g_string_append_printf(out, "Error: %s\n", err->message);
	g_error_free(err);
}

static void info_network(struct vm *vm, char **args, GString *out)
{
	vm_lock(vm);
	pc_net_info(vm->pc, out);
	vm_unlock(vm);
}

static void hmp_help(struct vm *vm, char **args, GString *out);

static const struct {
	const char *name, *help;
	hmp_fn fn;
} commands[] = {
	{ "info status", "whether the machine runs", info_status },
	{ "info kvm", "which engine runs it, and why", info_kvm },
	{ "info registers", "[-a] the processor's registers", info_registers },
	{ "info mem", "mapped ranges of linear memory", info_mem },
	{ "info tlb", "mapped pages", info_tlb },
	{ "info pci", "PCI devices", info_pci },
	{ "info irq", "interrupts counted", info_irq },
	{ "info balloon", "the guest's memory, and what it gave back", info_balloon },
	{ "info mtree", "memory, MMIO and ports", info_mtree },
	{ "info block", "drives and their images", info_block },
	{ "info network", "network cards and what they are plugged into", info_network },
	{ "info stats", "the engine's counters", info_stats },
	{ "info bt", "the translator's counters", info_bt },
	{ "x", "/FMT ADDRESS: memory at a linear address", hmp_x },
	{ "xp", "/FMT ADDRESS: memory at a physical address", hmp_xp },
	{ "eject", "[-f] DRIVE: take the medium out", hmp_eject },
	{ "change", "DRIVE FILE: put another medium in", hmp_change },
	{ "block_resize", "DRIVE SIZE: a larger disk", hmp_block_resize },
	{ "set_link", "CARD on|off: plug a network card's cable in or out", hmp_set_link },
	{ "stop", "pause", hmp_stop },
	{ "cont", "go on", hmp_cont },
	{ "c", "go on", hmp_cont },
	{ "system_reset", "reset", hmp_reset },
	{ "system_powerdown", "press the power button", hmp_powerdown },
	{ "sendkey", "KEYS: press keys, such as ctrl-alt-delete", hmp_sendkey },
	{ "balloon", "MIB: ask the guest to live with so much memory", hmp_balloon },
	{ "quit", "end the machine", hmp_quit },
	{ "help", "this list", hmp_help },
};

static void hmp_help(struct vm *vm, char **args, GString *out)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		g_string_append_printf(out, "%-18s %s\n", commands[i].name, commands[i].help);
}

char *hmp_execute(struct vm *vm, const char *line)
{
	GString *out = g_string_new(NULL);
	g_auto(GStrv) split = g_strsplit_set(line, " \t\n", -1);
	char *words[16];
	unsigned n = 0;

	for (char **p = split; *p && n + 1 < ARRAY_LEN(words); p++) {
		/* "x/4xw" is written without a space as well. */
		if (**p)
			words[n++] = *p;
	}
	words[n] = NULL;
	if (!n)
		return g_string_free(out, FALSE);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		g_auto(GStrv) name = g_strsplit(commands[i].name, " ", -1);
		unsigned len = g_strv_length(name);
		bool match = len <= n;

		for (unsigned w = 0; match && w < len; w++)
			match = !strcmp(name[w], words[w]);
		if (match) {
			commands[i].fn(vm, words + len, out);
			return g_string_free(out, FALSE);
		}
	}
	if ((words[0][0] == 'x') && strchr(words[0], '/')) {
		g_autofree char *spaced = g_strdup_printf("%.*s %s %s", (int)(strchr(words[0], '/') - words[0]), words[0],
							  strchr(words[0], '/'), n > 1 ? words[1] : "");

		g_string_free(out, TRUE);
		return hmp_execute(vm, spaced);
	}
	g_string_append_printf(out, "unknown command: '%s%s%s'; help lists them\n", words[0], n > 1 ? " " : "", n > 1 ? words[1] : "");
	return g_string_free(out, FALSE);
}
