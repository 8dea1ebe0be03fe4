/*
 * i8042: bytes between the PS/2 devices and the output buffer, translated on the way (IBM PS/2
 * Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller").
 */
#include "dev/i8042.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

#include "dev/ps2.h"

#define STATUS_OBF 0x01
#define STATUS_SYSTEM 0x04
#define STATUS_COMMAND 0x08
#define STATUS_UNLOCKED 0x10
#define STATUS_AUX 0x20

#define CTR_KBD_INT 0x01
#define CTR_AUX_INT 0x02
#define CTR_SYSTEM 0x04
#define CTR_KBD_OFF 0x10
#define CTR_AUX_OFF 0x20
#define CTR_TRANSLATE 0x40

#define OUT_RUN 0x01 /* low: reset */
#define OUT_A20 0x02
#define OUT_LINES 0xcc /* clock and data of both devices, at rest */
#define OUT_KBD_FULL 0x10
#define OUT_AUX_FULL 0x20

enum command {
	CMD_READ_RAM = 0x20, CMD_WRITE_RAM = 0x60, CMD_PASSWORD_TEST = 0xa4, CMD_AUX_DISABLE = 0xa7, CMD_AUX_ENABLE = 0xa8,
	CMD_AUX_TEST = 0xa9, CMD_SELF_TEST = 0xaa, CMD_KBD_TEST = 0xab, CMD_KBD_DISABLE = 0xad, CMD_KBD_ENABLE = 0xae,
	CMD_READ_INPUT = 0xc0, CMD_READ_OUTPUT = 0xd0, CMD_WRITE_OUTPUT = 0xd1, CMD_WRITE_KBD_BUFFER = 0xd2,
	CMD_WRITE_AUX_BUFFER = 0xd3, CMD_WRITE_AUX = 0xd4, CMD_A20_OFF = 0xdd, CMD_A20_ON = 0xdf, CMD_TEST_INPUTS = 0xe0,
	CMD_PULSE = 0xf0
};

/* Between a read and the device's next byte. Real lines take a millisecond; old drivers that read the same byte
 * twice need some of that. */
#define BYTE_NS 200000

enum source { FROM_CONTROLLER, FROM_KBD, FROM_AUX };

struct i8042 {
	struct device device; /* must be first */
	struct irq kbd_irq, aux_irq;
	struct clock *clock;
	struct timer *byte_timer, *report_timer;
	struct region *region[2];
	void (*reset_cb)(void *opaque);
	void (*a20_cb)(void *opaque, bool enabled);
	void *opaque;
	struct ps2_keyboard kbd;
	struct ps2_mouse mouse;
	uint8_t ram[32];   /* byte 0 is the command byte, CTR_* */
	uint8_t pending;   /* a command that waits for its argument; 0: none */
	uint8_t outport;   /* OUT_RUN and OUT_A20 */
	uint8_t data;      /* the output buffer */
	uint8_t reply;     /* the controller's own, next in line */
	bool full, full_aux, replies, reply_aux;
	bool command_last; /* the last write was a command */
	bool self_tested;
	bool break_prefix; /* 0xf0 has been swallowed by the translation */
	bool kbd_level, aux_level;
	int64_t next_byte, next_report; /* not before these times */
};

/* ---- output buffer ---- */

static void update_irqs(struct i8042 *c)
{
	bool kbd = c->full && !c->full_aux && (c->ram[0] & CTR_KBD_INT);
	bool aux = c->full && c->full_aux && (c->ram[0] & CTR_AUX_INT);

	if (kbd != c->kbd_level) {
		c->kbd_level = kbd;
		irq_set(&c->kbd_irq, kbd);
	}
	if (aux != c->aux_level) {
		c->aux_level = aux;
		irq_set(&c->aux_irq, aux);
	}
}

static void fill(struct i8042 *c, uint8_t byte, bool aux)
{
	c->data = byte;
	c->full = true;
	c->full_aux = aux;
	update_irqs(c);
}

