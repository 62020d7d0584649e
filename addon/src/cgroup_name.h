// SPDX-License-Identifier: GPL-2.0-only OR MIT
#pragma once

#include <string>
#include <string_view>

// The kernel lets cgroups have any bytes for a name, JavaScript's strings hold Unicode: a byte that
// is no UTF-8 becomes
// '\' and three octal digits, as in /proc/mounts, and so does a '\' that would read like that.
std::string EscapeCgroupPath(std::string_view bytes);
std::string UnescapeCgroupPath(std::string_view text);
