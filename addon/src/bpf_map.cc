// SPDX-License-Identifier: GPL-2.0-only OR MIT
// One BPF map, through a descriptor of its own.
#include "bpf_map.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "addon_data.h"
#include "arguments.h"
#include "btf_layout.h"
#include "libbpf_log.h"
#include "native_error.h"
#include "pin.h"

namespace {

// Tells a real BpfMap from another object that was given its prototype.
constexpr napi_type_tag kTypeTag = {0x6d61702d736c6970, 0x73747265616d2d31};

constexpr size_t RoundUpToEight(size_t bytes) { return (bytes + 7) & ~size_t{7}; }

bool IsPerCpu(uint32_t type) {
  return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY ||
         type == BPF_MAP_TYPE_LRU_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

struct NewMap {
  FileDescriptor fd;
  std::string name;
};

// The program's map of this name; without one if it has none, with errno set if that can't be told.
FileDescriptor MapOfProgram(int program, const std::string& name) {
  bpf_prog_info info{};
  uint32_t length = sizeof info;
  std::array<uint32_t, 64> ids{};
  info.nr_map_ids = ids.size();
  info.map_ids = reinterpret_cast<uintptr_t>(ids.data());
  if (bpf_obj_get_info_by_fd(program, &info, &length) != 0) return {};
  for (uint32_t i = 0; i < info.nr_map_ids && i < ids.size(); ++i) {
    FileDescriptor map(bpf_map_get_fd_by_id(ids.at(i)));
    bpf_map_info details{};
    length = sizeof details;
    if (!map || bpf_obj_get_info_by_fd(map.Get(), &details, &length) != 0) return {};
    if (name == details.name) return map;
  }
  errno = 0;
  return {};
}

uint64_t UpdateFlags(const Napi::CallbackInfo& info, size_t index) {
  if (info[index].IsUndefined()) return BPF_ANY;
  const std::string flags = StringArgument(info, index, "flags");
  if (flags == "any") return BPF_ANY;
  if (flags == "noexist") return BPF_NOEXIST;
  if (flags == "exist") return BPF_EXIST;
  throw Napi::TypeError::New(info.Env(), "flags must be 'any', 'noexist' or 'exist'");
}

Napi::Buffer<uint8_t> ToBuffer(Napi::Env env, const std::vector<uint8_t>& bytes) {
  return Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size());
}

}  // namespace

Napi::Function BpfMap::Define(Napi::Env env) {
  return DefineClass(env, "BpfMap",
                     {
                         StaticMethod<&BpfMap::Open>("open"),
                         InstanceMethod<&BpfMap::Pin>("pin"),
                         InstanceMethod<&BpfMap::Info>("info"),
                         InstanceMethod<&BpfMap::Lookup>("lookup"),
                         InstanceMethod<&BpfMap::Update>("update"),
                         InstanceMethod<&BpfMap::Delete>("delete"),
                         InstanceMethod<&BpfMap::LookupAndDelete>("lookupAndDelete"),
                         InstanceMethod<&BpfMap::Keys>("keys"),
                         InstanceMethod<&BpfMap::Push>("push"),
                         InstanceMethod<&BpfMap::Fill>("fill"),
                         InstanceMethod<&BpfMap::Mmap>("mmap"),
                         InstanceMethod<&BpfMap::MmapReadOnly>("mmapReadOnly"),
                         InstanceMethod<&BpfMap::SockmapProgramMap>("sockmapProgramMap"),
                         InstanceMethod<&BpfMap::StructLayout>("structLayout"),
                         InstanceMethod<&BpfMap::EnumValues>("enumValues"),
                         InstanceMethod<&BpfMap::Close>("close"),
                     });
}

Napi::Value BpfMap::Wrap(Napi::Env env, FileDescriptor fd, const std::string& name) {
  NewMap seed{.fd = std::move(fd), .name = name};
  return AddonData::Of(env).bpf_map.New({Napi::External<NewMap>::New(env, &seed)});
}

Napi::Value BpfMap::New(Napi::Env env, int fd, const std::string& name) {
  FileDescriptor own = FileDescriptor::Duplicate(fd);
  if (!own) throw NativeError(env, {.error = errno, .operation = "fcntl", .object = name});
  return Wrap(env, std::move(own), name);
}

Napi::Value BpfMap::Open(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "pinPath");
  return Wrap(info.Env(), OpenPin(info.Env(), path, PinKind::kMap), "");
}

BpfMap& BpfMap::Argument(const Napi::CallbackInfo& info, size_t index, const char* operation) {
  const Napi::Value value = info[index];
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTypeTag)) {
    throw Napi::TypeError::New(info.Env(), "map must be a BpfMap");
  }
  BpfMap& map = *Unwrap(value.As<Napi::Object>());
  map.RequireOpen(info.Env(), operation);
  return map;
}

