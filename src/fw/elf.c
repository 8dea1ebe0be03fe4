/* ELF executables (System V ABI, chapters 4 and 5), 32-bit and 64-bit, by program headers. */
#include "fw/elf.h"

#include <elf.h>
#include <string.h>

#include "base/bytes.h"

#define NOTE_PHYS32_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY */

/* A program header of either class, widened. */
struct segment {
	uint32_t type;
	uint64_t offset, paddr, vaddr, filesz, memsz;
};

bool elf_check(const uint8_t *data, size_t len)
{
	if (len < sizeof(Elf32_Ehdr) || memcmp(data, ELFMAG, SELFMAG) || data[EI_DATA] != ELFDATA2LSB)
		return false;
	if (data[EI_CLASS] == ELFCLASS64)
		return len >= sizeof(Elf64_Ehdr) && ld16le(data + 18) == EM_X86_64;
	return data[EI_CLASS] == ELFCLASS32 && ld16le(data + 18) == EM_386;
}

static bool damaged(const char *path, const char *what, GError **error)
{
	g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "%s: a damaged ELF file (%s)", path, what);
	return false;
}

static struct segment read_segment(const uint8_t *p, bool is64)
{
	if (is64) {
		Elf64_Phdr h;

		memcpy(&h, p, sizeof(h));
		return (struct segment){ h.p_type, h.p_offset, h.p_paddr, h.p_vaddr, h.p_filesz, h.p_memsz };
	} else {
		Elf32_Phdr h;

		memcpy(&h, p, sizeof(h));
		return (struct segment){ h.p_type, h.p_offset, h.p_paddr, h.p_vaddr, h.p_filesz, h.p_memsz };
	}
}

static void find_pvh_note(const uint8_t *p, size_t len, struct elf_image *out)
{
	while (len >= 12) {
		uint32_t name = ld32le(p), desc = ld32le(p + 4), type = ld32le(p + 8);
		uint64_t name_room = ((uint64_t)name + 3) & ~UINT64_C(3), desc_room = ((uint64_t)desc + 3) & ~UINT64_C(3);

		if (name_room + desc_room > len - 12)
			return;
		if (type == NOTE_PHYS32_ENTRY && name == 4 && !memcmp(p + 12, "Xen", 4) && desc >= 4) {
			out->has_pvh = true;
			out->pvh_entry = ld32le(p + 12 + name_room);
			return;
		}
		p += 12 + name_room + desc_room;
		len -= 12 + (size_t)(name_room + desc_room);
	}
}

bool elf_zero_fill(struct mem *mem, uint64_t gpa, uint64_t len, GError **error)
{
	static const uint8_t zeros[PAGE_SIZE];

	while (len) {
		size_t n = len < sizeof(zeros) ? (size_t)len : sizeof(zeros);

		if (!boot_write(mem, gpa, zeros, n, "the kernel's zeroed part", error))
			return false;
		gpa += n;
		len -= n;
	}
	return true;
}

static bool load_segment(struct mem *mem, const uint8_t *data, size_t len, const struct segment *s, const char *path,
			 struct elf_image *out, GError **error)
{
	uint64_t end, address_end;

	if (!checked_add(s->offset, s->filesz, &end) || end > len || s->memsz < s->filesz ||
	    !checked_add(s->paddr, s->memsz, &address_end))
		return damaged(path, "a segment is not in the file", error);
	if (!boot_write(mem, s->paddr, data + s->offset, (size_t)s->filesz, path, error))
		return false;
	if (!elf_zero_fill(mem, s->paddr + s->filesz, s->memsz - s->filesz, error))
		return false;
	out->low = MIN(out->low, s->paddr);
	out->high = MAX(out->high, address_end);
	return true;
}

bool elf_load(struct mem *mem, const uint8_t *data, size_t len, const char *path, struct elf_image *out, GError **error)
{
	struct elf_image image = { .low = UINT64_MAX };
	size_t header = sizeof(Elf32_Phdr);
	uint64_t table, table_end;
	unsigned count, stride;

	if (!elf_check(data, len))
		return damaged(path, "not for this processor", error);
	image.is64 = data[EI_CLASS] == ELFCLASS64;
	if (image.is64)
		header = sizeof(Elf64_Phdr);
	image.entry = image.is64 ? ld64le(data + 24) : ld32le(data + 24);
	table = image.is64 ? ld64le(data + 32) : ld32le(data + 28);
	stride = ld16le(data + (image.is64 ? 54 : 42));
	count = ld16le(data + (image.is64 ? 56 : 44));
	if (!count || stride < header || !checked_add(table, (uint64_t)count * stride, &table_end) || table_end > len)
		return damaged(path, "no program headers", error);
	for (unsigned i = 0; i < count; i++) {
		struct segment s = read_segment(data + table + (uint64_t)i * stride, image.is64);
		uint64_t end;

		if (s.type == PT_LOAD && s.memsz) {
			if (!load_segment(mem, data, len, &s, path, &image, error))
				return false;
			/* An entry given as a virtual address is meant where its segment went. */
			if (image.entry >= s.vaddr && image.entry - s.vaddr < s.memsz && s.vaddr != s.paddr && image.entry > UINT32_MAX)
				image.entry = s.paddr + (image.entry - s.vaddr);
		} else if (s.type == PT_NOTE && checked_add(s.offset, s.filesz, &end) && end <= len) {
			find_pvh_note(data + s.offset, (size_t)s.filesz, &image);
		}
	}
	if (image.low > image.high)
		return damaged(path, "nothing to load", error);
	*out = image;
	return true;
}
