/* Images on web servers through libcurl: range requests (RFC 9110 14), and a cache of what was fetched. */
#include "block/file_http.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "block/iov.h"

#define BLOCK (256u << 10)
#define AHEAD_BLOCKS 16u /* what one request asks for at most */
#define ATTEMPTS 3
#define SAVE_BLOCKS 256u
#define MAX_BYTES (UINT64_C(1) << 44)

typedef bool (*progress_fn)(void *opaque, uint64_t done, uint64_t total);

struct http {
	struct file file;
	CURL *curl;
	char error[CURL_ERROR_SIZE];
	char *cache_path, *map_path;
	int cache_fd;
	bool shared; /* another process has the cache: it is only read, and of use only when complete */

	pthread_mutex_t lock; /* curl and what follows */
	uint64_t size;
	char *tag; /* the server's name for this version of the file, or "" */
	uint8_t *have;
	uint64_t blocks, missing;
	unsigned unsaved;

	/* The response being received. */
	uint64_t write_at, write_end;
	char *new_tag;
	uint64_t new_size, length;
	bool cached; /* it is the file that the cache has whole: no need to go on */
	int write_error;
	progress_fn progress;
	void *progress_opaque;
	bool stopped;
};

bool path_is_url(const char *path)
{
	return g_str_has_prefix(path, "http://") || g_str_has_prefix(path, "https://");
}

char *http_cache_path(const char *url)
{
	g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, url, -1);

	return g_strdup_printf("%s/guise/http/%s", g_get_user_cache_dir(), sum);
}

/* ---- the map of what is there ---- */

static bool has(const struct http *h, uint64_t block)
{
	return h->have[block / 8] >> block % 8 & 1;
}

static uint64_t block_end(const struct http *h, uint64_t block)
{
	return MIN((block + 1) * BLOCK, h->size);
}

/* Forgets everything: another size, another version. */
static void map_reset(struct http *h, uint64_t size, const char *tag)
{
	g_free(h->tag);
	h->tag = g_strdup(tag);
	h->size = size;
	h->blocks = h->missing = (size + BLOCK - 1) / BLOCK;
	g_free(h->have);
	h->have = g_malloc0(h->blocks / 8 + 1);
}

/* The map says only what is on the disk for good. */
static void map_save(struct http *h)
{
	g_autofree char *head = g_strdup_printf("guise http cache 1\n%" PRIu64 "\n%s\n", h->size, h->tag);
	g_autoptr(GByteArray) out = g_byte_array_new();

	if (!h->map_path || !h->unsaved || fdatasync(h->cache_fd) < 0)
		return;
	g_byte_array_append(out, (const uint8_t *)head, (guint)strlen(head));
	g_byte_array_append(out, h->have, (guint)(h->blocks / 8 + 1));
	/* Without it the next run fetches again. */
	if (g_file_set_contents(h->map_path, (const char *)out->data, (gssize)out->len, NULL))
		h->unsaved = 0;
}

static void map_load(struct http *h)
{
	g_autofree char *text = NULL, *expected = g_strdup_printf("guise http cache 1\n%" PRIu64 "\n%s\n", h->size, h->tag);
	gsize len, head = strlen(expected);

	if (!h->map_path || !g_file_get_contents(h->map_path, &text, &len, NULL))
		return;
	if (len != head + h->blocks / 8 + 1 || memcmp(text, expected, head))
		return;
	memcpy(h->have, text + head, h->blocks / 8 + 1);
	h->missing = 0;
	for (uint64_t i = 0; i < h->blocks; i++)
		h->missing += !has(h, i);
}

/* ---- receiving ---- */

