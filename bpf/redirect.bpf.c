/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * redirect: for each message of a socket in the sockmap, TCP or the peer's queue.
 *
 * Runs in tcp_bpf_send_verdict under the sender's socket lock, so everything of
 * the sender's own socket stands still. The peer's fields are read without its
 * lock; each use below says why that is safe. Every doubt ends in SK_PASS
 * (invariant 7): tcp_bpf_recvmsg empties the redirected queue before it looks at
 * the TCP queue, so going from redirect to TCP never reorders.
 */
#include "pair.h"

/* What redirect needs of the peer, read at one go. */
struct peer_view {
	int low_water_mark;
	__u64 memcg;
	__u8 state;
	__u8 shutdown;
	/* How far it has read what TCP delivered; only where that is asked for. */
	__u32 copied_seq;
	__u64 bytes_received;
};

/*
 * The coarse clock moves once a jiffy, and jiffies64 is a load where the clock is a call.
 * For a moment between the two (do_timer, update_wall_time) the clock is one jiffy behind.
 */
static __always_inline __u32 ticks(struct direction *direction)
{
	__u32 jiffies = bpf_jiffies64();

	if (direction->jiffies != jiffies) {
		direction->jiffies = jiffies;
		direction->now = bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	}
	return direction->now;
}

static __always_inline int pass(struct direction *direction, enum pass_reason reason)
{
	COUNT(passed[reason]);
	/* The one comes of the other, and neither tells a stream. */
	if (reason != PASS_KEEPALIVE && reason != PASS_UNACKNOWLEDGED)
		direction->passed_messages++;
	direction->last_pass = reason;
	direction->last_tcp = ticks(direction);
	if (direction->path != PATH_TCP) {
		direction->path = PATH_TCP;
		direction->switches++;
	}
	return SK_PASS;
}

/*
 * Invariant 6. Sockets are SLAB_TYPESAFE_BY_RCU: the address may already hold
 * another TCP socket. A cookie is given out once (__sock_gen_cookie), so if it is
 * still the peer's after the fields were read, the fields were the peer's.
 */
static __always_inline bool read_peer(struct peer_view *view, __u64 address, __u64 cookie,
				      bool position)
{
	if (position) {
		view->copied_seq = MEMBER(tcp_sock, address, copied_seq);
		view->bytes_received = MEMBER(tcp_sock, address, bytes_received);
	}
	view->low_water_mark = MEMBER(sock, address, sk_rcvlowat);
	view->memcg = memcg_of((const struct sock *)address);
	view->state = MEMBER(sock, address, __sk_common.skc_state);
	view->shutdown = MEMBER(sock, address, sk_shutdown);
	keep_order();
	return (__u64)MEMBER(sock, address, __sk_common.skc_cookie.counter) == cookie;
}

/* A controller that has not been seen for so long is gone. */
#define ALIVE_TICKS 3000

/*
 * Counts how long one side has been talking without hearing the other. A direction
 * that was measured to be faster as a stream may go on, while there is a controller
 * to judge it, and to wake its reader wherever TCP bytes follow redirected ones.
 */
static __always_inline bool is_stream(struct direction *direction, const struct reader *own,
				      __u32 size, struct settings *settings)
{
	__u16 receives = READ_ONCE(own->receives);

	if (direction->own_receives != receives) {
		direction->own_receives = receives;
		direction->run_messages = 0;
		direction->run_bytes = 0;
	}
	if (direction->run_messages < 0xffff)
		direction->run_messages++;
	if (direction->run_bytes < 1u << 31)
		direction->run_bytes += size;
	if (direction->run_messages <= settings->run_messages &&
	    direction->run_bytes <= settings->run_bytes)
		return false;
	/* The controller's clock is finer than ours, and may be ahead. */
	return !direction->stream || (__s32)(ticks(direction) - settings->alive) > ALIVE_TICKS;
}

/*
 * Passes a message when the reader's queue may still hold redirected bytes, and
 * notes what must have been received before this message may be taken. While a
 * direction is DIRECT all that TCP was given has been received, so the sum stands.
 */
static __always_inline int pass_behind(struct direction *direction, struct reader *reader,
				       const struct peer_view *peer, __u32 write_seq,
				       enum pass_reason reason)
{
	if (direction->path == PATH_DIRECT) {
		direction->behind_sequence = write_seq;
		direction->behind_received = direction->redirected_bytes + peer->bytes_received;
		direction->overtaken_since = 0;
		direction->behind = 1;
		/* The edge for this message comes before the reader has emptied the
		 * redirected queue. If it takes the short receive there for the end,
		 * it needs another one: observe asks for it.
		 */
		if (READ_ONCE(reader->received_bytes) < direction->behind_received)
			reader->crossing = direction->behind_received;
	}
	return pass(direction, reason);
}

