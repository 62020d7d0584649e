/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The whole datapath as one translation unit, hence one object to load. */
#include "identify.bpf.c"
#include "observe.bpf.c"
#include "promote.bpf.c"
#include "redirect.bpf.c"

/* Keeps the enumerations in BTF, where the controller finds their names. */
const struct vocabulary {
	enum side side;
	enum pair_state state;
	enum direction_path path;
	enum evidence evidence;
	enum pass_reason pass;
	enum unpaired_reason unpaired;
	enum refusal_reason refusal;
	enum demotion_reason demotion;
	enum insert_result insert;
	enum event_type event;
	enum gate_finding gate;
	enum notice notice;
	struct event record;
	struct endpoint endpoint;
} vocabulary = {};

char _license[] SEC("license") = "Dual MIT/GPL";
