/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * identify, as it is in bpf/, as a part of a process. The compiler puts a call before
 * each access to memory (-fsanitize=thread, without its runtime), and races.c lets
 * another actor go on there: so callbacks of two sockets meet between any two accesses.
 */
#ifndef RACES_H
#define RACES_H

#include <linux/types.h>

#define SLOTS_MOST 4
#define CONNECTIONS_MOST 6
/* The controller, then client and server of each connection. */
#define ACTORS_MOST (1 + 2 * CONNECTIONS_MOST)

/* In races.c, the helpers. They act for the actor that runs. */
void *races_lookup(const char *map, const void *key);
long races_pop(const char *map, __u32 *slot);
long races_push(const char *map, const __u32 *slot);
void *races_storage(__u64 flags);
__u64 races_cookie(void);
long races_no_map(const char *map);

/* In programs.c, what the actors do. */
void races_syn(__u32 server_isn, __u32 client_isn);
void races_established(int side, __u32 server_isn, __u32 client_isn);
void races_close(void);
/* The controller looks at a slot once and moves its pair on. */
void races_control(__u32 slot);

/* In programs.c, what may be looked at without being an access. */
struct slot_view {
	__u32 generation;
	int is_free, is_paired;
	__u64 key;
	__u64 cookie[2];
};

void races_reset(void);
void races_view(__u32 slot, struct slot_view *view);
void *races_pair(__u32 slot);
void *races_handshake(__u32 index);
void *races_counters(void);
__u64 races_slots_lost(void);
/* The slot that an address belongs to; -1: none. Evidence is no slot's: anyone may add to it. */
int races_slot_at(const volatile void *address);

#endif
