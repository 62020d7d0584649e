/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What the test programs share: numbers from the command line, clocks, names of errors. */
#ifndef SLIPSTREAM_TEST_CLI_H
#define SLIPSTREAM_TEST_CLI_H

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXIT_USAGE 64
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(EXIT_USAGE);
}

static inline uint64_t size_suffix(const char *suffix)
{
	switch (tolower((unsigned char)*suffix)) {
	case 'k':
		return 1ULL << 10;
	case 'm':
		return 1ULL << 20;
	case 'g':
		return 1ULL << 30;
	default:
		return 0;
	}
}

/* "123", "64K", "2MiB", "4G": powers of 1024. */
static inline bool parse_size(const char *text, uint64_t *value)
{
	uint64_t unit = 1;
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	if (errno || end == text || *text == '-')
		return false;
	if (*end) {
		unit = size_suffix(end++);
		if (*end == 'i')
			end++;
		if (*end == 'B')
			end++;
	}
	return !*end && unit && !__builtin_mul_overflow(*value, unit, value);
}

static inline uint64_t size_option(const char *name, const char *text, uint64_t low, uint64_t high)
{
	uint64_t value;

	if (!parse_size(text, &value) || value < low || value > high)
		die("--%s: %s is not a number from %llu to %llu", name, text,
		    (unsigned long long)low, (unsigned long long)high);
	return value;
}

static inline double seconds_option(const char *name, const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= 0 && value < 1e9))
		die("--%s: %s is not a number of seconds", name, text);
	return value;
}

static inline int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline double seconds_since(int64_t start_ns)
{
	return (double)(now_ns() - start_ns) / 1e9;
}

struct name_value {
	const char *name;
	int value;
};

static inline const char *name_of(const struct name_value *names, size_t count, int value)
{
	for (size_t i = 0; i < count; i++)
		if (names[i].value == value)
			return names[i].name;
	return NULL;
}

static inline const struct name_value *find_name(const struct name_value *names, size_t count,
						 const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (!strcmp(names[i].name, name))
			return &names[i];
	return NULL;
}

#define NAMED(constant) {#constant, constant}

/* strerrorname_np() is missing in other C libraries than glibc. */
static inline const char *errno_name(int error)
{
	static const struct name_value names[] = {
		NAMED(EPERM),        NAMED(EINTR),           NAMED(EIO),
		NAMED(EBADF),        NAMED(EAGAIN),          NAMED(ENOMEM),
		NAMED(EACCES),       NAMED(EFAULT),          NAMED(EBUSY),
		NAMED(EINVAL),       NAMED(EMFILE),          NAMED(ENOSPC),
		NAMED(ESPIPE),       NAMED(EPIPE),           NAMED(EBADMSG),
		NAMED(ENOTSOCK),     NAMED(EDESTADDRREQ),    NAMED(EMSGSIZE),
		NAMED(ENOPROTOOPT),  NAMED(EOPNOTSUPP),      NAMED(EAFNOSUPPORT),
		NAMED(EADDRINUSE),   NAMED(EADDRNOTAVAIL),   NAMED(ENETUNREACH),
		NAMED(ECONNABORTED), NAMED(ECONNRESET),      NAMED(ENOBUFS),
		NAMED(EISCONN),      NAMED(ENOTCONN),        NAMED(ETIMEDOUT),
		NAMED(ECONNREFUSED), NAMED(EHOSTUNREACH),    NAMED(EALREADY),
		NAMED(EINPROGRESS),  NAMED(ENOENT),          NAMED(EEXIST),
		NAMED(ECANCELED),    NAMED(EPROTONOSUPPORT), NAMED(EDOM),
		NAMED(ENOSYS),
	};
	static _Thread_local char number[16];
	const char *name = name_of(names, LENGTH(names), error);

	if (name)
		return name;
	snprintf(number, sizeof(number), "%d", error);
	return number;
}

#endif
