/*
 * The inside of the qcow2 driver (QEMU's docs/interop/qcow2.txt is the format's specification).
 *
 * All metadata changes are made in memory and reach the file in `qcow2_commit`, in stages with a sync after each, so
 * that whatever part of a stage a power cut leaves, the file is sound:
 *   1. data (written before), refcount blocks, L2 tables that nothing refers to yet;
 *   2. the refcount table, when it has new blocks;
 *   3. L2 tables and the L1 table;
 *   4. only then are clusters given back that lost their last reference, once no I/O that began before is still on them.
 * Functions are called with `lock` held unless they say otherwise. Entry values are in host order.
 */
#ifndef BLOCK_QCOW2_H
#define BLOCK_QCOW2_H

#include "block/image.h"

#define QCOW2_MAGIC 0x514649fbu
#define L1_MAX_BYTES (32u << 20)
#define REFTABLE_MAX_BYTES (8u << 20)
#define MAX_SNAPSHOTS 65536u
#define SNAPSHOT_MAX_BYTES (64u << 20)

#define ENTRY_COPIED (UINT64_C(1) << 63)
#define ENTRY_COMPRESSED (UINT64_C(1) << 62)
#define ENTRY_ZERO UINT64_C(1)
#define ENTRY_OFFSET UINT64_C(0x00fffffffffffe00)
#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)
#define REFTABLE_OFFSET UINT64_C(0xfffffffffffffe00)

#define INCOMPAT_DIRTY (UINT64_C(1) << 0)
#define INCOMPAT_CORRUPT (UINT64_C(1) << 1)
#define INCOMPAT_DATA_FILE (UINT64_C(1) << 2)
#define INCOMPAT_COMPRESSION (UINT64_C(1) << 3)
#define INCOMPAT_EXTENDED_L2 (UINT64_C(1) << 4)
#define COMPAT_LAZY (UINT64_C(1) << 0)
#define AUTOCLEAR_BITMAPS (UINT64_C(1) << 0)

enum { COMPRESSION_ZLIB = 0, COMPRESSION_ZSTD = 1 };

struct header {
	uint32_t version, cluster_bits, l1_size, reftable_clusters, snapshots, refcount_order, length;
	uint64_t backing_offset, size, l1_offset, reftable_offset, snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	uint32_t backing_len, crypt;
	uint8_t compression;
};

/* One L2 table or refcount block in memory, in the file's byte order. */
struct table {
	uint64_t offset;
	uint8_t *data;
	uint32_t dirty_from, dirty_to; /* bytes; equal: clean */
	bool linked;                   /* the file refers to it */
	unsigned pins;                 /* a commit is writing it */
	bool used;                     /* since it was last considered for making room */
	GList link;
	/* L2 tables: a run of contiguous data clusters whose entries are alike, so that they need not be read one by one. */
	uint32_t run_from, run_to; /* entries; equal: none is known */
	uint64_t run_entry;        /* the first one */
	unsigned outside;          /* look-ups that it was of no use to since one was sought */
};

#define CACHE_NEAR 64u

struct cache {
	GHashTable *tables; /* offset -> table */
	struct table *near[CACHE_NEAR]; /* found without the hash table; by cluster */
	unsigned cluster_bits;
	GQueue order; /* new ones, and those that got dirty, first */
	unsigned limit, dirty;
};

/* A contiguous part of a table that lives in memory as a whole (L1, refcount table). */
struct whole_table {
	uint64_t *entry; /* host order */
	uint32_t count;
	uint64_t offset;
	uint32_t dirty_from, dirty_to; /* entries */
};

struct snapshot {
	uint64_t l1_offset, vm_clock, vm_state_size, disk_size;
	uint32_t l1_size, date_sec, date_nsec;
	char *id, *name;
	uint8_t *extra; /* what of the extra data we do not know */
	uint32_t extra_len;
};

/* Clusters that lost a reference in memory. */
struct freed {
	uint64_t offset;
	uint64_t clusters;
	bool punch; /* give the space back to the host too: the guest said that it needs it no more */
};

/* Guest clusters whose new host clusters are being written. */
struct allocation {
	uint64_t first, count;
	struct allocation *next;
};

struct qcow2 {
	struct image *im;
	struct file *file;
	struct header h;
	uint32_t cluster_size, l2_entries, block_entries; /* entries of a table, and of a refcount block */
	unsigned l2_bits, block_bits;
	uint64_t refcount_max;
	char *backing_name, *backing_format;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* allocations ended, or I/O of a generation did */
	pthread_mutex_t commit_lock; /* taken before `lock`; one commit at a time */

	struct whole_table l1, reftable;
	uint32_t reftable_used; /* entries behind are 0 */
	struct cache l2, blocks;
	struct snapshot *snapshot;
	uint64_t snapshots_bytes; /* length of the snapshot table in the file */

