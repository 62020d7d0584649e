// SPDX-License-Identifier: GPL-2.0-only OR MIT
// An owned file descriptor.
#pragma once

#include <string>
#include <utility>

class FileDescriptor {
 public:
  FileDescriptor() = default;
  // Takes over `fd`; a negative number means "none".
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { Close(); }

  // A close-on-exec copy; invalid with errno set when the process has no descriptor left.
  static FileDescriptor Duplicate(int fd);
  // Invalid with errno set when `path` is not a directory that can be opened.
  static FileDescriptor OpenDirectory(const std::string& path);

  // What the descriptor refers to, as in /proc/self/fd; empty when that cannot be read.
  [[nodiscard]] std::string Target() const;

  explicit operator bool() const { return fd_ >= 0; }
  [[nodiscard]] int Get() const { return fd_; }
  void Close();

 private:
  int fd_ = -1;
};
