// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Names for kernel objects in a BPF file system.
#pragma once

#include <napi.h>

#include <string>

#include "file_descriptor.h"

enum class PinKind { kMap, kProgram, kLink };

// Opens what is pinned at `path`; EINVAL when it is not of that kind.
FileDescriptor OpenPin(Napi::Env env, const std::string& path, PinKind kind);

void Pin(Napi::Env env, const FileDescriptor& fd, const std::string& path);
