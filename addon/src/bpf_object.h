// SPDX-License-Identifier: GPL-2.0-only OR MIT
// A compiled BPF object file: its types, maps and programs, before and after loading.
#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

#include <memory>
#include <string>

class BpfObject : public Napi::ObjectWrap<BpfObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit BpfObject(const Napi::CallbackInfo& info);

 private:
  static Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value StructLayout(const Napi::CallbackInfo& info);
  Napi::Value EnumValues(const Napi::CallbackInfo& info);
  void SetMaxEntries(const Napi::CallbackInfo& info);
  void LoadProgram(const Napi::CallbackInfo& info);
  void ReuseMap(const Napi::CallbackInfo& info);
  void Load(const Napi::CallbackInfo& info);
  Napi::Value Map(const Napi::CallbackInfo& info);
  Napi::Value Program(const Napi::CallbackInfo& info);
  Napi::Value MapNames(const Napi::CallbackInfo& info);
  Napi::Value ProgramNames(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  bpf_object* Get(const Napi::CallbackInfo& info, const char* operation);
  btf* Types(const Napi::CallbackInfo& info, const char* operation);
  bpf_map* FindMap(const Napi::CallbackInfo& info, const char* operation, const std::string& name);
  void RequireLoaded(const Napi::CallbackInfo& info, const char* operation,
                     const std::string& name);

  std::string path_;
  // Programs hold a weak reference: closing the object takes libbpf's program away from them.
  std::shared_ptr<bpf_object> object_;
  bool loaded_ = false;
};
