// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Names for kernel objects in a BPF file system.
#include "pin.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>

#include "native_error.h"

namespace {

struct KindText {
  const char* target;  // the anonymous inode's name, given in kernel/bpf/syscall.c
  const char* noun;
};

KindText TextOf(PinKind kind) {
  switch (kind) {
    case PinKind::kMap:
      return {.target = "bpf-map", .noun = "map"};
    case PinKind::kProgram:
      return {.target = "bpf-prog", .noun = "program"};
    default:
      return {.target = "bpf-link", .noun = "link"};
  }
}

}  // namespace

FileDescriptor OpenPin(Napi::Env env, const std::string& path, PinKind kind) {
  static constexpr const char* kOperation = "bpf_obj_get";
  FileDescriptor fd(bpf_obj_get(path.c_str()));
  if (!fd) throw NativeError(env, {.error = errno, .operation = kOperation, .object = path});
  const KindText text = TextOf(kind);
  // bpf_link_new_fd says "bpf-link", bpf_link_prime "bpf_link" (kernel/bpf/syscall.c).
  std::string target = fd.Target();
  std::replace(target.begin(), target.end(), '_', '-');
  if (target.substr(target.find(':') + 1) != text.target) {
    throw NativeError(env, {.error = EINVAL,
                            .operation = kOperation,
                            .object = path,
                            .reason = std::string("what is pinned there is not a ") + text.noun});
  }
  return fd;
}

void Pin(Napi::Env env, const FileDescriptor& fd, const std::string& path) {
  const int error = bpf_obj_pin(fd.Get(), path.c_str());
  if (error != 0) {
    throw NativeError(env, {.error = error, .operation = "bpf_obj_pin", .object = path});
  }
}
