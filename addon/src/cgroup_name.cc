// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Names of cgroups as text, and back.
#include "cgroup_name.h"

#include <cstddef>
#include <cstdint>

namespace {

constexpr size_t kEscapeLength = 4;

bool IsEscape(std::string_view text) {
  return text.size() >= kEscapeLength && text[0] == '\\' && text[1] >= '0' && text[1] <= '3' &&
         text[2] >= '0' && text[2] <= '7' && text[3] >= '0' && text[3] <= '7';
}

bool Continues(uint8_t byte) { return (byte & 0xc0) == 0x80; }

// How many bytes the first character has; 0 if it is no UTF-8 (RFC 3629, section 4).
size_t CharacterLength(std::string_view text) {
  const auto at = [&](size_t index) {
    return index < text.size() ? static_cast<uint8_t>(text[index]) : uint8_t{0};
  };
  const uint8_t lead = at(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return Continues(at(1)) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const uint8_t least = lead == 0xe0 ? 0xa0 : 0x80;
    const uint8_t most = lead == 0xed ? 0x9f : 0xbf;
    return at(1) >= least && at(1) <= most && Continues(at(2)) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const uint8_t least = lead == 0xf0 ? 0x90 : 0x80;
    const uint8_t most = lead == 0xf4 ? 0x8f : 0xbf;
    return at(1) >= least && at(1) <= most && Continues(at(2)) && Continues(at(3)) ? 4 : 0;
  }
  return 0;
}

}  // namespace

std::string EscapeCgroupPath(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t length = IsEscape(bytes) ? 0 : CharacterLength(bytes);
    if (length == 0) {
      const auto byte = static_cast<uint8_t>(bytes[0]);
      text += '\\';
      text += static_cast<char>('0' + (byte >> 6));
      text += static_cast<char>('0' + ((byte >> 3) & 7));
      text += static_cast<char>('0' + (byte & 7));
      bytes.remove_prefix(1);
    } else {
      text += bytes.substr(0, length);
      bytes.remove_prefix(length);
    }
  }
  return text;
}

std::string UnescapeCgroupPath(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    if (IsEscape(text)) {
      bytes += static_cast<char>(((text[1] - '0') << 6) | ((text[2] - '0') << 3) | (text[3] - '0'));
      text.remove_prefix(kEscapeLength);
    } else {
      bytes += text[0];
      text.remove_prefix(1);
    }
  }
  return bytes;
}
