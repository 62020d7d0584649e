/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef SLIPSTREAM_MAPS_H
#define SLIPSTREAM_MAPS_H

#include "kernel.h"

#include "abi.h"

/* Sizes of the two tables that grow with --max-pairs are set by the controller
 * before loading; the values here are the smallest that load.
 */

/* The pair table; shared with the controller as memory. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pair);
} pairs SEC(".maps");

/* Slots that are FREE. Last in, first out: a slot that was used lately is still in a cache. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1);
	__type(value, __u32);
} free_slots SEC(".maps");

/*
 * Slots that have become FREE lately wait here until so many others have, so that a slot's
 * generations last: who has kept a control word, in a queued event or in a look at the table,
 * meets it again after 2^24 of them.
 */
#define RESTING_SLOTS 256
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, RESTING_SLOTS);
	__type(value, __u32);
} resting_slots SEC(".maps");

/* The sockets of promoted pairs, at 2 * slot + side. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

/* Which slot and side a socket is. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* Of each task that has received on a paired socket: the last of the programs of observe
 * that saw it. Never pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} seen SEC(".maps");

/* Handshakes under way. Direct-mapped: a collision only costs an optimisation. */
#define HANDSHAKE_BITS 16
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << HANDSHAKE_BITS);
	__type(key, __u32);
	__type(value, struct handshake);
} handshakes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* Not read by any program: memory that lives as long as the pins. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct controller_counters);
} controller SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct total);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

/*
 * Empty but for a running `capture`, whose program is then called at the end of
 * redirect. Never pinned: when the process that put the program there ends, however
 * it does, the kernel takes it out (prog_array_map_clear at the last descriptor).
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} capture SEC(".maps");

#endif
