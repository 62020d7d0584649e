/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#define bpf_ntohs(value) __builtin_bswap16(value)
