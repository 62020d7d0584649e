// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Checked reading of JavaScript arguments: a wrong type is a TypeError, a wrong size a RangeError.
#include "arguments.h"

#include <cmath>

std::string StringArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  const Napi::Value value = info[index];
  if (!value.IsString()) {
    throw Napi::TypeError::New(info.Env(), std::string(name) + " must be a string");
  }
  std::string text = value.As<Napi::String>();
  if (text.find('\0') != std::string::npos) {
    throw Napi::TypeError::New(info.Env(), std::string(name) + " must not contain a NUL");
  }
  return text;
}

uint32_t Uint32Value(Napi::Value value, const char* name, uint32_t least) {
  if (!value.IsNumber()) {
    throw Napi::TypeError::New(value.Env(), std::string(name) + " must be a number");
  }
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= least && number <= std::numeric_limits<uint32_t>::max()) ||
      std::trunc(number) != number) {
    throw Napi::RangeError::New(value.Env(), std::string(name) + " must be a whole number from " +
                                                 std::to_string(least) + " to 4294967295");
  }
  return static_cast<uint32_t>(number);
}

uint32_t Uint32Argument(const Napi::CallbackInfo& info, size_t index, const char* name,
                        uint32_t least) {
  return Uint32Value(info[index], name, least);
}

Napi::Uint8Array BytesArgument(const Napi::CallbackInfo& info, size_t index, const char* name,
                               size_t size) {
  const Napi::Value value = info[index];
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Napi::TypeError::New(info.Env(), std::string(name) + " must be a Buffer");
  }
  const auto bytes = value.As<Napi::Uint8Array>();
  if (bytes.ByteLength() != size) {
    throw Napi::RangeError::New(info.Env(), std::string(name) + " must be " + std::to_string(size) +
                                                " bytes long, not " +
                                                std::to_string(bytes.ByteLength()));
  }
  return bytes;
}