BpfMap::BpfMap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use BpfMap.open()");
  NewMap& seed = *info[0].As<Napi::External<NewMap>>().Data();
  fd_ = std::move(seed.fd);
  name_ = seed.name;
  uint32_t length = sizeof info_;
  if (bpf_obj_get_info_by_fd(fd_.Get(), &info_, &length) != 0) {
    Fail(info.Env(), "bpf_obj_get_info_by_fd", errno);
  }
  if (name_.empty()) name_ = info_.name;
  info.This().As<Napi::Object>().TypeTag(&kTypeTag);
}

void BpfMap::Pin(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "path");
  RequireOpen(info.Env(), "bpf_obj_pin");
  ::Pin(info.Env(), fd_, path);
}

Napi::Value BpfMap::Info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  RequireOpen(env, "BpfMap.info");
  Napi::Object result = Napi::Object::New(env);
  result["id"] = Napi::Number::New(env, info_.id);
  result["name"] = name_;
  result["type"] = Napi::Number::New(env, info_.type);
  result["keySize"] = Napi::Number::New(env, info_.key_size);
  result["valueSize"] = Napi::Number::New(env, info_.value_size);
  result["maxEntries"] = Napi::Number::New(env, info_.max_entries);
  result["mapFlags"] = Napi::Number::New(env, info_.map_flags);
  return result;
}

Napi::Value BpfMap::Lookup(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map_lookup_elem";
  RequireOpen(info.Env(), kOperation);
  const Napi::Uint8Array key = BytesArgument(info, 0, "key", info_.key_size);
  std::vector<uint8_t> value(ValueBytes());
  if (bpf_map_lookup_elem(fd_.Get(), key.Data(), value.data()) != 0) {
    if (errno == ENOENT) return info.Env().Undefined();
    Fail(info.Env(), kOperation, errno);
  }
  return ToBuffer(info.Env(), value);
}

void BpfMap::Update(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map_update_elem";
  RequireOpen(info.Env(), kOperation);
  const Napi::Uint8Array key = BytesArgument(info, 0, "key", info_.key_size);
  const Napi::Uint8Array value = BytesArgument(info, 1, "value", ValueBytes());
  const uint64_t flags = UpdateFlags(info, 2);
  if (bpf_map_update_elem(fd_.Get(), key.Data(), value.Data(), flags) != 0) {
    Fail(info.Env(), kOperation, errno);
  }
}

Napi::Value BpfMap::Delete(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map_delete_elem";
  RequireOpen(info.Env(), kOperation);
  const Napi::Uint8Array key = BytesArgument(info, 0, "key", info_.key_size);
  const bool deleted = bpf_map_delete_elem(fd_.Get(), key.Data()) == 0;
  if (!deleted && errno != ENOENT) Fail(info.Env(), kOperation, errno);
  return Napi::Boolean::New(info.Env(), deleted);
}

Napi::Value BpfMap::LookupAndDelete(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map_lookup_and_delete_elem";
  RequireOpen(info.Env(), kOperation);
  const void* key = nullptr;
  if (info_.key_size != 0 || !info[0].IsUndefined()) {
    key = BytesArgument(info, 0, "key", info_.key_size).Data();
  }
  std::vector<uint8_t> value(ValueBytes());
  if (bpf_map_lookup_and_delete_elem(fd_.Get(), key, value.data()) != 0) {
    if (errno == ENOENT) return info.Env().Undefined();
    Fail(info.Env(), kOperation, errno);
  }
  return ToBuffer(info.Env(), value);
}

Napi::Value BpfMap::Keys(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map_get_next_key";
  RequireOpen(info.Env(), kOperation);
  const uint32_t limit =
      info[0].IsUndefined() ? info_.max_entries : Uint32Argument(info, 0, "limit");
  Napi::Array keys = Napi::Array::New(info.Env());
  std::vector<uint8_t> key(info_.key_size);
  while (keys.Length() < limit) {
    const void* previous = keys.Length() == 0 ? nullptr : key.data();
    if (bpf_map_get_next_key(fd_.Get(), previous, key.data()) != 0) {
      if (errno == ENOENT) break;
      Fail(info.Env(), kOperation, errno);
    }
    const Napi::HandleScope scope(info.Env());
    keys[keys.Length()] = ToBuffer(info.Env(), key);
  }
  return keys;
}

void BpfMap::Push(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map_update_elem";
  RequireOpen(info.Env(), kOperation);
  const Napi::Uint8Array value = BytesArgument(info, 0, "value", info_.value_size);
  if (bpf_map_update_elem(fd_.Get(), nullptr, value.Data(), BPF_ANY) != 0) {
    Fail(info.Env(), kOperation, errno);
  }
}

