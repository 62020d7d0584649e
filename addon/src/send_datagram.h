// SPDX-License-Identifier: GPL-2.0-only OR MIT
// One datagram to a Unix socket, which Node.js has no call for.
#pragma once

#include <napi.h>

void SendDatagram(const Napi::CallbackInfo& info);
