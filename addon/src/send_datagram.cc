// SPDX-License-Identifier: GPL-2.0-only OR MIT
// One datagram to a Unix socket, which Node.js has no call for.
#include "send_datagram.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <string>

#include "arguments.h"
#include "file_descriptor.h"
#include "native_error.h"

namespace {

// A receiver that has stopped must not hold the caller for longer.
constexpr timeval kPatience{.tv_sec = 1, .tv_usec = 0};

}  // namespace

void SendDatagram(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0, "path");
  const std::string text = StringArgument(info, 1, "text");
  const auto fail = [&](const char* operation, int error) {
    return NativeError(info.Env(), {.error = error, .operation = operation, .object = path});
  };
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // A path ends with a NUL; a name in the abstract namespace begins with one, and ends where its
  // length says (unix(7)).
  const bool abstract = path.starts_with('@');
  if (path.empty() || path.size() + (abstract ? 0 : 1) > sizeof address.sun_path) {
    throw fail("connect", path.empty() ? EINVAL : ENAMETOOLONG);
  }
  std::copy(path.begin(), path.end(), std::begin(address.sun_path));
  if (abstract) address.sun_path[0] = '\0';
  const size_t length = offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1);

  const FileDescriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) throw fail("socket", errno);
  setsockopt(socket.Get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  if (sendto(socket.Get(), text.data(), text.size(), MSG_NOSIGNAL,
             reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(length)) < 0) {
    throw fail("sendto", errno);
  }
}
