/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The names that endpoint understands: flags, events, signals and socket options. */
#ifndef SLIPSTREAM_TEST_ENDPOINT_OPTIONS_H
#define SLIPSTREAM_TEST_ENDPOINT_OPTIONS_H

#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <linux/tcp.h>
#include <linux/tls.h>

#include "cli.h"

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static const struct name_value message_flags[] = {
	NAMED(MSG_DONTWAIT), NAMED(MSG_PEEK),     NAMED(MSG_WAITALL),  NAMED(MSG_OOB),
	NAMED(MSG_TRUNC),    NAMED(MSG_MORE),     NAMED(MSG_ZEROCOPY), NAMED(MSG_NOSIGNAL),
	NAMED(MSG_EOR),      NAMED(MSG_ERRQUEUE), NAMED(MSG_CTRUNC),   NAMED(MSG_FASTOPEN),
};

static const struct name_value poll_events[] = {
	NAMED(POLLIN),  NAMED(POLLOUT), NAMED(POLLPRI),  NAMED(POLLRDHUP),
	NAMED(POLLHUP), NAMED(POLLERR), NAMED(POLLNVAL),
};

static const struct name_value epoll_events[] = {
	NAMED(EPOLLIN),        NAMED(EPOLLOUT), NAMED(EPOLLPRI),           NAMED(EPOLLRDHUP),
	NAMED(EPOLLHUP),       NAMED(EPOLLERR), {"EPOLLET", (int)EPOLLET}, NAMED(EPOLLONESHOT),
	NAMED(EPOLLEXCLUSIVE),
};

static const struct name_value signals[] = {
	NAMED(SIGUSR1), NAMED(SIGUSR2),  NAMED(SIGALRM), NAMED(SIGHUP),
	NAMED(SIGINT),  NAMED(SIGTERM),  NAMED(SIGCHLD), NAMED(SIGURG),
	NAMED(SIGIO),   NAMED(SIGWINCH), NAMED(SIGPIPE),
};

#define TCPI_CLOSE 7

/* Index: the kernel's TCP state number. */
static const char *const tcp_states[] = {
	"NONE",  "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",    "TIME_WAIT",
	"CLOSE", "CLOSE_WAIT",  "LAST_ACK", "LISTEN",   "CLOSING",   "NEW_SYN_RECV",
};

enum option_kind {
	OPTION_NUMBER,
	OPTION_LINGER,
	OPTION_MILLISECONDS,
	OPTION_TEXT,
	OPTION_TLS,
};

struct socket_option {
	const char *name;
	int level, option;
	enum option_kind kind;
};

#define SOCKET_NUMBER(name) {#name, SOL_SOCKET, name, OPTION_NUMBER}
#define TCP_NUMBER(name) {#name, IPPROTO_TCP, name, OPTION_NUMBER}

static const struct socket_option socket_options[] = {
	{"SO_LINGER", SOL_SOCKET, SO_LINGER, OPTION_LINGER},
	{"SO_RCVTIMEO", SOL_SOCKET, SO_RCVTIMEO, OPTION_MILLISECONDS},
	{"SO_SNDTIMEO", SOL_SOCKET, SO_SNDTIMEO, OPTION_MILLISECONDS},
	{"TCP_ULP", IPPROTO_TCP, TCP_ULP, OPTION_TEXT},
	{"TLS_TX", SOL_TLS, TLS_TX, OPTION_TLS},
	{"TCP_CONGESTION", IPPROTO_TCP, TCP_CONGESTION, OPTION_TEXT},
	{"IPV6_V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY, OPTION_NUMBER},
	{"IP_TRANSPARENT", IPPROTO_IP, IP_TRANSPARENT, OPTION_NUMBER},
	SOCKET_NUMBER(SO_RCVLOWAT),
	SOCKET_NUMBER(SO_SNDBUF),
	SOCKET_NUMBER(SO_RCVBUF),
	SOCKET_NUMBER(SO_SNDBUFFORCE),
	SOCKET_NUMBER(SO_RCVBUFFORCE),
	SOCKET_NUMBER(SO_ZEROCOPY),
	SOCKET_NUMBER(SO_KEEPALIVE),
	SOCKET_NUMBER(SO_OOBINLINE),
	SOCKET_NUMBER(SO_PEEK_OFF),
	SOCKET_NUMBER(SO_BUSY_POLL),
	SOCKET_NUMBER(SO_REUSEADDR),
	SOCKET_NUMBER(SO_REUSEPORT),
	SOCKET_NUMBER(SO_MARK),
	SOCKET_NUMBER(SO_TIMESTAMPNS),
	SOCKET_NUMBER(SO_ERROR),
	TCP_NUMBER(TCP_NODELAY),
	TCP_NUMBER(TCP_CORK),
	TCP_NUMBER(TCP_QUICKACK),
	TCP_NUMBER(TCP_INQ),
	TCP_NUMBER(TCP_USER_TIMEOUT),
	TCP_NUMBER(TCP_KEEPIDLE),
	TCP_NUMBER(TCP_KEEPINTVL),
	TCP_NUMBER(TCP_KEEPCNT),
	TCP_NUMBER(TCP_NOTSENT_LOWAT),
	TCP_NUMBER(TCP_REPAIR),
	TCP_NUMBER(TCP_FASTOPEN),
	TCP_NUMBER(TCP_FASTOPEN_CONNECT),
	TCP_NUMBER(TCP_DEFER_ACCEPT),
	TCP_NUMBER(TCP_MAXSEG),
	TCP_NUMBER(TCP_WINDOW_CLAMP),
	TCP_NUMBER(TCP_LINGER2),
	TCP_NUMBER(TCP_SAVE_SYN),
};

static inline const struct socket_option *find_socket_option(const char *name)
{
	for (size_t i = 0; i < LENGTH(socket_options); i++)
		if (!strcmp(socket_options[i].name, name))
			return &socket_options[i];
	return NULL;
}

/* "A|B" to a mask; false if one of the names is unknown. */
static inline bool parse_mask(const struct name_value *names, size_t count, const char *text,
			      int *mask)
{
	char one[32];

	while (*text) {
		size_t length = strcspn(text, "|");
		const struct name_value *found;

		snprintf(one, sizeof(one), "%.*s", (int)length, text);
		found = find_name(names, count, one);
		if (!found && strcmp(one, "0"))
			return false;
		*mask |= found ? found->value : 0;
		text += length + (text[length] == '|');
	}
	return true;
}

#endif
