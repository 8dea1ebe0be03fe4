/* A disk image in memory for device tests: requests wait until the test lets them complete. */
#ifndef TESTS_FAKE_BLK_H
#define TESTS_FAKE_BLK_H

#include "block/blk.h"

/* Sector n is filled with pattern bytes that tell n and the image's tag. */
struct blk *fake_blk_new(uint64_t sectors, uint8_t tag);
uint8_t *fake_blk_data(struct blk *b);
/* Cuts the disk down; what is there stays. */
void fake_blk_set_sectors(struct blk *b, uint64_t sectors);
void fake_blk_set_readonly(struct blk *b, bool readonly);
/* Requests that touch this sector fail (UINT64_MAX: none). */
void fake_blk_set_bad(struct blk *b, uint64_t sector);
unsigned fake_blk_waiting(struct blk *b);
/* Completes what waits, and what that brings about. */
void fake_blk_run(struct blk *b);
unsigned fake_blk_flushes(struct blk *b);

#endif
