/*
 * Guest RAM in the host's huge pages. A memory file is made of small ones unless the administrator has allowed huge
 * ones for shared memory, which few do; but a process may ask for any 2 MiB of it to be put together (madvise(2),
 * MADV_COLLAPSE, Linux 6.1). That is cheap before most of them have been touched, cheaper than the faults of 512 small
 * pages; so it is done at the first touch of each region.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "mem/mem.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

void ram_use_huge(struct ram *r)
{
	uint64_t regions = r->size >> RAM_REGION_SHIFT;

	if (!regions)
		return;
	r->region = g_malloc0(regions + 1);
	/* What is left over at the end is no region. */
	r->region[regions] = 1;
}

void ram_touch_first(struct ram *r, uint64_t offset)
{
	uint64_t n = offset >> RAM_REGION_SHIFT;
	uint8_t *at = r->host + (n << RAM_REGION_SHIFT);

	if (__atomic_exchange_n(&r->region[n], 1, __ATOMIC_RELAXED))
		return;
	/* One page must be there. */
	(void)*(volatile uint8_t *)at;
	/* A host without memory for it has small pages; one without the call is not asked again. */
	if (!madvise(at, RAM_REGION, MADV_COLLAPSE))
		__atomic_store_n(&r->have_huge, true, __ATOMIC_RELAXED);
	else if (errno == EINVAL && !__atomic_load_n(&r->have_huge, __ATOMIC_RELAXED))
		memset(r->region, 1, r->size >> RAM_REGION_SHIFT);
}

void ram_untouch(struct ram *r, uint64_t offset, uint64_t len)
{
	uint64_t first = (offset + RAM_REGION - 1) >> RAM_REGION_SHIFT, end = (offset + len) >> RAM_REGION_SHIFT;

	for (uint64_t n = first; r->region && n < end; n++)
		__atomic_store_n(&r->region[n], 0, __ATOMIC_RELAXED);
}
