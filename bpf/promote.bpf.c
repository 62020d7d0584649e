/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * promote: visits every paired socket when the controller reads the iterator.
 * Inserts the sockets of APPROVED pairs, and for those in the sockmap reports how
 * much of the redirected data each reader has taken.
 *
 * Two programs do it, and the kernel has one of them run: over the storage of sockets, which
 * meets each wherever it is; or, where a kernel keeps iterators from maps, over the open files
 * of all processes, for those that are to be inserted, and over the pair table, for those that are
 * in.
 *
 * The sockets are not locked here. bpf_map_update_elem takes bh_lock_sock
 * (sock_map_update_elem), which does not wait for a process inside sendmsg or
 * recvmsg: the fence in redirect is there for those.
 */
#include "pair.h"

struct bpf_iter__bpf_sk_storage_map {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	__bpf_md_ptr(struct bpf_map *, map);
	__bpf_md_ptr(struct sock *, sk);
	__bpf_md_ptr(void *, value);
};

struct bpf_iter__task_file {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	__bpf_md_ptr(struct task_struct *, task);
	__u32 fd __attribute__((aligned(8)));
	__bpf_md_ptr(struct file *, file);
};

/* With less than this left of its limit a socket stays on TCP, which copes better:
 * tcp_bpf_sendmsg neither forces the first segment nor wakes edge-triggered writers.
 */
#define MEMORY_WANTED (2 * 1024 * 1024)

/* NULL only where the verifier can't know that it is one. */
static __always_inline const struct tcp_sock *tcp_of(struct sock *sk)
{
	return HAS_CASTS ? VIEW(tcp_sock, sk) : bpf_skc_to_tcp_sock(sk);
}

static __always_inline enum refusal_reason why_not(struct sock *sk, const struct pair *pair,
						   int side)
{
	const struct reader *reader = &pair->reader[side];
	const struct tcp_sock *tcp = tcp_of(sk);
	__u64 received, consumed;
	__s64 uncounted;

	if (!tcp)
		return REFUSAL_NOT_ESTABLISHED;
	if (sk->__sk_common.skc_state != BPF_TCP_ESTABLISHED)
		return REFUSAL_NOT_ESTABLISHED;
	if (VIEW(inet_connection_sock, tcp)->icsk_ulp_ops)
		return REFUSAL_ULP;
	if (sk->__sk_common.skc_flags & 1ul << bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY))
		return REFUSAL_ZEROCOPY;
	if (sk->sk_rcvlowat > 1)
		return REFUSAL_LOW_WATER_MARK;
	if (is_memory_short(memcg_of(sk), MEMORY_WANTED))
		return REFUSAL_MEMORY;
	if (READ_ONCE(pair->evidence[side]) & pair->forbidden)
		return REFUSAL_READER;
	/* Bytes that left the socket by another way than a counted receive:
	 * splice, TCP_ZEROCOPY_RECEIVE, an in-kernel reader. A receive under way
	 * can look the same; the controller tries again.
	 */
	consumed = READ_ONCE(tcp->bytes_received) -
		   (READ_ONCE(tcp->rcv_nxt) - READ_ONCE(tcp->copied_seq));
	keep_order();
	received = READ_ONCE(reader->received_bytes);
	uncounted = (__s64)(consumed + pair->direction[side ^ 1].redirected_bytes - received);
	/* Of an adopted pair a receive from before may have been counted twice. */
	if (uncounted > 0 || (pair->adopted && uncounted))
		return REFUSAL_ACCOUNTING;
	return REFUSAL_NONE;
}

static __always_inline enum refusal_reason reason_of_error(long error)
{
	switch (error) {
	case -EBUSY:
		return REFUSAL_BUSY;
	case -EEXIST:
		return REFUSAL_SLOT_BUSY;
	case -EINVAL:
		return REFUSAL_ULP;
	case -ENOMEM:
		return REFUSAL_MEMORY;
	default:
		return REFUSAL_NOT_ESTABLISHED;
	}
}

static __always_inline void insert(struct pair *pair, struct sock *sk, __u32 slot, int side)
{
	enum refusal_reason reason;
	__u32 index = 2 * slot + side;
	long error;

	if (pair->insert[side] != INSERT_PENDING)
		return;
	reason = why_not(sk, pair, side);
	if (reason == REFUSAL_NONE) {
		/* An index still held by an earlier pair's open socket may carry
		 * unread data of that socket: never replace it.
		 */
		error = bpf_map_update_elem(&sockets, &index, sk, BPF_NOEXIST);
		if (error)
			reason = reason_of_error(error);
	}
	pair->insert[side] = reason == REFUSAL_NONE ? INSERT_DONE : -(__s32)reason;
}

