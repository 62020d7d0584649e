// SPDX-License-Identifier: GPL-2.0-only OR MIT
// The addon's exports. Nothing here decides anything: policy lives above addon/index.ts.
#include <napi.h>

#include "addon_data.h"
#include "bpf_link.h"
#include "bpf_map.h"
#include "bpf_object.h"
#include "bpf_program.h"
#include "cgroup.h"
#include "cgroup_list.h"
#include "directory_lock.h"
#include "filesystem.h"
#include "kernel.h"
#include "libbpf_log.h"
#include "rcu_barrier.h"
#include "ring_buffer.h"
#include "send_datagram.h"

namespace {

void SetErrorClass(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) throw Napi::TypeError::New(info.Env(), "not a class");
  AddonData::Of(info.Env()).native_error = Napi::Persistent(info[0].As<Napi::Function>());
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  LibbpfLog::Install();
  auto* data = new AddonData;
  env.SetInstanceData(data);

  const auto define = [&](const char* name, Napi::Function constructor,
                          Napi::FunctionReference& kept) {
    kept = Napi::Persistent(constructor);
    exports[name] = constructor;
  };
  define("BpfObject", BpfObject::Define(env), data->bpf_object);
  define("BpfProgram", BpfProgram::Define(env), data->bpf_program);
  define("BpfLink", BpfLink::Define(env), data->bpf_link);
  define("BpfMap", BpfMap::Define(env), data->bpf_map);
  define("DirectoryLock", DirectoryLock::Define(env), data->directory_lock);
  exports["RingBuffer"] = RingBuffer::Define(env);

  exports["setErrorClass"] = Napi::Function::New<SetErrorClass>(env, "setErrorClass");
  exports["cgroupId"] = Napi::Function::New<CgroupId>(env, "cgroupId");
  exports["cgroupPath"] = Napi::Function::New<CgroupPath>(env, "cgroupPath");
  exports["listCgroups"] = Napi::Function::New<ListCgroups>(env, "listCgroups");
  exports["listCgroupsSync"] = Napi::Function::New<ListCgroupsSync>(env, "listCgroupsSync");
  exports["attachedPrograms"] = Napi::Function::New<AttachedPrograms>(env, "attachedPrograms");
  exports["fileSystemType"] = Napi::Function::New<FileSystemType>(env, "fileSystemType");
  exports["mountBpf"] = Napi::Function::New<MountBpf>(env, "mountBpf");
  exports["sendDatagram"] = Napi::Function::New<SendDatagram>(env, "sendDatagram");
  exports["rcuBarrier"] = Napi::Function::New<RcuBarrier>(env, "rcuBarrier");
  exports["kernelBtfHas"] = Napi::Function::New<KernelBtfHas>(env, "kernelBtfHas");
  exports["probeProgramType"] = Napi::Function::New<ProbeProgramType>(env, "probeProgramType");
  exports["probeIterator"] = Napi::Function::New<ProbeIterator>(env, "probeIterator");
  exports["objectExists"] = Napi::Function::New<ObjectExists>(env, "objectExists");
  exports["probeMapType"] = Napi::Function::New<ProbeMapType>(env, "probeMapType");
  exports["possibleCpus"] = Napi::Function::New<PossibleCpus>(env, "possibleCpus");
  exports["libbpfVersion"] = Napi::Function::New<LibbpfVersion>(env, "libbpfVersion");
  return exports;
}

}  // namespace

NODE_API_MODULE(NODE_GYP_MODULE_NAME, Init)
