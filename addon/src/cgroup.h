// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Cgroup v2 directories and the 64-bit ids that the kernel and BPF programs use for them.
#pragma once

#include <napi.h>

#include <string>

#include "file_descriptor.h"

// Throws unless it is a directory of the cgroup v2 file system; the descriptor can be read.
FileDescriptor OpenCgroup(Napi::Env env, const std::string& path);

Napi::Value CgroupId(const Napi::CallbackInfo& info);
Napi::Value CgroupPath(const Napi::CallbackInfo& info);
Napi::Value AttachedPrograms(const Napi::CallbackInfo& info);
