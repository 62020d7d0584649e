/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * identify: finds the two ends of one connection without looking at addresses.
 *
 * The two initial sequence numbers travel unchanged through NAT, bridges and
 * namespaces, and no proxy keeps them: together they name a connection on this
 * kernel with 64 random bits (RFC 6528).
 *
 *   SYN at a listener       tcp_openreq_init_rwin: both numbers are known
 *   SYN-ACK at the client   tcp_finish_connect: a hit proves the listener is here
 *   ACK at the listener     tcp_rcv_state_process: finds the slot, paired
 */
#include "claim.h"

/* NULL only where the verifier can't know that there is one. */
static __always_inline const struct sock *kernel_socket(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk;

	if (HAS_CASTS)
		return CONTEXT_MEMBER(bpf_sock_ops_kern, ctx, sk);
	sk = ctx->sk;
	return sk ? (const struct sock *)bpf_skc_to_tcp_sock(sk) : NULL;
}

static __always_inline struct handshake *handshake_of(__u64 key)
{
	/* Both halves are random already (secure_tcp_seq): folding is enough. */
	__u32 index = ((__u32)key ^ (__u32)(key >> 32)) & ((1 << HANDSHAKE_BITS) - 1);

	return bpf_map_lookup_elem(&handshakes, &index);
}

static __always_inline __u32 claim_generation(__u64 claim)
{
	return (claim & ~CLAIM_JOINED) >> 32;
}

/* A SYN reached a listener and its answer's sequence number is chosen. */
static __always_inline void remember_handshake(struct bpf_sock_ops *ctx)
{
	const struct sock *request = CONTEXT_MEMBER(bpf_sock_ops_kern, ctx, sk);
	struct handshake *handshake;
	__u64 key;

	key = make_key(MEMBER(tcp_request_sock, request, snt_isn),
		       MEMBER(tcp_request_sock, request, rcv_isn));
	handshake = handshake_of(key);
	if (!handshake)
		return;
	handshake->claim = 0;
	keep_order();
	handshake->key = key;
}

/* Sockets whose sequence numbers or byte stream are not TCP's own. */
static __always_inline bool is_unsuitable(const struct sock *sk)
{
	const struct tcp_sock *tcp = VIEW(tcp_sock, sk);

	if (BPF_CORE_READ_BITFIELD(tcp, repair)) {
		COUNT(unpaired[UNPAIRED_REPAIR]);
		return true;
	}
	if (bpf_core_field_exists(tcp->is_mptcp) && tcp->is_mptcp) {
		COUNT(unpaired[UNPAIRED_MPTCP]);
		return true;
	}
	return false;
}

/* Ties the socket to its slot and asks for its state changes. */
static __always_inline bool tie(struct bpf_sock_ops *ctx, __u32 slot, __u32 control, enum side side)
{
	struct endpoint *endpoint;
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return false;
	endpoint = bpf_sk_storage_get(&endpoints, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!endpoint)
		return false;
	endpoint->slot = slot;
	endpoint->generation = generation_of(control);
	endpoint->side = side;
	endpoint->closed = 0;
	/* Other sockops programs may have asked for callbacks of their own. */
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return true;
}

static __always_inline void add_total(__u64 cgroup, const struct direction *direction)
{
	struct total *total, fresh = {};

	if (!direction->redirected_messages)
		return;
	total = bpf_map_lookup_elem(&totals, &cgroup);
	if (!total) {
		bpf_map_update_elem(&totals, &cgroup, &fresh, BPF_NOEXIST);
		total = bpf_map_lookup_elem(&totals, &cgroup);
	}
	if (!total) {
		cgroup = 0; /* full: counted under no cgroup rather than lost */
		total = bpf_map_lookup_elem(&totals, &cgroup);
	}
	if (!total) {
		COUNT(totals_lost);
		return;
	}
	__sync_fetch_and_add(&total->bytes, direction->redirected_bytes);
	__sync_fetch_and_add(&total->messages, direction->redirected_messages);
}

/* Returns a slot. Exactly one caller gets here for each claim; see release(). */
static __always_inline void free_pair(struct pair *pair, __u32 slot)
{
	COUNT(closed_pairs);
	add_total(pair->cgroup[SIDE_CLIENT], &pair->direction[SIDE_CLIENT]);
	add_total(pair->cgroup[SIDE_SERVER], &pair->direction[SIDE_SERVER]);
	return_slot(pair, slot);
}

/*
 * A second client comes with the two numbers of the first. A handshake has one
 * client, so one of them forged its answer: neither is believed. The first one's
 * slot stays HALF until it closes, or, if the server has joined already, its pair
 * is never promoted.
 */
