// SPDX-License-Identifier: GPL-2.0-only OR MIT
// An owned file descriptor.
#include "file_descriptor.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <climits>

FileDescriptor FileDescriptor::Duplicate(int fd) {
  return FileDescriptor(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

FileDescriptor FileDescriptor::OpenDirectory(const std::string& path) {
  return FileDescriptor(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

std::string FileDescriptor::Target() const {
  std::array<char, PATH_MAX> target;
  const std::string link = "/proc/self/fd/" + std::to_string(fd_);
  const ssize_t length = readlink(link.c_str(), target.data(), target.size());
  return length < 0 ? std::string() : std::string(target.data(), static_cast<size_t>(length));
}

void FileDescriptor::Close() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}
