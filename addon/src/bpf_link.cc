// SPDX-License-Identifier: GPL-2.0-only OR MIT
// An attachment of a program, which lasts while a descriptor or a pin refers to it.
#include "bpf_link.h"

#include <bpf/bpf.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "addon_data.h"
#include "arguments.h"
#include "native_error.h"
#include "pin.h"

namespace {

struct NewLink {
  FileDescriptor fd;
  std::string name;
};

}  // namespace

Napi::Function BpfLink::Define(Napi::Env env) {
  return DefineClass(env, "BpfLink",
                     {
                         StaticMethod<&BpfLink::Open>("open"),
                         InstanceMethod<&BpfLink::Pin>("pin"),
                         InstanceMethod<&BpfLink::Info>("info"),
                         InstanceMethod<&BpfLink::Detach>("detach"),
                         InstanceMethod<&BpfLink::RunIterator>("runIterator"),
                         InstanceMethod<&BpfLink::Close>("close"),
                     });
}

Napi::Value BpfLink::Wrap(Napi::Env env, FileDescriptor fd, const std::string& name) {
  NewLink seed{.fd = std::move(fd), .name = name};
  return AddonData::Of(env).bpf_link.New({Napi::External<NewLink>::New(env, &seed)});
}

Napi::Value BpfLink::New(Napi::Env env, bpf_link* link, const std::string& name) {
  // Only the descriptor is kept: every link made here lives in the kernel, and libbpf's own
  // bookkeeping would end with the object file.
  FileDescriptor fd = FileDescriptor::Duplicate(bpf_link__fd(link));
  const int error = errno;
  bpf_link__destroy(link);
  if (!fd) throw NativeError(env, {.error = error, .operation = "fcntl", .object = name});
  return Wrap(env, std::move(fd), name);
}

Napi::Value BpfLink::Open(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "pinPath");
  return Wrap(info.Env(), OpenPin(info.Env(), path, PinKind::kLink), path);
}

BpfLink::BpfLink(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use BpfLink.open()");
  NewLink& seed = *info[0].As<Napi::External<NewLink>>().Data();
  fd_ = std::move(seed.fd);
  name_ = seed.name;
}

void BpfLink::Pin(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "path");
  RequireOpen(info.Env(), "bpf_obj_pin");
  ::Pin(info.Env(), fd_, path);
}

Napi::Value BpfLink::Info(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_obj_get_info_by_fd";
  const Napi::Env env = info.Env();
  RequireOpen(env, kOperation);
  bpf_link_info link{};
  uint32_t length = sizeof link;
  if (bpf_obj_get_info_by_fd(fd_.Get(), &link, &length) != 0) Fail(env, kOperation, errno);
  const char* type = libbpf_bpf_link_type_str(static_cast<bpf_link_type>(link.type));
  Napi::Object result = Napi::Object::New(env);
  result["id"] = Napi::Number::New(env, link.id);
  result["type"] = type != nullptr ? std::string(type) : std::to_string(link.type);
  result["programId"] = Napi::Number::New(env, link.prog_id);
  if (link.type == BPF_LINK_TYPE_CGROUP) {
    result["cgroupId"] = Napi::BigInt::New(env, uint64_t{link.cgroup.cgroup_id});
  }
  return result;
}

void BpfLink::Detach(const Napi::CallbackInfo& info) {
  static constexpr const char* kOperation = "bpf_link_detach";
  RequireOpen(info.Env(), kOperation);
  if (bpf_link_detach(fd_.Get()) != 0) Fail(info.Env(), kOperation, errno);
}

Napi::Value BpfLink::RunIterator(const Napi::CallbackInfo& info) {
  RequireOpen(info.Env(), "bpf_iter_create");
  const FileDescriptor iterator(bpf_iter_create(fd_.Get()));
  if (!iterator) Fail(info.Env(), "bpf_iter_create", errno);
  std::vector<uint8_t> output;
  std::array<uint8_t, 16384> chunk;
  for (;;) {
    const ssize_t length = read(iterator.Get(), chunk.data(), chunk.size());
    if (length == 0) break;
    if (length > 0) {
      output.insert(output.end(), chunk.data(), chunk.data() + length);
    } else if (errno != EINTR && errno != EAGAIN) {
      // EAGAIN: a million elements without output (kernel/bpf/bpf_iter.c:bpf_seq_read); go on.
      Fail(info.Env(), "read", errno);
    }
  }
  return Napi::Buffer<uint8_t>::Copy(info.Env(), output.data(), output.size());
}

void BpfLink::Close(const Napi::CallbackInfo&) { fd_.Close(); }

void BpfLink::RequireOpen(Napi::Env env, const char* operation) const {
  if (!fd_) throw ClosedError(env, operation, name_);
}

void BpfLink::Fail(Napi::Env env, const char* operation, int error) const {
  throw NativeError(env, {.error = error, .operation = operation, .object = name_});
}
