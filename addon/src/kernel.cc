// SPDX-License-Identifier: GPL-2.0-only OR MIT
// What the running kernel and libbpf offer.
#include "kernel.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <array>
#include <cerrno>
#include <memory>
#include <mutex>
#include <string>

#include "arguments.h"
#include "file_descriptor.h"
#include "libbpf_log.h"
#include "native_error.h"

namespace {

constexpr const char* kKernelBtf = "/sys/kernel/btf/vmlinux";

uint32_t BtfKind(const Napi::CallbackInfo& info, size_t index) {
  const std::string kind = StringArgument(info, index, "kind");
  if (kind == "struct") return BTF_KIND_STRUCT;
  if (kind == "func") return BTF_KIND_FUNC;
  if (kind == "typedef") return BTF_KIND_TYPEDEF;
  throw Napi::TypeError::New(info.Env(), "kind must be 'struct', 'func' or 'typedef'");
}

// The type number for libbpf's name of it; unnamed numbers end the search.
template <typename Type>
Type TypeNamed(const Napi::CallbackInfo& info, const char* (*name_of)(Type)) {
  const std::string name = StringArgument(info, 0, "name");
  for (int number = 1;; ++number) {
    const char* candidate = name_of(static_cast<Type>(number));
    if (candidate == nullptr) break;
    if (name == candidate) return static_cast<Type>(number);
  }
  throw Napi::RangeError::New(info.Env(), "libbpf " + std::string(libbpf_version_string()) +
                                              " knows no type \"" + name + "\"");
}

Napi::Value ProbeResult(const Napi::CallbackInfo& info, const char* operation, int result) {
  if (result < 0) {
    throw NativeError(
        info.Env(),
        {.error = result, .operation = operation, .object = StringArgument(info, 0, "name")});
  }
  return Napi::Boolean::New(info.Env(), result == 1);
}

// 0 or negative: the kernel's BTF has no such type.
int KernelTypeId(Napi::Env env, const std::string& name, uint32_t kind) {
  // The kernel's types do not change while it runs, and every thread may share them.
  static std::mutex mutex;
  static std::unique_ptr<btf, decltype(&btf__free)> types(nullptr, btf__free);

  const std::lock_guard<std::mutex> guard(mutex);
  if (types == nullptr) {
    const LibbpfLog log;
    types.reset(btf__parse(kKernelBtf, nullptr));
    if (types == nullptr) {
      throw NativeError(env, {.error = errno, .operation = "btf__parse", .object = kKernelBtf});
    }
  }
  return btf__find_by_name_kind(types.get(), name.c_str(), kind);
}

}  // namespace

Napi::Value KernelBtfHas(const Napi::CallbackInfo& info) {
  const uint32_t kind = BtfKind(info, 0);
  const std::string name = StringArgument(info, 1, "name");
  return Napi::Boolean::New(info.Env(), KernelTypeId(info.Env(), name, kind) > 0);
}

Napi::Value ProbeIterator(const Napi::CallbackInfo& info) {
  const std::string name = StringArgument(info, 0, "name");
  const int function = KernelTypeId(info.Env(), "bpf_iter_" + name, BTF_KIND_FUNC);
  if (function <= 0) return Napi::Boolean::New(info.Env(), false);
  std::array<bpf_insn, 2> nothing{};  // returns 0
  nothing[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
  nothing[1].code = BPF_JMP | BPF_EXIT;
  bpf_prog_load_opts options{};
  options.sz = sizeof options;
  options.expected_attach_type = BPF_TRACE_ITER;
  options.attach_btf_id = static_cast<uint32_t>(function);
  const LibbpfLog log;
  const FileDescriptor program(bpf_prog_load(BPF_PROG_TYPE_TRACING, "probe", "GPL", nothing.data(),
                                             nothing.size(), &options));
  return Napi::Boolean::New(info.Env(), static_cast<bool>(program));
}

Napi::Value ProbeProgramType(const Napi::CallbackInfo& info) {
  const auto type = TypeNamed<bpf_prog_type>(info, libbpf_bpf_prog_type_str);
  const LibbpfLog log;
  return ProbeResult(info, "libbpf_probe_bpf_prog_type", libbpf_probe_bpf_prog_type(type, nullptr));
}

Napi::Value ProbeMapType(const Napi::CallbackInfo& info) {
  const auto type = TypeNamed<bpf_map_type>(info, libbpf_bpf_map_type_str);
  const LibbpfLog log;
  return ProbeResult(info, "libbpf_probe_bpf_map_type", libbpf_probe_bpf_map_type(type, nullptr));
}

Napi::Value ObjectExists(const Napi::CallbackInfo& info) {
  const std::string kind = StringArgument(info, 0, "kind");
  const uint32_t id = Uint32Argument(info, 1, "id");
  int (*open)(__u32) = nullptr;
  if (kind == "program") open = bpf_prog_get_fd_by_id;
  if (kind == "map") open = bpf_map_get_fd_by_id;
  if (kind == "link") open = bpf_link_get_fd_by_id;
  if (open == nullptr) {
    throw Napi::TypeError::New(info.Env(), "kind must be 'program', 'map' or 'link'");
  }
  const FileDescriptor fd(open(id));
  if (!fd && errno != ENOENT) {
    throw NativeError(info.Env(), {.error = errno,
                                   .operation = "bpf_" + kind + "_get_fd_by_id",
                                   .object = std::to_string(id)});
  }
  return Napi::Boolean::New(info.Env(), static_cast<bool>(fd));
}

Napi::Value PossibleCpus(const Napi::CallbackInfo& info) {
  const int count = libbpf_num_possible_cpus();
  if (count < 0) {
    throw NativeError(info.Env(), {.error = count,
                                   .operation = "libbpf_num_possible_cpus",
                                   .object = "/sys/devices/system/cpu/possible"});
  }
  return Napi::Number::New(info.Env(), count);
}

Napi::Value LibbpfVersion(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), std::to_string(libbpf_major_version()) + "." +
                                           std::to_string(libbpf_minor_version()));
}