	uint64_t free_hint; /* no free cluster is below */
	uint64_t data_hint; /* none below that data should take: tables have the gaps that its alignment leaves */
	uint64_t data_end;  /* of the data that made the file longer */
	uint64_t virgin;    /* clusters from here on were never written: they read as zeros */
	GArray *freed;      /* struct freed, since the last commit */
	struct allocation *allocations;
	unsigned generation, busy[2]; /* direct I/O under way, by the generation it began in */

	bool corrupt;  /* the file contradicts itself, or may: nothing is written any more */
	bool lazy;     /* refcounts may lag: the dirty bit is set before anything else changes */
	bool unsettled; /* a snapshot operation was cut short: the dirty bit stays for a repair */
	uint64_t compress_at; /* where the next compressed cluster goes on, or 0 */

	pthread_mutex_t unpacked_lock;
	struct unpacked *unpacked; /* decompressed clusters, most recent first (qcow2_compress.c) */
};

static inline uint64_t cluster_of(const struct qcow2 *q, uint64_t offset) { return offset >> q->h.cluster_bits; }
static inline uint64_t clusters_for(const struct qcow2 *q, uint64_t bytes)
{
	return (bytes >> q->h.cluster_bits) + ((bytes & (q->cluster_size - 1)) != 0);
}
static inline bool cluster_aligned(const struct qcow2 *q, uint64_t offset) { return !(offset & (q->cluster_size - 1)); }

/* ---- qcow2_header.c ---- */
/* Reads and checks the header and its extensions; fills q->h and what follows from it. */
bool header_read(struct qcow2 *q, const struct image_open_options *opt, GError **error);
void header_encode(const struct header *h, uint8_t *out);
/* Writes the fixed part of the header, one sector. No sync. */
int header_write(struct qcow2 *q);
/* The same, and stable: where the header goes over from one state to another. After a failure the image takes no more writes. */
int header_switch(struct qcow2 *q);
int header_set_incompatible(struct qcow2 *q, uint64_t set, uint64_t clear);

/* ---- qcow2_cache.c ---- */
void cache_init(struct cache *c, unsigned limit, unsigned cluster_bits);
void cache_finish(struct cache *c);
/* The table if it is in memory. */
struct table *cache_peek(struct cache *c, uint64_t offset);
/* Reads it if it is not. */
int cache_get(struct qcow2 *q, struct cache *c, uint64_t offset, struct table **t);
/* A new one, zeroed, all dirty, not linked. */
struct table *cache_new(struct qcow2 *q, struct cache *c, uint64_t offset);
void cache_drop(struct cache *c, uint64_t offset);
void table_dirty(struct cache *c, struct table *t, uint32_t from, uint32_t to);
void table_clean(struct cache *c, struct table *t);
bool whole_table_read(struct qcow2 *q, struct whole_table *w, const char *what, GError **error);
void whole_table_set(struct whole_table *w, uint32_t index, uint64_t value);

/* ---- qcow2_refcount.c ---- */
uint64_t refcount_entry(const struct qcow2 *q, const uint8_t *block, uint32_t index);
void refcount_entry_set(const struct qcow2 *q, uint8_t *block, uint32_t index, uint64_t value);
int refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *count);
/* Changes the refcounts of a run; -E2BIG when one would overflow, -EIO (and the image is corrupt) below 0. */
int refcount_add(struct qcow2 *q, uint64_t cluster, uint64_t count, int delta);
/* The first free run, of `want` clusters at most and one at least, now with refcount 1. */
int cluster_alloc(struct qcow2 *q, uint64_t want, uint64_t *offset, uint64_t *got);
/* The same for guest data, which is kept together on aligned places, apart from the tables. */
int cluster_alloc_data(struct qcow2 *q, uint64_t want, uint64_t *offset, uint64_t *got);
/* Exactly `want` in one run (tables). */
int cluster_alloc_run(struct qcow2 *q, uint64_t want, uint64_t *offset);
/* Takes a reference away once the change that dropped it is stable. */
void cluster_free_later(struct qcow2 *q, uint64_t offset, uint64_t clusters, bool punch);
/* For clusters that nothing ever referred to. */
void cluster_free_now(struct qcow2 *q, uint64_t offset, uint64_t clusters);
/* Takes away what an L2 entry refers to. */
void entry_free_later(struct qcow2 *q, uint64_t entry, bool punch);
/* The range touches the header, the L1, refcount or snapshot table, or a refcount block. */
bool overlaps_tables(struct qcow2 *q, uint64_t offset, uint64_t len);
/* The same, or an L2 table: no data may go there. */
bool overlaps_metadata(struct qcow2 *q, uint64_t offset, uint64_t len);
/* Something in the file contradicts itself: no more writes, and the header says so. Returns -EIO. */
int mark_corrupt(struct qcow2 *q);

