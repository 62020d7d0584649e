// SPDX-License-Identifier: GPL-2.0-only OR MIT
// What kind of file system a path is on, and mounting a BPF file system.
#include "filesystem.h"

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include <cerrno>
#include <string>

#include "arguments.h"
#include "native_error.h"

namespace {

const char* TypeName(unsigned long magic) {
  switch (magic) {
    case BPF_FS_MAGIC:
      return "bpf";
    case CGROUP2_SUPER_MAGIC:
      return "cgroup2";
    case TMPFS_MAGIC:
      return "tmpfs";
    default:
      return "other";
  }
}

}  // namespace

Napi::Value FileSystemType(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "path");
  struct statfs filesystem{};
  if (statfs(path.c_str(), &filesystem) != 0) {
    throw NativeError(info.Env(), {.error = errno, .operation = "statfs", .object = path});
  }
  return Napi::String::New(info.Env(), TypeName(static_cast<unsigned long>(filesystem.f_type)));
}

void MountBpf(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "dir");
  // The options systemd uses for /sys/fs/bpf.
  if (mount("bpf", path.c_str(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") != 0) {
    throw NativeError(info.Env(), {.error = errno, .operation = "mount", .object = path});
  }
}
