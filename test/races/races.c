// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Runs schedules: which of several sockets' callbacks goes on, and for how many
 * accesses to memory. Each line of input is one, in whole numbers:
 *
 *   SLOTS CONNECTIONS, then for each connection KEY FLAGS, then any number of ACTOR STEPS
 *
 * and is answered with `ok PAIRED FULL`, pairs that were made and clients that found no
 * slot, or with `wrong: ` and what was seen.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "races.h"

#define STACK_SIZE 65536
#define NUMBERS_MOST 4096
/* Looks that the controller takes at the table. */
#define LOOKS 24
/* So far from an end no schedule is. */
#define STEPS_MOST 1000000

enum flag {
	CLIENT_WITHOUT_STORAGE = 1,
	SERVER_WITHOUT_STORAGE = 2,
	SERVER_FIRST = 4, /* established before its client, as with TCP Fast Open */
	SERVER_SILENT = 8, /* never established */
	CLOSED_TWICE = 16, /* both, as when tcp_done() follows tcp_disconnect() */
};

struct actor {
	ucontext_t context;
	bool done, has_storage;
	/* As struct endpoint. */
	__u32 endpoint[4];
};

struct connection {
	__u32 key;
	__u32 flags;
	bool syn, claimed;
};

static struct actor actors[ACTORS_MOST];
static char stacks[ACTORS_MOST][STACK_SIZE];
static struct connection connections[CONNECTIONS_MOST];
static ucontext_t scheduler;
static int actor_count, running;
/* The running actor has come to the end of a callback, and of its turn. */
static bool has_ended;
static __u32 slots;

/* Slots that are free, and those that rest; the latter are few here, so that they are often
 * as many as may be.
 */
struct list {
	const char *map;
	__u32 most, count;
	__u32 slots[SLOTS_MOST];
	bool last_first;
};
static struct list free_slots = {.map = "&free_slots", .most = SLOTS_MOST, .last_first = true};
static struct list resting_slots = {.map = "&resting_slots", .most = 1};
/* Who found no room for the slot that it returns, and makes some; who has a slot on its way
 * between the lists for that, 0: nobody.
 */
static bool makes_room[ACTORS_MOST];
static int mover[SLOTS_MOST];
/* The client that took a slot and has not returned it; 0: nobody. How often it was taken. */
static int taker[SLOTS_MOST];
static __u32 taken[SLOTS_MOST], seen[SLOTS_MOST];
static bool was_paired[SLOTS_MOST];
static int paired, full;
static char wrong[200];

static void __attribute__((format(printf, 1, 2))) complain(const char *format, ...)
{
	va_list arguments;

	if (wrong[0])
		return;
	va_start(arguments, format);
	vsnprintf(wrong, sizeof(wrong), format, arguments);
	va_end(arguments);
}

static int side_of(int actor)
{
	return (actor - 1) % 2;
}

static struct connection *connection_of(int actor)
{
	return &connections[(actor - 1) / 2];
}

static const char *name_of(int actor)
{
	static char name[32];

	if (actor == 0)
		return "the controller";
	snprintf(name, sizeof(name), "%s %d", side_of(actor) ? "server" : "client",
		 (actor - 1) / 2);
	return name;
}

/* Numbers of which every second ones meet in the table of handshakes. */
static __u32 server_isn(const struct connection *c)
{
	return c->key + 1;
}

static __u32 client_isn(const struct connection *c)
{
	return server_isn(c) ^ (c->key % 2);
}

/* ---- the helpers ---- */

static void step(void)
{
	swapcontext(&actors[running].context, &scheduler);
}

void *races_lookup(const char *map, const void *key)
{
	__u32 index = *(const __u32 *)key;
	static struct {
		__u32 words[32];
	} settings;

	step();
	if (!strcmp(map, "&pairs"))
		return index < slots ? races_pair(index) : NULL;
	if (!strcmp(map, "&handshakes"))
		return races_handshake(index);
	if (!strcmp(map, "&counters"))
		return races_counters();
	return strcmp(map, "&settings") ? NULL : &settings;
}

