// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Setting an option on sockets of other processes.
#include "set_socket_options.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "arguments.h"
#include "file_descriptor.h"

namespace {

struct Target {
  pid_t process;
  int descriptor;
  uint64_t inode;
  std::vector<uint8_t> value;
};

// 0, or an errno number.
int SetOption(const Target& target, int level, int option) {
  const FileDescriptor process(static_cast<int>(syscall(SYS_pidfd_open, target.process, 0)));
  if (!process) return errno;
  const FileDescriptor socket(
      static_cast<int>(syscall(SYS_pidfd_getfd, process.Get(), target.descriptor, 0)));
  if (!socket) return errno;
  struct stat status{};
  if (fstat(socket.Get(), &status) != 0) return errno;
  // The descriptor may be another file by now.
  if (!S_ISSOCK(status.st_mode) || status.st_ino != target.inode) return ENOENT;
  // A socket has no cookie before somebody asks for it (__sock_gen_cookie).
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (getsockopt(socket.Get(), SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0) return errno;
  return setsockopt(socket.Get(), level, option, target.value.data(),
                    static_cast<socklen_t>(target.value.size())) == 0
             ? 0
             : errno;
}

class Setter : public Napi::AsyncWorker {
 public:
  Setter(Napi::Env env, std::vector<Target> targets, int level, int option)
      : AsyncWorker(env),
        promise_(Napi::Promise::Deferred::New(env)),
        targets_(std::move(targets)),
        level_(level),
        option_(option) {}

  Napi::Promise Promise() { return promise_.Promise(); }

 protected:
  // In a thread of its own: setsockopt waits for whoever holds the socket's lock, and closing ours
  // may be the last close.
  void Execute() override {
    results_.reserve(targets_.size());
    for (const Target& target : targets_) results_.push_back(SetOption(target, level_, option_));
  }

  void OnOK() override {
    Napi::Array results = Napi::Array::New(Env(), results_.size());
    for (size_t i = 0; i < results_.size(); ++i) {
      results[static_cast<uint32_t>(i)] = Napi::Number::New(Env(), results_[i]);
    }
    promise_.Resolve(results);
  }

 private:
  Napi::Promise::Deferred promise_;
  std::vector<Target> targets_;
  std::vector<int> results_;
  int level_;
  int option_;
};

Target TargetOf(Napi::Env env, Napi::Value value) {
  if (!value.IsObject()) throw Napi::TypeError::New(env, "a socket must be an object");
  const Napi::Object object = value.As<Napi::Object>();
  const Napi::Value inode = object.Get("inode");
  if (!inode.IsNumber()) throw Napi::TypeError::New(env, "inode must be a number");
  const Napi::Value bytes = object.Get("value");
  if (!bytes.IsTypedArray() || bytes.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Napi::TypeError::New(env, "value must be a Buffer or Uint8Array");
  }
  const auto array = bytes.As<Napi::Uint8Array>();
  return {
      .process = static_cast<pid_t>(Uint32Value(object.Get("process"), "process", 1)),
      .descriptor = static_cast<int>(Uint32Value(object.Get("descriptor"), "descriptor")),
      .inode = static_cast<uint64_t>(inode.As<Napi::Number>().Int64Value()),
      .value = std::vector<uint8_t>(array.Data(), array.Data() + array.ByteLength()),
  };
}

}  // namespace

Napi::Value SetSocketOptions(const Napi::CallbackInfo& info) {
  if (!info[0].IsArray()) throw Napi::TypeError::New(info.Env(), "sockets must be an array");
  const Napi::Array sockets = info[0].As<Napi::Array>();
  const uint32_t level = Uint32Argument(info, 1, "level");
  const uint32_t option = Uint32Argument(info, 2, "option");
  std::vector<Target> targets;
  targets.reserve(sockets.Length());
  for (uint32_t i = 0; i < sockets.Length(); ++i) {
    const Napi::HandleScope scope(info.Env());
    targets.push_back(TargetOf(info.Env(), sockets.Get(i)));
  }
  auto* setter = new Setter(info.Env(), std::move(targets), static_cast<int>(level),
                            static_cast<int>(option));  // deletes itself
  const Napi::Promise promise = setter->Promise();
  setter->Queue();
  return promise;
}