static size_t on_header(char *line, size_t size, size_t count, void *opaque)
{
	struct http *h = opaque;
	g_autofree char *text = g_strndup(line, size * count);

	g_strstrip(text);
	if (g_str_has_prefix(text, "HTTP/")) {
		/* A redirect's headers are not the file's. */
		g_clear_pointer(&h->new_tag, g_free);
		h->new_size = h->length = 0;
	} else if (!g_ascii_strncasecmp(text, "content-length:", 15)) {
		h->length = g_ascii_strtoull(text + 15, NULL, 10);
	} else if (!g_ascii_strncasecmp(text, "etag:", 5)) {
		g_free(h->new_tag);
		h->new_tag = g_strdup(g_strstrip(text + 5));
	} else if (!g_ascii_strncasecmp(text, "last-modified:", 14) && !h->new_tag) {
		h->new_tag = g_strdup(g_strstrip(text + 14));
	} else if (!g_ascii_strncasecmp(text, "content-range:", 14) && strchr(text, '/')) {
		h->new_size = g_ascii_strtoull(strchr(text, '/') + 1, NULL, 10);
	}
	return size * count;
}

/* A whole file begins to come: perhaps the cache has this very version. */
static bool already_there(struct http *h)
{
	if (!h->length || h->length >= MAX_BYTES || !h->new_tag)
		return false;
	map_reset(h, h->length, h->new_tag);
	map_load(h);
	h->cached = !h->missing;
	if (!h->cached)
		h->size = 0;
	return h->cached;
}

static size_t on_data(char *bytes, size_t size, size_t count, void *opaque)
{
	struct http *h = opaque;
	size_t len = size * count, done = 0;
	long status = 0;

	curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
	/* What an error page says is of no use to a disk; a first answer of one byte only tells the size. */
	if (status >= 300 || (status == 206 && !h->size))
		return len;
	if (status == 200 && !h->size && !h->write_at && already_there(h))
		return 0;
	if (len > h->write_end - h->write_at)
		len = (size_t)(h->write_end - h->write_at);
	while (done < len) {
		ssize_t n = pwrite(h->cache_fd, bytes + done, len - done, (off_t)(h->write_at + done));

		if (n < 0) {
			h->write_error = errno;
			return 0;
		}
		done += (size_t)n;
	}
	h->write_at += len;
	return size * count;
}

static int on_progress(void *opaque, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up_now)
{
	struct http *h = opaque;
	uint64_t done = h->size ? (h->blocks - h->missing) * BLOCK + (uint64_t)now : (uint64_t)now;

	h->stopped = h->progress && !h->progress(h->progress_opaque, MIN(done, MAX(h->size, (uint64_t)total)), MAX(h->size, (uint64_t)total));
	return h->stopped;
}

static CURL *make_curl(struct http *h)
{
	CURL *c = curl_easy_init();

	if (!c)
		return NULL;
	curl_easy_setopt(c, CURLOPT_URL, h->file.path);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	/* What was to come encrypted is not taken plain. */
	curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, g_ascii_strncasecmp(h->file.path, "https:", 6) ? "http,https" : "https");
	/* As the program curl has it. */
	if (g_getenv("CURL_CA_BUNDLE"))
		curl_easy_setopt(c, CURLOPT_CAINFO, g_getenv("CURL_CA_BUNDLE"));
	curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(c, CURLOPT_MAXREDIRS, 8L);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 20L);
	curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, 30L);
	curl_easy_setopt(c, CURLOPT_USERAGENT, "guise/" GUISE_VERSION);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, h->error);
	curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c, CURLOPT_HEADERDATA, h);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, h);
	curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(c, CURLOPT_XFERINFODATA, h);
	curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
	return c;
}

/* One request for [from, end); `end` 0: the whole file. Returns the HTTP status, or -errno. */
static int request(struct http *h, uint64_t from, uint64_t end)
{
	g_autofree char *range = end ? g_strdup_printf("%" PRIu64 "-%" PRIu64, from, end - 1) : NULL;
	long status = 0;
	CURLcode code;

	h->write_at = from;
	h->write_end = end && h->size ? end : MAX_BYTES;
	h->write_error = 0;
	h->error[0] = 0;
	curl_easy_setopt(h->curl, CURLOPT_RANGE, range);
	code = curl_easy_perform(h->curl);
	curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
	if (h->stopped)
		return -ECANCELED;
	if (h->cached)
		return (int)status;
	if (h->write_error)
		return -h->write_error;
	if (code != CURLE_OK)
		return code == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : code == CURLE_OUT_OF_MEMORY ? -ENOMEM : -EIO;
	return (int)status;
}

