// SPDX-License-Identifier: GPL-2.0-only OR MIT
// An advisory lock on a directory, also one of a BPF file system, where no file can be created.
#include "directory_lock.h"

#include <sys/file.h>

#include <cerrno>

#include "addon_data.h"
#include "arguments.h"
#include "native_error.h"

Napi::Function DirectoryLock::Define(Napi::Env env) {
  return DefineClass(env, "DirectoryLock",
                     {
                         StaticMethod<&DirectoryLock::Acquire>("acquire"),
                         InstanceMethod<&DirectoryLock::Release>("release"),
                     });
}

Napi::Value DirectoryLock::Acquire(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "dir");
  FileDescriptor fd = FileDescriptor::OpenDirectory(path);
  if (!fd) throw NativeError(info.Env(), {.error = errno, .operation = "open", .object = path});
  if (flock(fd.Get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return info.Env().Undefined();
    throw NativeError(info.Env(), {.error = errno, .operation = "flock", .object = path});
  }
  return AddonData::Of(info.Env())
      .directory_lock.New({Napi::External<FileDescriptor>::New(info.Env(), &fd)});
}

DirectoryLock::DirectoryLock(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (!info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "use DirectoryLock.acquire()");
  }
  fd_ = std::move(*info[0].As<Napi::External<FileDescriptor>>().Data());
  Ref();  // a lock nobody refers to is still held
}

void DirectoryLock::Release(const Napi::CallbackInfo&) {
  if (!fd_) return;
  fd_.Close();
  Unref();
}
