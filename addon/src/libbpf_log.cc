// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Collects what libbpf prints on this thread, and finds the line that tells what went wrong.
#include "libbpf_log.h"

#include <bpf/libbpf.h>

#include <cstdarg>
#include <cstdio>
#include <sstream>
#include <string_view>

namespace {

thread_local LibbpfLog* current = nullptr;

int Print(libbpf_print_level level, const char* format, va_list arguments) {
  if (current == nullptr || level == LIBBPF_DEBUG) return 0;
  va_list again;
  va_copy(again, arguments);
  const int length = std::vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (length <= 0) return 0;
  std::string message(static_cast<size_t>(length) + 1, '\0');
  std::vsnprintf(message.data(), message.size(), format, arguments);
  message.pop_back();
  current->Add(level == LIBBPF_WARN, message);
  return length;
}

bool StartsWith(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

// A line of the trace that precedes the verdict: an instruction, a source line, a branch.
bool IsTrace(std::string_view line) {
  const size_t digits = line.find_first_not_of("0123456789");
  return (digits != 0 && digits != std::string_view::npos && line[digits] == ':') ||
         StartsWith(line, ";") || StartsWith(line, "from ") || StartsWith(line, "mark_precise") ||
         StartsWith(line, "last_idx");
}

// bpf_verifier.c:print_verification_stats
bool IsStatistics(std::string_view line) {
  return StartsWith(line, "processed ") || StartsWith(line, "verification time") ||
         StartsWith(line, "stack depth");
}

// The verifier says why after the trace of the path it refused, and may take two lines for it.
std::string Verdict(const std::string& verifier_log) {
  std::string verdict;
  std::istringstream lines(verifier_log);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || IsStatistics(line)) continue;
    if (IsTrace(line)) {
      verdict.clear();
    } else {
      verdict += (verdict.empty() ? "" : "; ") + line;
    }
  }
  return verdict;
}

}  // namespace

void LibbpfLog::Install() { libbpf_set_print(Print); }

LibbpfLog::LibbpfLog() : outer_(current) { current = this; }

LibbpfLog::~LibbpfLog() { current = outer_; }

void LibbpfLog::Add(bool warning, const std::string& message) {
  text_ += message;
  if (!warning) return;
  static constexpr std::string_view kPrefix = "libbpf: ";
  warnings_.push_back(StartsWith(message, kPrefix) ? message.substr(kPrefix.size()) : message);
}

LibbpfLog::Blame LibbpfLog::Explain() const {
  static constexpr std::string_view kBegin = "-- BEGIN PROG LOAD LOG --\n";
  static constexpr std::string_view kEnd = "-- END PROG LOAD LOG --";
  static constexpr std::string_view kProgram = "prog '";
  Blame blame;
  for (const std::string& warning : warnings_) {
    // libbpf tries again by itself after this one.
    if (warning.find("Retrying without BTF") != std::string::npos) continue;
    const size_t begin = warning.find(kBegin);
    if (begin != std::string::npos) {
      const size_t start = begin + kBegin.size();
      const std::string verdict = Verdict(warning.substr(start, warning.rfind(kEnd) - start));
      if (!verdict.empty()) blame.reason = verdict;
      break;
    }
    if (!blame.reason.empty()) continue;
    blame.reason = warning.substr(0, warning.find('\n'));
    if (!StartsWith(warning, kProgram)) continue;
    const size_t quote = warning.find('\'', kProgram.size());
    blame.program = warning.substr(kProgram.size(), quote - kProgram.size());
    const size_t colon = blame.reason.find(": ");
    if (colon != std::string::npos) blame.reason.erase(0, colon + 2);
  }
  return blame;
}