/* Fetches blocks from `first` on, which is missing: up to the next one that is there. Called with the lock. */
static int fetch(struct http *h, uint64_t first)
{
	uint64_t count = 1, from = first * BLOCK, end;
	int status = -EIO;

	while (count < AHEAD_BLOCKS && first + count < h->blocks && !has(h, first + count))
		count++;
	end = block_end(h, first + count - 1);
	for (unsigned attempt = 0; attempt < ATTEMPTS; attempt++) {
		if (attempt)
			g_usleep(G_USEC_PER_SEC << attempt >> 1);
		status = request(h, from, end);
		/* What changed on the server meanwhile is another disk. */
		if (status == 200 || (status == 206 && (h->new_size != h->size || (*h->tag && g_strcmp0(h->new_tag, h->tag)))))
			return -ESTALE;
		if (status == 206 && h->write_at == end)
			break;
		if (status == -ECANCELED || (status < 0 && h->write_error) || (status >= 400 && status < 500))
			return status < 0 ? status : -EIO;
	}
	if (status != 206 || h->write_at != end)
		return status < 0 ? status : -EIO;
	for (uint64_t b = first; b < first + count; b++)
		h->have[b / 8] |= (uint8_t)(1 << b % 8);
	h->missing -= count;
	h->unsaved += (unsigned)count;
	if (h->unsaved >= SAVE_BLOCKS || !h->missing)
		map_save(h);
	return 0;
}

/* ---- the file ---- */

static int http_readv(struct file *f, uint64_t offset, const struct iovec *iov, int n, uint64_t *got)
{
	struct http *h = (struct http *)f;
	uint64_t len = offset < h->size ? MIN(iov_length(iov, n), h->size - offset) : 0;
	int r = 0;
	ssize_t there;

	*got = 0;
	if (!len)
		return 0;
	pthread_mutex_lock(&h->lock);
	for (uint64_t b = offset / BLOCK; b * BLOCK < offset + len && r == 0; b++) {
		if (!has(h, b))
			r = fetch(h, b);
	}
	pthread_mutex_unlock(&h->lock);
	if (r < 0)
		return r;
	there = preadv(h->cache_fd, iov, n, (off_t)offset);
	if (there < 0)
		return -errno;
	/* The cache may hold more than the file, from an earlier version. */
	*got = MIN((uint64_t)there, len);
	return 0;
}

static int http_writev(struct file *f, uint64_t offset, const struct iovec *iov, int n) { return -EROFS; }
static int http_sync(struct file *f) { return 0; }
static int http_zero(struct file *f, uint64_t offset, uint64_t len, bool unmap) { return -EROFS; }
static int http_truncate(struct file *f, uint64_t size) { return -EROFS; }
static int64_t http_size(struct file *f) { return (int64_t)((struct http *)f)->size; }

static uint64_t http_extent(struct file *f, uint64_t offset, uint64_t len, bool *hole)
{
	*hole = false;
	return len;
}

static void http_close(struct file *f)
{
	struct http *h = (struct http *)f;

	if (h->have)
		map_save(h);
	if (h->curl)
		curl_easy_cleanup(h->curl);
	if (h->cache_fd >= 0)
		close(h->cache_fd);
	pthread_mutex_destroy(&h->lock);
	g_free(h->have);
	g_free(h->tag);
	g_free(h->new_tag);
	g_free(h->cache_path);
	g_free(h->map_path);
	g_free(h->file.path);
	g_free(h);
}

static const struct file_ops http_ops = {
	.readv = http_readv,
	.writev = http_writev,
	.sync = http_sync,
	.zero = http_zero,
	.truncate = http_truncate,
	.size = http_size,
	.extent = http_extent,
	.close = http_close,
};

/* ---- opening ---- */

static bool use_temporary(struct http *h, GError **error)
{
	struct file *temporary = file_open_temporary(error);

	if (!temporary)
		return false;
	if (h->cache_fd >= 0)
		close(h->cache_fd);
	h->cache_fd = fcntl(temporary->fd, F_DUPFD_CLOEXEC, 0);
	file_close(temporary);
	h->shared = false;
	g_clear_pointer(&h->map_path, g_free);
	return h->cache_fd >= 0 || blk_fail(error, "%s: no file descriptor is free", h->file.path);
}

