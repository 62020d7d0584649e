// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Waiting until every BPF program that was running has ended.
#include "rcu_barrier.h"

#include <bpf/bpf.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "arguments.h"
#include "file_descriptor.h"
#include "native_error.h"

namespace {

// kernel/bpf/syscall.c:maybe_wait_bpf_programs: an update of a map in a map ends with
// synchronize_rcu(). Zero, or an errno number.
int WaitThroughMap() {
  const FileDescriptor inner(
      bpf_map_create(BPF_MAP_TYPE_ARRAY, nullptr, sizeof(uint32_t), sizeof(uint32_t), 1, nullptr));
  if (!inner) return errno;
  bpf_map_create_opts options{};
  options.sz = sizeof options;
  options.inner_map_fd = static_cast<uint32_t>(inner.Get());
  const FileDescriptor outer(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, nullptr, sizeof(uint32_t),
                                            sizeof(uint32_t), 1, &options));
  if (!outer) return errno;
  const uint32_t key = 0;
  const int value = inner.Get();
  return bpf_map_update_elem(outer.Get(), &key, &value, BPF_ANY) == 0 ? 0 : errno;
}

// kernel/sched/membarrier.c: MEMBARRIER_CMD_GLOBAL is synchronize_rcu(), and EINVAL on kernels
// booted with nohz_full.
int WaitThroughMembarrier() {
  return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 ? 0 : errno;
}

class Waiter : public Napi::AsyncWorker {
 public:
  Waiter(Napi::Env env, bool membarrier)
      : AsyncWorker(env), promise_(Napi::Promise::Deferred::New(env)), membarrier_(membarrier) {}

  Napi::Promise Promise() { return promise_.Promise(); }

 protected:
  void Execute() override {
    if (membarrier_ && WaitThroughMembarrier() == 0) return;
    error_ = WaitThroughMap();
  }

  void OnOK() override {
    if (error_ == 0) {
      promise_.Resolve(Env().Undefined());
    } else {
      promise_.Reject(
          NativeError(Env(), {.error = error_, .operation = "rcuBarrier", .object = ""}).Value());
    }
  }

 private:
  Napi::Promise::Deferred promise_;
  bool membarrier_;
  int error_ = 0;
};

}  // namespace

Napi::Value RcuBarrier(const Napi::CallbackInfo& info) {
  bool membarrier = true;
  if (!info[0].IsUndefined()) {
    const std::string method = StringArgument(info, 0, "method");
    if (method != "auto" && method != "map") {
      throw Napi::TypeError::New(info.Env(), "method must be 'auto' or 'map'");
    }
    membarrier = method == "auto";
  }
  auto* waiter = new Waiter(info.Env(), membarrier);  // deletes itself
  const Napi::Promise promise = waiter->Promise();
  waiter->Queue();
  return promise;
}
