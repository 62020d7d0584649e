/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* A small seeded generator: the same seed gives the same numbers on every machine. */
#ifndef SLIPSTREAM_TEST_RANDOM_H
#define SLIPSTREAM_TEST_RANDOM_H

#include <stdint.h>

struct prng {
	uint64_t state;
};

static inline uint64_t mix64(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static inline uint64_t prng_next(struct prng *r)
{
	r->state += 0x9e3779b97f4a7c15ULL;
	return mix64(r->state);
}

/* Uniform in [0, bound); bound must not be 0. */
static inline uint64_t prng_below(struct prng *r, uint64_t bound)
{
	return (uint64_t)(((unsigned __int128)prng_next(r) * bound) >> 64);
}

static inline int prng_chance(struct prng *r, unsigned percent)
{
	return prng_below(r, 100) < percent;
}

/* About log-uniform in [1, high]: every power of two is equally likely. */
static inline uint64_t prng_log(struct prng *r, uint64_t high)
{
	uint64_t low = 1ULL << prng_below(r, 64 - (unsigned)__builtin_clzll(high));
	uint64_t span = high - low < low ? high - low + 1 : low;

	return low + prng_below(r, span);
}

#endif