/* ---- qcow2_commit.c ---- */
/* Without locks. Everything that changed before is stable. */
int qcow2_commit(struct qcow2 *q);
/* Commits when much has piled up. Drops the lock meanwhile; call before looking at anything. */
int commit_if_full(struct qcow2 *q);
bool qcow2_dirty(const struct qcow2 *q);
/* Direct I/O on clusters begins and ends; `token` is the generation. */
unsigned io_begin(struct qcow2 *q);
void io_end(struct qcow2 *q, unsigned token);

/* ---- qcow2_map.c ---- */
enum mapping { MAP_NONE, MAP_ZERO, MAP_ZERO_KEPT, MAP_DATA, MAP_COMPRESSED };

struct run {
	enum mapping kind;
	uint64_t entry;  /* the first cluster's */
	uint64_t host;   /* MAP_DATA, MAP_ZERO_KEPT: the first byte */
	uint64_t bytes;  /* alike and, for data, contiguous */
	bool copied;     /* may be written in place */
};

/* The L2 table for a guest offset, NULL where there is none. Without `load`, -EAGAIN when it is not in memory. */
int l2_find(struct qcow2 *q, uint64_t offset, bool load, struct table **t);
/* How the guest range begins; bytes is at most len. */
int map_run(struct qcow2 *q, uint64_t offset, uint64_t len, bool load, struct run *run);
/* The L2 table for a guest offset, made or copied if it has to be, to be changed. */
int l2_for_write(struct qcow2 *q, uint64_t offset, struct table **t);
uint32_t l2_index(const struct qcow2 *q, uint64_t offset);
static inline uint64_t l1_index(const struct qcow2 *q, uint64_t offset) { return offset >> (q->h.cluster_bits + q->l2_bits); }
int l2_entry_kind(struct qcow2 *q, uint64_t entry, enum mapping *kind);
int qcow2_readv(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip);
bool qcow2_map(struct image *im, uint64_t offset, uint64_t len, bool write, struct map *m);
void qcow2_map_end(struct image *im, const struct map *m);
int64_t qcow2_status(struct image *im, uint64_t offset, uint64_t len, enum alloc *alloc);

/* ---- qcow2_write.c ---- */
int qcow2_writev(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip);
int qcow2_discard(struct image *im, uint64_t offset, uint64_t len);
int qcow2_write_zeroes(struct image *im, uint64_t offset, uint64_t len, bool unmap);
/* Waits until no allocation is under way in the guest clusters; true when it had to wait. */
bool wait_allocations(struct qcow2 *q, uint64_t first, uint64_t count);

/* ---- qcow2_compress.c ---- */
void compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *bytes);
/* Without the lock, between io_begin and io_end. */
int compressed_read(struct qcow2 *q, uint64_t entry, uint32_t from, uint32_t len, const struct iovec *iov, int n, uint64_t skip);
void unpacked_clear(struct qcow2 *q);

/* ---- qcow2_check.c ---- */
struct qcow2_check_result {
	uint64_t corruptions, leaks, fixed, unreadable; /* `corruptions` and `leaks` are what is left */
	uint64_t data_clusters, compressed_clusters, clusters;
	uint64_t end; /* the file's used length */
};
/* Who follows a check; functions may be NULL. */
struct qcow2_check_listener {
	void (*report)(void *opaque, const char *line);                     /* one line per finding */
	void (*progress)(void *opaque, uint64_t done, uint64_t total); /* bytes of L2 tables */
	void *opaque;
};
/* Alone on the image. A NULL listener is accepted. */
int qcow2_check(struct image *im, bool fix_leaks, bool fix_all, const struct qcow2_check_listener *listener,
		struct qcow2_check_result *result);

/* ---- qcow2_snapshot.c ---- */
bool snapshots_read(struct qcow2 *q, GError **error);
void snapshots_free(struct qcow2 *q);
bool qcow2_snapshot_create(struct image *im, const char *name, GError **error);
bool qcow2_snapshot_apply(struct image *im, const char *name, GError **error);
bool qcow2_snapshot_delete(struct image *im, const char *name, GError **error);

/* ---- qcow2_create.c ---- */
struct qcow2_create {
	uint64_t size;
	unsigned cluster_bits, refcount_bits; /* 0: 16 and 16 */
	bool version2, lazy;
	uint8_t compression;
	const char *backing, *backing_format; /* both or none */
};
bool qcow2_create(struct file *f, const struct qcow2_create *c, GError **error);
int qcow2_resize(struct image *im, uint64_t size);
/* Writes one whole guest cluster (or the last, partial one) compressed. -ENOSPC when it does not get smaller. */
int qcow2_write_compressed(struct image *im, uint64_t offset, const void *data, uint32_t len);

/* ---- qcow2.c ---- */
bool qcow2_open(struct image *im, const struct image_open_options *opt, unsigned depth, GError **error);
static inline struct qcow2 *qcow2_of(struct image *im) { return im->state; }
bool image_is_qcow2(const struct image *im);

#endif
