/*
 * Images on web servers: read-only, fetched in blocks as they are read and kept in the user's cache directory
 * (~/.cache/guise/http), where the next run finds them as long as the server's file stays the same.
 */
#ifndef BLOCK_FILE_HTTP_H
#define BLOCK_FILE_HTTP_H

#include "block/file.h"

bool path_is_url(const char *path);
/* Asks the server for size and version. A server without range requests sends the whole file here and now. */
struct file *file_open_http(const char *url, GError **error);
/* Fetches what is not in the cache yet; `progress` is called now and then, and ends it by returning false. */
bool http_fetch_all(const char *url, bool (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque, GError **error);
/* Where the cache keeps a URL's bytes. To be freed. */
char *http_cache_path(const char *url);

#endif