static __always_inline __u32 notice_of(const struct sock *sk)
{
	__u32 notice = 0;

	if (has_empty_queue(sk))
		notice |= NOTICE_EMPTY;
	if (is_memory_short(memcg_of(sk), MEMORY_WANTED))
		notice |= NOTICE_MEMORY;
	return notice;
}

/*
 * How many redirected bytes the reader of this socket has consumed, never too
 * many: the receives are read before what TCP delivered, and a sample during
 * which TCP moved is not reported. Nor is one of an address that another socket
 * has by now (invariant 6), or of a slot that is another pair's.
 */
static __always_inline void report_drained(struct pair *pair, __u32 control, int side,
					   __u32 iteration)
{
	const struct sock *sk = (const struct sock *)pair->socket[side];
	__u64 received, delivered, drained;
	__u32 next, copied, notice;
	__u8 state;

	received = READ_ONCE(pair->reader[side].received_bytes);
	keep_order();
	next = MEMBER(tcp_sock, sk, rcv_nxt);
	copied = MEMBER(tcp_sock, sk, copied_seq);
	delivered = MEMBER(tcp_sock, sk, bytes_received);
	state = MEMBER(sock, sk, __sk_common.skc_state);
	keep_order();
	if (MEMBER(tcp_sock, sk, rcv_nxt) != next || MEMBER(tcp_sock, sk, copied_seq) != copied)
		return;
	/* A FIN takes a sequence number and is counted as a byte received
	 * (tcp_rcv_nxt_update), consumed by the receive that returned 0.
	 */
	if ((state == BPF_TCP_CLOSE_WAIT || state == BPF_TCP_LAST_ACK ||
	     state == BPF_TCP_CLOSING) &&
	    next == copied)
		delivered--;
	drained = received - (delivered - (next - copied));
	notice = notice_of(sk);
	keep_order();
	if ((__u64)MEMBER(sock, sk, __sk_common.skc_cookie.counter) != pair->cookie[side] ||
	    generation_of(READ_ONCE(pair->control)) != generation_of(control))
		return;
	pair->drained[side] = drained;
	pair->notice[side] = notice;
	keep_order();
	pair->drain_pass[side] = iteration;
}

/* ctx->sk is referenced by the iterator as long as the program runs (bpf_sk_storage_map_seq_next).
 */
SEC("?iter/bpf_sk_storage_map")
int promote(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct endpoint *endpoint = ctx->value;
	struct settings *settings = get_settings();
	struct sock *sk = ctx->sk;
	struct pair *pair;
	__u32 control;

	if (!sk || !endpoint || !settings)
		return 0;
	pair = pair_of(endpoint, &control);
	if (!pair)
		return 0;
	if (state_of(control) == STATE_APPROVED)
		insert(pair, sk, endpoint->slot, endpoint->side & 1);
	else if (is_in_sockmap(control))
		report_drained(pair, control, endpoint->side & 1, settings->pass);
	return 0;
}

static long report_pair(const struct bpf_map *map, const __u32 *slot, struct pair *pair,
			const __u32 *iteration)
{
	__u32 control = READ_ONCE(pair->control);

	(void)map;
	(void)slot;
	if (!is_in_sockmap(control))
		return 0;
	report_drained(pair, control, SIDE_CLIENT, *iteration);
	report_drained(pair, control, SIDE_SERVER, *iteration);
	return 0;
}

/*
 * A socket of an open file is the file's as long as the program runs. Those without one, which
 * nobody reads any more, need no insertion, and a report needs no file. The last call comes without
 * a file (task_file_seq_stop).
 */
SEC("?iter/task_file")
int promote_by_file(struct bpf_iter__task_file *ctx)
{
	struct settings *settings = get_settings();
	struct endpoint *endpoint;
	struct socket *socket;
	struct pair *pair;
	struct sock *sk;
	__u32 control, iteration;

	if (!settings)
		return 0;
	if (!ctx->file) {
		iteration = settings->pass;
		bpf_for_each_map_elem(&pairs, report_pair, &iteration, 0);
		return 0;
	}
	socket = bpf_sock_from_file(ctx->file);
	sk = socket ? socket->sk : NULL;
	if (!sk || !sk->sk_bpf_storage)
		return 0;
	endpoint = bpf_sk_storage_get(&endpoints, sk, NULL, 0);
	pair = endpoint ? pair_of(endpoint, &control) : NULL;
	if (pair && state_of(control) == STATE_APPROVED)
		insert(pair, sk, endpoint->slot, endpoint->side & 1);
	return 0;
}