/* How long the reader's count may lag behind its copied_seq: it is taken after
 * the receive, and another thread may go on meanwhile.
 */
#define OVERTAKEN_TICKS 1000

/*
 * The guard: has the reader taken TCP bytes while redirected ones before them
 * still lie in its queue? tcp_bpf_recvmsg never does. splice(2), which reads sk_receive_queue only
 * (tcp_splice_read), does when it begins after promotion. The stream is then
 * broken, and an error is better than more of it.
 */
static __always_inline bool is_overtaken(struct direction *direction, const struct reader *reader,
					 const struct peer_view *peer, __u64 address)
{
	__u32 now;

	if (!direction->behind || direction->overtaken)
		return direction->overtaken;
	if (READ_ONCE(reader->received_bytes) >= direction->behind_received) {
		direction->behind = 0;
		return false;
	}
	/* The sums alone don't tell: bytes may have been counted that the kernel then
	 * had no memory for.
	 */
	if ((__s32)(peer->copied_seq - direction->behind_sequence) <= 0 ||
	    has_empty_queue((const struct sock *)address)) {
		direction->overtaken_since = 0;
		return false;
	}
	now = ticks(direction);
	if (!direction->overtaken_since)
		direction->overtaken_since = now ? now : 1;
	if (now - direction->overtaken_since < OVERTAKEN_TICKS)
		return false;
	direction->overtaken = 1;
	return true;
}

/* Invariant 5, the sender's half. */
static __always_inline bool sender_allows(const struct sock *sk, enum pass_reason *reason)
{
	const unsigned long *pressure = sk->sk_prot_creator->memory_pressure;

	if (sk->sk_shutdown & SEND_SHUTDOWN)
		*reason = PASS_SHUTDOWN;
	else if (sk->__sk_common.skc_state != BPF_TCP_ESTABLISHED)
		*reason = PASS_NOT_ESTABLISHED;
	else if (sk->__sk_common.skc_flags &
		 1ul << bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY))
		*reason = PASS_ZEROCOPY;
	else if (WORD_AT(pressure))
		*reason = PASS_MEMORY; /* the queue's allocation could fail with ENOMEM */
	else
		return true;
	return false;
}

/* What others may charge between our look and the kernel's own charge. */
#define MEMORY_SLACK (256 * 1024)

/* Invariant 5, the reader's half. */
static __always_inline bool reader_allows(const struct peer_view *peer, __u32 size,
					  enum pass_reason *reason)
{
	if (peer->shutdown & RCV_SHUTDOWN)
		*reason = PASS_SHUTDOWN;
	else if (peer->state != BPF_TCP_ESTABLISHED)
		*reason = PASS_NOT_ESTABLISHED;
	else if (peer->low_water_mark > 1)
		*reason = PASS_LOW_WATER_MARK;
	else if (is_memory_short(peer->memcg, size + MEMORY_SLACK))
		*reason = PASS_MEMORY;
	else
		return true;
	return false;
}

/* What each queued message costs the kernel besides its bytes: struct sk_msg. */
#define MESSAGE_OVERHEAD 1024

/*
 * Reasons to leave redirection that are not pressing. They are obeyed when nothing
 * redirected waits, or after a time (must_leave): a reader gets redirected and TCP bytes by
 * separate receives, and an edge-triggered one may take a short receive for the end of what is
 * there (epoll(7)) and never come back for the rest.
 */
static __always_inline enum pass_reason why_leave(struct pair *pair, __u32 control, int own,
						  bool stream, __u32 keepalive)
{
	if (state_of(control) != STATE_INSERTED)
		return PASS_STATE;
	if (stream)
		return PASS_STREAM;
	if (READ_ONCE(pair->hold[own]))
		return PASS_HELD;
	if (READ_ONCE(pair->evidence[own ^ 1]) & pair->forbidden)
		return PASS_READER;
	/* Conntrack, NAT and TCP's own timers see this direction alive, and a
	 * reader that has turned to splice(2) shows in the accounting.
	 */
	if (keepalive && pair->direction[own].path == PATH_DIRECT &&
	    ticks(&pair->direction[own]) - pair->direction[own].last_tcp >= keepalive)
		return PASS_KEEPALIVE;
	return PASS_REASONS;
}

/* Non-pressing reasons become pressing after so long: a direction in which something
 * always waits would never leave. Its reader is woken at the crossing.
 */
#define LEAVE_TICKS 1000
#define LEAVE_KEEPALIVES 30 /* times settings.keepalive, for that reason */

