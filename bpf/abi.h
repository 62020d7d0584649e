/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The contract between the BPF programs and the controller: constants and plain
 * structures, nothing else. The controller reads every offset, size and
 * enumerator below from the object's BTF; nothing here is copied by hand.
 *
 * Words used throughout:
 *   pair       one TCP connection whose two sockets live on this kernel
 *   side       SIDE_CLIENT (active opener) or SIDE_SERVER (passive opener)
 *   direction  named by its sending side
 *   reader     the receiving end of the opposite direction, same side index
 */
#ifndef SLIPSTREAM_ABI_H
#define SLIPSTREAM_ABI_H

#include <linux/types.h>

/* Raised whenever a layout or a meaning below changes; pins of an earlier version
 * are drained and replaced, never adopted. What a drain goes by keeps its name and
 * meaning in every version: DRAIN_CONTRACT in controller/datapath/drainable.ts.
 */
#define SLIPSTREAM_ABI_VERSION 6

#define CACHE_LINE 64
#define COMM_LENGTH 16 /* TASK_COMM_LEN */
#define VERSION_LENGTH 32
#define TICK_SHIFT 20 /* a tick is 2^20 ns of CLOCK_MONOTONIC, about a millisecond */

enum side {
	SIDE_CLIENT = 0,
	SIDE_SERVER = 1,
};

/*
 * pair.control is (generation << 8) | state. The generation grows by one at each
 * claim, so that a word read earlier can't be mistaken for a later pair's.
 * Who may change it: the sockops program FREE→HALF→JOINING→OBSERVED and
 * anything→FREE; observe OBSERVED→CANDIDATE; the controller everything between
 * CANDIDATE and LEAVING, and OBSERVED→APPROVED for what it took back to be measured.
 * Every change is a compare-and-swap.
 */
enum pair_state {
	STATE_FREE = 0,
	STATE_HALF = 1,      /* client established, server not yet */
	STATE_JOINING = 2,   /* the server's callback is filling its half */
	STATE_OBSERVED = 3,  /* paired; plain TCP, outside the sockmap */
	STATE_CANDIDATE = 4, /* shows a profitable, safe pattern */
	STATE_APPROVED = 5,  /* the iterator may insert both sockets */
	STATE_INSERTED = 6,  /* in the sockmap; directions may be DIRECT */
	STATE_DRAINING = 7,  /* redirects only behind what still waits */
	STATE_LEAVING = 8,   /* every message passes; queues being checked a last time */
	STATE_CLOSED = 9,    /* being released */
};
#define STATE_MASK 0xffu
#define GENERATION_SHIFT 8

enum direction_path {
	PATH_TCP = 0,
	PATH_DIRECT = 1,
};

/* What a reader was seen to do. Bits of reader.evidence. */
enum evidence {
	EVIDENCE_NONBLOCKING = 1 << 0,    /* a receive with MSG_DONTWAIT */
	EVIDENCE_BLOCKING = 1 << 1,       /* a receive that could have slept */
	EVIDENCE_BLOCKING_MANY = 1 << 2,  /* blocking, by more than one thread */
	EVIDENCE_WAITALL = 1 << 3,        /* MSG_WAITALL */
	EVIDENCE_OUT_OF_BAND = 1 << 4,    /* MSG_OOB */
	EVIDENCE_TRUNCATE = 1 << 5,       /* MSG_TRUNC: TCP discards, tcp_bpf copies */
	EVIDENCE_ERROR_QUEUE = 1 << 6,    /* MSG_ERRQUEUE: timestamps or zerocopy */
	EVIDENCE_PEEK = 1 << 7,           /* MSG_PEEK: sees one of two queues at a time */
	EVIDENCE_FORGED = 1 << 8, /* not of the reader: two clients claimed the handshake */
};

