/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * observe: how each end reads. Runs after every receive on a socket
 * (call_trace_sock_recv_length in net/socket.c, or before 6.3 at the end of what
 * sock_recvmsg_nosec calls), outside its lock, in the reader's context; for sockets
 * without storage it is one load and a branch.
 *
 * Upholds invariant 2 (evidence), supplies the counts for 3 and 4, and proposes
 * candidates.
 */
#include "pair.h"

static __always_inline __u32 evidence_in(int flags, bool another_thread)
{
	__u32 evidence = flags & MSG_DONTWAIT ? EVIDENCE_NONBLOCKING : EVIDENCE_BLOCKING;

	/* O_NONBLOCK shows up as MSG_DONTWAIT (sock_read_iter, __sys_recvfrom). */
	if (!(flags & MSG_DONTWAIT) && another_thread)
		evidence |= EVIDENCE_BLOCKING_MANY;
	if (flags & MSG_WAITALL)
		evidence |= EVIDENCE_WAITALL;
	if (flags & MSG_OOB)
		evidence |= EVIDENCE_OUT_OF_BAND;
	if (flags & MSG_TRUNC)
		evidence |= EVIDENCE_TRUNCATE;
	if (flags & MSG_ERRQUEUE)
		evidence |= EVIDENCE_ERROR_QUEUE;
	if (flags & MSG_PEEK)
		evidence |= EVIDENCE_PEEK;
	return evidence;
}

/* Takes the current process's name, not its thread's; true if it is another one. */
static __always_inline bool update_comm(struct reader *reader)
{
	const struct task_struct *task = bpf_get_current_task_btf();
	__u64 *known = (__u64 *)reader->comm, comm[COMM_LENGTH / 8] = {};

	bpf_probe_read_kernel(comm, sizeof(comm), task->group_leader->comm);
	if (known[0] == comm[0] && known[1] == comm[1])
		return false;
	known[0] = comm[0];
	known[1] = comm[1];
	return true;
}

/* The descriptor of the system call under way, if it takes one first: all that
 * receive do but io_uring_enter(2), whose receives do not rely on edges.
 */
static __always_inline __u32 current_descriptor(void)
{
	const struct pt_regs *registers =
		(const struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());

#ifdef __TARGET_ARCH_arm64
	return (__u32)BPF_CORE_READ(registers, orig_x0);
#else
	return (__u32)BPF_CORE_READ(registers, di);
#endif
}

/* An execve(2) changes the name without changing the process: looked at again after
 * so many receives.
 */
#define COMM_INTERVAL 256

/* Records who reads and how; true if that is news for the controller. */
static __always_inline bool note_reader(struct pair *pair, int side, int flags)
{
	struct reader *reader = &pair->reader[side];
	__u64 thread = bpf_get_current_pid_tgid(), before = READ_ONCE(reader->thread);
	__u32 evidence = evidence_in(flags, before && before != thread);
	bool news = false;

	if ((READ_ONCE(pair->evidence[side]) & evidence) != evidence) {
		__sync_fetch_and_or(&pair->evidence[side], evidence);
		news = true;
	}
	if (before != thread)
		reader->thread = thread;
	if (before >> 32 == thread >> 32 && reader->receives % COMM_INTERVAL)
		return news;
	reader->descriptor = current_descriptor() + 1;
	/* Processes that share a socket take turns: only another name is news. */
	return update_comm(reader) || news;
}

/* Has this receive taken the last redirected byte that had TCP bytes behind it? */
static __always_inline bool has_crossed(struct reader *reader)
{
	__u64 crossing = READ_ONCE(reader->crossing);

	if (!crossing || READ_ONCE(reader->received_bytes) < crossing)
		return false;
	reader->crossing = 0;
	reader->descriptor = current_descriptor() + 1;
	reader->nudge = 1;
	return true;
}

static __always_inline void start_window(struct pair *pair)
{
	pair->turns = 0;
	pair->window_receives = 0;
	pair->window_bytes = 0;
}

/*
 * A window that is full of bytes: the controller finds out by measurement which way
 * is the faster. The window stays as it is, which tells it what the candidate is.
 */
static __always_inline bool may_be_stream(struct pair *pair)
{
	__u64 now = bpf_ktime_get_ns();

	if (now >= pair->stream_retry_ns && now >= pair->retry_ns)
		return true;
	start_window(pair);
	return false;
}

/*
 * Request and response make the receiving side alternate, a stream does not. A
 * window that fills up without such a pattern starts again, so that a
 * connection that changes its ways is found later. Both readers write here
 * without a lock: a lost update delays a candidate by a message.
 */
