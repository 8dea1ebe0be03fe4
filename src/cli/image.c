/* `guise image`: its options, and the commands that look at or change one image. */
#include "cli/image.h"

#include <errno.h>
#include <inttypes.h>
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/bytes.h"
#include "cli/arguments.h"
#include "cli/progress.h"

/* ---- options ---- */

enum option_id {
	OPT_FORMAT, OPT_TO, OPT_BACKING, OPT_BACKING_FORMAT, OPT_CLUSTER, OPT_REFCOUNT, OPT_VERSION, OPT_COMPRESSION, OPT_LAZY, OPT_COMPRESS,
	OPT_FORCE, OPT_SHRINK, OPT_STRICT, OPT_QUIET, OPT_JSON, OPT_REPAIR,
};

static const struct cli_option options[] = {
	{ "format", "raw|qcow2", "the (first) image's format", OPT_FORMAT },
	{ "to", "raw|qcow2", "convert, compare: the second image's format", OPT_TO },
	{ "backing", "FILE", "create: what is not written yet is read from there", OPT_BACKING },
	{ "backing-format", "raw|qcow2", "create: its format", OPT_BACKING_FORMAT },
	{ "cluster-size", "SIZE", "create, convert: 512 to 2M (64K)", OPT_CLUSTER },
	{ "refcount-bits", "N", "create, convert: 1 to 64 (16)", OPT_REFCOUNT },
	{ "compat", "2|3", "create, convert: the format's version (3)", OPT_VERSION },
	{ "compression", "zlib|zstd", "create, convert: how compressed clusters are packed (zlib)", OPT_COMPRESSION },
	{ "lazy-refcounts", NULL, "create, convert: fewer metadata writes, a repair after a crash", OPT_LAZY },
	{ "compress", NULL, "convert: compress what is written", OPT_COMPRESS },
	{ "force", NULL, "create, convert: overwrite what is there", OPT_FORCE },
	{ "shrink", NULL, "resize: yes, lose the end of the disk", OPT_SHRINK },
	{ "strict", NULL, "compare: sizes count too", OPT_STRICT },
	{ "quiet", NULL, "compare, check: only the exit status", OPT_QUIET },
	{ "json", NULL, "info: as JSON", OPT_JSON },
	{ "repair", "leaks|all", "check: put right what can be", OPT_REPAIR },
};

static bool parse_format(const char *name, const char *value, enum blk_format *out, GError **error)
{
	if (!strcmp(value, "raw"))
		*out = BLK_RAW;
	else if (!strcmp(value, "qcow2"))
		*out = BLK_QCOW2;
	else
		return cli_fail(error, "--%s %s: guise has raw and qcow2", name, value);
	return true;
}

static bool parse_bytes(const char *what, const char *text, uint64_t *out, GError **error)
{
	static const char units[] = "KMGTPE";
	const char *unit;
	char *end;
	uint64_t n;
	unsigned shift = 0;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (*end && (unit = strchr(units, g_ascii_toupper(*end)))) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
	}
	if (errno || end == text || *end || text[0] == '-' || n > UINT64_MAX >> shift)
		return cli_fail(error, "%s %s: not a size; write it as 512, 64K, 20G", what, text);
	*out = n << shift;
	return true;
}

static bool parse_cluster(const char *value, struct qcow2_create *c, GError **error)
{
	uint64_t n;

	if (!parse_bytes("--cluster-size", value, &n, error))
		return false;
	if (n < 512 || n > 2 << 20 || (n & (n - 1)))
		return cli_fail(error, "--cluster-size %s: a power of two from 512 to 2M", value);
	c->cluster_bits = (unsigned)__builtin_ctzll(n);
	return true;
}

