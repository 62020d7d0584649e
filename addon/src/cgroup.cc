// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Cgroup v2 directories and the 64-bit ids that the kernel and BPF programs use for them.
#include "cgroup.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "arguments.h"
#include "cgroup_name.h"
#include "file_descriptor.h"
#include "native_error.h"

namespace {

constexpr int kKernfsHandleType = 0xfe;  // FILEID_KERNFS of include/linux/exportfs.h
// BPF_CGROUP_MAX_PROGS of include/linux/bpf-cgroup.h, at 32 levels.
constexpr uint32_t kMostPrograms = 64 * 32;
constexpr uint32_t kMostMaps = 64;  // MAX_USED_MAPS of include/linux/bpf_verifier.h

// A struct file_handle whose bytes are a kernfs node id (fs/kernfs/mount.c).
class KernfsHandle {
 public:
  explicit KernfsHandle(uint64_t id = 0) {
    Get()->handle_bytes = sizeof id;
    Get()->handle_type = kKernfsHandleType;
    std::memcpy(Get()->f_handle, &id, sizeof id);
  }
  file_handle* Get() { return reinterpret_cast<file_handle*>(bytes_.data()); }
  uint64_t Id() {
    uint64_t id = 0;
    std::memcpy(&id, Get()->f_handle, sizeof id);
    return id;
  }

 private:
  alignas(file_handle) std::array<std::byte, sizeof(file_handle) + sizeof(uint64_t)> bytes_{};
};

[[noreturn]] void Fail(Napi::Env env, const char* operation, const std::string& path, int error) {
  throw NativeError(env, {.error = error, .operation = operation, .object = path});
}

// The names of a program's maps; of those that are not opened by id any more, none.
Napi::Array MapNames(Napi::Env env, const FileDescriptor& program) {
  std::array<uint32_t, kMostMaps> ids{};
  bpf_prog_info details{};
  details.nr_map_ids = kMostMaps;
  details.map_ids = reinterpret_cast<uintptr_t>(ids.data());
  uint32_t length = sizeof details;
  Napi::Array names = Napi::Array::New(env);
  if (bpf_obj_get_info_by_fd(program.Get(), &details, &length) != 0) return names;
  for (uint32_t i = 0; i < std::min(details.nr_map_ids, kMostMaps); ++i) {
    const FileDescriptor map(bpf_map_get_fd_by_id(ids.at(i)));
    bpf_map_info info{};
    uint32_t size = sizeof info;
    if (!map || bpf_obj_get_info_by_fd(map.Get(), &info, &size) != 0) continue;
    names[names.Length()] = Napi::String::New(env, info.name);
  }
  return names;
}

}  // namespace

FileDescriptor OpenCgroup(Napi::Env env, const std::string& path) {
  FileDescriptor directory = FileDescriptor::OpenDirectory(UnescapeCgroupPath(path));
  if (!directory) Fail(env, "open", path, errno);
  struct statfs filesystem{};
  if (fstatfs(directory.Get(), &filesystem) != 0) Fail(env, "fstatfs", path, errno);
  if (filesystem.f_type != CGROUP2_SUPER_MAGIC) {
    throw NativeError(env, {.error = EINVAL,
                            .operation = "open",
                            .object = path,
                            .reason = "not a directory of the cgroup v2 file system"});
  }
  return directory;
}

Napi::Value CgroupId(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "dir");
  const FileDescriptor directory = OpenCgroup(info.Env(), path);
  KernfsHandle handle;
  int mount_id = 0;
  if (name_to_handle_at(directory.Get(), "", handle.Get(), &mount_id, AT_EMPTY_PATH) == 0) {
    return Napi::BigInt::New(info.Env(), handle.Id());
  }
  // Without file handles (gVisor, old seccomp profiles): on 64-bit systems the inode number is
  // the same id (fs/kernfs/kernfs-internal.h:kernfs_ino).
  struct stat status{};
  if (fstat(directory.Get(), &status) != 0) Fail(info.Env(), "fstat", path, errno);
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(status.st_ino));
}

Napi::Value CgroupPath(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  bool lossless = false;
  if (!info[0].IsBigInt()) throw Napi::TypeError::New(env, "id must be a bigint");
  KernfsHandle handle(info[0].As<Napi::BigInt>().Uint64Value(&lossless));
  if (!lossless) throw Napi::RangeError::New(env, "id must be from 0 to 2^64-1");
  const std::string mount_path = StringArgument(info, 1, "mountDir");
  const FileDescriptor mount = OpenCgroup(env, mount_path);
  const FileDescriptor cgroup(
      open_by_handle_at(mount.Get(), handle.Get(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) {
    if (errno == ESTALE || errno == ENOENT) return env.Undefined();
    Fail(env, "open_by_handle_at", mount_path, errno);
  }
  std::string root = mount.Target();
  if (root == "/") root.clear();
  const std::string path = cgroup.Target();
  if (path == root) return Napi::String::New(env, "/");
  if (path.compare(0, root.size() + 1, root + "/") != 0) return env.Undefined();
  // Removed meanwhile: the kernel then appends " (deleted)" to the path.
  struct stat status{};
  if (stat(path.c_str(), &status) != 0 || status.st_ino != handle.Id()) return env.Undefined();
  return Napi::String::New(env, EscapeCgroupPath(path.substr(root.size())));
}

Napi::Value AttachedPrograms(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = StringArgument(info, 0, "cgroupDir");
  const std::string type = StringArgument(info, 1, "type");
  if (type != "sock_ops" && type != "setsockopt") {
    throw Napi::TypeError::New(env, "type must be 'sock_ops' or 'setsockopt'");
  }
  const bool effective = info[2].ToBoolean().Value();
  const FileDescriptor cgroup = OpenCgroup(env, path);
  std::vector<uint32_t> ids(kMostPrograms);
  uint32_t count = kMostPrograms;
  uint32_t attach_flags = 0;
  if (bpf_prog_query(cgroup.Get(), type == "sock_ops" ? BPF_CGROUP_SOCK_OPS : BPF_CGROUP_SETSOCKOPT,
                     effective ? BPF_F_QUERY_EFFECTIVE : 0, &attach_flags, ids.data(),
                     &count) != 0) {
    Fail(env, "bpf_prog_query", path, errno);
  }
  Napi::Array programs = Napi::Array::New(env);
  for (uint32_t i = 0; i < count; ++i) {
    const FileDescriptor program(bpf_prog_get_fd_by_id(ids.at(i)));
    bpf_prog_info details{};
    uint32_t length = sizeof details;
    const bool known = program && bpf_obj_get_info_by_fd(program.Get(), &details, &length) == 0;
    if (!known && errno == ENOENT) continue;  // detached between the two calls
    if (!known && errno != EPERM) Fail(env, "bpf_prog_get_fd_by_id", path, errno);
    Napi::Object entry = Napi::Object::New(env);
    entry["id"] = Napi::Number::New(env, ids.at(i));
    // Programs are opened by id with CAP_SYS_ADMIN only (bpf_prog_get_fd_by_id).
    if (known) {
      entry["name"] = Napi::String::New(env, details.name);
      entry["maps"] = MapNames(env, program);
    }
    programs[programs.Length()] = entry;
  }
  return programs;
}
