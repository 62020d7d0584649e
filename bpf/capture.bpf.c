/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * capture: copies the messages of pairs in the sockmap to a ring buffer. An object of
 * its own, which `slipstream-bpf capture` loads and which ends with that process.
 *
 * It never touches a message: bpf_msg_pull_data is only asked for bytes inside one
 * scatterlist element that is not shared, and then sets the program's data pointers
 * and nothing else (net/core/filter.c). What finds no room is counted and left out.
 */
#include "pair.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct capture_settings);
} capture_settings SEC(".maps");

/* By slot: generation plus 1 of a pair that is not wanted; 0: none. As long as the pair table. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} capture_skip SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 * 1024 * 1024);
} capture_ring SEC(".maps");

/* Most bytes of a piece; an element of tcp_bpf_sendmsg's is not larger (skb_page_frag_refill)
 * where pages are not.
 */
#define PIECE 32768
/* Two for each element, where pages are of 64 KiB. */
#define PIECES (2 * MESSAGE_ELEMENTS)

/* One message on its way through store_piece. */
struct walk {
	struct sk_msg_md *msg;
	struct capture_settings *settings;
	struct capture_record record;
	__u32 limit; /* bytes of the message to be stored */
	__u32 starts[MESSAGE_ELEMENTS + 1]; /* of the elements in the message */
};

static __always_inline bool is_wanted(const struct endpoint *endpoint)
{
	__u32 slot = endpoint->slot;
	__u32 *skip = bpf_map_lookup_elem(&capture_skip, &slot);

	return skip && *skip != endpoint->generation + 1;
}

/* All but what tells one record of a message from another. */
static __always_inline void describe(struct capture_record *record, const struct pair *pair,
				     __u32 slot, __u32 control, int side, const struct sock *sk)
{
	__u32 peer_isn = side == SIDE_CLIENT ? pair->key >> 32 : pair->key;

	record->time_ns = bpf_ktime_get_ns();
	record->slot = slot;
	record->control = control;
	record->side = side;
	record->cgroup[0] = pair->cgroup[0];
	record->cgroup[1] = pair->cgroup[1];
	record->address[0] = pair->address[0];
	record->address[1] = pair->address[1];
	/* As if TCP had carried everything: both counts began at the handshake. */
	record->sequence = VIEW(tcp_sock, sk)->write_seq + pair->direction[side].redirected_bytes;
	record->acknowledgement = peer_isn + 1 + READ_ONCE(pair->reader[side].received_bytes);
}

/* The ring buffer takes sizes that the verifier knows: the smallest that will do. */
static __always_inline bool store(const struct capture_record *record, const void *data,
				  __u32 length, const __u32 room)
{
	struct capture_record *copy = bpf_ringbuf_reserve(&capture_ring, sizeof(*record) + room, 0);

	if (!copy)
		return false;
	*copy = *record;
	if (length && length <= room)
		bpf_probe_read_kernel(copy + 1, length, data);
	bpf_ringbuf_submit(copy, 0);
	return true;
}

/* A piece, which lies inside one element, to the ring; 1 when there is no more to do. */
static long store_piece(__u32 index, struct walk *walk)
{
	struct capture_record *record = &walk->record;
	__u32 element = index / 2, start, length;
	const void *data = NULL;
	bool stored;

	if (element >= MESSAGE_ELEMENTS)
		return 1;
	start = walk->starts[element] + index % 2 * PIECE;
	if (start >= walk->starts[element + 1])
		return 0;
	length = walk->starts[element + 1] - start;
	if (length > PIECE)
		length = PIECE;
	if (length > walk->limit - start)
		length = walk->limit - start;
	if (length && bpf_msg_pull_data(walk->msg, start, start + length, 0) == 0)
		data = ((const struct sk_msg *)bpf_cast_to_kern_ctx(walk->msg))->data;
	else
		length = 0;
	record->offset = start;
	record->captured = length;
	/* The last one stands for what is not wanted, too. */
	record->length = length && start + length < walk->limit ? length : record->size - start;
	if (length <= 256)
		stored = store(record, data, length, 256);
	else if (length <= 1024)
		stored = store(record, data, length, 1024);
	else if (length <= 8192)
		stored = store(record, data, length, 8192);
	else
		stored = store(record, data, length, PIECE);
	if (!stored)
		__sync_fetch_and_add(&walk->settings->lost[record->path & 1], 1);
	return !stored || start + record->length >= record->size;
}

/* An index that is not written as a number would go by our own size of an element. */
static __always_inline __u32 element_length(const struct sk_msg *msg, __u32 index)
{
	__u64 first = (__u64)&msg->sg.data[0];

	return VIEW(scatterlist, first + index * bpf_core_type_size(struct scatterlist))->length;
}

SEC("sk_msg")
int capture_message(struct sk_msg_md *msg)
{
	const struct sk_msg *kernel = bpf_cast_to_kern_ctx(msg);
	struct walk walk = {.msg = msg};
	struct endpoint *endpoint;
	__u32 zero = 0, control;
	struct pair *pair;

	walk.settings = bpf_map_lookup_elem(&capture_settings, &zero);
	endpoint = msg->sk ? bpf_sk_storage_get(&endpoints, msg->sk, NULL, 0) : NULL;
	if (!endpoint || !walk.settings || !is_wanted(endpoint))
		return SK_PASS;
	pair = pair_of(endpoint, &control);
	if (!pair)
		return SK_PASS;
	describe(&walk.record, pair, endpoint->slot, control, endpoint->side & 1, kernel->sk);
	walk.record.type = CAPTURE_DATA;
	walk.record.size = msg->size;
	if (kernel->sk_redir) {
		walk.record.path = PATH_DIRECT;
		walk.record.sequence -= msg->size; /* redirect has counted it */
	}
	walk.limit = msg->size < walk.settings->snaplen ? msg->size : walk.settings->snaplen;
	/* Elements that a sender still owns, which only sendpage made (before 6.5). */
	if (kernel->sg.copy[0] || kernel->sg.start)
		walk.limit = 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < MESSAGE_ELEMENTS; i++)
		walk.starts[i + 1] = walk.starts[i] + element_length(kernel, i);
	bpf_loop(PIECES, store_piece, &walk, 0);
	return SK_PASS;
}

/*
 * TCP may take a message only in part, and the program sends the rest again: what it
 * took is known when the call that sends returns.
 */
SEC("tp_btf/sock_send_length")
int capture_sent(__u64 *ctx) /* struct sock *sk, int ret, int flags */
{
	struct sock *sk = (struct sock *)ctx[0];
	struct capture_record record = {};
	struct endpoint *endpoint;
	struct pair *pair;
	__u32 control;
	int side;

	if (!sk->sk_bpf_storage || (int)ctx[1] <= 0)
		return 0;
	endpoint = bpf_sk_storage_get(&endpoints, sk, NULL, 0);
	if (!endpoint || !is_wanted(endpoint))
		return 0;
	pair = pair_of(endpoint, &control);
	side = endpoint->side & 1;
	/* Redirected messages are taken whole. */
	if (!pair || !is_in_sockmap(control) || pair->direction[side].path != PATH_TCP)
		return 0;
	describe(&record, pair, endpoint->slot, control, side, sk);
	record.type = CAPTURE_SENT;
	store(&record, NULL, 0, 0);
	return 0;
}

/* Keeps the enumeration in BTF, where the command finds its names. */
const struct capture_vocabulary {
	enum capture_type type;
	enum direction_path path;
} capture_vocabulary = {};

char _license[] SEC("license") = "Dual MIT/GPL";
