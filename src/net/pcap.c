/* Capture files in the classic pcap format with nanoseconds (draft-ietf-opsawg-pcap): header, then records. */
#include "net/pcap.h"

#include <errno.h>
#include <gio/gio.h>
#include <stdio.h>
#include <time.h>

#include "base/bytes.h"
#include "net/netdev.h"

enum { MAGIC_NS = 0xa1b23c4d, LINKTYPE_ETHERNET = 1 };

struct capture {
	FILE *file;
	bool failed;
};

struct capture *capture_open(const char *path, GError **error)
{
	uint8_t header[24] = { 0 };
	struct capture *c;
	FILE *f = fopen(path, "we");

	st32le(header, MAGIC_NS);
	st16le(header + 4, 2);
	st16le(header + 6, 4);
	st32le(header + 16, NETDEV_MAX_FRAME);
	st32le(header + 20, LINKTYPE_ETHERNET);
	if (!f || fwrite(header, sizeof(header), 1, f) != 1 || fflush(f)) {
		g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "capture file %s: %s", path, g_strerror(errno));
		if (f)
			fclose(f);
		return NULL;
	}
	c = g_new0(struct capture, 1);
	c->file = f;
	return c;
}

void capture_close(struct capture *c)
{
	if (!c)
		return;
	fclose(c->file);
	g_free(c);
}

void capture_frame(struct capture *c, const uint8_t *frame, size_t len)
{
	uint8_t record[16];
	struct timespec now;

	if (c->failed)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	st32le(record, (uint32_t)now.tv_sec);
	st32le(record + 4, (uint32_t)now.tv_nsec);
	st32le(record + 8, (uint32_t)len);
	st32le(record + 12, (uint32_t)len);
	/* Flushed, so that the file can be watched and survives a kill. */
	c->failed = fwrite(record, sizeof(record), 1, c->file) != 1 || fwrite(frame, 1, len, c->file) != len || fflush(c->file);
}