static struct list *list_of(const char *map)
{
	return strcmp(map, free_slots.map) ? &resting_slots : &free_slots;
}

long races_pop(const char *map, __u32 *slot)
{
	struct list *list = list_of(map);
	struct slot_view view;
	__u32 at;

	step();
	if (!list->count) {
		/* Here a client looks last. */
		if (list == &resting_slots && !makes_room[running])
			full++;
		return -1;
	}
	at = list->last_first ? --list->count : 0;
	*slot = list->slots[at];
	if (!list->last_first)
		memmove(list->slots, list->slots + 1, --list->count * sizeof(list->slots[0]));
	if (makes_room[running]) {
		mover[*slot] = running;
		return 0;
	}
	races_view(*slot, &view);
	if (taker[*slot] || !view.is_free)
		complain("%s takes slot %u, which is not free", name_of(running), *slot);
	taker[*slot] = running;
	taken[*slot]++;
	return 0;
}

long races_push(const char *map, const __u32 *slot)
{
	struct list *list = list_of(map);
	struct slot_view view;

	step();
	if (*slot < slots && mover[*slot] == running) {
		mover[*slot] = 0;
		list->slots[list->count++] = *slot;
		return 0;
	}
	if (*slot >= slots || !taker[*slot]) {
		complain("%s returns slot %u, which nobody has", name_of(running), *slot);
		return -1;
	}
	races_view(*slot, &view);
	if (!view.is_free)
		complain("%s returns slot %u without making it FREE", name_of(running), *slot);
	makes_room[running] = list->count == list->most;
	if (makes_room[running])
		return -1;
	taker[*slot] = 0;
	list->slots[list->count++] = *slot;
	return 0;
}

void *races_storage(__u64 flags)
{
	struct actor *self = &actors[running];
	__u32 missing = side_of(running) ? SERVER_WITHOUT_STORAGE : CLIENT_WITHOUT_STORAGE;

	step();
	if (flags && !(connection_of(running)->flags & missing))
		self->has_storage = true;
	return self->has_storage ? self->endpoint : NULL;
}

__u64 races_cookie(void)
{
	return (__u64)running;
}

long races_no_map(const char *map)
{
	complain("%s reaches for %s", name_of(running), map);
	return -1;
}

static void end_callback(void)
{
	has_ended = true;
	step();
}

/* ---- the compiler's calls ---- */

/* May the running actor write there? */
static void check_write(const volatile void *address)
{
	int slot = races_slot_at(address);

	if (slot < 0 || running == 0 || taker[slot] == running)
		return;
	if (!taker[slot])
		complain("%s writes to slot %d, which nobody has", name_of(running), slot);
	else if (side_of(running) == 0 ||
		 connection_of(running)->key != connection_of(taker[slot])->key)
		complain("%s writes to slot %d, which is client %d's", name_of(running), slot,
			 (taker[slot] - 1) / 2);
}

#define ACCESSES(size)                                                                             \
	void __tsan_read##size(void *address);                                                     \
	void __tsan_read##size(void *address)                                                      \
	{                                                                                          \
		(void)address;                                                                     \
		step();                                                                            \
	}                                                                                          \
	void __tsan_write##size(void *address);                                                    \
	void __tsan_write##size(void *address)                                                     \
	{                                                                                          \
		step();                                                                            \
		check_write(address);                                                              \
	}
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

#define FETCHES(bits, name, operation)                                                             \
	__u##bits __tsan_atomic##bits##_fetch_##name(volatile __u##bits *at, __u##bits value,      \
						     int order);                                   \
	__u##bits __tsan_atomic##bits##_fetch_##name(volatile __u##bits *at, __u##bits value,      \
						     int order)                                    \
	{                                                                                          \
		__u##bits before;                                                                  \
		(void)order;                                                                       \
		step();                                                                            \
		check_write(at);                                                                   \
		before = *at;                                                                      \
		*at = before operation value;                                                      \
		return before;                                                                     \
	}
