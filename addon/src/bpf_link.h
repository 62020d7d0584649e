// SPDX-License-Identifier: GPL-2.0-only OR MIT
// An attachment of a program, which lasts while a descriptor or a pin refers to it.
#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

#include <string>

#include "file_descriptor.h"

class BpfLink : public Napi::ObjectWrap<BpfLink> {
 public:
  static Napi::Function Define(Napi::Env env);
  // Takes over `link`; `name` is its program's, for messages.
  static Napi::Value New(Napi::Env env, bpf_link* link, const std::string& name);
  explicit BpfLink(const Napi::CallbackInfo& info);

 private:
  static Napi::Value Open(const Napi::CallbackInfo& info);
  static Napi::Value Wrap(Napi::Env env, FileDescriptor fd, const std::string& name);
  void Pin(const Napi::CallbackInfo& info);
  Napi::Value Info(const Napi::CallbackInfo& info);
  void Detach(const Napi::CallbackInfo& info);
  Napi::Value RunIterator(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  void RequireOpen(Napi::Env env, const char* operation) const;
  [[noreturn]] void Fail(Napi::Env env, const char* operation, int error) const;

  FileDescriptor fd_;
  std::string name_;
};