/* Why a message of a socket in the sockmap went over TCP. */
enum pass_reason {
	PASS_UNTRACKED = 0, /* the socket carries no storage of ours */
	PASS_STATE, /* pair not INSERTED, or of another generation */
	PASS_HELD, /* direction demoted by the controller */
	PASS_READER, /* the reader showed a behaviour that is not allowed */
	PASS_STREAM, /* one-way run: TCP is faster */
	PASS_SHUTDOWN, /* own SEND_SHUTDOWN or peer RCV_SHUTDOWN */
	PASS_NOT_ESTABLISHED, /* either end outside TCP_ESTABLISHED */
	PASS_ZEROCOPY, /* sender set SO_ZEROCOPY */
	PASS_LOW_WATER_MARK, /* reader set SO_RCVLOWAT above 1 */
	PASS_MEMORY, /* TCP memory pressure, or the reader's memory cgroup is short */
	PASS_FENCE, /* first message after insertion */
	PASS_ORDER, /* earlier TCP bytes not consumed yet */
	PASS_ACCOUNTING, /* bytes consumed by something else than recvmsg */
	PASS_BACKLOG, /* reader behind by the limit */
	PASS_PEER, /* the kept address no longer holds the peer */
	PASS_LOST, /* peer left the sockmap between check and redirect */
	PASS_KEEPALIVE, /* one now and then, for timers that only TCP feeds */
	PASS_UNACKNOWLEDGED, /* earlier TCP bytes consumed, their ACK still under way */
	PASS_REASONS,
};

/* Why a connection that one of our callbacks saw was not paired. */
enum unpaired_reason {
	UNPAIRED_REMOTE_SERVER = 0, /* client here, other end not seen here */
	UNPAIRED_REMOTE_CLIENT, /* server here, other end not seen here */
	UNPAIRED_TABLE_FULL,
	UNPAIRED_REPAIR, /* numbers were chosen: TCP_REPAIR, or forged */
	UNPAIRED_MPTCP,
	UNPAIRED_STORAGE, /* no memory for the socket storage */
	UNPAIRED_RELEASED, /* client closed while the server joined */
	UNPAIRED_PAUSED, /* the controller is taking the datapath down */
	UNPAIRED_REASONS,
};

/* Why a pair was not promoted. Kept in pair.reason and counted. */
enum refusal_reason {
	REFUSAL_NONE = 0,
	REFUSAL_POLICY, /* action tcp */
	REFUSAL_OBSERVE, /* action observe */
	REFUSAL_PROGRAM, /* a reader is on the list of excluded programs */
	REFUSAL_BLOCKING, /* blocking reader and the policy does not opt in */
	REFUSAL_READER, /* MSG_WAITALL, MSG_OOB, MSG_TRUNC or MSG_ERRQUEUE */
	REFUSAL_ACCOUNTING, /* bytes consumed by something else than recvmsg */
	REFUSAL_LOW_WATER_MARK, /* SO_RCVLOWAT above 1 */
	REFUSAL_ZEROCOPY, /* SO_ZEROCOPY set */
	REFUSAL_ULP, /* kTLS or another upper layer protocol */
	REFUSAL_BUSY, /* somebody else's sockmap or sk_user_data */
	REFUSAL_NOT_ESTABLISHED,
	REFUSAL_SLOT_BUSY, /* an earlier pair's socket still holds the index */
	REFUSAL_MEMORY,
	REFUSAL_GONE, /* the iterator did not meet the socket */
	REFUSAL_KERNEL, /* the kernel gate switched promotion off */
	REFUSAL_LEARNED, /* a reader was seen to leave redirected data unread */
	REFUSAL_HELPER, /* a port of a conntrack helper */
	REFUSAL_FORGED, /* two clients claimed the handshake */
	REFUSAL_REASONS,
};

/* Why an inserted pair, or one direction of it, was taken back to TCP. */
enum demotion_reason {
	DEMOTION_NONE = 0,
	DEMOTION_STREAM, /* turned into a one-way stream */
	DEMOTION_POLICY, /* the policy changed */
	DEMOTION_PROGRAM, /* the socket went to an excluded program */
	DEMOTION_READER, /* the reader changed its behaviour */
	DEMOTION_ACCOUNTING, /* the receive accounting no longer adds up */
	DEMOTION_REQUESTED, /* down, or a person */
	DEMOTION_MEMORY, /* the limit on an end's memory is near */
	DEMOTION_FORGED, /* a second client claimed its handshake */
	DEMOTION_MEASURED, /* its speed on TCP is measured, for `bench --port` or as a stream's */
	DEMOTION_SLOWER, /* a stream that TCP was measured to carry as fast or faster */
	DEMOTION_REASONS,
};

/* What the iterator sees of a socket in the sockmap. Bits of pair.notice[side]. */
enum notice {
	NOTICE_EMPTY = 1 << 0, /* nothing is in its redirected queue */
	NOTICE_MEMORY = 1 << 1, /* the limit on its memory is near */
};

