// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Checked reading of JavaScript arguments: a wrong type is a TypeError, a wrong size a RangeError.
#pragma once

#include <napi.h>

#include <cstdint>
#include <limits>
#include <string>

std::string StringArgument(const Napi::CallbackInfo& info, size_t index, const char* name);

// A whole number between `least` and 2^32-1.
uint32_t Uint32Argument(const Napi::CallbackInfo& info, size_t index, const char* name,
                        uint32_t least = 0);

// A Buffer or Uint8Array of exactly `size` bytes.
Napi::Uint8Array BytesArgument(const Napi::CallbackInfo& info, size_t index, const char* name,
                               size_t size);

uint32_t Uint32Value(Napi::Value value, const char* name, uint32_t least = 0);
