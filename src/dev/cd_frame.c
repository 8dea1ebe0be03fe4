/*
 * Makes raw mode 1 sectors from user data: ECMA-130 clause 14 (layout, EDC) and annex A (the Reed-Solomon
 * product code over GF(2^8), polynomial 0x11d).
 */
#include "dev/cd_frame.h"

#include <string.h>

#include "base/bytes.h"

#define HEADER_AT 12
#define USER_AT 16
#define EDC_AT 2064
#define P_AT 2076
#define Q_AT 2248
#define LEAD_IN 150 /* frames before sector 0 */

bool cd_frame_valid(uint8_t parts)
{
	switch (parts & (CD_SYNC | CD_HEADER | CD_USER | CD_CORRECTION)) {
	case CD_SYNC | CD_USER:
	case CD_SYNC | CD_CORRECTION:
	case CD_SYNC | CD_USER | CD_CORRECTION:
	case CD_HEADER | CD_CORRECTION:
	case CD_SYNC | CD_HEADER | CD_CORRECTION:
		return false;
	default:
		return true;
	}
}

uint32_t cd_frame_size(uint8_t parts)
{
	return (parts & CD_SYNC ? HEADER_AT : 0) + (parts & CD_HEADER ? USER_AT - HEADER_AT : 0) +
	       (parts & CD_USER ? CD_DATA : 0) + (parts & CD_CORRECTION ? CD_RAW - EDC_AT : 0);
}

static uint8_t to_bcd(uint32_t v)
{
	return (uint8_t)(v / 10 % 10 << 4 | v % 10);
}

void cd_lba_to_msf(uint32_t lba, uint8_t msf[3])
{
	uint64_t f = (uint64_t)lba + LEAD_IN;

	msf[0] = (uint8_t)(f / 75 / 60);
	msf[1] = (uint8_t)(f / 75 % 60);
	msf[2] = (uint8_t)(f % 75);
}

uint32_t cd_msf_to_lba(uint8_t m, uint8_t s, uint8_t f)
{
	uint32_t frame = (m * 60u + s) * 75 + f;

	return s > 59 || f > 74 || frame < LEAD_IN ? UINT32_MAX : frame - LEAD_IN;
}

/* The generator is (x^16 + x^15 + x^2 + 1)(x^16 + x^2 + x + 1), least significant bit first. */
static uint32_t edc(const uint8_t *p, size_t len)
{
	uint32_t crc = 0;

	for (size_t i = 0; i < len; i++) {
		crc ^= p[i];
		for (unsigned bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xd8018001 : 0);
	}
	return crc;
}

static uint8_t times_alpha(uint8_t v)
{
	return (uint8_t)(v << 1 ^ (v & 0x80 ? 0x1d : 0));
}

/* v / (alpha + 1): multiplication by 0xf4, the inverse of 3. */
static uint8_t over_three(uint8_t v)
{
	uint8_t product = 0;

	for (unsigned bits = 0xf4; bits; bits >>= 1) {
		if (bits & 1)
			product ^= v;
		v = times_alpha(v);
	}
	return product;
}

/*
 * Two parity bytes for each of `vectors` code words of `len` bytes; byte i of word v is at index
 * (v / 2 * major + v % 2 + i * minor) mod size, in the two interleaved planes of 16-bit words.
 */
static void parity(const uint8_t *in, uint8_t *out, unsigned vectors, unsigned len, unsigned major, unsigned minor)
{
	unsigned size = vectors * len;

	for (unsigned v = 0; v < vectors; v++) {
		unsigned at = (v >> 1) * major + (v & 1);
		uint8_t a = 0, b = 0;

		for (unsigned i = 0; i < len; i++) {
			uint8_t byte = in[at];

			at += minor;
			if (at >= size)
				at -= size;
			a = times_alpha(a ^ byte);
			b ^= byte;
		}
		a = over_three((uint8_t)(times_alpha(a) ^ b));
		out[v] = a;
		out[v + vectors] = a ^ b;
	}
}

static void make_whole(uint8_t frame[CD_RAW], const uint8_t data[CD_DATA], uint32_t lba)
{
	uint8_t msf[3];

	memset(frame, 0xff, HEADER_AT);
	frame[0] = frame[HEADER_AT - 1] = 0;
	cd_lba_to_msf(lba, msf);
	for (unsigned i = 0; i < 3; i++)
		frame[HEADER_AT + i] = to_bcd(msf[i]);
	frame[USER_AT - 1] = 1;
	memcpy(frame + USER_AT, data, CD_DATA);
	st32le(frame + EDC_AT, edc(frame, EDC_AT));
	memset(frame + EDC_AT + 4, 0, 8);
	parity(frame + HEADER_AT, frame + P_AT, 86, 24, 2, 86);
	parity(frame + HEADER_AT, frame + Q_AT, 52, 43, 86, 88);
}

void cd_frame_make(uint8_t *to, const uint8_t data[CD_DATA], uint32_t lba, uint8_t parts)
{
	uint8_t frame[CD_RAW];

	make_whole(frame, data, lba);
	if (parts & CD_SYNC) {
		memcpy(to, frame, HEADER_AT);
		to += HEADER_AT;
	}
	if (parts & CD_HEADER) {
		memcpy(to, frame + HEADER_AT, USER_AT - HEADER_AT);
		to += USER_AT - HEADER_AT;
	}
	if (parts & CD_USER) {
		memcpy(to, data, CD_DATA);
		to += CD_DATA;
	}
	if (parts & CD_CORRECTION)
		memcpy(to, frame + EDC_AT, CD_RAW - EDC_AT);
}
