// SPDX-License-Identifier: GPL-2.0-only OR MIT
// A compiled BPF object file: its types, maps and programs, before and after loading.
#include "bpf_object.h"

#include <cerrno>

#include "addon_data.h"
#include "arguments.h"
#include "bpf_map.h"
#include "bpf_program.h"
#include "btf_layout.h"
#include "file_descriptor.h"
#include "libbpf_log.h"
#include "native_error.h"

Napi::Function BpfObject::Define(Napi::Env env) {
  return DefineClass(env, "BpfObject",
                     {
                         StaticMethod<&BpfObject::Open>("open"),
                         InstanceMethod<&BpfObject::StructLayout>("structLayout"),
                         InstanceMethod<&BpfObject::EnumValues>("enumValues"),
                         InstanceMethod<&BpfObject::SetMaxEntries>("setMaxEntries"),
                         InstanceMethod<&BpfObject::LoadProgram>("loadProgram"),
                         InstanceMethod<&BpfObject::ReuseMap>("reuseMap"),
                         InstanceMethod<&BpfObject::Load>("load"),
                         InstanceMethod<&BpfObject::Map>("map"),
                         InstanceMethod<&BpfObject::Program>("program"),
                         InstanceMethod<&BpfObject::MapNames>("mapNames"),
                         InstanceMethod<&BpfObject::ProgramNames>("programNames"),
                         InstanceMethod<&BpfObject::Close>("close"),
                     });
}

Napi::Value BpfObject::Open(const Napi::CallbackInfo& info) {
  const Napi::String path = Napi::String::New(info.Env(), StringArgument(info, 0, "path"));
  return AddonData::Of(info.Env()).bpf_object.New({path});
}

BpfObject::BpfObject(const Napi::CallbackInfo& info)
    : ObjectWrap(info), path_(StringArgument(info, 0, "path")) {
  const LibbpfLog log;
  bpf_object* object = bpf_object__open_file(path_.c_str(), nullptr);
  if (object == nullptr) {
    const int error = errno;
    const bool plain = error == ENOENT || error == EACCES;
    throw NativeError(info.Env(), {.error = error,
                                   .operation = "open",
                                   .object = path_,
                                   .reason = plain ? "" : log.Explain().reason,
                                   .log = log.Text()});
  }
  object_ = std::shared_ptr<bpf_object>(object, bpf_object__close);
}

Napi::Value BpfObject::StructLayout(const Napi::CallbackInfo& info) {
  const std::string name = StringArgument(info, 0, "name");
  return ReadStructLayout(info.Env(), Types(info, "structLayout"), name);
}

Napi::Value BpfObject::EnumValues(const Napi::CallbackInfo& info) {
  const std::string name = StringArgument(info, 0, "name");
  return ReadEnumValues(info.Env(), Types(info, "enumValues"), name);
}

void BpfObject::SetMaxEntries(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map__set_max_entries";
  const std::string name = StringArgument(info, 0, "mapName");
  const uint32_t entries = Uint32Argument(info, 1, "entries", 1);
  bpf_map* map = FindMap(info, kOperation, name);
  const LibbpfLog log;
  const int error = bpf_map__set_max_entries(map, entries);
  if (error != 0) {
    throw NativeError(info.Env(), {.error = error, .operation = kOperation, .object = name});
  }
}

void BpfObject::ReuseMap(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map__reuse_fd";
  const std::string name = StringArgument(info, 0, "mapName");
  const BpfMap& existing = BpfMap::Argument(info, 1, kOperation);
  bpf_map* map = FindMap(info, kOperation, name);
  const LibbpfLog log;
  const int error = loaded_ ? -EBUSY : bpf_map__reuse_fd(map, existing.Descriptor());
  if (error != 0) {
    throw NativeError(info.Env(), {.error = error, .operation = kOperation, .object = name});
  }
}

