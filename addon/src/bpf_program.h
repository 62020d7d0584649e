// SPDX-License-Identifier: GPL-2.0-only OR MIT
// A loaded BPF program, from an object file or from a pin.
#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

#include <cstdint>
#include <memory>
#include <string>

#include "file_descriptor.h"

class BpfProgram : public Napi::ObjectWrap<BpfProgram> {
 public:
  static Napi::Function Define(Napi::Env env);
  static Napi::Value New(Napi::Env env, const std::shared_ptr<bpf_object>& object,
                         const bpf_program* program);
  explicit BpfProgram(const Napi::CallbackInfo& info);

 private:
  struct Seed;
  static Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value Name(const Napi::CallbackInfo& info);
  Napi::Value Id(const Napi::CallbackInfo& info);
  void Pin(const Napi::CallbackInfo& info);
  Napi::Value AttachCgroup(const Napi::CallbackInfo& info);
  Napi::Value AttachTracepoint(const Napi::CallbackInfo& info);
  Napi::Value AttachIterator(const Napi::CallbackInfo& info);
  void AttachTailCall(const Napi::CallbackInfo& info);
  void AttachSockmap(const Napi::CallbackInfo& info);
  void DetachSockmap(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  void RequireOpen(Napi::Env env, const char* operation) const;
  // libbpf's program, which the open object file owns.
  const bpf_program* FromObject(Napi::Env env, const char* operation) const;
  // The link libbpf made, or the error it set in errno.
  Napi::Value Linked(Napi::Env env, const char* operation, bpf_link* link) const;
  [[noreturn]] void Fail(Napi::Env env, const char* operation, int error) const;

  FileDescriptor fd_;
  std::string name_;
  uint32_t id_ = 0;
  std::weak_ptr<bpf_object> object_;
  const bpf_program* program_ = nullptr;
};