FETCHES(32, or, |)
FETCHES(64, or, |)
FETCHES(32, add, +)
FETCHES(64, add, +)

#define EXCHANGES(bits)                                                                            \
	int __tsan_atomic##bits##_compare_exchange_strong(volatile __u##bits *at,                  \
							  __u##bits *expected, __u##bits value,    \
							  int order, int failed_order);            \
	int __tsan_atomic##bits##_compare_exchange_strong(volatile __u##bits *at,                  \
							  __u##bits *expected, __u##bits value,    \
							  int order, int failed_order)             \
	{                                                                                          \
		__u##bits before;                                                                  \
		(void)order;                                                                       \
		(void)failed_order;                                                                \
		step();                                                                            \
		before = *at;                                                                      \
		if (before == *expected) {                                                         \
			check_write(at);                                                           \
			*at = value;                                                               \
			return 1;                                                                  \
		}                                                                                  \
		*expected = before;                                                                \
		return 0;                                                                          \
	}                                                                                          \
	__u##bits __tsan_atomic##bits##_exchange(volatile __u##bits *at, __u##bits value,          \
						 int order);                                       \
	__u##bits __tsan_atomic##bits##_exchange(volatile __u##bits *at, __u##bits value,          \
						 int order)                                        \
	{                                                                                          \
		__u##bits before;                                                                  \
		(void)order;                                                                       \
		step();                                                                            \
		check_write(at);                                                                   \
		before = *at;                                                                      \
		*at = value;                                                                       \
		return before;                                                                     \
	}
EXCHANGES(32)
EXCHANGES(64)

void __tsan_init(void);
void __tsan_init(void)
{
}
void __tsan_func_entry(void *caller);
void __tsan_func_entry(void *caller)
{
	(void)caller;
}
void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
}

/* ---- the actors ---- */

static void close_socket(const struct connection *c)
{
	races_close();
	if (c->flags & CLOSED_TWICE) {
		end_callback();
		races_close();
	}
}

static void act(int number)
{
	struct connection *c;

	if (number == 0) {
		for (__u32 look = 0; look < LOOKS; look++)
			races_control(look % slots);
	} else if (side_of(number) == 0) {
		c = connection_of(number);
		races_established(0, server_isn(c), client_isn(c));
		c->claimed = true;
		end_callback();
		close_socket(c);
	} else {
		c = connection_of(number);
		races_syn(server_isn(c), client_isn(c));
		c->syn = true;
		end_callback();
		if (!(c->flags & SERVER_SILENT)) {
			races_established(1, server_isn(c), client_isn(c));
			end_callback();
			close_socket(c);
		}
	}
	actors[number].done = true;
	end_callback();
}

/* A client hears of the server's number in its answer, a server of the client in the ACK of that.
 */
static bool can_run(int number)
{
	const struct connection *c;

	if (actors[number].done)
		return false;
	if (number == 0)
		return true;
	c = connection_of(number);
	return side_of(number) == 0 ? c->syn : !c->syn || c->claimed || c->flags & SERVER_FIRST;
}

/* What must hold at all times. */
static void check_slots(void)
{
	struct slot_view view;

	for (__u32 slot = 0; slot < slots; slot++) {
		races_view(slot, &view);
		if (view.generation < seen[slot] || view.generation > taken[slot])
			complain("slot %u goes from generation %u to %u, taken %u times", slot,
				 seen[slot], view.generation, taken[slot]);
		seen[slot] = view.generation;
		if (view.is_paired && !was_paired[slot]) {
			paired++;
			for (int side = 0; side < 2; side++) {
				int actor = (int)view.cookie[side];

				if (actor < 1 || actor >= actor_count || side_of(actor) != side ||
				    connection_of(actor)->key + 1 != view.key >> 32)
					complain("slot %u has another connection's socket, of %s",
						 slot, name_of(actor));
			}
		}
		was_paired[slot] = view.is_paired;
	}
}

