// SPDX-License-Identifier: GPL-2.0-only OR MIT
// An advisory lock on a directory, also one of a BPF file system, where no file can be created.
#pragma once

#include <napi.h>

#include "file_descriptor.h"

class DirectoryLock : public Napi::ObjectWrap<DirectoryLock> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit DirectoryLock(const Napi::CallbackInfo& info);

 private:
  static Napi::Value Acquire(const Napi::CallbackInfo& info);
  void Release(const Napi::CallbackInfo& info);

  FileDescriptor fd_;
};