/* One byte for the host, unless all there was is the prefix of a release. */
static bool take_key_byte(struct i8042 *c, uint8_t *byte)
{
	while (!ps2_queue_empty(&c->kbd.queue)) {
		*byte = ps2_queue_take(&c->kbd.queue);
		if (!(c->ram[0] & CTR_TRANSLATE)) {
			c->break_prefix = false;
			return true;
		}
		if (*byte == 0xf0) {
			c->break_prefix = true;
			continue;
		}
		*byte = ps2_translate(*byte) | (c->break_prefix ? 0x80 : 0);
		c->break_prefix = false;
		return true;
	}
	return false;
}

/* Movement becomes reports at the mouse's sample rate. */
static void pump_mouse(struct i8042 *c)
{
	if (!ps2_mouse_waiting(&c->mouse) || !ps2_queue_empty(&c->mouse.queue))
		return;
	if (clock_now(c->clock) < c->next_report) {
		timer_arm(c->report_timer, c->next_report);
		return;
	}
	ps2_mouse_report(&c->mouse);
	c->next_report = clock_now(c->clock) + NS_PER_SEC / c->mouse.rate;
}

/* Moves the next byte into the output buffer when its time has come; the keyboard goes first. */
static void pump(struct i8042 *c)
{
	bool kbd, aux;
	uint8_t byte;

	pump_mouse(c);
	if (c->full)
		return;
	if (c->replies) {
		c->replies = false;
		fill(c, c->reply, c->reply_aux);
		return;
	}
	kbd = !(c->ram[0] & CTR_KBD_OFF) && !ps2_queue_empty(&c->kbd.queue);
	aux = !(c->ram[0] & CTR_AUX_OFF) && !ps2_queue_empty(&c->mouse.queue);
	if (!kbd && !aux)
		return;
	if (clock_now(c->clock) < c->next_byte) {
		timer_arm(c->byte_timer, c->next_byte);
		return;
	}
	if (kbd && take_key_byte(c, &byte)) {
		fill(c, byte, false);
	} else if (aux) {
		fill(c, ps2_queue_take(&c->mouse.queue), true);
		/* That may have been the last of a report, and another one may be due. */
		pump_mouse(c);
	}
}

static void timer_due(void *opaque)
{
	pump(opaque);
}

static void reply(struct i8042 *c, uint8_t byte, bool aux)
{
	c->reply = byte;
	c->reply_aux = aux;
	c->replies = true;
}

/* ---- registers ---- */

static void write_outport(struct i8042 *c, uint8_t value)
{
	uint8_t changed = c->outport ^ value;

	c->outport = value & (OUT_RUN | OUT_A20);
	if (changed & OUT_A20)
		c->a20_cb(c->opaque, value & OUT_A20);
	if (!(value & OUT_RUN)) {
		c->outport |= OUT_RUN;
		c->reset_cb(c->opaque);
	}
}

static void write_ram(struct i8042 *c, unsigned index, uint8_t value)
{
	c->ram[index] = value;
	if (index == 0)
		update_irqs(c);
}

static uint8_t read_outport(const struct i8042 *c)
{
	return (uint8_t)(OUT_LINES | c->outport | (c->full ? (c->full_aux ? OUT_AUX_FULL : OUT_KBD_FULL) : 0));
}

