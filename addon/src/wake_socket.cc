// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Waking whoever waits for a socket of another process.
#include "wake_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "arguments.h"
#include "file_descriptor.h"
#include "native_error.h"

namespace {

template <typename Value>
int GetOption(int socket, int level, int name, Value* value) {
  socklen_t size = sizeof *value;
  return getsockopt(socket, level, name, value, &size);
}

// Sets an option to what it is.
bool SetAgain(int socket, int level, int name) {
  int value = 0;
  return GetOption(socket, level, name, &value) == 0 &&
         setsockopt(socket, level, name, &value, sizeof value) == 0;
}

class Waker : public Napi::AsyncWorker {
 public:
  Waker(Napi::Env env, pid_t process, int descriptor, uint64_t cookie)
      : AsyncWorker(env),
        promise_(Napi::Promise::Deferred::New(env)),
        process_(process),
        descriptor_(descriptor),
        cookie_(cookie) {}

  Napi::Promise Promise() { return promise_.Promise(); }

 protected:
  // In a thread of its own: should the owner close the socket meanwhile, ours is the last
  // reference, and its end may wait as SO_LINGER says.
  void Execute() override {
    const FileDescriptor process(static_cast<int>(syscall(SYS_pidfd_open, process_, 0)));
    if (!process) return Fail("pidfd_open");
    const FileDescriptor socket(
        static_cast<int>(syscall(SYS_pidfd_getfd, process.Get(), descriptor_, 0)));
    if (!socket) return Fail("pidfd_getfd");
    uint64_t cookie = 0;
    if (GetOption(socket.Get(), SOL_SOCKET, SO_COOKIE, &cookie) != 0 || cookie != cookie_) return;
    // tcp_set_rcvlowat calls tcp_data_ready, do_tcp_setsockopt sk_write_space, whatever the values
    // were before.
    if (!SetAgain(socket.Get(), SOL_SOCKET, SO_RCVLOWAT)) return Fail("SO_RCVLOWAT");
    if (!SetAgain(socket.Get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT)) return Fail("TCP_NOTSENT_LOWAT");
    done_ = true;
  }

  void OnOK() override {
    // Processes and descriptors come and go: that is an answer and no error.
    if (error_ == 0 || error_ == ESRCH || error_ == EBADF) {
      promise_.Resolve(Napi::Boolean::New(Env(), done_));
    } else {
      promise_.Reject(
          NativeError(
              Env(), {.error = error_, .operation = operation_, .object = std::to_string(process_)})
              .Value());
    }
  }

 private:
  void Fail(const char* operation) {
    error_ = errno;
    operation_ = operation;
  }

  Napi::Promise::Deferred promise_;
  pid_t process_;
  int descriptor_;
  uint64_t cookie_;
  bool done_ = false;
  int error_ = 0;
  const char* operation_ = "";
};

}  // namespace

Napi::Value WakeSocket(const Napi::CallbackInfo& info) {
  const uint32_t process = Uint32Argument(info, 0, "process", 1);
  const uint32_t descriptor = Uint32Argument(info, 1, "descriptor");
  if (!info[2].IsBigInt()) throw Napi::TypeError::New(info.Env(), "cookie must be a bigint");
  bool lossless = false;
  const uint64_t cookie = info[2].As<Napi::BigInt>().Uint64Value(&lossless);
  auto* waker = new Waker(info.Env(), static_cast<pid_t>(process), static_cast<int>(descriptor),
                          cookie);  // deletes itself
  const Napi::Promise promise = waker->Promise();
  waker->Queue();
  return promise;
}
