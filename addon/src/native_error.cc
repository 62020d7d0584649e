// SPDX-License-Identifier: GPL-2.0-only OR MIT
// The one error class for what the kernel or libbpf refused.
#include "native_error.h"

#include <bpf/libbpf.h>
#include <uv.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "addon_data.h"

namespace {

constexpr int kNotSupportedInKernel = 524;  // ENOTSUPP of include/linux/errno.h, in no libc

std::string ErrorName(int error) {
  if (error == kNotSupportedInKernel) return "ENOTSUPP";
  if (error >= __LIBBPF_ERRNO__START && error < __LIBBPF_ERRNO__END) return "ELIBBPF";
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 32)
  if (const char* name = strerrorname_np(error)) return name;
#endif
  return uv_err_name(-error);
}

std::string ErrorSentence(int error) {
  std::array<char, 128> sentence{};
  if (error == kNotSupportedInKernel) return "Operation not supported by the kernel";
  libbpf_strerror(error, sentence.data(), sentence.size());
  return sentence.data();
}

}  // namespace

Napi::Error NativeError(Napi::Env env, const Failure& failure) {
  const int error = std::abs(failure.error);
  const std::string code = ErrorName(error);
  std::string message = failure.operation;
  if (!failure.subject.empty()) message += " " + failure.subject;
  if (!failure.object.empty()) message += " \"" + failure.object + "\"";
  message += ": " + code + ": " + (failure.reason.empty() ? ErrorSentence(error) : failure.reason);

  Napi::Object fields = Napi::Object::New(env);
  fields["code"] = Napi::String::New(env, code);
  fields["errno"] = Napi::Number::New(env, error);
  fields["operation"] = Napi::String::New(env, failure.operation);
  fields["object"] = Napi::String::New(env, failure.object);
  if (!failure.log.empty()) fields["log"] = Napi::String::New(env, failure.log);
  const Napi::Value instance =
      AddonData::Of(env).native_error.New({Napi::String::New(env, message), fields});
  return {env, instance};
}

Napi::Error ClosedError(Napi::Env env, const std::string& operation, const std::string& object) {
  return NativeError(
      env,
      {.error = EBADF, .operation = operation, .object = object, .reason = "it has been closed"});
}