static bool take(struct image_options *o, const struct cli_option *opt, const char *value, GError **error)
{
	switch ((enum option_id)opt->id) {
	case OPT_FORMAT: return parse_format(opt->name, value, &o->format, error);
	case OPT_TO: return parse_format(opt->name, value, &o->to, error);
	case OPT_BACKING: o->backing = value; return true;
	case OPT_BACKING_FORMAT: return parse_format(opt->name, value, &o->backing_format, error);
	case OPT_CLUSTER: return parse_cluster(value, &o->create, error);
	case OPT_REFCOUNT: o->create.refcount_bits = (unsigned)atoi(value); return true;
	case OPT_VERSION:
		o->create.version2 = !strcmp(value, "2");
		return o->create.version2 || !strcmp(value, "3") || cli_fail(error, "--compat %s: 2 or 3", value);
	case OPT_COMPRESSION:
		o->create.compression = !strcmp(value, "zstd") ? COMPRESSION_ZSTD : COMPRESSION_ZLIB;
		return o->create.compression || !strcmp(value, "zlib") || cli_fail(error, "--compression %s: zlib or zstd", value);
	case OPT_LAZY: o->create.lazy = true; return true;
	case OPT_COMPRESS: o->compress = true; return true;
	case OPT_FORCE: o->force = true; return true;
	case OPT_SHRINK: o->shrink = true; return true;
	case OPT_STRICT: o->strict = true; return true;
	case OPT_QUIET: o->quiet = true; return true;
	case OPT_JSON: o->json = true; return true;
	case OPT_REPAIR:
		o->repair_leaks = true;
		o->repair_all = !strcmp(value, "all");
		return o->repair_all || !strcmp(value, "leaks") || cli_fail(error, "--repair %s: leaks or all", value);
	}
	return false;
}

static bool parse(struct image_options *o, int argc, char **argv, GError **error)
{
	for (int i = 0; i < argc; i++) {
		const struct cli_option *opt;
		const char *value;

		/* "-1G" is a size. */
		if (strncmp(argv[i], "--", 2)) {
			if (argv[i][0] == '-' && !g_ascii_isdigit(argv[i][1]))
				return cli_fail(error, "%s: options have two dashes; `guise image help` lists them", argv[i]);
			if (o->files == ARRAY_LEN(o->file))
				return cli_fail(error, "%s: one argument too many", argv[i]);
			o->file[o->files++] = argv[i];
			continue;
		}
		opt = cli_option_next(options, ARRAY_LEN(options), "guise image help", argc, argv, &i, &value, error);
		if (!opt || !take(o, opt, value, error))
			return false;
	}
	return true;
}

/* ---- create ---- */

/* Without a format the name decides. */
static enum blk_format format_for(enum blk_format asked, const char *path)
{
	if (asked != BLK_AUTO)
		return asked;
	return g_str_has_suffix(path, ".raw") || g_str_has_suffix(path, ".img") ? BLK_RAW : BLK_QCOW2;
}

/* The backing image is opened once, to see that it is there, what it is, and how large. */
static bool look_at_backing(const struct image_options *o, struct qcow2_create *c, GError **error)
{
	const struct image_open_options opt = { .format = o->backing_format, .readonly = true };
	g_autofree char *dir = g_path_get_dirname(o->file[0]), *path = NULL;
	struct image *im;

	/* A relative name is taken from the new image's directory, as it will be later. */
	path = g_path_is_absolute(o->backing) || strstr(o->backing, "://") ? g_strdup(o->backing) : g_build_filename(dir, o->backing, NULL);
	im = image_open(path, &opt, error);
	if (!im)
		return false;
	c->backing = o->backing;
	c->backing_format = im->ops->name;
	if (!c->size)
		c->size = im->size;
	image_close(im);
	return true;
}

