// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Struct layouts and enum constants as an object's own BTF describes them.
#pragma once

#include <bpf/btf.h>
#include <napi.h>

#include <string>

// A StructLayout (addon/index.ts) of a struct, a union, or a typedef of one.
Napi::Value ReadStructLayout(Napi::Env env, const btf* types, const std::string& name);

// Name to value of every enum called `name`; the empty name means all unnamed enums.
Napi::Value ReadEnumValues(Napi::Env env, const btf* types, const std::string& name);
