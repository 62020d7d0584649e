/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The kernel's own structures, reduced to the members that the programs read.
 * preserve_access_index makes every access a CO-RE relocation: offsets come from
 * the running kernel's BTF (include/net/sock.h, include/linux/tcp.h,
 * include/linux/skmsg.h, include/linux/filter.h), not from here.
 */
#ifndef SLIPSTREAM_KERNEL_H
#define SLIPSTREAM_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

/* include/linux/socket.h, include/net/sock.h, asm/errno.h: not in BTF as macros. */
#define AF_INET 2
#define AF_INET6 10
#define MSG_OOB 0x1
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20
#define MSG_DONTWAIT 0x40
#define MSG_WAITALL 0x100
#define MSG_ERRQUEUE 0x2000
#define RCV_SHUTDOWN 1
#define SK_USER_DATA_PSOCK 4ul
#define SK_USER_DATA_PTRMASK 7ul
#define SEND_SHUTDOWN 2
#define IPPROTO_TCP 6
#define ENOMEM 12
#define EBUSY 16
#define EEXIST 17
#define EINVAL 22
#define EOPNOTSUPP 95

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

typedef struct {
	__s64 counter;
} atomic64_t;

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

struct proto {
	unsigned long *memory_pressure;
};

/* Memory cgroups, v1's limit on TCP memory and v2's sign of pressure. */
typedef struct {
	long counter;
} atomic_long_t;

struct page_counter {
	atomic_long_t usage;
	unsigned long max;
	struct page_counter *parent;
};

struct mem_cgroup {
	unsigned long socket_pressure; /* jiffies */
	struct page_counter tcpmem;
	bool tcpmem_active;
};

struct list_head {
	struct list_head *next;
};

struct sk_psock {
	struct list_head ingress_msg;
};

struct bpf_local_storage;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned long skc_flags;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
};

struct sock {
	struct sock_common __sk_common;
	int sk_rcvlowat;
	__u32 sk_tsflags;
	int sk_err;
	void *sk_user_data;
	struct mem_cgroup *sk_memcg;
	__u8 sk_shutdown;
	struct proto *sk_prot_creator;
	struct sock_cgroup_data sk_cgrp_data;
	struct bpf_local_storage *sk_bpf_storage;
};

struct socket {
	struct sock *sk;
};

struct inet_connection_sock {
	const void *icsk_ulp_ops;
};

struct tcp_sock {
	__u32 write_seq;
	__u32 snd_una;
	__u64 bytes_acked;
	__u32 copied_seq;
	__u32 rcv_nxt;
	__u64 bytes_received;
	__u8 repair : 1;
	__u8 recvmsg_inq : 1;
	bool is_mptcp;
};

/* Registers of a system call; only its first argument. */
struct pt_regs {
#ifdef __TARGET_ARCH_arm64
	__u64 orig_x0;
#else
	unsigned long di;
#endif
};

struct task_struct {
	struct task_struct *group_leader;
	char comm[16];
};

struct tcp_request_sock {
	__u32 rcv_isn;
	__u32 snt_isn;
};

/* Behind struct bpf_sock_ops. */
struct bpf_sock_ops_kern {
	struct sock *sk;
};

/* Behind struct bpf_sockopt. */
struct bpf_sockopt_kern {
	struct sock *sk;
};

/* Behind struct sk_msg_md. The array is as long as the shortest kernels have it (MAX_MSG_FRAGS +
 * 2). */
#define MESSAGE_ELEMENTS 19

struct scatterlist {
	unsigned int length;
};

struct sk_msg_sg {
	__u32 start;
	__u32 end;
	unsigned long copy[1];
	struct scatterlist data[MESSAGE_ELEMENTS];
};

struct sk_msg {
	struct sk_msg_sg sg;
	void *data;
	struct sock *sk_redir;
	struct sock *sk;
};

enum sock_flags {
	SOCK_ZEROCOPY = 1, /* the values are relocated */
	SOCK_RCVTSTAMP = 2,
};

/* The functions that the verifier knows by themselves (kernel/bpf/verifier.c). */
enum special_kfunc_type {
	KF_bpf_rdonly_cast = 1, /* the value is relocated */
};

#pragma clang attribute pop

/* A load that the compiler neither repeats nor moves. */
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))

/* Other processors see the loads before it before those after it, and the stores likewise.
 * x86 does that by itself. On arm64 an atomic operation that returns what was there is a
 * full barrier (arch/arm64/net/bpf_jit_comp.c), whatever it operates on.
 */
#ifdef __TARGET_ARCH_arm64
#define keep_order()                                                                               \
	do {                                                                                       \
		volatile __u64 _word = 0;                                                          \
		barrier();                                                                         \
		__sync_lock_test_and_set(&_word, 1);                                               \
		barrier();                                                                         \
	} while (0)
#else
#define keep_order() barrier()
#endif

/* kernel/bpf/helpers.c, both since 6.2. Where they are missing, no call is left. */
extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;
extern void *bpf_rdonly_cast(const void *object, __u32 btf_id) __ksym __weak;
#define HAS_CASTS bpf_core_enum_value_exists(enum special_kfunc_type, KF_bpf_rdonly_cast)

/* A view of an address as a kernel structure. Reads through it may fault: the
 * verifier turns them into BPF_PROBE_MEM loads, which then yield 0. Without casts
 * the object must be a socket that the verifier knows by its type already.
 */
#define VIEW(type, object)                                                                         \
	({                                                                                         \
		const struct type *_view = (const struct type *)(object);                          \
		if (HAS_CASTS)                                                                     \
			_view = bpf_rdonly_cast(_view, bpf_core_type_id_kernel(struct type));      \
		_view;                                                                             \
	})

/* A member of a kernel structure at any address; 0 where there is none. */
#define MEMBER(type, object, member)                                                               \
	({                                                                                         \
		const struct type *_object = (const struct type *)(object);                        \
		typeof(((struct type *)0)->member) _member = 0;                                    \
		if (HAS_CASTS)                                                                     \
			_member = READ_ONCE(VIEW(type, _object)->member);                          \
		else                                                                               \
			bpf_probe_read_kernel((void *)&_member, sizeof(typeof(_member)),           \
					      (const void *)&_object->member);                     \
		_member;                                                                           \
	})

/* What a pointer of the kernel points to, if that is a word; read as the first member of a
 * structure, whose reads need no call.
 */
#define WORD_AT(address) ((unsigned long)MEMBER(list_head, address, next))

/* A member of the kernel's structure behind the context of a program. */
#define CONTEXT_MEMBER(type, context, member)                                                      \
	({                                                                                         \
		const struct type *_context = (const struct type *)(context);                      \
		typeof(((struct type *)0)->member) _member = 0;                                    \
		if (HAS_CASTS) {                                                                   \
			_context = bpf_cast_to_kern_ctx(context);                                  \
			_member = _context->member;                                                \
		} else {                                                                           \
			bpf_probe_read_kernel((void *)&_member, sizeof(typeof(_member)),           \
					      (const void *)&_context->member);                    \
		}                                                                                  \
		_member;                                                                           \
	})

#endif
