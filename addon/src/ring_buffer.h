// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Delivers a BPF ring buffer's records to JavaScript from the event loop.
#pragma once

#include <napi.h>

class RingBuffer : public Napi::ObjectWrap<RingBuffer> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit RingBuffer(const Napi::CallbackInfo& info);
  ~RingBuffer() override;

 private:
  class Poller;

  void Ref(const Napi::CallbackInfo& info);
  void Unref(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  // Null once closed. It outlives this object until libuv has let go of its handle.
  Poller* poller_ = nullptr;
};
