// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Waking the reader of a socket that another process owns.
#pragma once

#include <napi.h>

Napi::Value NudgeReader(const Napi::CallbackInfo& info);
