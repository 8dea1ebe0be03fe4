/* The byte queue common to PS/2 devices. */
#include "dev/ps2.h"

#include <string.h>

void ps2_queue_clear(struct ps2_queue *q)
{
	q->replies = q->head = q->count = 0;
}

bool ps2_queue_empty(const struct ps2_queue *q)
{
	return !q->replies && !q->count;
}

unsigned ps2_queue_room(const struct ps2_queue *q)
{
	return PS2_STREAM - q->count;
}

void ps2_queue_reply(struct ps2_queue *q, uint8_t byte)
{
	/* No command has more bytes of reply than fit; a host that reads none loses the rest. */
	if (q->replies < PS2_REPLIES)
		q->reply[q->replies++] = byte;
}

void ps2_queue_put(struct ps2_queue *q, uint8_t byte)
{
	if (q->count < PS2_STREAM)
		q->stream[(q->head + q->count++) % PS2_STREAM] = byte;
}

uint8_t ps2_queue_take(struct ps2_queue *q)
{
	if (q->replies) {
		q->last = q->reply[0];
		q->replies--;
		memmove(q->reply, q->reply + 1, q->replies);
	} else if (q->count) {
		q->last = q->stream[q->head];
		q->head = (q->head + 1) % PS2_STREAM;
		q->count--;
	}
	return q->last;
}

void ps2_queue_state(struct state *s, struct ps2_queue *q)
{
	state_bytes(s, "reply", q->reply, sizeof(q->reply));
	state_u8(s, "replies", &q->replies);
	state_bytes(s, "stream", q->stream, sizeof(q->stream));
	state_u8(s, "head", &q->head);
	state_u8(s, "count", &q->count);
	state_u8(s, "last", &q->last);
	if (state_loading(s) && (q->replies > PS2_REPLIES || q->head >= PS2_STREAM || q->count > PS2_STREAM))
		state_fail(s, "a PS/2 queue is out of range");
}
