// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Setting an option on sockets of other processes.
#pragma once

#include <napi.h>

Napi::Value SetSocketOptions(const Napi::CallbackInfo& info);