static __always_inline bool must_leave(struct direction *direction, enum pass_reason leave,
				       __u32 keepalive)
{
	__u32 now;

	if (leave == PASS_REASONS) {
		direction->leave_since = 0;
		return false;
	}
	now = ticks(direction);
	if (!direction->leave_since)
		direction->leave_since = now ? now : 1;
	return now - direction->leave_since >=
	       (leave == PASS_KEEPALIVE ? LEAVE_KEEPALIVES * keepalive : LEAVE_TICKS);
}

/* Invariant 3: does a message fit behind so many bytes that wait? */
static __always_inline bool fits(const struct direction *direction, __s64 waiting, __u32 size,
				 __u32 limit)
{
	return waiting + size + MESSAGE_OVERHEAD * (direction->unread_messages + 1ll) <= limit;
}

/* A part of the limit up to which messages need no look at what was read of them. What a
 * look counts as unread may be too much by that.
 */
#define UNSEEN_SHIFT 5

/*
 * Whether what was found for the last message holds for this one as well. While a
 * direction is DIRECT and our write_seq is what it was, nothing was given to TCP, so
 * its order stands, and what it has to do with the reader's sums; and what waits can
 * only have become less than it was with what the reader had consumed at our last
 * look. So neither the reader's counts nor TCP's of the peer are looked at, which
 * other processors write.
 */
static __always_inline bool is_settled(struct direction *direction, __u32 write_seq, __u32 size,
				       __u32 limit, enum pass_reason leave)
{
	__s64 waiting = (__s64)(direction->redirected_bytes - direction->consumed_bytes);

	if (direction->path != PATH_DIRECT || direction->direct_sequence != write_seq ||
	    leave != PASS_REASONS || !fits(direction, waiting, size, limit >> UNSEEN_SHIFT))
		return false;
	direction->leave_since = 0;
	if (size < direction->smallest)
		direction->smallest = size;
	return true;
}

/*
 * Invariants 1 to 3: may the next message overtake TCP, and does it fit?
 *
 * Order: copied_seq only grows, and only up to what was sent. Equality with our
 * write_seq, which stands still under our lock, means that the reader has taken
 * every byte we ever gave to TCP. From then on bytes_received stands still too.
 *
 * That holds where the numbers of both ends are the same. Who lengthens what is
 * said on its way (a conntrack helper, nf_ct_seqadj) makes the reader's run ahead:
 * equal would then mean that as many bytes are still to come. So all must have been
 * acknowledged as well, which they are in our own numbers. While a direction is
 * DIRECT nothing is given to TCP.
 */
static __always_inline bool queue_allows(struct direction *direction, const struct reader *reader,
					 const struct peer_view *peer, __u32 write_seq,
					 const struct sock *sk, __u32 size, __u32 limit,
					 enum pass_reason leave, __u32 keepalive,
					 enum pass_reason *reason)
{
	__s64 waiting;

	if (!direction->fenced) {
		direction->fenced = 1;
		direction->fence_sequence = write_seq;
	}
	if (direction->fence_sequence == write_seq) {
		*reason = PASS_FENCE;
		return false;
	}
	if (peer->copied_seq != write_seq) {
		*reason = leave != PASS_REASONS ? leave : PASS_ORDER;
		return false;
	}
	if (direction->path == PATH_TCP && VIEW(tcp_sock, sk)->snd_una != write_seq) {
		*reason = leave != PASS_REASONS ? leave : PASS_UNACKNOWLEDGED;
		return false;
	}
	/* Redirected and not yet received. The reader's count is taken after the
	 * fact (the tracepoint follows the copy), so this errs upwards only.
	 */
	waiting = (__s64)(direction->redirected_bytes + peer->bytes_received -
			  READ_ONCE(reader->received_bytes));
	if (must_leave(direction, leave, keepalive) || (leave != PASS_REASONS && waiting <= 0)) {
		*reason = leave;
		return false;
	}
	if (waiting < 0 || (direction->path == PATH_TCP && waiting != 0)) {
		*reason = PASS_ACCOUNTING;
		return false;
	}
	if (waiting == 0) {
		direction->unread_messages = 0;
		direction->smallest = size;
	} else {
		if (size < direction->smallest)
			direction->smallest = size;
		/* Where something always waits, the count alone would only grow. */
		if (direction->smallest &&
		    direction->unread_messages > (__u64)waiting / direction->smallest)
			direction->unread_messages = (__u64)waiting / direction->smallest;
	}
	direction->consumed_bytes = direction->redirected_bytes - waiting;
	if (!fits(direction, waiting, size, limit)) {
		*reason = PASS_BACKLOG;
		return false;
	}
	return true;
}