/* Set by the iterator in pair.insert[side]. Negative: -refusal_reason. */
enum insert_result {
	INSERT_PENDING = 0,
	INSERT_DONE = 1,
};

enum event_type {
	EVENT_CANDIDATE = 1, /* a pair reached CANDIDATE */
	EVENT_READER = 2, /* new evidence or another process at an INSERTED pair */
	EVENT_NUDGE = 3, /* a reader has crossed from redirected bytes to TCP bytes */
};

struct event {
	__u32 type; /* enum event_type */
	__u32 slot;
	__u32 control; /* of the pair when the event was made */
	__u32 side;
};

/* One end as its socket sees it; IPv4 addresses are v4-mapped. */
struct address {
	__u8 local[16];
	__u8 remote[16];
	__u16 local_port; /* host order */
	__u16 remote_port; /* host order */
	__u16 family; /* AF_INET or AF_INET6, as the socket was made */
	__u16 reserved;
};

/*
 * Written by the sending side under its socket lock. The first line is all that a
 * message of a direction that redirects needs of it.
 */
struct direction {
	__u64 redirected_bytes; /* counted before the kernel queues them */
	__u64 redirected_messages;
	__u64 consumed_bytes; /* of the redirected, at least; as of the sender's last look */
	__u32 direct_sequence; /* write_seq at the last redirected message */
	__u32 run_bytes; /* since this side last received; stops growing at 2^31 */
	__u16 run_messages; /* likewise; stops growing at 2^16 - 1 */
	__u16 own_receives; /* low bits of reader.receives of this side at the last send */
	__u32 unread_messages; /* at most so many are redirected and unread */
	__u32 smallest; /* message since nothing waited, bytes; or a smaller one */
	__u32 last_tcp; /* when a message last went over TCP; ticks */
	__u32 leave_since; /* since when it should leave redirection; ticks; 0: it need not */
	__u32 jiffies; /* low bits at the last look at the clock, and what it said in ticks */
	__u32 now;
	__u8 path; /* enum direction_path */
	__u8 stream; /* by the controller: a one-way run is redirected, too */

	__u64 passed_messages
		__attribute__((aligned(CACHE_LINE))); /* in the sockmap, but for PASS_KEEPALIVE */
	/* The guard, see redirect: where TCP bytes began that have redirected ones
	 * before them, and what the reader must have received before it takes them.
	 */
	__u64 behind_received;
	__u32 behind_sequence;
	__u32 overtaken_since; /* when they were first seen taken too early; ticks; 0: never */
	__u32 fence_sequence; /* write_seq before the first message */
	__u32 switches; /* path changes, both ways */
	__u8 fenced; /* fence_sequence is valid */
	__u8 last_pass; /* enum pass_reason */
	__u8 behind; /* behind_sequence and behind_received are valid */
	__u8 overtaken; /* certain: nothing more is sent */
} __attribute__((aligned(CACHE_LINE)));

/* Written by the receiving side after each receive. One cache line. */
struct reader {
	__u64 received_bytes; /* results of every receive since establishment */
	__u64 receives; /* those above 0 */
	__u64 thread; /* tgid << 32 | tid of the last reader */
	__u32 nudge; /* 1: it is to be woken, see redirect; the controller takes it back */
	__u64 crossing; /* by the sender: received_bytes where TCP bytes begin; 0: none ahead */
	char comm[COMM_LENGTH]; /* of its process, as in /proc/PID/comm */
	__u32 descriptor; /* that it was seen to use, plus 1; 0: unknown */
} __attribute__((aligned(CACHE_LINE)));

/*
 * One slot of the pair table. The first line is what redirect reads for every
 * message and hardly ever changes; after it come the lines with one writer each.
 */
struct pair {
	__u32 control;
	__u32 closed; /* bit a side: its socket reached TCP_CLOSE */
	__u64 socket[2]; /* address of struct sock; see invariant 6 */
	__u64 cookie[2]; /* socket cookies, the identity of the above */
	__u32 backlog_limit; /* bytes; set by the controller at approval */
	__u32 forbidden; /* evidence that stops redirection; likewise */
	__u32 evidence[2]; /* enum evidence, of the reader on each side */
	__u8 hold[2]; /* direction held on TCP by the controller */
	__u8 reason; /* enum refusal_reason, last refusal */
	__u8 demotion; /* enum demotion_reason, last demotion */
	__u32 promote_after; /* turns wanted of this pair; 0: settings.promote_after */

