/* Capture files: see pcap.c. */
#ifndef NET_PCAP_H
#define NET_PCAP_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct capture;

struct capture *capture_open(const char *path, GError **error);
/* NULL accepted. */
void capture_close(struct capture *c);
/* Stops at the first error (a full disk) rather than leave a hole. */
void capture_frame(struct capture *c, const uint8_t *frame, size_t len);

#endif
