// SPDX-License-Identifier: GPL-2.0-only OR MIT
// What one JavaScript environment (the main thread or a worker) keeps: its constructors.
#pragma once

#include <napi.h>

struct AddonData {
  Napi::FunctionReference native_error;
  Napi::FunctionReference bpf_object;
  Napi::FunctionReference bpf_program;
  Napi::FunctionReference bpf_link;
  Napi::FunctionReference bpf_map;
  Napi::FunctionReference directory_lock;

  static AddonData& Of(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }
};