static bool open_cache(struct http *h, GError **error)
{
	g_autofree char *dir = NULL;
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	h->cache_path = http_cache_path(h->file.path);
	h->map_path = g_strconcat(h->cache_path, ".map", NULL);
	dir = g_path_get_dirname(h->cache_path);
	g_mkdir_with_parents(dir, 0700);
	h->cache_fd = open(h->cache_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (h->cache_fd < 0)
		return use_temporary(h, error);
	if (fcntl(h->cache_fd, F_OFD_SETLK, &l) == 0)
		return true;
	close(h->cache_fd);
	h->cache_fd = open(h->cache_path, O_RDONLY | O_CLOEXEC);
	h->shared = true;
	return h->cache_fd >= 0 || use_temporary(h, error);
}

static bool say_why(struct http *h, int status, GError **error)
{
	const char *url = h->file.path;

	if (status == -ECANCELED)
		return blk_fail(error, "%s: fetching it was cancelled", url);
	if (h->write_error)
		return blk_fail(error, "%s: writing what was fetched to %s: %s", url, h->cache_path, g_strerror(h->write_error));
	if (status < 0)
		return blk_fail(error, "%s: %s", url, h->error[0] ? h->error : g_strerror(-status));
	if (status == 404)
		return blk_fail(error, "%s: is not there (HTTP status 404); check the address", url);
	return blk_fail(error, "%s: the server answers with HTTP status %d", url, status);
}

/* The first block tells size and version; a server without ranges sends everything. */
static bool ask(struct http *h, GError **error)
{
	int status = request(h, 0, 1);

	/* A whole file came, and there is no place for it yet. */
	if (h->write_error && h->shared) {
		if (!use_temporary(h, error))
			return false;
		status = request(h, 0, 1);
	}
	if (h->cached)
		return true;
	if (status == 206 && h->new_size && h->new_size < MAX_BYTES) {
		map_reset(h, h->new_size, h->new_tag ? h->new_tag : "");
		map_load(h);
		if (!h->shared || !h->missing)
			return true;
		map_reset(h, h->new_size, h->new_tag ? h->new_tag : "");
		return use_temporary(h, error);
	}
	if (status == 200 && h->write_at) {
		map_reset(h, h->write_at, h->new_tag ? h->new_tag : "");
		memset(h->have, 0xff, h->blocks / 8 + 1);
		h->missing = 0;
		h->unsaved = 1;
		return true;
	}
	if (status == 200 || status == 206 || status == 416)
		return blk_fail(error, "%s: is empty, or the server does not say how large it is", h->file.path);
	return say_why(h, status, error);
}

static struct http *open_http(const char *url, progress_fn progress, void *opaque, GError **error)
{
	struct http *h = g_new0(struct http, 1);

	h->file = (struct file){ .ops = &http_ops, .fd = -1, .path = g_strdup(url), .readonly = true };
	h->cache_fd = -1;
	h->progress = progress;
	h->progress_opaque = opaque;
	pthread_mutex_init(&h->lock, NULL);
	h->curl = make_curl(h);
	if (!h->curl)
		blk_fail(error, "%s: libcurl does not start", url);
	else if (open_cache(h, error) && ask(h, error))
		return h;
	http_close(&h->file);
	return NULL;
}

struct file *file_open_http(const char *url, GError **error)
{
	struct http *h = open_http(url, NULL, NULL, error);

	return h ? &h->file : NULL;
}

bool http_fetch_all(const char *url, progress_fn progress, void *opaque, GError **error)
{
	struct http *h = open_http(url, progress, opaque, error);
	int r = 0;

	if (!h)
		return false;
	for (uint64_t b = 0; b < h->blocks && r == 0; b++) {
		if (!has(h, b))
			r = fetch(h, b);
	}
	if (r < 0)
		say_why(h, r, error);
	http_close(&h->file);
	return r == 0;
}
