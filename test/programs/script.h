/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The conversation of one connection, computed by both ends from the same seed.
 *
 * A script is a sequence of phases; a phase is a sequence of items: "these many bytes in this
 * direction, to be sent once so many bytes have arrived from the other one". Every phase starts
 * with a few bytes from the client, so that it alone can decide to stop (it then sends them
 * inverted) and both ends still know exactly where the streams end.
 */
#ifndef SLIPSTREAM_TEST_SCRIPT_H
#define SLIPSTREAM_TEST_SCRIPT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "random.h"

enum direction { TO_SERVER, TO_CLIENT };
enum phase_kind { PHASE_NONE, PHASE_PINGPONG, PHASE_PIPELINED, PHASE_BURST, PHASE_BOTH };
enum closing { CLOSE_TOGETHER, CLOSE_CLIENT_FIRST, CLOSE_SERVER_FIRST };

#define SCRIPT_DEPTH 16
#define SCRIPT_ROUNDS 256
#define SCRIPT_BURST 128
#define SCRIPT_HEADER 8
#define SCRIPT_UNLIMITED UINT64_MAX

struct script_config {
	uint64_t max_message;
	unsigned pingpong_share;
	bool reconnect;
};

struct item {
	enum direction direction;
	uint64_t bytes;
	uint64_t gate; /* offset of the other direction that must have arrived */
	uint64_t echo; /* offset of the other direction that answers this item, or 0 */
};

struct script {
	const struct script_config *config;
	struct prng random;
	uint64_t remaining; /* bytes the connection may still carry, over all generations */
	uint64_t total[2];  /* end of the last item in each direction */
	bool last_phase;    /* the connection is closed and reopened after this phase */
	bool stopped;

	enum phase_kind kind;
	enum direction starter;
	uint64_t cap;
	uint64_t header; /* header bytes that no item has carried yet */
	/* ping-pong */
	unsigned rounds, depth, asked, answered;
	uint64_t asked_until[SCRIPT_DEPTH];
	uint64_t reply[SCRIPT_DEPTH];
	/* bursts */
	uint64_t left[2];
	uint64_t gate[2];
};

static inline const char *phase_name(enum phase_kind kind)
{
	static const char *const names[] = {"none", "pingpong", "pipelined", "burst", "both"};

	return names[kind];
}

static inline void script_init(struct script *s, const struct script_config *config, uint64_t seed,
			       uint32_t connection, uint64_t budget)
{
	memset(s, 0, sizeof(*s));
	s->config = config;
	s->random.state = mix64(mix64(seed) + connection);
	s->remaining = budget;
}

/* A new connection continues the script with streams that start at 0 again. */
static inline void script_reopen(struct script *s)
{
	s->total[TO_SERVER] = s->total[TO_CLIENT] = 0;
	s->kind = PHASE_NONE;
	s->last_phase = false;
}

static inline uint64_t script_take(struct script *s, uint64_t bytes)
{
	if (s->remaining == SCRIPT_UNLIMITED)
		return bytes;
	if (bytes > s->remaining)
		bytes = s->remaining;
	s->remaining -= bytes;
	return bytes;
}

static inline uint64_t script_size(struct script *s)
{
	return prng_log(&s->random, s->cap);
}

/* Bursts of small messages are short: a million one-byte messages would prove nothing more. */
static inline uint64_t script_burst_limit(const struct script *s)
{
	uint64_t most = s->config->max_message * 16;

	return most < s->cap * SCRIPT_BURST ? most : s->cap * SCRIPT_BURST;
}

static inline void script_begin_bursts(struct script *s)
{
	uint64_t most = script_burst_limit(s);

	s->left[TO_SERVER] = prng_log(&s->random, most);
	s->left[TO_CLIENT] = prng_log(&s->random, most);
	if (s->kind == PHASE_BURST)
		s->left[!s->starter] = 0;
	s->gate[TO_SERVER] = s->total[TO_CLIENT];
	s->gate[TO_CLIENT] = s->total[TO_SERVER] + s->header;
}

static inline void script_begin_rounds(struct script *s)
{
	s->rounds = (unsigned)prng_log(&s->random, SCRIPT_ROUNDS);
	s->depth = s->kind == PHASE_PINGPONG ? 1 : 2 + prng_below(&s->random, SCRIPT_DEPTH - 1);
	s->asked = s->answered = 0;
}

