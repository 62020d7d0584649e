/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Addresses and listening sockets. */
#ifndef SLIPSTREAM_TEST_NET_H
#define SLIPSTREAM_TEST_NET_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct address {
	socklen_t length;
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr_un local;
		struct sockaddr_storage storage;
	};
};

static inline bool address_v4(struct address *a, const char *host, uint16_t port)
{
	memset(a, 0, sizeof(*a));
	a->length = sizeof(a->v4);
	a->v4.sin_family = AF_INET;
	a->v4.sin_port = htons(port);
	return inet_pton(AF_INET, host, &a->v4.sin_addr) == 1;
}

/* A dotted IPv4 address becomes the v4-mapped IPv6 address. */
static inline bool address_v6(struct address *a, const char *host, uint16_t port)
{
	char mapped[sizeof("::ffff:") + INET_ADDRSTRLEN];

	memset(a, 0, sizeof(*a));
	a->length = sizeof(a->v6);
	a->v6.sin6_family = AF_INET6;
	a->v6.sin6_port = htons(port);
	if (inet_pton(AF_INET6, host, &a->v6.sin6_addr) == 1)
		return true;
	if (strlen(host) >= INET_ADDRSTRLEN)
		return false;
	snprintf(mapped, sizeof(mapped), "::ffff:%s", host);
	return inet_pton(AF_INET6, mapped, &a->v6.sin6_addr) == 1;
}

/* The family follows from how the address is written. */
static inline bool address_parse(struct address *a, const char *host, uint16_t port)
{
	return strchr(host, ':') ? address_v6(a, host, port) : address_v4(a, host, port);
}

static inline bool address_unix(struct address *a, const char *path)
{
	size_t length = strlen(path);

	memset(a, 0, sizeof(*a));
	a->length = sizeof(a->local);
	a->local.sun_family = AF_UNIX;
	if (length >= sizeof(a->local.sun_path))
		return false;
	memcpy(a->local.sun_path, path, length);
	return true;
}

static inline uint16_t address_port(const struct address *a)
{
	if (a->any.sa_family == AF_INET)
		return ntohs(a->v4.sin_port);
	return a->any.sa_family == AF_INET6 ? ntohs(a->v6.sin6_port) : 0;
}

static inline uint16_t local_port(int fd)
{
	struct address a = {.length = sizeof(a.storage)};

	return getsockname(fd, &a.any, &a.length) ? 0 : address_port(&a);
}

static inline uint16_t peer_port(int fd)
{
	struct address a = {.length = sizeof(a.storage)};

	return getpeername(fd, &a.any, &a.length) ? 0 : address_port(&a);
}

static inline int set_flag(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value));
}

/* Returns the listening socket or -1 with errno. */
static inline int listen_on(const struct address *a, int flags, int backlog)
{
	int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	int error;

	if (fd < 0)
		return -1;
	set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (a->any.sa_family == AF_INET6)
		set_flag(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	if (!bind(fd, &a->any, a->length) && !listen(fd, backlog))
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* Thousands of connections need more descriptors than the usual soft limit. */
static inline void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

#endif
