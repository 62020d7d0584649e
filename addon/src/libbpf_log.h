// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Collects what libbpf prints on this thread while the object lives, instead of letting it reach
// stderr; and finds in it the line that tells a person what went wrong.
#pragma once

#include <string>
#include <vector>

class LibbpfLog {
 public:
  struct Blame {
    std::string program;  // empty when the failure is not about one program
    std::string reason;   // one line; empty when nothing was printed
  };

  LibbpfLog();
  ~LibbpfLog();
  LibbpfLog(const LibbpfLog&) = delete;
  LibbpfLog& operator=(const LibbpfLog&) = delete;

  // Once per process is enough; repeating it is harmless.
  static void Install();

  // Everything printed so far.
  [[nodiscard]] const std::string& Text() const { return text_; }
  // The first failure in it.
  [[nodiscard]] Blame Explain() const;

  void Add(bool warning, const std::string& message);

 private:
  LibbpfLog* outer_;
  std::string text_;
  std::vector<std::string> warnings_;
};
