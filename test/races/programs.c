// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* The programs under test and what calls them. This file is compiled with -fsanitize=thread. */
#include "identify.bpf.c"

#define PLAIN __attribute__((no_sanitize_thread))

static struct pair table[SLOTS_MOST];
static struct counters counted;
/* Keys are small numbers here, and so are their places in this table. */
static struct handshake under_way[16];

/* One for all: identify looks at no more than its cgroup and its namespace. */
static struct kernfs_node node = {.id = 1};
static struct cgroup group = {.kn = &node};
static struct net network;
static union {
	struct sock sk;
	struct tcp_sock tcp;
	char room[4096];
} plain;

PLAIN void races_reset(void)
{
	__builtin_memset(table, 0, sizeof(table));
	__builtin_memset(&counted, 0, sizeof(counted));
	__builtin_memset(under_way, 0, sizeof(under_way));
	plain.sk.__sk_common.skc_family = AF_INET;
	plain.sk.__sk_common.skc_net.net = &network;
	plain.sk.sk_cgrp_data.cgroup = &group;
}

PLAIN void races_view(__u32 slot, struct slot_view *view)
{
	const struct pair *pair = &table[slot];
	__u32 state = state_of(pair->control);

	view->generation = generation_of(pair->control);
	view->is_free = state == STATE_FREE;
	view->is_paired = state >= STATE_OBSERVED && state <= STATE_LEAVING;
	view->key = pair->key;
	view->cookie[0] = pair->cookie[0];
	view->cookie[1] = pair->cookie[1];
}

void *races_pair(__u32 slot)
{
	return slot < SLOTS_MOST ? &table[slot] : NULL;
}

void *races_handshake(__u32 index)
{
	return index < sizeof(under_way) / sizeof(under_way[0]) ? &under_way[index] : NULL;
}

void *races_counters(void)
{
	return &counted;
}

PLAIN __u64 races_slots_lost(void)
{
	return counted.release_failed;
}

int races_slot_at(const volatile void *address)
{
	const char *at = (const char *)address, *start = (const char *)table;

	if (at < start || at >= start + sizeof(table))
		return -1;
	for (int slot = 0; slot < SLOTS_MOST; slot++)
		for (int side = 0; side < 2; side++)
			if (at == (const char *)&table[slot].evidence[side])
				return -1;
	return (int)((__u64)(at - start) / sizeof(table[0]));
}

/* The kernel's context lies in front of the one that a program gets. */
struct context {
	struct bpf_sock_ops_kern kernel;
	struct bpf_sock_ops ops;
};

void *bpf_cast_to_kern_ctx(void *context)
{
	return (char *)context - offsetof(struct context, ops);
}

void *bpf_rdonly_cast(const void *object, __u32 btf_id)
{
	(void)btf_id;
	return (void *)object;
}

static struct context context_of(__u32 op)
{
	struct context context = {.kernel.sk = &plain.sk, .ops.op = op, .ops.is_fullsock = 1};

	context.ops.sk = (struct bpf_sock *)&plain.sk;
	return context;
}

void races_syn(__u32 server_isn, __u32 client_isn)
{
	struct context context = context_of(BPF_SOCK_OPS_RWND_INIT);
	struct tcp_request_sock request = {.rcv_isn = client_isn, .snt_isn = server_isn};

	context.ops.is_fullsock = 0;
	context.kernel.sk = (struct sock *)&request;
	identify(&context.ops);
}

void races_established(int side, __u32 server_isn, __u32 client_isn)
{
	struct context context =
		context_of(side == SIDE_SERVER ? BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
					       : BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB);

	context.ops.snd_nxt = (side == SIDE_SERVER ? server_isn : client_isn) + 1;
	context.ops.rcv_nxt = (side == SIDE_SERVER ? client_isn : server_isn) + 1;
	identify(&context.ops);
}

void races_close(void)
{
	struct context context = context_of(BPF_SOCK_OPS_STATE_CB);

	context.ops.args[0] = BPF_TCP_ESTABLISHED;
	context.ops.args[1] = BPF_TCP_CLOSE;
	identify(&context.ops);
}

void races_control(__u32 slot)
{
	struct pair *pair = &table[slot];
	__u32 control = READ_ONCE(pair->control), state = state_of(control);

	if (state >= STATE_OBSERVED && state < STATE_LEAVING)
		change_state(pair, control, state + 1);
	else if (state == STATE_LEAVING)
		change_state(pair, control, STATE_OBSERVED);
}