static void write_command(struct i8042 *c, uint8_t value)
{
	c->pending = 0;
	switch (value) {
	case CMD_READ_RAM ... CMD_READ_RAM + 31: reply(c, c->ram[value & 31], false); break;
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + 31:
	case CMD_WRITE_OUTPUT:
	case CMD_WRITE_KBD_BUFFER:
	case CMD_WRITE_AUX_BUFFER:
	case CMD_WRITE_AUX:
		c->pending = value;
		break;
	case CMD_PASSWORD_TEST: reply(c, 0xf1, false); break; /* none is set */
	case CMD_AUX_DISABLE: c->ram[0] |= CTR_AUX_OFF; break;
	case CMD_AUX_ENABLE: c->ram[0] &= (uint8_t)~CTR_AUX_OFF; break;
	case CMD_AUX_TEST:
	case CMD_KBD_TEST:
	case CMD_TEST_INPUTS:
		reply(c, 0x00, false);
		break;
	case CMD_SELF_TEST:
		c->self_tested = true;
		reply(c, 0x55, false);
		break;
	case CMD_KBD_DISABLE: c->ram[0] |= CTR_KBD_OFF; break;
	case CMD_KBD_ENABLE: c->ram[0] &= (uint8_t)~CTR_KBD_OFF; break;
	case CMD_READ_INPUT: reply(c, 0x80, false); break; /* the lock is open */
	case CMD_READ_OUTPUT: reply(c, read_outport(c), false); break;
	case CMD_A20_OFF: write_outport(c, c->outport & ~OUT_A20); break;
	case CMD_A20_ON: write_outport(c, c->outport | OUT_A20); break;
	case CMD_PULSE ... CMD_PULSE + 15:
		/* Pulses low the lines whose bits are clear; only the reset line has an effect. */
		if (!(value & OUT_RUN))
			c->reset_cb(c->opaque);
		break;
	default: device_guest_error(&c->device, "unknown controller command %02x", value); break;
	}
}

static void write_data(struct i8042 *c, uint8_t value)
{
	uint8_t command = c->pending;

	c->pending = 0;
	switch (command) {
	case 0:
		/* Talking to a device lets its clock run. */
		c->ram[0] &= (uint8_t)~CTR_KBD_OFF;
		ps2_keyboard_write(&c->kbd, value);
		break;
	case CMD_WRITE_OUTPUT: write_outport(c, value); break;
	case CMD_WRITE_KBD_BUFFER: reply(c, value, false); break;
	case CMD_WRITE_AUX_BUFFER: reply(c, value, true); break;
	case CMD_WRITE_AUX:
		c->ram[0] &= (uint8_t)~CTR_AUX_OFF;
		ps2_mouse_write(&c->mouse, value);
		break;
	default: write_ram(c, command & 31, value); break;
	}
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned len)
{
	struct i8042 *c = opaque;
	uint8_t value;

	pump(c);
	value = c->data;
	if (c->full) {
		c->full = false;
		c->next_byte = clock_now(c->clock) + BYTE_NS;
		/* The line falls before the next byte raises it. */
		update_irqs(c);
		pump(c);
	}
	return value;
}

static void data_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct i8042 *c = opaque;

	c->command_last = false;
	write_data(c, (uint8_t)value);
	pump(c);
}

static uint64_t status_read(void *opaque, uint64_t offset, unsigned len)
{
	struct i8042 *c = opaque;

	pump(c);
	return (uint64_t)((c->full ? STATUS_OBF : 0) | (c->full && c->full_aux ? STATUS_AUX : 0) | STATUS_UNLOCKED |
			  (c->command_last ? STATUS_COMMAND : 0) |
			  (c->self_tested || (c->ram[0] & CTR_SYSTEM) ? STATUS_SYSTEM : 0));
}

static void command_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct i8042 *c = opaque;

	c->command_last = true;
	write_command(c, (uint8_t)value);
	pump(c);
}

void i8042_key(struct i8042 *c, int code, bool down)
{
	ps2_keyboard_key(&c->kbd, code, down);
	pump(c);
}

bool i8042_keys_read(const struct i8042 *c)
{
	return c->kbd.scanning && ps2_queue_empty(&c->kbd.queue) && !(c->full && !c->full_aux);
}

void i8042_mouse(struct i8042 *c, int dx, int dy, int dz, unsigned buttons)
{
	ps2_mouse_move(&c->mouse, dx, dy, dz, buttons);
	pump(c);
}

/* ---- the contract ---- */