/* NULL only where the verifier can't know that there is one. */
static __always_inline const struct sock *sender_of(struct sk_msg_md *msg)
{
	struct bpf_sock *sk;

	if (HAS_CASTS)
		return CONTEXT_MEMBER(sk_msg, msg, sk);
	sk = msg->sk;
	return sk ? (const struct sock *)bpf_skc_to_tcp_sock(sk) : NULL;
}

static __always_inline int decide(struct sk_msg_md *msg)
{
	struct settings *settings = get_settings();
	enum pass_reason reason = PASS_STATE, leave;
	struct direction *direction;
	struct endpoint *endpoint;
	struct peer_view peer;
	struct pair *pair;
	__u32 control, index, write_seq, size = msg->size;
	const struct sock *sk;
	bool stream, settled;
	int own, other;

	endpoint = msg->sk ? bpf_sk_storage_get(&endpoints, msg->sk, NULL, 0) : NULL;
	pair = endpoint ? pair_of(endpoint, &control) : NULL;

	/*
	 * A redirect that ran short of memory half-way runs the program again for
	 * the rest (bpf_tcp_ingress, "goto more_data"), and msg->sk_redir, still
	 * set, would redirect it whatever is returned. All of the message was
	 * counted the first time. The rest must follow its beginning: where that
	 * is impossible an error is better than a hole.
	 */
	if (CONTEXT_MEMBER(sk_msg, msg, sk_redir)) {
		COUNT(redirect_retries);
		if (!endpoint || !pair)
			return SK_DROP;
		index = 2 * endpoint->slot + ((endpoint->side & 1) ^ 1);
		return bpf_msg_redirect_map(msg, &sockets, index, BPF_F_INGRESS);
	}
	if (!endpoint || !settings) {
		COUNT(passed[PASS_UNTRACKED]);
		return SK_PASS;
	}
	if (!pair) {
		COUNT(passed[PASS_STATE]);
		return SK_PASS;
	}
	own = endpoint->side & 1;
	other = own ^ 1;
	index = 2 * endpoint->slot + other;
	direction = &pair->direction[own];
	if (!is_in_sockmap(control))
		return pass(direction, PASS_STATE);

	stream = is_stream(direction, &pair->reader[own], size, settings);
	sk = sender_of(msg);
	if (!sk)
		return pass(direction, PASS_UNTRACKED);
	write_seq = VIEW(tcp_sock, sk)->write_seq;
	leave = why_leave(pair, control, own, stream, settings->keepalive);
	settled = is_settled(direction, write_seq, size, pair->backlog_limit, leave) &&
		  sender_allows(sk, &reason);
	if (!read_peer(&peer, pair->socket[other], pair->cookie[other], !settled))
		return pass(direction, PASS_PEER);
	if (settled && !reader_allows(&peer, size, &reason)) {
		settled = false;
		if (!read_peer(&peer, pair->socket[other], pair->cookie[other], true))
			return pass(direction, PASS_PEER);
	}
	if (!settled && is_overtaken(direction, &pair->reader[other], &peer, pair->socket[other])) {
		COUNT(dropped);
		return SK_DROP;
	}
	if (state_of(control) == STATE_LEAVING)
		return pass_behind(direction, &pair->reader[other], &peer, write_seq, PASS_STATE);
	if (!settled && (!sender_allows(sk, &reason) || !reader_allows(&peer, size, &reason) ||
			 !queue_allows(direction, &pair->reader[other], &peer, write_seq, sk, size,
				       pair->backlog_limit, leave, settings->keepalive, &reason)))
		return pass_behind(direction, &pair->reader[other], &peer, write_seq, reason);

	/* Counted first: between here and the enqueueing our lock is released, and
	 * whoever drains the pair must already know of these bytes (invariant 4).
	 */
	direction->redirected_bytes += size;
	direction->redirected_messages++;
	direction->unread_messages++;
	direction->direct_sequence = write_seq;
	if (bpf_msg_redirect_map(msg, &sockets, index, BPF_F_INGRESS) != SK_PASS) {
		direction->redirected_bytes -= size;
		direction->redirected_messages--;
		return pass(direction, PASS_LOST);
	}
	if (direction->path != PATH_DIRECT) {
		direction->path = PATH_DIRECT;
		direction->switches++;
		direction->behind = 0;
	}
	return SK_PASS;
}

SEC("sk_msg")
int redirect(struct sk_msg_md *msg)
{
	bool rest = CONTEXT_MEMBER(sk_msg, msg, sk_redir);
	int verdict = decide(msg);

	/* The program of a running `capture` returns SK_PASS, too. With none there the
	 * JIT has put a no-op here (bpf_arch_poke_desc_update).
	 */
	if (verdict == SK_PASS && !rest)
		bpf_tail_call(msg, &capture, 0);
	return verdict;
}
