// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Every cgroup below a mount, with the path and the id of each.
#include "cgroup_list.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "cgroup.h"
#include "cgroup_name.h"
#include "file_descriptor.h"
#include "native_error.h"

namespace {

constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
constexpr size_t kBufferSize = 65536;
// Of a directory that has no other in it: its name, and its own "."
// (fs/kernfs/inode.c:kernfs_refresh_inode).
constexpr nlink_t kLeafLinks = 2;

// Looks through a tree with two descriptors at most, however deep it is.
class Walk {
 public:
  // Zero, or an errno number: then the list is not complete.
  int Run(FileDescriptor root) {
    const auto begin = std::chrono::steady_clock::now();
    const int error = Visit(std::move(root));
    duration_ = std::chrono::steady_clock::now() - begin;
    return error;
  }

  Napi::Object List(Napi::Env env) const {
    Napi::BigUint64Array ids = Napi::BigUint64Array::New(env, ids_.size());
    std::ranges::copy(ids_, ids.Data());
    Napi::Array paths = Napi::Array::New(env, paths_.size());
    for (size_t i = 0; i < paths_.size(); ++i) {
      paths[static_cast<uint32_t>(i)] = Napi::String::New(env, EscapeCgroupPath(paths_[i]));
    }
    Napi::Object list = Napi::Object::New(env);
    list["ids"] = ids;
    list["paths"] = paths;
    list["milliseconds"] = Napi::Number::New(env, duration_.count());
    return list;
  }

 private:
  struct Level {
    ino_t inode;
    size_t path_length;
    std::vector<std::string> unvisited;  // those with others in them
  };

  int Visit(FileDescriptor at) {
    struct stat status{};
    if (fstat(at.Get(), &status) != 0) return errno;
    device_ = status.st_dev;
    ids_.push_back(status.st_ino);
    paths_.emplace_back("/");
    levels_.push_back({.inode = status.st_ino, .path_length = 0, .unvisited = {}});
    if (const int error = Read(at); error != 0) return error;
    for (;;) {
      Level& level = levels_.back();
      path_.resize(level.path_length);
      if (level.unvisited.empty()) {
        levels_.pop_back();
        if (levels_.empty()) return 0;
        if (const int error = Ascend(&at); error != 0) return error;
        continue;
      }
      const std::string name = std::move(level.unvisited.back());
      level.unvisited.pop_back();
      if (const int error = Descend(&at, name); error != 0) return error;
    }
  }

  int Descend(FileDescriptor* at, const std::string& name) {
    FileDescriptor child(openat(at->Get(), name.c_str(), kDirectory));
    if (!child) return errno == ENOENT ? 0 : errno;  // removed meanwhile
    struct stat status{};
    if (fstat(child.Get(), &status) != 0) return errno;
    path_ += '/';
    path_ += name;
    levels_.push_back({.inode = status.st_ino, .path_length = path_.size(), .unvisited = {}});
    *at = std::move(child);
    return Read(*at);
  }

  // A cgroup can't be moved, and one that was removed still knows where it was.
  int Ascend(FileDescriptor* at) {
    FileDescriptor parent(openat(at->Get(), "..", kDirectory));
    struct stat status{};
    if (!parent || fstat(parent.Get(), &status) != 0) return errno;
    if (status.st_ino != levels_.back().inode) return ESTALE;
    *at = std::move(parent);
    return 0;
  }

  // Notes the directories in this one.
  int Read(const FileDescriptor& directory) {
    for (;;) {
      const ssize_t length = getdents64(directory.Get(), buffer_.data(), buffer_.size());
      if (length < 0) return errno == ENOENT ? 0 : errno;  // removed meanwhile
      if (length == 0) return 0;
      for (ssize_t offset = 0; offset < length;) {
        const auto* entry = reinterpret_cast<const dirent64*>(&buffer_.at(offset));
        offset += entry->d_reclen;
        const std::string name(&entry->d_name[0]);
        if (entry->d_type != DT_DIR || name == "." || name == "..") continue;
        if (const int error = Note(directory, entry->d_ino, name); error != 0) return error;
      }
    }
  }

  int Note(const FileDescriptor& parent, uint64_t id, const std::string& name) {
    struct stat status{};
    if (fstatat(parent.Get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      return errno == ENOENT ? 0 : errno;  // removed meanwhile
    }
    ids_.push_back(id);
    paths_.push_back(path_ + "/" + name);
    // What another file system covers can't be reached.
    if (status.st_dev == device_ && status.st_nlink != kLeafLinks) {
      levels_.back().unvisited.push_back(name);
    }
    return 0;
  }

  alignas(dirent64) std::array<char, kBufferSize> buffer_{};
  dev_t device_ = 0;
  std::string path_;
  std::vector<Level> levels_;
  std::vector<uint64_t> ids_;
  std::vector<std::string> paths_;
  std::chrono::duration<double, std::milli> duration_{};
};

Napi::Error WalkError(Napi::Env env, const std::string& path, int error) {
  return NativeError(env, {.error = error, .operation = "listCgroups", .object = path});
}

class Lister : public Napi::AsyncWorker {
 public:
  Lister(Napi::Env env, std::string path, FileDescriptor root)
      : AsyncWorker(env),
        promise_(Napi::Promise::Deferred::New(env)),
        path_(std::move(path)),
        root_(std::move(root)) {}

  Napi::Promise Promise() { return promise_.Promise(); }

 protected:
  // No exception may leave the thread; a rejected promise does not keep its caller waiting.
  void Execute() override {
    try {
      error_ = walk_.Run(std::move(root_));
    } catch (const std::bad_alloc&) {
      error_ = ENOMEM;
    } catch (const std::exception&) {
      error_ = EIO;
    }
  }

  void OnOK() override {
    if (error_ == 0) {
      try {
        promise_.Resolve(walk_.List(Env()));
      } catch (const Napi::Error& error) {
        promise_.Reject(error.Value());
      }
    } else {
      promise_.Reject(WalkError(Env(), path_, error_).Value());
    }
  }

 private:
  Napi::Promise::Deferred promise_;
  std::string path_;
  FileDescriptor root_;
  Walk walk_;
  int error_ = 0;
};

}  // namespace

Napi::Value ListCgroups(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "mountDir");
  auto* lister = new Lister(info.Env(), path, OpenCgroup(info.Env(), path));  // deletes itself
  const Napi::Promise promise = lister->Promise();
  lister->Queue();
  return promise;
}

Napi::Value ListCgroupsSync(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "mountDir");
  const auto walk = std::make_unique<Walk>();
  if (const int error = walk->Run(OpenCgroup(info.Env(), path)); error != 0) {
    throw WalkError(info.Env(), path, error);
  }
  return walk->List(info.Env());
}
