/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The endless byte stream every test sends and every receiver verifies.
 *
 * Word i of a stream is an invertible function of (key + i), so a receiver can check any byte at
 * any offset, and from wrong bytes it can compute which place of which stream they belong to.
 */
#ifndef SLIPSTREAM_TEST_PATTERN_H
#define SLIPSTREAM_TEST_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "random.h"

#define PATTERN_STEP 0x9e3779b97f4a7c15ULL
#define PATTERN_BLOCK 64 /* words compared between two looks at the result */

static inline uint64_t pattern_key(uint64_t seed, uint32_t connection, uint32_t generation,
				   unsigned direction)
{
	uint64_t name = (uint64_t)connection << 32 | generation;

	return mix64(mix64(mix64(seed + 1) ^ name) + direction + 1);
}

static inline uint64_t pattern_scramble(uint64_t x)
{
	return x ^ (x >> 32);
}

static inline uint64_t pattern_word(uint64_t key, uint64_t index)
{
	return pattern_scramble((key + index) * PATTERN_STEP);
}

static inline uint8_t pattern_byte(uint64_t key, uint64_t offset)
{
	uint64_t word = pattern_word(key, offset / 8);
	uint8_t bytes[8];

	memcpy(bytes, &word, 8);
	return bytes[offset % 8];
}

static inline void pattern_fill_bytes(uint8_t *out, size_t n, uint64_t key, uint64_t offset)
{
	for (size_t i = 0; i < n; i++)
		out[i] = pattern_byte(key, offset + i);
}

static inline void pattern_fill_words(uint8_t *out, size_t words, uint64_t key, uint64_t index)
{
	uint64_t x = (key + index) * PATTERN_STEP;

	for (size_t i = 0; i < words; i++, x += PATTERN_STEP) {
		uint64_t word = pattern_scramble(x);

		memcpy(out + i * 8, &word, 8);
	}
}

/* The number of bytes before the next word of the stream, at most n. */
static inline size_t pattern_head(uint64_t offset, size_t n)
{
	size_t head = (8 - offset % 8) % 8;

	return head < n ? head : n;
}

/* Writes bytes [offset, offset + n) of the stream to out. */
static inline void pattern_fill(void *out, size_t n, uint64_t key, uint64_t offset)
{
	uint8_t *p = out;
	size_t head = pattern_head(offset, n);
	size_t words = (n - head) / 8;

	pattern_fill_bytes(p, head, key, offset);
	pattern_fill_words(p + head, words, key, (offset + head) / 8);
	head += words * 8;
	pattern_fill_bytes(p + head, n - head, key, offset + head);
}

static inline size_t pattern_check_bytes(const uint8_t *data, size_t n, uint64_t key,
					 uint64_t offset)
{
	for (size_t i = 0; i < n; i++)
		if (data[i] != pattern_byte(key, offset + i))
			return i;
	return n;
}

/* The number of leading words in whole blocks that are right. */
static inline size_t pattern_check_words(const uint8_t *data, size_t words, uint64_t key,
					 uint64_t index)
{
	uint64_t x = (key + index) * PATTERN_STEP;
	size_t done = 0;

	while (words - done >= PATTERN_BLOCK) {
		uint64_t wrong = 0;

		for (size_t i = 0; i < PATTERN_BLOCK; i++, x += PATTERN_STEP) {
			uint64_t word;

			memcpy(&word, data + (done + i) * 8, 8);
			wrong |= word ^ pattern_scramble(x);
		}
		if (wrong)
			break;
		done += PATTERN_BLOCK;
	}
	return done;
}

/* Returns n if data holds bytes [offset, offset + n) of the stream, or the first wrong index. */
static inline size_t pattern_check(const void *data, size_t n, uint64_t key, uint64_t offset)
{
	const uint8_t *p = data;
	size_t head = pattern_head(offset, n);
	size_t good = pattern_check_bytes(p, head, key, offset);

	if (good < head)
		return good;
	good += 8 * pattern_check_words(p + head, (n - head) / 8, key, (offset + head) / 8);
	return good + pattern_check_bytes(p + good, n - good, key, offset + good);
}

static inline uint64_t pattern_inverse_step(void)
{
	uint64_t inverse = PATTERN_STEP;

	for (int i = 0; i < 6; i++) /* Newton: each round doubles the number of right bits */
		inverse *= 2 - PATTERN_STEP * inverse;
	return inverse;
}

/*
 * Says which offset of the stream the bytes in data come from: the difference between a lost, a
 * repeated and a corrupted piece. Needs 16 bytes and up to 7 more to find the alignment.
 */
static inline bool pattern_locate(const uint8_t *data, size_t n, uint64_t key, uint64_t *offset)
{
	uint64_t inverse = pattern_inverse_step();

	for (size_t skip = 0; skip < 8 && skip + 16 <= n; skip++) {
		uint64_t first, second, index;

		memcpy(&first, data + skip, 8);
		memcpy(&second, data + skip + 8, 8);
		index = pattern_scramble(first) * inverse - key;
		if (index >> 48 || second != pattern_word(key, index + 1) || index * 8 < skip)
			continue;
		*offset = index * 8 - skip;
		return true;
	}
	return false;
}

#endif
