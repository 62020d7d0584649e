// SPDX-License-Identifier: GPL-2.0-only OR MIT
// The one error class for what the kernel or libbpf refused.
#pragma once

#include <napi.h>

#include <string>

struct Failure {
  int error;                 // an errno number; its sign does not matter
  std::string operation;     // such as "bpf_map_update_elem"
  std::string object;        // the name or path concerned
  std::string reason = {};   // one readable line; default: the errno's own sentence
  std::string log = {};      // libbpf's and the verifier's full output, if there is any
  std::string subject = {};  // what stands before the object's name: "program" or nothing
};

// A NativeError (addon/index.ts) to throw or to reject a promise with.
Napi::Error NativeError(Napi::Env env, const Failure& failure);

// The error for using an object after close().
Napi::Error ClosedError(Napi::Env env, const std::string& operation, const std::string& object);
