/*
 * Keys of VNC viewers: scancodes where the viewer sends them (the "QEMU extended key event" of the
 * community RFB specification, 7.5.10), else the key of the US layout that has the keysym (X11 keysymdef).
 */
#include <string.h>

#include "base/bytes.h"
#include "display/vnc_internal.h"

#define EXTENDED_KEYS (-258)
#define EXTENDED_MESSAGE 255
#define XT_PAUSE 0xc6
#define XT_PRINT 0xb7

static const struct { uint16_t keysym; const char *name; } keysyms[] = {
	{ 0xff08, "backspace" }, { 0xff09, "tab" }, { 0xfe20, "tab" }, { 0xff0d, "ret" }, { 0xff13, "pause" },
	{ 0xff14, "scroll_lock" }, { 0xff15, "sysrq" }, { 0xff1b, "esc" }, { 0xff50, "home" }, { 0xff51, "left" },
	{ 0xff52, "up" }, { 0xff53, "right" }, { 0xff54, "down" }, { 0xff55, "pgup" }, { 0xff56, "pgdn" },
	{ 0xff57, "end" }, { 0xff61, "print" }, { 0xff63, "insert" }, { 0xff67, "compose" }, { 0xff7f, "num_lock" },
	{ 0xff8d, "kp_enter" }, { 0xff95, "kp_7" }, { 0xff96, "kp_4" }, { 0xff97, "kp_8" }, { 0xff98, "kp_6" },
	{ 0xff99, "kp_2" }, { 0xff9a, "kp_9" }, { 0xff9b, "kp_3" }, { 0xff9c, "kp_1" }, { 0xff9d, "kp_5" },
	{ 0xff9e, "kp_0" }, { 0xff9f, "kp_decimal" }, { 0xffaa, "kp_multiply" }, { 0xffab, "kp_add" },
	{ 0xffad, "kp_subtract" }, { 0xffae, "kp_decimal" }, { 0xffaf, "kp_divide" }, { 0xffb0, "kp_0" },
	{ 0xffb1, "kp_1" }, { 0xffb2, "kp_2" }, { 0xffb3, "kp_3" }, { 0xffb4, "kp_4" }, { 0xffb5, "kp_5" },
	{ 0xffb6, "kp_6" }, { 0xffb7, "kp_7" }, { 0xffb8, "kp_8" }, { 0xffb9, "kp_9" }, { 0xffbe, "f1" },
	{ 0xffbf, "f2" }, { 0xffc0, "f3" }, { 0xffc1, "f4" }, { 0xffc2, "f5" }, { 0xffc3, "f6" }, { 0xffc4, "f7" },
	{ 0xffc5, "f8" }, { 0xffc6, "f9" }, { 0xffc7, "f10" }, { 0xffc8, "f11" }, { 0xffc9, "f12" },
	{ 0xffe1, "shift" }, { 0xffe2, "shift_r" }, { 0xffe3, "ctrl" }, { 0xffe4, "ctrl_r" }, { 0xffe5, "caps_lock" },
	{ 0xffe7, "meta_l" }, { 0xffe8, "meta_r" }, { 0xffe9, "alt" }, { 0xffea, "alt_r" }, { 0xfe03, "alt_r" },
	{ 0xffeb, "meta_l" }, { 0xffec, "meta_r" }, { 0xffff, "delete" },
};

int vnc_keysym_code(uint32_t keysym)
{
	bool shift;

	if (keysym < 0x80)
		return input_key_from_char(keysym, &shift);
	for (size_t i = 0; i < ARRAY_LEN(keysyms); i++)
		if (keysyms[i].keysym == keysym)
			return input_key_from_name(keysyms[i].name);
	return -1;
}

/* XT scancodes are what input.h has, but for two keys that send a sequence. */
static int xt_code(uint32_t xt)
{
	switch (xt) {
	case XT_PAUSE: return INPUT_KEY_PAUSE;
	case XT_PRINT: return INPUT_KEY_PRINT;
	default: return xt && xt < 0x100 ? (int)xt : -1;
	}
}

/* The answer to "can you?" is an empty rectangle of that encoding. */
static rfbBool enable(rfbClientPtr cl, void **data, int encoding)
{
	rfbFramebufferUpdateMsg update = { .type = rfbFramebufferUpdate, .nRects = GUINT16_TO_BE(1) };
	rfbFramebufferUpdateRectHeader rect = { .encoding = GUINT32_TO_BE((uint32_t)EXTENDED_KEYS) };
	uint8_t message[sz_rfbFramebufferUpdateMsg + sz_rfbFramebufferUpdateRectHeader];

	if (encoding != EXTENDED_KEYS)
		return FALSE;
	rect.r.w = GUINT16_TO_BE((uint16_t)cl->screen->width);
	rect.r.h = GUINT16_TO_BE((uint16_t)cl->screen->height);
	memcpy(message, &update, sz_rfbFramebufferUpdateMsg);
	memcpy(message + sz_rfbFramebufferUpdateMsg, &rect, sz_rfbFramebufferUpdateRectHeader);
	pthread_mutex_lock(&cl->sendMutex);
	rfbWriteExact(cl, (char *)message, sizeof(message));
	pthread_mutex_unlock(&cl->sendMutex);
	return TRUE;
}

/* Type (read already), subtype, down (16 bits), keysym, scancode (32 bits each). */
static rfbBool handle(rfbClientPtr cl, void *data, const rfbClientToServerMsg *message)
{
	uint8_t m[11];

	if (message->type != EXTENDED_MESSAGE)
		return FALSE;
	if (rfbReadExact(cl, (char *)m, sizeof(m)) <= 0 || m[0] != 0) {
		rfbCloseClient(cl);
		return TRUE;
	}
	if (cl->clientData && !cl->viewOnly)
		vnc_key(cl->clientData, xt_code(ld32be(m + 7)), ld16be(m + 1));
	return TRUE;
}

static void register_once(void)
{
	static int encodings[] = { EXTENDED_KEYS, 0 };
	static rfbProtocolExtension extension = { .pseudoEncodings = encodings, .enablePseudoEncoding = enable, .handleMessage = handle };

	rfbRegisterProtocolExtension(&extension);
}

void vnc_register_extended_keys(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, register_once);
}