static void check_end(void)
{
	struct slot_view view;

	for (__u32 slot = 0; slot < slots; slot++) {
		races_view(slot, &view);
		if (taker[slot] || !view.is_free)
			complain("slot %u was not returned", slot);
		if (view.generation != taken[slot])
			complain("slot %u was taken %u times and has generation %u", slot,
				 taken[slot], view.generation);
	}
	if (free_slots.count + resting_slots.count != slots || races_slots_lost())
		complain("%u of %u slots are free", free_slots.count + resting_slots.count, slots);
}

static void prepare(int number)
{
	struct actor *actor = &actors[number];

	memset(actor, 0, sizeof(*actor));
	getcontext(&actor->context);
	actor->context.uc_stack.ss_sp = stacks[number];
	actor->context.uc_stack.ss_size = STACK_SIZE;
	makecontext(&actor->context, (void (*)(void))act, 1, number);
}

static void run(const int *numbers, int count)
{
	int at = 2, total = 0;

	memset(connections, 0, sizeof(connections));
	memset(taker, 0, sizeof(taker));
	memset(taken, 0, sizeof(taken));
	memset(seen, 0, sizeof(seen));
	memset(was_paired, 0, sizeof(was_paired));
	paired = full = 0;
	wrong[0] = 0;
	slots = (__u32)numbers[0];
	actor_count = 1 + 2 * numbers[1];
	memset(makes_room, 0, sizeof(makes_room));
	memset(mover, 0, sizeof(mover));
	resting_slots.count = 0;
	for (free_slots.count = 0; free_slots.count < slots; free_slots.count++)
		free_slots.slots[free_slots.count] = free_slots.count;
	for (int i = 0; i < numbers[1]; i++, at += 2)
		connections[i] = (struct connection){.key = (__u32)numbers[at],
						     .flags = (__u32)numbers[at + 1]};
	races_reset();
	for (int i = 0; i < actor_count; i++)
		prepare(i);
	while (!wrong[0] && total < STEPS_MOST) {
		int runnable[ACTORS_MOST], choices = 0, steps = STEPS_MOST, choice;

		for (int i = 0; i < actor_count; i++)
			if (can_run(i))
				runnable[choices++] = i;
		if (!choices)
			break;
		/* When the schedule is over, servers first: their clients wait to close. */
		choice = choices - 1;
		if (at + 1 < count) {
			choice = numbers[at] % choices;
			steps = numbers[at + 1];
			at += 2;
		}
		running = runnable[choice];
		has_ended = false;
		while (steps-- > 0 && !wrong[0] && !has_ended && can_run(running)) {
			total++;
			swapcontext(&scheduler, &actors[running].context);
			check_slots();
		}
	}
	if (total >= STEPS_MOST)
		complain("it does not end");
	if (!wrong[0])
		check_end();
}

int main(void)
{
	static char line[65536];
	static int numbers[NUMBERS_MOST];

	while (fgets(line, sizeof(line), stdin)) {
		int count = 0;
		char *end;

		for (char *at = line; count < NUMBERS_MOST; at = end) {
			long number = strtol(at, &end, 10);

			if (end == at)
				break;
			numbers[count++] = number < 0 || number > STEPS_MOST ? 0 : (int)number;
		}
		if (count < 2 || numbers[0] < 1 || numbers[0] > SLOTS_MOST || numbers[1] < 1 ||
		    numbers[1] > CONNECTIONS_MOST || count < 2 + 2 * numbers[1]) {
			fputs("races: not a schedule\n", stderr);
			return 2;
		}
		run(numbers, count);
		if (wrong[0])
			printf("wrong: %s\n", wrong);
		else
			printf("ok %d %d\n", paired, full);
		fflush(stdout);
	}
	return 0;
}
