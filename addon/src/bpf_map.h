// SPDX-License-Identifier: GPL-2.0-only OR MIT
// One BPF map, through a descriptor of its own.
#pragma once

#include <bpf/btf.h>
#include <linux/bpf.h>
#include <napi.h>

#include <memory>
#include <string>
#include <vector>

#include "file_descriptor.h"

class BpfMap : public Napi::ObjectWrap<BpfMap> {
 public:
  static Napi::Function Define(Napi::Env env);
  // Shares the map behind `fd`, which stays the caller's.
  static Napi::Value New(Napi::Env env, int fd, const std::string& name);
  // The open map given as an argument: TypeError when it is none, EBADF when it is closed.
  static BpfMap& Argument(const Napi::CallbackInfo& info, size_t index, const char* operation);

  explicit BpfMap(const Napi::CallbackInfo& info);

  // TypeError when it is of another type; `noun` says what is wanted.
  void RequireType(Napi::Env env, uint32_t type, const char* noun) const;

  [[nodiscard]] int Descriptor() const { return fd_.Get(); }
  [[nodiscard]] const std::string& Name() const { return name_; }

 private:
  static Napi::Value Open(const Napi::CallbackInfo& info);
  static Napi::Value Wrap(Napi::Env env, FileDescriptor fd, const std::string& name);
  void Pin(const Napi::CallbackInfo& info);
  Napi::Value Info(const Napi::CallbackInfo& info);
  Napi::Value Lookup(const Napi::CallbackInfo& info);
  void Update(const Napi::CallbackInfo& info);
  Napi::Value Delete(const Napi::CallbackInfo& info);
  Napi::Value LookupAndDelete(const Napi::CallbackInfo& info);
  Napi::Value Keys(const Napi::CallbackInfo& info);
  void Push(const Napi::CallbackInfo& info);
  void Fill(const Napi::CallbackInfo& info);
  Napi::Value Mmap(const Napi::CallbackInfo& info);
  Napi::Value MmapReadOnly(const Napi::CallbackInfo& info);
  Napi::Value SockmapProgramMap(const Napi::CallbackInfo& info);
  Napi::Value StructLayout(const Napi::CallbackInfo& info);
  Napi::Value EnumValues(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  void RequireOpen(Napi::Env env, const char* operation) const;
  [[noreturn]] void Fail(Napi::Env env, const char* operation, int error) const;
  [[nodiscard]] size_t ValueBytes() const;
  Napi::Value Share(Napi::Env env, int protection, const char* operation);
  // The types of the object that made the map, as the kernel keeps them.
  const btf* Types(Napi::Env env, const char* operation);

  FileDescriptor fd_;
  std::string name_;
  bpf_map_info info_{};
  std::shared_ptr<btf> types_;
};
