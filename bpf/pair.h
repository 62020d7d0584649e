/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What the four programs share: slots, generations, counters, events. */
#ifndef SLIPSTREAM_PAIR_H
#define SLIPSTREAM_PAIR_H

#include "maps.h"

static __always_inline struct settings *get_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline struct counters *get_counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

#define COUNT(member)                                                                              \
	do {                                                                                       \
		struct counters *_counters = get_counters();                                       \
		if (_counters)                                                                     \
			__sync_fetch_and_add(&_counters->member, 1);                               \
	} while (0)

static __always_inline __u32 state_of(__u32 control)
{
	return control & STATE_MASK;
}

static __always_inline __u32 generation_of(__u32 control)
{
	return control >> GENERATION_SHIFT;
}

static __always_inline __u32 with_state(__u32 control, enum pair_state state)
{
	return (control & ~STATE_MASK) | state;
}

/* INSERTED, DRAINING or LEAVING. */
static __always_inline bool is_in_sockmap(__u32 control)
{
	__u32 state = state_of(control);

	return state >= STATE_INSERTED && state <= STATE_LEAVING;
}

/* Moves a pair from the state in `from` to `state`; false if anyone was quicker. */
static __always_inline bool change_state(struct pair *pair, __u32 from, enum pair_state state)
{
	return __sync_val_compare_and_swap(&pair->control, from, with_state(from, state)) == from;
}

/*
 * The slot of a socket, or NULL when the slot has gone to a later pair. The
 * control word read for the check is handed out, so that a caller's decision
 * and its compare-and-swap rest on one reading.
 */
static __always_inline struct pair *pair_of(const struct endpoint *endpoint, __u32 *control)
{
	__u32 slot = endpoint->slot;
	struct pair *pair = bpf_map_lookup_elem(&pairs, &slot);

	if (!pair)
		return NULL;
	*control = READ_ONCE(pair->control);
	return generation_of(*control) == endpoint->generation ? pair : NULL;
}

/* The memory cgroup of a socket. */
static __always_inline __u64 memcg_of(const struct sock *sk)
{
	if (!bpf_core_type_exists(struct mem_cgroup) || !bpf_core_field_exists(sk->sk_memcg))
		return 0; /* CONFIG_MEMCG */
	return (__u64)MEMBER(sock, sk, sk_memcg);
}

#define PAGE_SHIFT 12
/* Of nested memory cgroups, so many are looked at from the inside. */
#define MEMCG_LEVELS 8

/*
 * Would this many bytes more not fit what a memory cgroup allows its sockets?
 * bpf_tcp_ingress then fails with ENOMEM where TCP waits (mem_cgroup_charge_skmem).
 * The pointer may be stale: reads through VIEW are safe, and a wrong answer only
 * sends a message over TCP.
 */
static __always_inline bool is_memory_short(__u64 memcg, __u32 size)
{
	const struct mem_cgroup *group = (const struct mem_cgroup *)memcg;
	const struct page_counter *counter;

	if (!memcg)
		return false;
	if (bpf_core_field_exists(group->socket_pressure) &&
	    MEMBER(mem_cgroup, group, socket_pressure) > bpf_jiffies64())
		return true;
	if (!bpf_core_field_exists(group->tcpmem_active) ||
	    !MEMBER(mem_cgroup, group, tcpmem_active))
		return false;
	counter = &group->tcpmem;
	for (int level = 0; level < MEMCG_LEVELS; level++) {
		if ((__u64)MEMBER(page_counter, counter, usage.counter) + (size >> PAGE_SHIFT) >
		    MEMBER(page_counter, counter, max))
			return true;
		counter = MEMBER(page_counter, counter, parent);
		if (!counter)
			break;
	}
	return false;
}

/* Whether the queue that tcp_bpf_recvmsg empties first is empty (struct sk_psock). */
static __always_inline bool has_empty_queue(const struct sock *sk)
{
	__u64 user_data = 0, head, next = 0;

	bpf_probe_read_kernel(&user_data, sizeof(user_data), &sk->sk_user_data);
	if (!(user_data & SK_USER_DATA_PSOCK))
		return false;
	head = (user_data & ~SK_USER_DATA_PTRMASK) +
	       bpf_core_field_offset(struct sk_psock, ingress_msg);
	bpf_probe_read_kernel(&next, sizeof(next), (const void *)head);
	return next == head;
}

static __always_inline void emit(enum event_type type, __u32 slot, __u32 control, enum side side)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		COUNT(events_lost);
		return;
	}
	event->type = type;
	event->slot = slot;
	event->control = control;
	event->side = side;
	bpf_ringbuf_submit(event, 0);
}

#endif
