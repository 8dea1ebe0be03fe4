/* A small builder of AML, the byte code of ACPI tables (ACPI 6.4 chapter 20). Bytes are appended
 * to a buffer; packages are opened and closed, and the length is put in at the close. */
#ifndef FW_AML_H
#define FW_AML_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct aml_mark { guint at; };

void aml_byte(GByteArray *a, uint8_t v);
void aml_bytes(GByteArray *a, const void *p, guint len);
void aml_int(GByteArray *a, uint64_t v);
void aml_string(GByteArray *a, const char *s);
/* "\\_SB.PCI0" and the like: segments are padded to four characters. */
void aml_path(GByteArray *a, const char *path);
void aml_eisaid(GByteArray *a, const char *id); /* "PNP0A03" as an integer */

void aml_name_int(GByteArray *a, const char *name, uint64_t v);
void aml_name_eisaid(GByteArray *a, const char *name, const char *id);
/* Name (path, ...) whose object follows. */
void aml_name(GByteArray *a, const char *name);

struct aml_mark aml_scope(GByteArray *a, const char *path);
struct aml_mark aml_device(GByteArray *a, const char *path);
struct aml_mark aml_method(GByteArray *a, const char *path, unsigned args);
struct aml_mark aml_package(GByteArray *a, unsigned count);
struct aml_mark aml_processor(GByteArray *a, const char *path, uint8_t id);
struct aml_mark aml_field(GByteArray *a, const char *region, uint8_t flags);
void aml_field_entry(GByteArray *a, const char *name, unsigned bits);
/* space: 1 system I/O, 2 PCI configuration. */
void aml_op_region(GByteArray *a, const char *name, uint8_t space, uint64_t offset, uint64_t len);
void aml_close(GByteArray *a, struct aml_mark mark);

/* Buffer (Name) holding the resource template; the end tag is added. */
void aml_buffer(GByteArray *a, const void *p, guint len);
void aml_resources(GByteArray *a, GByteArray *res);

void res_io(GByteArray *r, uint16_t base, uint8_t len);
void res_dma(GByteArray *r, unsigned channel);
void res_irq(GByteArray *r, unsigned irq);
void res_bus(GByteArray *r, uint16_t first, uint16_t last);
void res_ports(GByteArray *r, uint16_t first, uint16_t last);
void res_memory(GByteArray *r, uint32_t first, uint32_t last, bool cacheable);
void res_memory64(GByteArray *r, uint64_t first, uint64_t last);
void res_memory_fixed(GByteArray *r, uint32_t base, uint32_t len);
/* Extended interrupt: level, active high, shared; one bit per allowed number. */
void res_interrupts(GByteArray *r, uint32_t allowed);

#endif