static inline enum phase_kind script_pick(struct script *s)
{
	static const enum phase_kind others[] = {PHASE_PIPELINED, PHASE_BURST, PHASE_BURST,
						 PHASE_BOTH};

	if (prng_chance(&s->random, s->config->pingpong_share))
		return PHASE_PINGPONG;
	return others[prng_below(&s->random, 4)];
}

/* How many bytes the client's header of the next phase has. */
static inline uint64_t script_header(const struct script *s)
{
	return s->remaining < SCRIPT_HEADER ? s->remaining : SCRIPT_HEADER;
}

static inline void script_begin_phase(struct script *s)
{
	s->kind = script_pick(s);
	s->starter = prng_below(&s->random, 4) ? TO_SERVER : TO_CLIENT;
	s->cap = prng_log(&s->random, s->config->max_message);
	s->header = script_take(s, SCRIPT_HEADER);
	if (s->kind == PHASE_BURST || s->kind == PHASE_BOTH)
		script_begin_bursts(s);
	else
		script_begin_rounds(s);
	s->last_phase = s->config->reconnect && prng_below(&s->random, 4) == 0;
}

/* Ends the script at a phase boundary; the header that says so has been accounted for. */
static inline void script_stop(struct script *s)
{
	s->total[TO_SERVER] += script_take(s, SCRIPT_HEADER);
	s->stopped = true;
}

static inline bool script_exhausted(const struct script *s)
{
	return s->stopped || s->remaining == 0;
}

/* At a phase boundary: both ends know that this connection carries nothing more. */
static inline bool script_connection_over(const struct script *s)
{
	return script_exhausted(s) || s->last_phase;
}

static inline bool script_emit(struct script *s, struct item *item, enum direction direction,
			       uint64_t bytes, uint64_t gate)
{
	if (direction == TO_SERVER && s->header) {
		bytes += s->header;
		s->header = 0;
	}
	if (!bytes)
		return false;
	s->total[direction] += bytes;
	*item = (struct item){.direction = direction, .bytes = bytes, .gate = gate};
	return true;
}

static inline bool script_ask(struct script *s, struct item *item)
{
	unsigned slot = s->asked % SCRIPT_DEPTH;
	enum direction direction = s->starter;
	uint64_t bytes = script_take(s, script_size(s));

	/* The reply's size is drawn now so that the asker knows the offset that answers it. */
	s->reply[slot] = script_take(s, script_size(s));
	if (!script_emit(s, item, direction, bytes, s->total[!direction]))
		return false;
	if (s->depth == 1 && s->reply[slot])
		item->echo = s->total[!direction] + s->reply[slot];
	s->asked_until[slot] = s->total[direction];
	s->asked++;
	return true;
}

static inline bool script_answer(struct script *s, struct item *item)
{
	unsigned slot = s->answered++ % SCRIPT_DEPTH;

	return script_emit(s, item, !s->starter, s->reply[slot], s->asked_until[slot]);
}

static inline bool script_next_round(struct script *s, struct item *item)
{
	if (s->asked < s->rounds && s->asked - s->answered < s->depth && script_ask(s, item))
		return true;
	return s->answered < s->asked && script_answer(s, item);
}

static inline bool script_next_burst(struct script *s, struct item *item)
{
	enum direction direction = prng_below(&s->random, 2) ? TO_SERVER : TO_CLIENT;
	uint64_t bytes = script_size(s);

	if (!s->left[direction])
		direction = !direction;
	if (bytes > s->left[direction])
		bytes = s->left[direction];
	s->left[direction] -= bytes;
	return script_emit(s, item, direction, script_take(s, bytes), s->gate[direction]);
}

/* The next item of the phase, in an order both ends compute alike; false at a phase boundary. */
static inline bool script_next(struct script *s, struct item *item)
{
	bool rounds = s->kind == PHASE_PINGPONG || s->kind == PHASE_PIPELINED;

	if (s->kind == PHASE_NONE)
		return false;
	/* Only a phase that the client starts carries the header inside its first message. */
	if (s->header && (s->kind == PHASE_BOTH || s->starter == TO_CLIENT))
		return script_emit(s, item, TO_SERVER, 0, s->total[TO_CLIENT]);
	if (rounds ? script_next_round(s, item) : script_next_burst(s, item))
		return true;
	s->kind = PHASE_NONE;
	return s->header && script_emit(s, item, TO_SERVER, 0, s->total[TO_CLIENT]);
}

static inline enum closing script_closing(struct script *s)
{
	return (enum closing)prng_below(&s->random, 3);
}

#endif
