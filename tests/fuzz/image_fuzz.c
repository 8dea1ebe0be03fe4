/*
 * Fuzzes disk images. The input is either a whole image file, or changes to a sound qcow2 image that was made and used
 * before, alone or above another image; then come operations as a guest and `guise image` do them. Nothing may crash, hang or eat memory, and an image
 * that opens for writing after a repair must stay sound.
 */
#include <string.h>

#include "base/bytes.h"
#include "block/qcow2.h"
#include "memory_file.h"

#define FILE_LIMIT (UINT64_C(4) << 20)
#define MAX_OPERATIONS 48u
#define BUFFER 8192u
/* After so many look-ups what was found is remembered. */
#define MANY_READS 300u

struct input {
	const uint8_t *at;
	size_t left;
};

static uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && in->left; i++, in->left--)
		v = v << 8 | *in->at++;
	return v;
}

/* A place on the disk: near the start, near the end, or anywhere. */
static void take_range(struct input *in, const struct image *im, uint64_t *offset, uint64_t *len)
{
	uint64_t where = take(in, 1), sectors = im->size / SECTOR, at = take(in, where & 0xf0 ? 2 : 7), count = 1 + take(in, 1) % 16;

	if (where & 1 && at < sectors)
		at = sectors - at - 1;
	at = sectors ? at % sectors : 0;
	*offset = at * SECTOR;
	*len = MIN(count, sectors - at) * SECTOR;
}

static void operate(struct input *in, struct image *im)
{
	uint8_t buf[BUFFER];
	char name[2] = { 0 };
	struct qcow2_check_result result;
	uint64_t offset, len;
	unsigned step = (unsigned)take(in, 1), what = step % 16, times = step & 0x80 ? MANY_READS : 1;

	take_range(in, im, &offset, &len);
	memset(buf, (int)what + 1, sizeof(buf));
	name[0] = (char)('a' + what % 3);
	switch (what) {
	default: image_pwrite(im, offset, buf, len); break;
	case 0:
	case 1:
		while (times--)
			image_pread(im, offset, buf, len);
		break;
	case 2: im->ops->write_zeroes(im, offset, len, true); break;
	case 3: im->ops->write_zeroes(im, offset, len, false); break;
	case 4: im->ops->discard(im, offset, len); break;
	case 5: im->ops->flush(im); break;
	case 6:
		if (image_is_qcow2(im))
			qcow2_check(im, true, true, NULL, &result);
		break;
	case 7:
		if (image_is_qcow2(im))
			qcow2_snapshot_create(im, name, NULL);
		break;
	case 8:
		if (image_is_qcow2(im))
			qcow2_snapshot_apply(im, name, NULL);
		break;
	case 9:
		if (image_is_qcow2(im))
			qcow2_snapshot_delete(im, name, NULL);
		break;
	case 10:
		if (im->size > offset && offset && im->size < FILE_LIMIT)
			im->ops->resize(im, offset);
		break;
	case 11:
		if (image_is_qcow2(im) && !(offset & (qcow2_of(im)->cluster_size - 1)))
			qcow2_write_compressed(im, offset, buf, (uint32_t)MIN(len, qcow2_of(im)->cluster_size));
		break;
	}
}

static struct image *open_memory(struct memory_file *m, bool readonly, bool check)
{
	const struct image_open_options opt = { .format = BLK_QCOW2, .readonly = readonly, .no_backing = true, .unsafe_repair = check };

	return image_open_file(&m->file, &opt, 0, NULL);
}

/* A sound image that was in use, then changed in a few places. */
static struct memory_file *damaged_image(struct input *in, bool above)
{
	static const uint8_t refcount_bits[] = { 16, 1, 8, 64 };
	unsigned shape = (unsigned)take(in, 1);
	const struct qcow2_create create = {
		.size = 300 * SECTOR, .cluster_bits = 9 + shape % 4, .version2 = shape & 4 && !(shape & 0xf0),
		.refcount_bits = shape & 4 && !(shape & 0xf0) ? 16 : refcount_bits[shape >> 4 & 3], .lazy = shape & 0x40,
		.compression = shape & 0x80 ? COMPRESSION_ZSTD : COMPRESSION_ZLIB,
		.backing = above ? "below" : NULL, .backing_format = above ? "raw" : NULL,
	};
	struct memory_file *m = memory_file_new("/nowhere/image", NULL, 0), *copy;
	uint8_t buf[BUFFER] = { 1 };
	struct image *im;
	unsigned changes;

	if (!qcow2_create(&m->file, &create, NULL) || !(im = open_memory(m, false, false)))
		return m;
	image_pwrite(im, 0, buf, BUFFER);
	qcow2_snapshot_create(im, "a", NULL);
	image_pwrite(im, 8 * SECTOR, buf, BUFFER);
	im->ops->write_zeroes(im, 0, 4096, shape & 8);
	qcow2_write_compressed(im, 128 * SECTOR, buf, MIN(BUFFER, qcow2_of(im)->cluster_size));
	im->ops->flush(im);
	copy = memory_file_new("/nowhere/image", m->bytes, m->size);
	image_close(im);
	for (changes = (unsigned)take(in, 1) % 8; changes && in->left; changes--) {
		uint64_t where = take(in, 2), value;
		unsigned bytes = 1u << (take(in, 1) & 3);

		/* Mostly aligned places, in the header or anywhere. */
		where = (where & 0x8000 ? where & 0x7f : (where & 0x7fff) * 8) % (copy->size - 8);
		value = take(in, bytes);
		for (unsigned i = 0; i < bytes; i++)
			copy->bytes[where + i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
	}
	return copy;
}

/* Puts an image below, shorter, as long or longer, if `im` still says that it has one. */
static void open_below(struct input *in, struct image *im)
{
	const struct image_open_options opt = { .format = BLK_RAW, .readonly = true };
	uint8_t bytes[BUFFER];

	if (!im || !image_is_qcow2(im) || !qcow2_of(im)->backing_name)
		return;
	memset(bytes, 0xb0, sizeof(bytes));
	im->backing = image_open_file(&memory_file_new("/nowhere/below", bytes, SECTOR * (1 + take(in, 1) % (BUFFER / SECTOR)))->file,
				      &opt, 1, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	unsigned mode = (unsigned)take(&in, 1), operations = (unsigned)take(&in, 1) % MAX_OPERATIONS;
	struct memory_file *m;
	struct image *im;

	if (mode & 1) {
		m = damaged_image(&in, mode & 8);
	} else {
		size_t script = MIN(in.left, (size_t)operations * 12);

		m = memory_file_new("/nowhere/image", in.at + script, in.left - script);
		in.left = script;
	}
	m->limit = FILE_LIMIT;
	im = open_memory(m, mode & 2, mode & 4);
	if (mode & 8)
		open_below(&in, im);
	while (im && operations-- && in.left)
		operate(&in, im);
	image_close(im);
	return 0;
}