void BpfObject::LoadProgram(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_program__set_autoload";
  const std::string name = StringArgument(info, 0, "programName");
  bpf_program* program = bpf_object__find_program_by_name(Get(info, kOperation), name.c_str());
  const int error = program == nullptr ? -ENOENT : bpf_program__set_autoload(program, true);
  if (error != 0) {
    // libbpf says EINVAL of an object that is loaded.
    throw NativeError(info.Env(),
                      {.error = loaded_ ? -EBUSY : error, .operation = kOperation, .object = name});
  }
}

void BpfObject::Load(const Napi::CallbackInfo& info) {
  bpf_object* object = Get(info, "load");
  const LibbpfLog log;
  const int error = bpf_object__load(object);
  if (error == 0) {
    loaded_ = true;
    return;
  }
  const LibbpfLog::Blame blame = log.Explain();
  const bool program = !blame.program.empty();
  throw NativeError(info.Env(), {.error = error,
                                 .operation = "load",
                                 .object = program ? blame.program : path_,
                                 .reason = blame.reason,
                                 .log = log.Text(),
                                 .subject = program ? "program" : ""});
}

Napi::Value BpfObject::Map(const Napi::CallbackInfo& info) {
  const std::string name = StringArgument(info, 0, "name");
  bpf_map* map = FindMap(info, "BpfObject.map", name);
  RequireLoaded(info, "BpfObject.map", name);
  return BpfMap::New(info.Env(), bpf_map__fd(map), name);
}

Napi::Value BpfObject::Program(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "BpfObject.program";
  const std::string name = StringArgument(info, 0, "name");
  bpf_program* program = bpf_object__find_program_by_name(Get(info, kOperation), name.c_str());
  if (program == nullptr) {
    throw NativeError(info.Env(), {.error = ENOENT,
                                   .operation = kOperation,
                                   .object = name,
                                   .reason = "no such program in " + path_});
  }
  RequireLoaded(info, kOperation, name);
  return BpfProgram::New(info.Env(), object_, program);
}

Napi::Value BpfObject::MapNames(const Napi::CallbackInfo& info) {
  bpf_object* object = Get(info, "mapNames");
  Napi::Array names = Napi::Array::New(info.Env());
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) names[names.Length()] = bpf_map__name(map);
  return names;
}

Napi::Value BpfObject::ProgramNames(const Napi::CallbackInfo& info) {
  bpf_object* object = Get(info, "programNames");
  Napi::Array names = Napi::Array::New(info.Env());
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    names[names.Length()] = bpf_program__name(program);
  }
  return names;
}

void BpfObject::Close(const Napi::CallbackInfo&) { object_.reset(); }

bpf_object* BpfObject::Get(const Napi::CallbackInfo& info, const char* operation) {
  if (object_ == nullptr) throw ClosedError(info.Env(), operation, path_);
  return object_.get();
}

btf* BpfObject::Types(const Napi::CallbackInfo& info, const char* operation) {
  btf* types = bpf_object__btf(Get(info, operation));
  if (types == nullptr) {
    throw NativeError(info.Env(), {.error = ENOENT,
                                   .operation = operation,
                                   .object = path_,
                                   .reason = "the object has no BTF; compile it with -g"});
  }
  return types;
}

bpf_map* BpfObject::FindMap(const Napi::CallbackInfo& info, const char* operation,
                            const std::string& name) {
  bpf_map* map = bpf_object__find_map_by_name(Get(info, operation), name.c_str());
  if (map == nullptr) {
    throw NativeError(info.Env(), {.error = ENOENT,
                                   .operation = operation,
                                   .object = name,
                                   .reason = "no such map in " + path_});
  }
  return map;
}

void BpfObject::RequireLoaded(const Napi::CallbackInfo& info, const char* operation,
                              const std::string& name) {
  if (loaded_) return;
  throw NativeError(info.Env(), {.error = EINVAL,
                                 .operation = operation,
                                 .object = name,
                                 .reason = "load() must come first"});
}