void BpfMap::Fill(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map_update_elem";
  RequireOpen(info.Env(), kOperation);
  const uint32_t count = Uint32Argument(info, 0, "count");
  if (info_.key_size != 0 || info_.value_size != sizeof(uint32_t)) {
    throw Napi::TypeError::New(info.Env(), "fill() needs a stack of 4-byte values");
  }
  for (uint32_t i = count; i-- > 0;) {
    if (bpf_map_update_elem(fd_.Get(), nullptr, &i, BPF_ANY) != 0) {
      Fail(info.Env(), kOperation, errno);
    }
  }
}

Napi::Value BpfMap::Mmap(const Napi::CallbackInfo& info) {
  return Share(info.Env(), PROT_READ | PROT_WRITE, "mmap");
}

Napi::Value BpfMap::MmapReadOnly(const Napi::CallbackInfo& info) {
  return Share(info.Env(), PROT_READ, "mmapReadOnly");
}

Napi::Value BpfMap::Share(Napi::Env env, int protection, const char* operation) {
  RequireOpen(env, operation);
  // kernel/bpf/arraymap.c:array_map_mmap: elements lie at multiples of the rounded size.
  const size_t size = RoundUpToEight(info_.value_size) * info_.max_entries;
  void* memory = mmap(nullptr, size, protection, MAP_SHARED, fd_.Get(), 0);
  if (memory == MAP_FAILED) Fail(env, operation, errno);
  return Napi::ArrayBuffer::New(env, memory, size,
                                [size](Napi::Env, void* mapped) { munmap(mapped, size); });
}

Napi::Value BpfMap::SockmapProgramMap(const Napi::CallbackInfo& info) {
  const std::string name = StringArgument(info, 0, "name");
  RequireOpen(info.Env(), "bpf_prog_query");
  uint32_t program_id = 0;
  uint32_t count = 1;
  // sock_map_bpf_prog_query: at most one program of a type.
  if (bpf_prog_query(fd_.Get(), BPF_SK_MSG_VERDICT, 0, nullptr, &program_id, &count) != 0) {
    Fail(info.Env(), "bpf_prog_query", errno);
  }
  if (count == 0) return info.Env().Undefined();
  const FileDescriptor program(bpf_prog_get_fd_by_id(program_id));
  if (!program) Fail(info.Env(), "bpf_prog_get_fd_by_id", errno);
  FileDescriptor map = MapOfProgram(program.Get(), name);
  if (map) return Wrap(info.Env(), std::move(map), name);
  if (errno != 0) Fail(info.Env(), "bpf_map_get_fd_by_id", errno);
  return info.Env().Undefined();
}

Napi::Value BpfMap::StructLayout(const Napi::CallbackInfo& info) {
  const std::string name = StringArgument(info, 0, "name");
  return ReadStructLayout(info.Env(), Types(info.Env(), "structLayout"), name);
}

Napi::Value BpfMap::EnumValues(const Napi::CallbackInfo& info) {
  const std::string name = StringArgument(info, 0, "name");
  return ReadEnumValues(info.Env(), Types(info.Env(), "enumValues"), name);
}

const btf* BpfMap::Types(Napi::Env env, const char* operation) {
  RequireOpen(env, operation);
  if (types_ != nullptr) return types_.get();
  if (info_.btf_id == 0) {
    throw NativeError(env, {.error = ENOENT,
                            .operation = operation,
                            .object = name_,
                            .reason = "the map was made without BTF"});
  }
  const LibbpfLog log;
  btf* types = btf__load_from_kernel_by_id(info_.btf_id);
  if (types == nullptr) Fail(env, "bpf_btf_get_fd_by_id", errno);
  types_ = std::shared_ptr<btf>(types, btf__free);
  return types;
}

void BpfMap::RequireType(Napi::Env env, uint32_t type, const char* noun) const {
  if (info_.type != type) throw Napi::TypeError::New(env, std::string("map must be ") + noun);
}

void BpfMap::Close(const Napi::CallbackInfo&) { fd_.Close(); }

void BpfMap::RequireOpen(Napi::Env env, const char* operation) const {
  if (!fd_) throw ClosedError(env, operation, name_);
}

void BpfMap::Fail(Napi::Env env, const char* operation, int error) const {
  throw NativeError(env, {.error = error, .operation = operation, .object = name_});
}

size_t BpfMap::ValueBytes() const {
  if (!IsPerCpu(info_.type)) return info_.value_size;
  return RoundUpToEight(info_.value_size) * static_cast<size_t>(libbpf_num_possible_cpus());
}