static void i8042_reset(struct device *d)
{
	struct i8042 *c = (struct i8042 *)d;

	timer_cancel(c->byte_timer);
	timer_cancel(c->report_timer);
	ps2_keyboard_reset(&c->kbd);
	c->mouse.buttons = 0;
	ps2_mouse_reset(&c->mouse);
	memset(c->ram, 0, sizeof(c->ram));
	/* As firmware leaves it, for kernels that are started without one. */
	c->ram[0] = CTR_KBD_INT | CTR_AUX_INT | CTR_TRANSLATE;
	c->outport = OUT_RUN | OUT_A20;
	c->pending = c->data = c->reply = 0;
	c->full = c->full_aux = c->replies = c->reply_aux = false;
	c->command_last = c->self_tested = c->break_prefix = false;
	c->next_byte = c->next_report = 0;
	update_irqs(c);
}

static bool state_plausible(const struct i8042 *c)
{
	bool pending = !c->pending || (c->pending >= CMD_WRITE_RAM && c->pending < CMD_WRITE_RAM + 32) ||
		       (c->pending >= CMD_WRITE_OUTPUT && c->pending <= CMD_WRITE_AUX);

	return pending && !(c->outport & ~(OUT_RUN | OUT_A20)) && c->next_byte >= 0 && c->next_report >= 0;
}

static int i8042_state(struct device *d, struct state *s)
{
	struct i8042 *c = (struct i8042 *)d;

	ps2_keyboard_state(s, &c->kbd);
	ps2_mouse_state(s, &c->mouse);
	state_bytes(s, "ram", c->ram, sizeof(c->ram));
	state_u8(s, "pending", &c->pending);
	state_u8(s, "outport", &c->outport);
	state_u8(s, "data", &c->data);
	state_u8(s, "reply", &c->reply);
	state_bool(s, "full", &c->full);
	state_bool(s, "full-aux", &c->full_aux);
	state_bool(s, "replies", &c->replies);
	state_bool(s, "reply-aux", &c->reply_aux);
	state_bool(s, "command-last", &c->command_last);
	state_bool(s, "self-tested", &c->self_tested);
	state_bool(s, "break-prefix", &c->break_prefix);
	state_i64(s, "next-byte", &c->next_byte);
	state_i64(s, "next-report", &c->next_report);
	if (!state_loading(s))
		return state_error(s);
	if (!state_error(s) && !state_plausible(c))
		state_fail(s, "an i8042 register is out of range");
	if (state_error(s))
		return -EINVAL;
	timer_cancel(c->byte_timer);
	timer_cancel(c->report_timer);
	update_irqs(c);
	pump(c);
	return 0;
}

static void i8042_destroy(struct device *d)
{
	struct i8042 *c = (struct i8042 *)d;

	timer_free(c->byte_timer);
	timer_free(c->report_timer);
	region_destroy(c->region[0]);
	region_destroy(c->region[1]);
	g_free(c);
}

static const struct device_ops i8042_ops = { "i8042", 1, i8042_reset, i8042_state, i8042_destroy };

struct i8042 *i8042_create(struct space *ports, struct irq kbd, struct irq aux, struct clock *clock,
			   void (*reset_cb)(void *opaque), void (*a20_cb)(void *opaque, bool enabled), void *opaque)
{
	static const struct region_ops data = { data_read, data_write, 1, 1 };
	static const struct region_ops command = { status_read, command_write, 1, 1 };
	struct i8042 *c = g_new0(struct i8042, 1);

	c->device.ops = &i8042_ops;
	c->device.id = "i8042";
	c->kbd_irq = kbd;
	c->aux_irq = aux;
	c->clock = clock;
	c->reset_cb = reset_cb;
	c->a20_cb = a20_cb;
	c->opaque = opaque;
	c->byte_timer = timer_new(clock, timer_due, c);
	c->report_timer = timer_new(clock, timer_due, c);
	c->region[0] = space_add(ports, "i8042-data", 0x60, 1, &data, c);
	c->region[1] = space_add(ports, "i8042-command", 0x64, 1, &command, c);
	i8042_reset(&c->device);
	return c;
}

struct device *i8042_device(struct i8042 *c)
{
	return &c->device;
}