static __always_inline bool shows_pattern(struct pair *pair, enum side side, int length)
{
	struct settings *settings = get_settings();
	__u64 receives, bytes;
	__u32 turns, wanted;

	if (!settings || settings->paused)
		return false;
	receives = pair->window_receives + 1;
	bytes = pair->window_bytes + length;
	turns = pair->turns;
	pair->window_receives = receives;
	pair->window_bytes = bytes;
	if (settings->stream_bytes && bytes >= settings->stream_bytes)
		return may_be_stream(pair);
	if (pair->last_reader == (__u32)side + 1)
		return false;
	pair->last_reader = side + 1;
	pair->turns = ++turns;
	wanted = pair->promote_after ? pair->promote_after : settings->promote_after;
	if (turns < 2 * wanted)
		return false;
	start_window(pair);
	return receives <= 4ull * turns && bytes <= (__u64)settings->message_limit * turns;
}

/*
 * Since 7.0 a task may be preempted in the middle of a program at a tracepoint. As long
 * as it is, the kernel skips that program on its CPU, for it counts who is inside by CPU
 * (__bpf_trace_run), and receives of other tasks would not be counted: their sums never
 * add up again. So three programs are called one after the other, and the first that is
 * not skipped counts the receive. Each leaves its number with the task; one that finds
 * a lower number knows that this receive has been counted. Never twice: what comes
 * before has run, or left a number that is not lower. A receive is lost if all three are
 * skipped, or if one and those after it were, and at the task's next receive all up
 * to that one are.
 */
enum program {
	ONLY, /* nothing is skipped on this kernel */
	FIRST,
	SECOND,
	THIRD,
};

static __always_inline bool was_seen(enum program program)
{
	__u32 *last, before;

	last = bpf_task_storage_get(&seen, bpf_get_current_task_btf(), NULL,
				    BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!last)
		return true; /* another program may have had more luck */
	before = *last;
	*last = program;
	return before && before < program;
}

static __always_inline int note_receive(struct sock *sk, int result, int flags,
					enum program program)
{
	struct endpoint *endpoint;
	struct reader *reader;
	struct pair *pair;
	__u32 control;
	__u64 now;
	bool news;
	int side;

	if (!sk->sk_bpf_storage)
		return 0;
	endpoint = bpf_sk_storage_get(&endpoints, sk, NULL, 0);
	if (!endpoint)
		return 0;
	if (program != ONLY && was_seen(program))
		return 0;
	pair = pair_of(endpoint, &control);
	if (!pair)
		return 0;
	side = endpoint->side & 1;
	reader = &pair->reader[side];
	news = note_reader(pair, side, flags);
	/* Neither takes bytes off the stream. */
	if (result > 0 && !(flags & (MSG_PEEK | MSG_ERRQUEUE))) {
		keep_order(); /* after copied_seq: promote believes that */
		__sync_fetch_and_add(&reader->received_bytes, result);
		__sync_fetch_and_add(&reader->receives, 1);
	}
	if (has_crossed(reader))
		emit(EVENT_NUDGE, endpoint->slot, control, side);
	if (state_of(control) == STATE_INSERTED) {
		if (news)
			emit(EVENT_READER, endpoint->slot, control, side);
		return 0;
	}
	if (state_of(control) != STATE_OBSERVED || result <= 0 ||
	    !shows_pattern(pair, side, result))
		return 0;
	now = bpf_ktime_get_ns();
	if (now < pair->retry_ns)
		return 0;
	pair->candidate_ns = now;
	if (!change_state(pair, control, STATE_CANDIDATE))
		return 0;
	COUNT(candidates);
	emit(EVENT_CANDIDATE, endpoint->slot, with_state(control, STATE_CANDIDATE), side);
	return 0;
}

/* The controller loads what the kernel needs (receiveSource in controller/probe/kernel.ts). */
SEC("?tp_btf/sock_recv_length")
int observe(__u64 *ctx) /* struct sock *sk, int ret, int flags */
{
	return note_receive((struct sock *)ctx[0], (int)ctx[1], (int)ctx[2], ONLY);
}

SEC("?tp_btf/sock_recv_length")
int observe_first(__u64 *ctx)
{
	return note_receive((struct sock *)ctx[0], (int)ctx[1], (int)ctx[2], FIRST);
}

SEC("?tp_btf/sock_recv_length")
int observe_second(__u64 *ctx)
{
	return note_receive((struct sock *)ctx[0], (int)ctx[1], (int)ctx[2], SECOND);
}

SEC("?tp_btf/sock_recv_length")
int observe_third(__u64 *ctx)
{
	return note_receive((struct sock *)ctx[0], (int)ctx[1], (int)ctx[2], THIRD);
}

SEC("?fexit/inet_recvmsg")
int observe_inet(__u64 *ctx) /* struct socket *, struct msghdr *, size_t, int flags, int ret */
{
	return note_receive(((struct socket *)ctx[0])->sk, (int)ctx[4], (int)ctx[3], ONLY);
}

SEC("?fexit/inet6_recvmsg")
int observe_inet6(__u64 *ctx)
{
	return note_receive(((struct socket *)ctx[0])->sk, (int)ctx[4], (int)ctx[3], ONLY);
}