	__u64 created_ns __attribute__((aligned(CACHE_LINE))); /* CLOCK_MONOTONIC */
	__u64 candidate_ns;
	__u64 inserted_ns;
	__u64 retry_ns; /* no candidate before this time */
	__u64 cgroup[2];
	__u32 netns[2];
	__u32 promotions; /* how often this pair was inserted */
	__u32 adopted; /* it was a connection before the datapath was there */
	__u64 stalled_ns[2]; /* by the controller: since when this reader has taken nothing; 0 */
	__u64 stream_retry_ns; /* no candidate as a stream before this time */
	__u64 key; /* server ISN << 32 | client ISN */

	/* The observation window: touched by both readers until CANDIDATE. */
	__u32 last_reader __attribute__((aligned(CACHE_LINE))); /* side + 1 */
	__u32 turns; /* changes of the receiving side */
	__u64 window_receives;
	__u64 window_bytes;
	/* Written by the iterator. */
	__s32 insert[2]; /* enum insert_result, or -refusal_reason */
	__u64 drained[2]; /* redirected bytes that this reader consumed */
	__u32 drain_pass[2]; /* settings.pass at which drained was taken */
	__u32 notice[2]; /* enum notice, taken with drained */

	struct address address[2] __attribute__((aligned(CACHE_LINE)));
	struct direction direction[2];
	struct reader reader[2];
};

/* Storage of each paired socket. */
struct endpoint {
	__u32 slot;
	__u32 generation;
	__u32 side;
	__u32 closed; /* it was counted in pair.closed: from then on the slot may be another's */
};

/* One entry of the direct-mapped table that joins the two handshakes. */
struct handshake {
	__u64 key; /* server ISN << 32 | client ISN */
	__u64 claim; /* generation << 32 | (slot + 1); 0: not claimed */
};
#define CLAIM_JOINED (1ull << 63) /* the server has been here; a generation has 24 bits */

/*
 * What the kernel gate looked at when a controller started. Bits of the two masks
 * in settings; a bit in neither means that the kernel does it right.
 */
enum gate_finding {
	GATE_REDIRECT = 0, /* a message goes to the peer's queue and arrives */
	GATE_ORDER, /* order over the switches redirect, TCP, redirect */
	GATE_END, /* what was redirected is read before EOF */
	GATE_MEMORY, /* a sender is held when its reader does not read */
	GATE_REMOVAL, /* nothing is lost when a pair leaves the sockmap */
	GATE_FIONREAD, /* counts both queues */
	GATE_SPLICE, /* sees redirected bytes */
	GATE_SIGNAL, /* interrupts a blocking receive with EINTR */
	GATE_KNOWN_BUG, /* this release has a bug that forbids promotion */
	GATE_ACCEPTED_BUG, /* it has one, and a person accepted that */
	GATE_ZEROCOPY, /* MSG_ZEROCOPY on a promoted socket is completed */
};

/* Written by the controller, read by the programs. */
struct settings {
	__u32 abi_version; /* stays first in every version; 0 until loading was complete */
	__u32 max_pairs;
	__u32 promote_after; /* turns each way before a pair is a candidate */
	__u32 message_limit; /* bytes a turn on average that still count as messages */
	__u32 run_messages; /* messages in one direction that make a stream */
	__u32 run_bytes; /* likewise bytes */
	__u32 paused; /* no new pairs, no new candidates */
	__u32 pass; /* number of the iterator's present run */
	__u32 leave; /* for the controller: `down` takes over */
	__u32 keepalive; /* ticks after which a message goes over TCP; 0: never */
	__u32 stream_bytes; /* without turns that make a candidate as a stream; 0: none is */
	__u32 alive; /* by the controller, over and over: ticks */
	__u64 attached_cgroup;
	__u64 loaded_ns;
	char version[VERSION_LENGTH]; /* of the project that loaded the programs */
	__u32 gate_failed; /* bits of enum gate_finding, for people */
	__u32 gate_unknown; /* likewise: could not be found out */
	__u64 measurement; /* asked of the controller by `bench --port`; no program reads it */
};