static __always_inline void disown(struct handshake *handshake, __u64 claim, __u64 key)
{
	__u32 control, slot = (__u32)claim - 1;
	struct pair *pair = bpf_map_lookup_elem(&pairs, &slot);

	/* Joined before any client came, closed since, or the entry is another's by now. */
	control = pair ? READ_ONCE(pair->control) : 0;
	if (!pair || generation_of(control) != claim_generation(claim) || pair->key != key) {
		COUNT(unpaired[UNPAIRED_REMOTE_SERVER]);
		return;
	}
	COUNT(unpaired[UNPAIRED_REPAIR]);
	__sync_fetch_and_or(&pair->evidence[SIDE_CLIENT], EVIDENCE_FORGED);
	__sync_fetch_and_or(&pair->evidence[SIDE_SERVER], EVIDENCE_FORGED);
	if (!(claim & CLAIM_JOINED))
		handshake->key = 0;
	else if (is_in_sockmap(control))
		emit(EVENT_READER, slot, control, SIDE_CLIENT);
}

/* The client is established: is its other end on this kernel? */
static __always_inline void claim(struct bpf_sock_ops *ctx)
{
	__u64 key = make_key(ctx->rcv_nxt - 1, ctx->snd_nxt - 1);
	struct settings *settings = get_settings();
	struct handshake *handshake;
	const struct sock *sk;
	struct pair *pair;
	__u32 slot, control;
	__u64 other;

	handshake = handshake_of(key);
	if (!handshake || READ_ONCE(handshake->key) != key) {
		COUNT(unpaired[UNPAIRED_REMOTE_SERVER]);
		return;
	}
	sk = kernel_socket(ctx);
	if (!sk || is_unsuitable(sk))
		return;
	other = READ_ONCE(handshake->claim);
	if (other) {
		disown(handshake, other, key);
		return;
	}
	if (!settings || settings->paused) {
		COUNT(unpaired[UNPAIRED_PAUSED]);
		return;
	}
	pair = take_slot(key, &slot, &control);
	if (!pair) {
		COUNT(unpaired[UNPAIRED_TABLE_FULL]);
		return;
	}
	fill_side(pair, SIDE_CLIENT, sk, bpf_get_socket_cookie(ctx));
	if (!tie(ctx, slot, control, SIDE_CLIENT)) {
		COUNT(unpaired[UNPAIRED_STORAGE]);
		return_slot(pair, slot);
		return;
	}
	keep_order();
	pair->control = with_state(control, STATE_HALF);
	other = __sync_val_compare_and_swap(&handshake->claim, 0,
					    (__u64)generation_of(control) << 32 | (slot + 1));
	if (other)
		disown(handshake, other, key);
}

/* The server is established: is there a slot that its client claimed? */
static __always_inline void join(struct bpf_sock_ops *ctx)
{
	__u64 key = make_key(ctx->snd_nxt - 1, ctx->rcv_nxt - 1);
	struct handshake *handshake;
	const struct sock *sk;
	struct pair *pair;
	__u32 slot, half;
	__u64 claim;

	handshake = handshake_of(key);
	if (!handshake || READ_ONCE(handshake->key) != key) {
		COUNT(unpaired[UNPAIRED_REMOTE_CLIENT]);
		return;
	}
	/* Used up: no second server can ever match. A second client is still known. */
	claim = __sync_fetch_and_or(&handshake->claim, CLAIM_JOINED);
	if (!claim || claim & CLAIM_JOINED) {
		COUNT(unpaired[UNPAIRED_REMOTE_CLIENT]);
		return;
	}
	sk = kernel_socket(ctx);
	if (!sk || is_unsuitable(sk))
		return; /* the slot stays HALF until its client closes */
	slot = (__u32)claim - 1;
	half = claim_generation(claim) << GENERATION_SHIFT | STATE_HALF;
	pair = bpf_map_lookup_elem(&pairs, &slot);
	if (!pair)
		return;
	if (READ_ONCE(pair->control) != half || pair->key != key ||
	    !change_state(pair, half, STATE_JOINING)) {
		COUNT(unpaired[UNPAIRED_RELEASED]);
		return;
	}
	/* JOINING is ours alone: a close of the client leaves the slot to us. */
	fill_side(pair, SIDE_SERVER, sk, bpf_get_socket_cookie(ctx));
	if (!tie(ctx, slot, half, SIDE_SERVER)) {
		COUNT(unpaired[UNPAIRED_STORAGE]);
		/* Without storage the server's close is never seen: count it now. */
		if (__sync_fetch_and_or(&pair->closed, 1 << SIDE_SERVER))
			free_pair(pair, slot);
		else
			change_state(pair, with_state(half, STATE_JOINING), STATE_HALF);
		return;
	}
	COUNT(pairs);
	change_state(pair, with_state(half, STATE_JOINING), STATE_OBSERVED);
}

