// SPDX-License-Identifier: GPL-2.0-only OR MIT
// What the running kernel and libbpf offer.
#pragma once

#include <napi.h>

Napi::Value KernelBtfHas(const Napi::CallbackInfo& info);
Napi::Value ProbeProgramType(const Napi::CallbackInfo& info);
Napi::Value ProbeMapType(const Napi::CallbackInfo& info);
Napi::Value ProbeIterator(const Napi::CallbackInfo& info);
Napi::Value ObjectExists(const Napi::CallbackInfo& info);
Napi::Value PossibleCpus(const Napi::CallbackInfo& info);
Napi::Value LibbpfVersion(const Napi::CallbackInfo& info);
