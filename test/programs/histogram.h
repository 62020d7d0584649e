/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Durations in buckets a sixteenth of a power of two wide: percentiles to about 6 %. */
#ifndef SLIPSTREAM_TEST_HISTOGRAM_H
#define SLIPSTREAM_TEST_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_PARTS 16
#define HISTOGRAM_BUCKETS (61 * HISTOGRAM_PARTS)

struct histogram {
	uint64_t count, most;
	uint32_t buckets[HISTOGRAM_BUCKETS];
};

/* Values below 16 have buckets of their own; above, four bits after the leading one count. */
static inline unsigned histogram_bucket(uint64_t value)
{
	unsigned shift;

	if (value < HISTOGRAM_PARTS)
		return (unsigned)value;
	shift = 59 - (unsigned)__builtin_clzll(value);
	return (shift + 1) * HISTOGRAM_PARTS + (unsigned)(value >> shift) - HISTOGRAM_PARTS;
}

static inline uint64_t histogram_middle(unsigned bucket)
{
	unsigned shift = bucket / HISTOGRAM_PARTS;

	if (!shift)
		return bucket;
	shift--;
	return ((uint64_t)(bucket % HISTOGRAM_PARTS + HISTOGRAM_PARTS) << shift) +
	       ((1ULL << shift) >> 1);
}

static inline void histogram_add(struct histogram *h, uint64_t value)
{
	h->buckets[histogram_bucket(value)]++;
	h->count++;
	h->most = value > h->most ? value : h->most;
}

static inline void histogram_merge(struct histogram *to, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		to->buckets[i] += from->buckets[i];
	to->count += from->count;
	to->most = from->most > to->most ? from->most : to->most;
}

static inline uint64_t histogram_percentile(const struct histogram *h, double share)
{
	uint64_t wanted = (uint64_t)((double)h->count * share), seen = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen > wanted)
			return histogram_middle(i);
	}
	return h->most;
}

#endif
