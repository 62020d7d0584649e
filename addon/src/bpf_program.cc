// SPDX-License-Identifier: GPL-2.0-only OR MIT
// A loaded BPF program, from an object file or from a pin.
#include "bpf_program.h"

#include <bpf/bpf.h>

#include <cerrno>

#include "addon_data.h"
#include "arguments.h"
#include "bpf_link.h"
#include "bpf_map.h"
#include "libbpf_log.h"
#include "native_error.h"
#include "pin.h"

struct BpfProgram::Seed {
  FileDescriptor fd;
  std::string name;
  std::weak_ptr<bpf_object> object;
  const bpf_program* program;
};

Napi::Function BpfProgram::Define(Napi::Env env) {
  return DefineClass(env, "BpfProgram",
                     {
                         StaticMethod<&BpfProgram::Open>("open"),
                         InstanceAccessor<&BpfProgram::Name>("name"),
                         InstanceAccessor<&BpfProgram::Id>("id"),
                         InstanceMethod<&BpfProgram::Pin>("pin"),
                         InstanceMethod<&BpfProgram::AttachCgroup>("attachCgroup"),
                         InstanceMethod<&BpfProgram::AttachTracepoint>("attachTracepoint"),
                         InstanceMethod<&BpfProgram::AttachIterator>("attachIterator"),
                         InstanceMethod<&BpfProgram::AttachTailCall>("attachTailCall"),
                         InstanceMethod<&BpfProgram::AttachSockmap>("attachSockmap"),
                         InstanceMethod<&BpfProgram::DetachSockmap>("detachSockmap"),
                         InstanceMethod<&BpfProgram::Close>("close"),
                     });
}

Napi::Value BpfProgram::New(Napi::Env env, const std::shared_ptr<bpf_object>& object,
                            const bpf_program* program) {
  const std::string name = bpf_program__name(program);
  Seed seed{.fd = FileDescriptor::Duplicate(bpf_program__fd(program)),
            .name = name,
            .object = object,
            .program = program};
  if (!seed.fd) throw NativeError(env, {.error = errno, .operation = "fcntl", .object = name});
  return AddonData::Of(env).bpf_program.New({Napi::External<Seed>::New(env, &seed)});
}

Napi::Value BpfProgram::Open(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "pinPath");
  Seed seed{.fd = OpenPin(info.Env(), path, PinKind::kProgram),
            .name = {},
            .object = {},
            .program = nullptr};
  return AddonData::Of(info.Env()).bpf_program.New({Napi::External<Seed>::New(info.Env(), &seed)});
}

BpfProgram::BpfProgram(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use BpfProgram.open()");
  Seed& seed = *info[0].As<Napi::External<Seed>>().Data();
  fd_ = std::move(seed.fd);
  name_ = seed.name;
  object_ = seed.object;
  program_ = seed.program;
  bpf_prog_info kernel{};
  uint32_t length = sizeof kernel;
  if (bpf_obj_get_info_by_fd(fd_.Get(), &kernel, &length) != 0) {
    Fail(info.Env(), "bpf_obj_get_info_by_fd", errno);
  }
  if (name_.empty()) name_ = kernel.name;
  id_ = kernel.id;
}

Napi::Value BpfProgram::Name(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), name_);
}

Napi::Value BpfProgram::Id(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), id_);
}

void BpfProgram::Pin(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "path");
  RequireOpen(info.Env(), "bpf_obj_pin");
  ::Pin(info.Env(), fd_, path);
}

Napi::Value BpfProgram::AttachCgroup(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "attach_cgroup";
  const std::string path = StringArgument(info, 0, "cgroupDir");
  const bpf_program* program = FromObject(info.Env(), kOperation);
  const FileDescriptor cgroup = FileDescriptor::OpenDirectory(path);
  if (!cgroup) {
    throw NativeError(info.Env(), {.error = errno, .operation = "open", .object = path});
  }
  const LibbpfLog log;
  return Linked(info.Env(), kOperation, bpf_program__attach_cgroup(program, cgroup.Get()));
}

Napi::Value BpfProgram::AttachTracepoint(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "attach_tracepoint";
  const bpf_program* program = FromObject(info.Env(), kOperation);
  const LibbpfLog log;
  return Linked(info.Env(), kOperation, bpf_program__attach(program));
}

Napi::Value BpfProgram::AttachIterator(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "attach_iter";
  bpf_iter_link_info target{};
  if (!info[0].IsUndefined()) {
    target.map.map_fd = static_cast<uint32_t>(BpfMap::Argument(info, 0, kOperation).Descriptor());
  }
  const bpf_program* program = FromObject(info.Env(), kOperation);
  bpf_iter_attach_opts options{};
  options.sz = sizeof options;
  options.link_info = &target;
  options.link_info_len = sizeof target;
  const LibbpfLog log;
  return Linked(info.Env(), kOperation, bpf_program__attach_iter(program, &options));
}

void BpfProgram::AttachTailCall(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_map_update_elem";
  const BpfMap& map = BpfMap::Argument(info, 0, kOperation);
  const uint32_t index = Uint32Argument(info, 1, "index");
  RequireOpen(info.Env(), kOperation);
  map.RequireType(info.Env(), BPF_MAP_TYPE_PROG_ARRAY, "a program array");
  const int fd = fd_.Get();
  if (bpf_map_update_elem(map.Descriptor(), &index, &fd, BPF_ANY) != 0) {
    Fail(info.Env(), kOperation, errno);
  }
}

void BpfProgram::AttachSockmap(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_prog_attach";
  const BpfMap& map = BpfMap::Argument(info, 0, kOperation);
  RequireOpen(info.Env(), kOperation);
  if (bpf_prog_attach(fd_.Get(), map.Descriptor(), BPF_SK_MSG_VERDICT, 0) != 0) {
    Fail(info.Env(), kOperation, errno);
  }
}

void BpfProgram::DetachSockmap(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_prog_detach";
  const BpfMap& map = BpfMap::Argument(info, 0, kOperation);
  RequireOpen(info.Env(), kOperation);
  if (bpf_prog_detach2(fd_.Get(), map.Descriptor(), BPF_SK_MSG_VERDICT) != 0) {
    Fail(info.Env(), kOperation, errno);
  }
}

void BpfProgram::Close(const Napi::CallbackInfo&) { fd_.Close(); }

void BpfProgram::RequireOpen(Napi::Env env, const char* operation) const {
  if (!fd_) throw ClosedError(env, operation, name_);
}

const bpf_program* BpfProgram::FromObject(Napi::Env env, const char* operation) const {
  RequireOpen(env, operation);
  if (program_ == nullptr) {
    throw NativeError(env, {.error = EOPNOTSUPP,
                            .operation = operation,
                            .object = name_,
                            .reason = "a program opened from a pin cannot be attached this way"});
  }
  if (object_.expired()) throw ClosedError(env, operation, name_);
  return program_;
}

Napi::Value BpfProgram::Linked(Napi::Env env, const char* operation, bpf_link* link) const {
  if (link == nullptr) Fail(env, operation, errno);
  return BpfLink::New(env, link, name_);
}

void BpfProgram::Fail(Napi::Env env, const char* operation, int error) const {
  throw NativeError(env, {.error = error, .operation = operation, .object = name_});
}
