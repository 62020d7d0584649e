/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The kernel's structures are those of bpf/kernel.h itself. */
#define bpf_core_field_exists(field) 1
#define bpf_core_type_exists(type) 1
#define bpf_core_enum_value_exists(type, value) 1
#define bpf_core_enum_value(type, value) (value)
#define bpf_core_field_offset(type, field) __builtin_offsetof(type, field)
#define bpf_core_type_id_kernel(type) 0
#define BPF_CORE_READ_BITFIELD(object, field) ((object)->field)
