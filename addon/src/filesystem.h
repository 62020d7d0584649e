// SPDX-License-Identifier: GPL-2.0-only OR MIT
// What kind of file system a path is on, and mounting a BPF file system.
#pragma once

#include <napi.h>

Napi::Value FileSystemType(const Napi::CallbackInfo& info);
void MountBpf(const Napi::CallbackInfo& info);