static int run_create(const struct image_options *o, GError **error)
{
	enum blk_format format = format_for(o->format, o->file[0]);
	struct qcow2_create c = o->create;
	g_autofree char *size = NULL;

	if (o->files == 2 && !parse_bytes("size", o->file[1], &c.size, error))
		return 2;
	c.size = (c.size + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
	if (o->files == 1 && !o->backing)
		return !cli_fail(error, "create: a size is missing, such as 20G");
	if (o->backing && format == BLK_RAW)
		return !cli_fail(error, "create: a raw image has no backing image; add --format qcow2");
	if (o->backing && !look_at_backing(o, &c, error))
		return 1;
	if (!c.size)
		return !cli_fail(error, "create: a disk of 0 bytes is of no use");
	if (!image_make(o->file[0], format, &c, o->force, error))
		return 1;
	size = g_format_size_full(c.size, G_FORMAT_SIZE_IEC_UNITS);
	printf("%s: %s, %s\n", o->file[0], format_name(format), size);
	return 0;
}

/* ---- info ---- */

static JsonBuilder *describe(const struct image *im)
{
	JsonBuilder *b = json_builder_new();
	struct stat st = { 0 };

	json_builder_begin_object(b);
#define MEMBER(name, type, value) (json_builder_set_member_name(b, name), json_builder_add_##type##_value(b, value))
	MEMBER("filename", string, im->file->path);
	MEMBER("format", string, im->ops->name);
	MEMBER("virtual-size", int, (gint64)im->size);
	if (im->file->fd >= 0 && fstat(im->file->fd, &st) == 0)
		MEMBER("actual-size", int, (gint64)st.st_blocks * 512);
	if (image_is_qcow2(im)) {
		const struct qcow2 *q = im->state;

		MEMBER("version", int, q->h.version);
		MEMBER("cluster-size", int, q->cluster_size);
		MEMBER("refcount-bits", int, 1 << q->h.refcount_order);
		MEMBER("compression", string, q->h.compression == COMPRESSION_ZSTD ? "zstd" : "zlib");
		MEMBER("lazy-refcounts", boolean, (q->h.compatible & COMPAT_LAZY) != 0);
		MEMBER("dirty", boolean, (q->h.incompatible & INCOMPAT_DIRTY) != 0);
		MEMBER("corrupt", boolean, (q->h.incompatible & INCOMPAT_CORRUPT) != 0);
		if (q->backing_name)
			MEMBER("backing-filename", string, q->backing_name);
		if (q->backing_format)
			MEMBER("backing-format", string, q->backing_format);
		MEMBER("snapshots", int, q->h.snapshots);
	}
#undef MEMBER
	json_builder_end_object(b);
	return b;
}

static void print_text(JsonObject *object)
{
	g_autoptr(GList) members = json_object_get_members(object);

	for (GList *m = members; m; m = m->next) {
		JsonNode *n = json_object_get_member(object, m->data);
		GType type = json_node_get_value_type(n);

		if (type == G_TYPE_STRING) {
			printf("%-17s %s\n", (char *)m->data, json_node_get_string(n));
		} else if (type == G_TYPE_BOOLEAN) {
			printf("%-17s %s\n", (char *)m->data, json_node_get_boolean(n) ? "yes" : "no");
		} else if (g_str_has_suffix(m->data, "-size")) {
			g_autofree char *size = g_format_size_full((guint64)json_node_get_int(n), G_FORMAT_SIZE_IEC_UNITS);

			printf("%-17s %s (%" PRId64 " bytes)\n", (char *)m->data, size, (int64_t)json_node_get_int(n));
		} else {
			printf("%-17s %" PRId64 "\n", (char *)m->data, (int64_t)json_node_get_int(n));
		}
	}
}

static void print_snapshots(const struct image *im)
{
	const struct qcow2 *q = im->state;

	if (!image_is_qcow2(im) || !q->h.snapshots)
		return;
	printf("%-5s %-24s %-20s %s\n", "ID", "SNAPSHOT", "DATE", "SIZE");
	for (uint32_t i = 0; i < q->h.snapshots; i++) {
		const struct snapshot *s = &q->snapshot[i];
		g_autoptr(GDateTime) date = g_date_time_new_from_unix_local(s->date_sec);
		g_autofree char *when = g_date_time_format(date, "%Y-%m-%d %H:%M:%S");
		g_autofree char *size = g_format_size_full(s->disk_size, G_FORMAT_SIZE_IEC_UNITS);

		printf("%-5s %-24s %-20s %s\n", s->id, s->name, when, size);
	}
}

static int run_info(const struct image_options *o, GError **error)
{
	const struct image_open_options opt = { .format = o->format, .readonly = true, .no_backing = true, .unsafe_repair = true };
	struct image *im = image_open(o->file[0], &opt, error);
	g_autoptr(JsonBuilder) b = NULL;
	g_autoptr(JsonNode) node = NULL;

	if (!im)
		return 1;
	b = describe(im);
	node = json_builder_get_root(b);
	if (o->json) {
		g_autofree char *text = json_to_string(node, TRUE);

		puts(text);
	} else {
		print_text(json_node_get_object(node));
		print_snapshots(im);
	}
	image_close(im);
	return 0;
}

/* ---- check ---- */

static void print_finding(void *opaque, const char *line)
{
	progress_end(opaque);
	puts(line);
}

static void show_checked(void *opaque, uint64_t done, uint64_t total)
{
	progress_update(opaque, done, total);
}

static void print_result(const struct qcow2_check_result *r)
{
	if (r->fixed)
		printf("%" PRIu64 " findings were repaired.\n", r->fixed);
	if (r->corruptions)
		printf("%" PRIu64 " errors are left: the disk's content is in danger. Try --repair=all, on a copy.\n", r->corruptions);
	if (r->leaks)
		printf("%" PRIu64 " clusters are leaked: space is wasted, nothing is lost. --repair=leaks gives it back.\n", r->leaks);
	if (!r->corruptions && !r->leaks)
		puts("The image is sound.");
	printf("%" PRIu64 " of %" PRIu64 " clusters are allocated, %" PRIu64 " of them compressed.\n",
	       r->data_clusters + r->compressed_clusters, r->clusters, r->compressed_clusters);
}

static int run_check(const struct image_options *o, GError **error)
{
	const struct image_open_options opt = { .format = o->format, .readonly = !o->repair_leaks, .no_backing = true, .unsafe_repair = true };
	struct image *im = image_open(o->file[0], &opt, error);
	struct progress progress;
	const struct qcow2_check_listener listener = { o->quiet ? NULL : print_finding, show_checked, &progress };
	struct qcow2_check_result result;
	int r;

	if (!im)
		return 1;
	if (!image_is_qcow2(im)) {
		if (!o->quiet)
			printf("%s: a raw image has no structure that could be damaged.\n", o->file[0]);
		image_close(im);
		return 0;
	}
	progress_begin(&progress, "checking");
	r = qcow2_check(im, o->repair_leaks, o->repair_all, &listener, &result);
	progress_end(&progress);
	if (image_close(im) < 0 && r == 0)
		r = -EIO;
	if (r < 0) {
		blk_fail(error, "%s: checking it: %s", o->file[0], g_strerror(-r));
		return 1;
	}
	if (!o->quiet)
		print_result(&result);
	return result.corruptions ? 4 : result.leaks ? 3 : 0;
}

/* ---- resize ---- */

static bool new_size(const struct image *im, const char *text, uint64_t *size, GError **error)
{
	uint64_t n;
	char sign = text[0];

	if (!parse_bytes("size", text + (sign == '+' || sign == '-'), &n, error))
		return false;
	if (sign == '-' && n >= im->size)
		return cli_fail(error, "size %s: that is the whole disk", text);
	*size = sign == '+' ? im->size + n : sign == '-' ? im->size - n : n;
	*size = (*size + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
	if (!*size || n > IMAGE_MAX_SIZE || *size > IMAGE_MAX_SIZE)
		return cli_fail(error, "size %s: a disk has 512 bytes to 1 EiB", text);
	return true;
}

static int run_resize(const struct image_options *o, GError **error)
{
	const struct image_open_options opt = { .format = o->format };
	struct image *im = image_open(o->file[0], &opt, error);
	uint64_t size = 0;
	int r = -1, closed;
	bool ok;

	if (!im)
		return 1;
	ok = new_size(im, o->file[1], &size, error);
	if (ok && size < im->size && !o->shrink)
		ok = cli_fail(error, "%s: would lose what is behind the new end; add --shrink if that is what you want", o->file[0]);
	if (ok)
		r = im->ops->resize(im, size);
	closed = image_close(im);
	if (!ok)
		return 2;
	if (r == 0)
		r = closed;
	if (r < 0)
		blk_fail(error, "%s: changing its size: %s", o->file[0],
			 r == -ENOTSUP ? "a version 2 image with snapshots keeps its size" : g_strerror(-r));
	return r < 0;
}

/* ---- snapshot ---- */

static int run_snapshot(const struct image_options *o, GError **error)
{
	static const struct {
		const char *name;
		bool (*run)(struct image *im, const char *name, GError **error);
	} actions[] = { { "create", qcow2_snapshot_create }, { "apply", qcow2_snapshot_apply }, { "delete", qcow2_snapshot_delete } };
	const bool list = !strcmp(o->file[0], "list");
	const struct image_open_options opt = { .format = o->format, .readonly = list, .no_backing = list };
	struct image *im;
	bool ok = list;

	if (o->files != (list ? 2u : 3u))
		return !cli_fail(error, "snapshot: list FILE, or create|apply|delete FILE NAME");
	im = image_open(o->file[1], &opt, error);
	if (!im)
		return 1;
	if (!image_is_qcow2(im)) {
		blk_fail(error, "%s: a raw image has no snapshots; convert it with `guise image convert`", o->file[1]);
		image_close(im);
		return 1;
	}
	if (list)
		print_snapshots(im);
	for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
		if (!strcmp(o->file[0], actions[i].name))
			ok = actions[i].run(im, o->file[2], error);
	}
	if (image_close(im) < 0 && ok)
		ok = blk_fail(error, "%s: closing it failed", o->file[1]);
	if (!ok && !*error)
		cli_fail(error, "snapshot %s: there are list, create, apply, delete", o->file[0]);
	return !ok;
}

/* ---- the rest ---- */

static int run_convert(const struct image_options *o, GError **error)
{
	struct image_options with = *o;

	with.to = format_for(o->to, o->file[1]);
	if (o->compress && with.to == BLK_RAW)
		return !cli_fail(error, "convert: a raw image cannot be compressed; add --to qcow2");
	return image_convert(&with, error);
}

static const struct verb {
	const char *name, *args, *help;
	unsigned least, most;
	int (*run)(const struct image_options *o, GError **error);
} verbs[] = {
	{ "create", "FILE [SIZE]", "an empty image; SIZE such as 20G, by default the backing image's", 1, 2, run_create },
	{ "info", "FILE", "format, sizes, snapshots", 1, 1, run_info },
	{ "check", "FILE", "look for damage (status 3: leaks, 4: errors)", 1, 1, run_check },
	{ "convert", "FROM TO", "copy, to another format if wanted; TO's name decides, or --to", 2, 2, run_convert },
	{ "resize", "FILE [+|-]SIZE", "make the disk larger or, with --shrink, smaller", 2, 2, run_resize },
	{ "snapshot", "list|create|apply|delete FILE [NAME]", "snapshots within a qcow2 image", 2, 3, run_snapshot },
	{ "commit", "FILE", "put what was written into the backing image", 1, 1, image_commit },
	{ "compare", "A B", "whether the guest sees the same (status 3: no)", 2, 2, image_compare },
};

static int help(FILE *to)
{
	fputs("usage: guise image COMMAND [options]\n\n", to);
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		fprintf(to, "  %-9s %-38s %s\n", verbs[i].name, verbs[i].args, verbs[i].help);
	fputs("\n", to);
	cli_options_print(options, ARRAY_LEN(options), 32, to);
	return to == stderr ? 2 : 0;
}

static const struct verb *find_verb(const char *name)
{
	const char *names[ARRAY_LEN(verbs)], *near;

	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
		names[i] = verbs[i].name;
	}
	near = nearest_word(name, names, ARRAY_LEN(names));
	fprintf(stderr, near ? "guise: image %s: did you mean %s?\n" : "guise: image %s: no such command; `guise image help` lists them\n",
		name, near);
	return NULL;
}

int image_command(int argc, char **argv)
{
	struct image_options o = { 0 };
	const struct verb *verb;
	GError *err = NULL;
	int status = 2;

	if (!argc)
		return help(stderr);
	if (!strcmp(argv[0], "help") || !strcmp(argv[0], "--help"))
		return help(stdout);
	verb = find_verb(argv[0]);
	if (!verb)
		return 2;
	if (argc == 2 && !strcmp(argv[1], "--help")) {
		printf("usage: guise image %s %s\n%s (guise image help lists the options)\n", verb->name, verb->args, verb->help);
		return 0;
	}
	if (parse(&o, argc - 1, argv + 1, &err) && (o.files < verb->least || o.files > verb->most))
		cli_fail(&err, "usage: guise image %s %s", verb->name, verb->args);
	if (!err)
		status = verb->run(&o, &err);
	if (err) {
		fprintf(stderr, "guise: %s\n", err->message);
		status = err->domain == cli_error_quark() ? 2 : MAX(status, 1);
		g_error_free(err);
	}
	return status;
}
