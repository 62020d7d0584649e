// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Waiting until every BPF program that was running has ended.
#pragma once

#include <napi.h>

Napi::Value RcuBarrier(const Napi::CallbackInfo& info);
