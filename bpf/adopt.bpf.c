/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * adopt: makes pairs of connections that were there before the datapath. An object
 * of its own, attached for a fraction of a second by `up --adopt`.
 *
 * The controller borrows a descriptor of each established socket (pidfd_getfd(2))
 * and sets an option on it that no kernel has. __cgroup_bpf_run_filter_setsockopt
 * runs this program first, with the socket locked, and the program answers in place
 * of the kernel. Calls of all others pass untouched.
 *
 * Why not iter/tcp: it sees one network namespace, and uses freed sockets before
 * 6.18.45, 6.12.104 and 6.6.152 (CVE-2026-74714).
 */
#include "claim.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct adoption_settings);
} adoption_settings SEC(".maps");

/* As long as there are sockets to be asked. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct adoption);
} adoptions SEC(".maps");

/* Of the enumeration without a name in include/uapi/linux/bpf.h, since 6.12. */
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008

/*
 * With the socket locked nothing is sent or taken meanwhile. What arrives waits
 * (sk_backlog), and its sender does not see it acknowledged.
 */
static __always_inline bool is_quiet(const struct sock *sk, const struct tcp_sock *tcp)
{
	return tcp->snd_una == tcp->write_seq && tcp->copied_seq == tcp->rcv_nxt &&
	       !sk->sk_shutdown && !sk->sk_err;
}

/* Whether receives bring control data (tcp_recv_timestamp, TCP_INQ), which the kernel writes to the
 * reader's memory, and may sleep for that, after it has let go of the lock and before it counts.
 */
static __always_inline bool has_control_data(const struct sock *sk, const struct tcp_sock *tcp)
{
	return BPF_CORE_READ_BITFIELD(tcp, recvmsg_inq) || sk->sk_tsflags ||
	       sk->__sk_common.skc_flags &
		       1ul << bpf_core_enum_value(enum sock_flags, SOCK_RCVTSTAMP);
}

static __always_inline void describe(struct adoption *adoption, const struct sock *sk,
				     const struct tcp_sock *tcp)
{
	adoption->cookie = sk->__sk_common.skc_cookie.counter; /* the asker made it have one */
	adoption->cgroup = sk->sk_cgrp_data.cgroup->kn->id;
	adoption->netns = sk->__sk_common.skc_net.net->ns.inum;
	adoption->sequence = tcp->write_seq;
	adoption->expected = tcp->rcv_nxt;
	adoption->acked = tcp->bytes_acked;
	adoption->received = tcp->bytes_received;
	adoption->answer = is_quiet(sk, tcp) ? ADOPTION_QUIET : ADOPTION_BUSY;
}

/* Asks for the state changes of the socket, without which its slot would never come back. */
static __always_inline bool ask_for_callbacks(struct bpf_sock *sk)
{
	int flags = 0;

	if (bpf_getsockopt(sk, IPPROTO_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags)))
		return false;
	flags |= BPF_SOCK_OPS_STATE_CB_FLAG;
	return !bpf_setsockopt(sk, IPPROTO_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
}

/* Gives the socket its place in a slot and what it has received so far. */
static __always_inline bool tie(const struct adoption *adoption, struct pair *pair, __u32 slot,
				__u32 control, enum side side, struct bpf_sock *sk,
				const void *socket)
{
	struct endpoint endpoint = {
		.slot = slot,
		.generation = generation_of(control),
		.side = side,
	};

	fill_side(pair, side, socket, adoption->cookie);
	pair->reader[side].received_bytes = adoption->received;
	keep_order();
	bpf_sk_storage_delete(&endpoints, sk); /* of an earlier pair, if there is any */
	return bpf_sk_storage_get(&endpoints, sk, &endpoint, BPF_SK_STORAGE_GET_F_CREATE);
}

/* As claim() in identify. */
static __always_inline enum adoption_answer be_client(struct adoption *adoption,
						      struct bpf_sock *sk, const void *socket)
{
	__u32 slot, control;
	struct pair *pair = take_slot(adoption->key, &slot, &control);

	if (!pair)
		return ADOPTION_TABLE_FULL;
	pair->adopted = 1;
	if (!tie(adoption, pair, slot, control, SIDE_CLIENT, sk, socket)) {
		return_slot(pair, slot);
		return ADOPTION_STORAGE;
	}
	keep_order();
	pair->control = with_state(control, STATE_HALF);
	adoption->slot = slot;
	adoption->control = pair->control;
	adoption->side = SIDE_CLIENT;
	return ADOPTION_DONE;
}

/* As join() in identify, but the pair stays JOINING: the controller moves it on when it
 * knows that no receive from before was counted, too.
 */
