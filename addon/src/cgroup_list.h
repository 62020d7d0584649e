// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Every cgroup below a mount, with the path and the id of each.
#pragma once

#include <napi.h>

Napi::Value ListCgroups(const Napi::CallbackInfo& info);
Napi::Value ListCgroupsSync(const Napi::CallbackInfo& info);
