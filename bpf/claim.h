/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What makes a slot of the pair table a pair: for identify and for adopt. */
#ifndef SLIPSTREAM_CLAIM_H
#define SLIPSTREAM_CLAIM_H

#include "pair.h"

static __always_inline __u64 make_key(__u32 server_isn, __u32 client_isn)
{
	return (__u64)server_isn << 32 | client_isn;
}

static __always_inline void fill_address(struct address *address, const struct sock *sk)
{
	const struct sock_common *common = &sk->__sk_common;

	address->family = common->skc_family;
	address->local_port = common->skc_num;
	address->remote_port = bpf_ntohs(common->skc_dport);
	if (address->family == AF_INET) {
		/* ::ffff:a.b.c.d, RFC 4291 section 2.5.5.2 */
		address->local[10] = address->local[11] = 0xff;
		address->remote[10] = address->remote[11] = 0xff;
		*(__u32 *)&address->local[12] = common->skc_rcv_saddr;
		*(__u32 *)&address->remote[12] = common->skc_daddr;
		return;
	}
	bpf_probe_read_kernel(address->local, 16, &common->skc_v6_rcv_saddr);
	bpf_probe_read_kernel(address->remote, 16, &common->skc_v6_daddr);
}

/* Writes what is known of one end; the caller owns the slot. */
static __always_inline void fill_side(struct pair *pair, enum side side, const void *socket,
				      __u64 cookie)
{
	const struct sock *sk = VIEW(sock, socket);

	pair->socket[side] = (__u64)(unsigned long)socket;
	pair->cookie[side] = cookie;
	pair->cgroup[side] = sk->sk_cgrp_data.cgroup->kn->id;
	pair->netns[side] = sk->__sk_common.skc_net.net->ns.inum;
	fill_address(&pair->address[side], sk);
}

/* Pops a slot that is FREE, one that rests only if there is no other; false if there is none. */
static __always_inline bool pop_slot(__u32 *slot)
{
	return !bpf_map_pop_elem(&free_slots, slot) || !bpf_map_pop_elem(&resting_slots, slot);
}

/*
 * Puts a slot that is FREE to rest. Where others have done so meanwhile and there is no room,
 * it does not rest.
 */
static __always_inline bool push_slot(__u32 slot)
{
	__u32 rested;

	if (!bpf_map_push_elem(&resting_slots, &slot, 0))
		return true;
	if (!bpf_map_pop_elem(&resting_slots, &rested) &&
	    bpf_map_push_elem(&free_slots, &rested, 0))
		COUNT(release_failed);
	return !bpf_map_push_elem(&resting_slots, &slot, 0) ||
	       !bpf_map_push_elem(&free_slots, &slot, 0);
}

/*
 * An empty slot with a generation of its own, which nobody knows yet: readers of
 * the table see CLOSED. NULL when the table is full.
 */
static __always_inline struct pair *take_slot(__u64 key, __u32 *slot, __u32 *control)
{
	struct pair *pair;

	if (!pop_slot(slot))
		return NULL;
	pair = bpf_map_lookup_elem(&pairs, slot);
	if (!pair)
		return NULL;
	*control = (generation_of(pair->control) + 1) << GENERATION_SHIFT;
	pair->control = with_state(*control, STATE_CLOSED);
	keep_order();
	__builtin_memset(&pair->closed, 0, sizeof(*pair) - offsetof(struct pair, closed));
	pair->key = key;
	pair->created_ns = bpf_ktime_get_ns();
	return pair;
}

static __always_inline void return_slot(struct pair *pair, __u32 slot)
{
	pair->control = with_state(pair->control, STATE_FREE);
	if (!push_slot(slot))
		COUNT(release_failed);
}

#endif