static __always_inline enum adoption_answer be_server(struct adoption *adoption,
						      struct bpf_sock *sk, const void *socket)
{
	__u32 slot = adoption->slot, half = adoption->control;
	struct pair *pair = bpf_map_lookup_elem(&pairs, &slot);

	if (!pair || state_of(half) != STATE_HALF || pair->key != adoption->key ||
	    !change_state(pair, half, STATE_JOINING))
		return ADOPTION_BUSY; /* its client has closed */
	if (!tie(adoption, pair, slot, half, SIDE_SERVER, sk, socket)) {
		if (__sync_fetch_and_or(&pair->closed, 1 << SIDE_SERVER))
			return_slot(pair, slot);
		else
			change_state(pair, with_state(half, STATE_JOINING), STATE_HALF);
		return ADOPTION_STORAGE;
	}
	adoption->control = with_state(half, STATE_JOINING);
	adoption->side = SIDE_SERVER;
	return ADOPTION_DONE;
}

static __always_inline void answer(struct adoption *adoption, struct bpf_sock *sk,
				   const void *socket)
{
	__u32 sequence = adoption->sequence, expected = adoption->expected, control = 0;
	const struct tcp_sock *tcp = VIEW(tcp_sock, socket);
	struct endpoint *endpoint;
	struct pair *pair = NULL;

	/* With SO_RCVLOWAT a receive may wait in its middle, see controller/adopt/settle.ts. */
	if (sk->protocol != IPPROTO_TCP || sk->state != BPF_TCP_ESTABLISHED ||
	    VIEW(sock, socket)->sk_rcvlowat > 1 || BPF_CORE_READ_BITFIELD(tcp, repair) ||
	    has_control_data(VIEW(sock, socket), tcp)) {
		adoption->answer = ADOPTION_UNSUITABLE;
		return;
	}
	describe(adoption, VIEW(sock, socket), tcp);
	endpoint = bpf_sk_storage_get(&endpoints, sk, NULL, 0);
	if (endpoint)
		pair = pair_of(endpoint, &control);
	if (pair) {
		adoption->slot = endpoint->slot;
		adoption->control = control;
		adoption->side = endpoint->side & 1;
		adoption->counted = pair->reader[endpoint->side & 1].received_bytes;
		if (pair->adopted)
			adoption->key = pair->key;
	}
	if (adoption->order == ADOPT_LOOK || adoption->answer != ADOPTION_QUIET ||
	    adoption->sequence != sequence || adoption->expected != expected)
		return;
	if (adoption->order == ADOPT_COUNT) {
		if (!pair || !pair->adopted)
			return;
		if (state_of(control) != STATE_HALF && state_of(control) != STATE_JOINING)
			return;
		pair->reader[endpoint->side & 1].received_bytes = adoption->received;
		adoption->answer = ADOPTION_DONE;
	} else if (pair) {
		return;
	} else if (!ask_for_callbacks(sk)) {
		adoption->answer = ADOPTION_CALLBACKS;
	} else if (adoption->order == ADOPT_CLIENT) {
		adoption->answer = be_client(adoption, sk, socket);
	} else {
		adoption->answer = be_server(adoption, sk, socket);
	}
}

/*
 * What other programs have made of the option stands. A value that is longer than what programs get
 * to see (a page) is an error unless one of them says that it is the caller's own.
 */
static __always_inline int leave_alone(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > (__s64)(ctx->optval_end - ctx->optval))
		ctx->optlen = 0;
	return 1;
}

SEC("cgroup/setsockopt")
int adopt(struct bpf_sockopt *ctx)
{
	struct adoption_request *request = ctx->optval;
	struct adoption_settings *settings;
	struct adoption *adoption;
	struct bpf_sock *sk;
	__u32 index = 0;

	if (ctx->level != IPPROTO_TCP || ctx->optname != ADOPTION_OPTION ||
	    (void *)(request + 1) > ctx->optval_end)
		return leave_alone(ctx);
	settings = bpf_map_lookup_elem(&adoption_settings, &index);
	if (!settings || request->nonce != settings->nonce)
		return leave_alone(ctx);
	index = request->index;
	adoption = bpf_map_lookup_elem(&adoptions, &index);
	sk = ctx->sk;
	if (adoption && sk) {
		answer(adoption, sk,
		       ((const struct bpf_sockopt_kern *)bpf_cast_to_kern_ctx(ctx))->sk);
	}
	ctx->optlen = -1; /* the kernel has nothing to do */
	return 1;
}

/* Keeps the enumerations and the request in BTF, where the controller finds their names. */
const struct adoption_vocabulary {
	enum adoption_order order;
	enum adoption_answer answer;
	struct adoption_request request;
} adoption_vocabulary = {};

char _license[] SEC("license") = "Dual MIT/GPL";
