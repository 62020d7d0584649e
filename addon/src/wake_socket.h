// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Waking whoever waits for a socket of another process.
#pragma once

#include <napi.h>

Napi::Value WakeSocket(const Napi::CallbackInfo& info);
