/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* In place of libbpf's, so that a program of bpf/ runs in a process: see races.h. */
#ifndef RACES_BPF_HELPERS_H
#define RACES_BPF_HELPERS_H

#include <stddef.h>

#include "../races.h"

#define SEC(name)
#define __ksym
#define __weak
#undef __always_inline /* of linux/stddef.h */
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif
#define barrier() __asm__ volatile("" ::: "memory")

#define bpf_map_lookup_elem(map, key) races_lookup(#map, key)
#define bpf_map_update_elem(map, key, value, flags) ((void)(value), races_no_map(#map))
#define bpf_map_delete_elem(map, key) ((void)(key), races_no_map(#map))
#define bpf_map_pop_elem(map, value) races_pop(#map, value)
#define bpf_map_push_elem(map, value, flags) races_push(#map, value)
#define bpf_sk_storage_get(map, sk, value, flags) races_storage(flags)
#define bpf_sk_storage_delete(map, sk) races_no_map(#map)
#define bpf_sock_ops_cb_flags_set(context, flags) ((void)(flags))
#define bpf_get_socket_cookie(context) races_cookie()
#define bpf_ktime_get_ns() 1
#define bpf_jiffies64() 0
#define bpf_probe_read_kernel(to, size, from) __builtin_memset(to, 0, size)
#define bpf_ringbuf_reserve(map, size, flags) NULL
#define bpf_ringbuf_submit(record, flags) ((void)(record))
#define bpf_skc_to_tcp_sock(sk) NULL

#endif