/* One a CPU; the controller adds them up. */
struct counters {
	__u64 pairs;
	__u64 closed_pairs;
	__u64 candidates;
	__u64 events_lost;
	__u64 totals_lost; /* closed pairs whose bytes found no entry in totals */
	__u64 release_failed; /* slots that could not be put back */
	__u64 redirect_retries; /* rest of a message that memory split, see redirect */
	__u64 dropped; /* messages refused because TCP bytes had overtaken redirected ones */
	__u64 passed[PASS_REASONS];
	__u64 unpaired[UNPAIRED_REASONS];
};

/* Kept in a pinned map so that they outlive the controller that writes them. */
struct controller_counters {
	__u64 promotions;
	__u64 adopted; /* pairs that were connections before the datapath was there */
	__u64 policy_reloads;
	__u64 policy_reload_failures;
	__u64 refusals[REFUSAL_REASONS];
	__u64 demotions[DEMOTION_REASONS];
};

/* Redirected by closed pairs, by the sender's cgroup id. 0: cgroups now gone. */
struct total {
	__u64 bytes;
	__u64 messages;
};

/*
 * `up --adopt` asks about one established socket by setting this option of IPPROTO_TCP
 * on it, which only the program `adopt` knows. The value is struct adoption_request.
 */
#define ADOPTION_OPTION 0x61646f70

struct adoption_request {
	__u64 nonce; /* as in struct adoption_settings: nobody else's call is answered */
	__u32 index; /* of the element of the map `adoptions` that is asked and answered */
	__u32 reserved;
};

struct adoption_settings {
	__u64 nonce;
};

enum adoption_order {
	ADOPT_LOOK = 0,
	ADOPT_CLIENT, /* take a slot and be its client */
	ADOPT_SERVER, /* be the server in `slot` */
	ADOPT_COUNT,  /* take the bytes it has received anew */
};

enum adoption_answer {
	ADOPTION_NONE = 0,   /* the program was not asked */
	ADOPTION_UNSUITABLE, /* not an established socket of plain TCP */
	ADOPTION_BUSY,       /* something is under way or unread, or the client has closed */
	ADOPTION_QUIET,      /* all it sent is acknowledged, all it got is read */
	ADOPTION_DONE, /* it was quiet, had the numbers that were given, and did as ordered */
	ADOPTION_TABLE_FULL,
	ADOPTION_STORAGE, /* no memory */
	ADOPTION_CALLBACKS, /* this kernel can't be asked for its callbacks: before 6.12 */
};

/* Given with an order and told with an answer; what concerns a slot only if the socket has one. */
struct adoption {
	__u32 order; /* enum adoption_order */
	__u32 answer; /* enum adoption_answer */
	__u32 sequence; /* write_seq */
	__u32 expected; /* rcv_nxt */
	__u64 key; /* as in struct pair; 0: of a pair that was not adopted */
	__u32 slot;
	__u32 control; /* 0: it has no slot */
	__u32 side;
	__u32 netns;
	__u64 counted; /* bytes received, by observe */
	__u64 received; /* the same by TCP: bytes_received */
	__u64 acked; /* bytes_acked; the SYN of an active opener is one */
	__u64 cookie;
	__u64 cgroup;
};

/* What `capture` sets and counts, in a map of its own. */
struct capture_settings {
	__u32 snaplen; /* bytes of each message that are wanted */
	__u32 reserved;
	__u64 lost[2]; /* by enum direction_path: messages of which something found no room */
};

enum capture_type {
	CAPTURE_DATA = 1, /* a piece of a message, before TCP or the peer has it */
	CAPTURE_SENT = 2, /* a call that sends has returned; size and what follows it are 0 */
};

/* What capture tells; data may follow. All that a packet says is in it: slots change hands. */
struct capture_record {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 cgroup[2];
	struct address address[2];
	__u32 slot;
	__u32 control;
	__u32 sequence; /* of the message's first byte, or of the next one to be sent */
	__u32 acknowledgement; /* what this side has received, likewise */
	__u32 size; /* of the message */
	__u32 offset; /* of this piece in it */
	__u32 length; /* bytes of the message that this piece stands for */
	__u32 captured; /* of these, in data */
	__u8 type; /* enum capture_type */
	__u8 side; /* the sender */
	__u8 path; /* enum direction_path, of this message */
	__u8 reserved[5];
};

#endif
