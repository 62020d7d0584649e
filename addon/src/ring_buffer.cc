// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Delivers a BPF ring buffer's records to JavaScript from the event loop.
#include "ring_buffer.h"

#include <bpf/libbpf.h>
#include <uv.h>

#include <cerrno>

#include "arguments.h"
#include "bpf_map.h"
#include "libbpf_log.h"
#include "native_error.h"

namespace {

constexpr uint32_t kDefaultBatch = 256;

uint32_t BatchOption(const Napi::CallbackInfo& info) {
  if (info[2].IsUndefined()) return kDefaultBatch;
  if (!info[2].IsObject()) throw Napi::TypeError::New(info.Env(), "options must be an object");
  const Napi::Value batch = info[2].As<Napi::Object>().Get("batch");
  return batch.IsUndefined() ? kDefaultBatch : Uint32Value(batch, "batch", 1);
}

}  // namespace

// The part libuv calls. It uses the C interface of Node-API: an exception must not pass through
// libuv's or libbpf's frames, and in a worker that is being terminated any call may fail.
class RingBuffer::Poller {
 public:
  Poller(RingBuffer* owner, const Napi::CallbackInfo& info, uint32_t batch)
      : owner_(owner), env_(info.Env()), batch_(batch) {
    napi_create_reference(env_, info.This(), 1, &self_);
    napi_create_reference(env_, info[1], 1, &on_records_);
  }
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  // Zero, or a negative errno. From success on, Stop() ends in this object's deletion.
  int Start(int map) {
    const LibbpfLog log;
    map_ = FileDescriptor::Duplicate(map);
    if (!map_) return -errno;
    ring_ = ring_buffer__new(map_.Get(), OnSample, this, nullptr);
    if (ring_ == nullptr) return -errno;
    uv_loop_t* loop = nullptr;
    napi_get_uv_event_loop(env_, &loop);
    int error = uv_poll_init(loop, &poll_, ring_buffer__epoll_fd(ring_));
    if (error != 0) return error;
    poll_.data = this;
    napi_add_async_cleanup_hook(env_, OnTeardown, this, &teardown_);
    uv_poll_start(&poll_, UV_READABLE, OnReadable);
    return 0;
  }

  void Stop() {
    if (owner_ == nullptr) return;
    owner_->poller_ = nullptr;
    owner_ = nullptr;
    uv_close(Handle(), OnClosed);
  }

  uv_handle_t* Handle() { return reinterpret_cast<uv_handle_t*>(&poll_); }

  ~Poller() {
    ring_buffer__free(ring_);
    napi_delete_reference(env_, self_);
    napi_delete_reference(env_, on_records_);
  }

 private:
  static Poller* Of(void* data) { return static_cast<Poller*>(data); }

  static void OnReadable(uv_poll_t* handle, int, int) { Of(handle->data)->Deliver(); }

  static void OnTeardown(napi_async_cleanup_hook_handle, void* data) { Of(data)->Stop(); }

  static void OnClosed(uv_handle_t* handle) {
    Poller* poller = Of(handle->data);
    napi_async_cleanup_hook_handle teardown = poller->teardown_;
    delete poller;
    // Last: it lets the environment go on with its own end.
    napi_remove_async_cleanup_hook(teardown);
  }

  void Deliver() {
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env_, &scope) != napi_ok) return;
    count_ = 0;
    if (napi_create_array(env_, &records_) == napi_ok) {
      ring_buffer__consume(ring_);
      if (count_ > 0) Call();
    }
    napi_close_handle_scope(env_, scope);
  }

  // libbpf has already counted the record as consumed when this returns an error, which only
  // ends the round. The epoll descriptor stays readable, so the next turn brings the rest.
  static int OnSample(void* data, void* sample, size_t length) {
    Poller* poller = Of(data);
    napi_value record = nullptr;
    if (napi_create_buffer_copy(poller->env_, length, sample, nullptr, &record) != napi_ok ||
        napi_set_element(poller->env_, poller->records_, poller->count_, record) != napi_ok) {
      return -ECANCELED;
    }
    return ++poller->count_ < poller->batch_ ? 0 : -ECANCELED;
  }

  // The callback may close this ring buffer; nothing of it is used afterwards but env_.
  void Call() {
    const napi_env env = env_;
    napi_value self = nullptr;
    napi_value on_records = nullptr;
    napi_get_reference_value(env, self_, &self);
    napi_get_reference_value(env, on_records_, &on_records);
    const napi_status status =
        napi_make_callback(env, nullptr, self, on_records, 1, &records_, nullptr);
    napi_value exception = nullptr;
    if (status == napi_pending_exception &&
        napi_get_and_clear_last_exception(env, &exception) == napi_ok) {
      napi_fatal_exception(env, exception);
    }
  }

  RingBuffer* owner_;
  napi_env env_;
  FileDescriptor map_;  // the epoll descriptor watches it
  uint32_t batch_;
  uint32_t count_ = 0;
  napi_value records_ = nullptr;  // valid during Deliver()
  napi_ref self_ = nullptr;       // an open ring buffer is not garbage
  napi_ref on_records_ = nullptr;
  ring_buffer* ring_ = nullptr;
  uv_poll_t poll_{};
  napi_async_cleanup_hook_handle teardown_ = nullptr;
};

Napi::Function RingBuffer::Define(Napi::Env env) {
  return DefineClass(env, "RingBuffer",
                     {
                         InstanceMethod<&RingBuffer::Ref>("ref"),
                         InstanceMethod<&RingBuffer::Unref>("unref"),
                         InstanceMethod<&RingBuffer::Close>("close"),
                     });
}

RingBuffer::RingBuffer(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const BpfMap& map = BpfMap::Argument(info, 0, "ring_buffer__new");
  if (!info[1].IsFunction()) {
    throw Napi::TypeError::New(info.Env(), "onRecords must be a function");
  }
  const uint32_t batch = BatchOption(info);
  auto poller = std::make_unique<Poller>(this, info, batch);
  const int error = poller->Start(map.Descriptor());
  if (error != 0) {
    throw NativeError(info.Env(),
                      {.error = error, .operation = "ring_buffer__new", .object = map.Name()});
  }
  poller_ = poller.release();
}

RingBuffer::~RingBuffer() {
  if (poller_ != nullptr) poller_->Stop();
}

void RingBuffer::Ref(const Napi::CallbackInfo&) {
  if (poller_ != nullptr) uv_ref(poller_->Handle());
}

void RingBuffer::Unref(const Napi::CallbackInfo&) {
  if (poller_ != nullptr) uv_unref(poller_->Handle());
}

void RingBuffer::Close(const Napi::CallbackInfo&) {
  if (poller_ != nullptr) poller_->Stop();
}