/* net/core/sock_map.c */
struct bpf_stab {
	struct sock **sks;
} __attribute__((preserve_access_index));

/* Takes a socket out of the sockmap, if it is there, with what is queued for it. */
static __always_inline void leave_sockmap(struct bpf_sock_ops *ctx, const struct endpoint *endpoint)
{
	const void *holder = NULL;
	__u32 index = 2 * endpoint->slot + (endpoint->side & 1);

	/* The slot may be a later pair's by now; its index only ever holds one socket. */
	bpf_probe_read_kernel(&holder, sizeof(holder), VIEW(bpf_stab, &sockets)->sks + index);
	if (holder == kernel_socket(ctx))
		bpf_map_delete_elem(&sockets, &index);
}

/*
 * A socket that was an end of a pair, then disconnected (connect to AF_UNSPEC),
 * connects or listens again. tcp_disconnect empties TCP's queues only: what was
 * redirected to the socket and not read would be the first its next peer seems
 * to say, so it leaves the sockmap, which drops that queue.
 */
static __always_inline void start_afresh(struct bpf_sock_ops *ctx)
{
	struct endpoint *endpoint;
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return;
	endpoint = bpf_sk_storage_get(&endpoints, sk, NULL, 0);
	if (!endpoint)
		return;
	leave_sockmap(ctx, endpoint);
	bpf_sk_storage_delete(&endpoints, sk);
}

/*
 * Whether a socket that closed has nothing redirected left that TCP would still
 * hand out. A reset (sk_err is set) leaves what was received to be read, and
 * connect to AF_UNSPEC, the only other way from these states, throws it away.
 */
static __always_inline bool may_leave(struct bpf_sock_ops *ctx, const struct pair *pair, int side)
{
	const struct sock *sk = kernel_socket(ctx);
	const struct tcp_sock *tcp;
	__u32 unread, before = ctx->args[0];
	__u64 delivered;

	if (!sk)
		return false;
	tcp = VIEW(tcp_sock, sk);
	unread = tcp->rcv_nxt - tcp->copied_seq;
	delivered = tcp->bytes_received - unread;
	if (!sk->sk_err)
		return before == BPF_TCP_ESTABLISHED || before == BPF_TCP_CLOSE_WAIT;
	if (!unread && (before == BPF_TCP_CLOSE_WAIT || before == BPF_TCP_LAST_ACK ||
			before == BPF_TCP_CLOSING))
		delivered--; /* the FIN, see report_drained */
	return (__s64)(pair->direction[side ^ 1].redirected_bytes + delivered -
		       READ_ONCE(pair->reader[side].received_bytes)) <= 0;
}

/* A socket reached TCP_CLOSE. The last one of a pair returns the slot. */
static __always_inline void release(struct bpf_sock_ops *ctx)
{
	struct endpoint *endpoint;
	struct bpf_sock *sk = ctx->sk;
	__u32 control, before, bit;
	struct pair *pair;

	if (!sk)
		return;
	endpoint = bpf_sk_storage_get(&endpoints, sk, NULL, 0);
	/* It may reach TCP_CLOSE twice (tcp_done), and the slot be taken anew meanwhile. */
	if (!endpoint || endpoint->closed)
		return;
	endpoint->closed = 1;
	pair = pair_of(endpoint, &control);
	if (!pair)
		return;
	bit = 1 << (endpoint->side & 1);
	before = __sync_fetch_and_or(&pair->closed, bit);
	/* The rest of its life is TCP's own: tcp_bpf_sendmsg would report its error
	 * again and again.
	 */
	if (is_in_sockmap(control) && may_leave(ctx, pair, endpoint->side & 1))
		leave_sockmap(ctx, endpoint);
	if ((before | bit) == 3 ||
	    (state_of(control) == STATE_HALF && change_state(pair, control, STATE_CLOSED)))
		free_pair(pair, endpoint->slot);
}

SEC("sockops")
int identify(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_RWND_INIT:
		/* Also called for the client's own socket (tcp_connect_init). */
		if (!ctx->is_fullsock)
			remember_handshake(ctx);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		start_afresh(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		claim(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		join(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			release(ctx);
		break;
	}
	/* ctx->reply stays as it was: it may be another program's answer. */
	return 1;
}
