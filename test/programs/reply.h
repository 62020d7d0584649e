/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* One line of JSON, put together piece by piece and printed at once. */
#ifndef SLIPSTREAM_TEST_REPLY_H
#define SLIPSTREAM_TEST_REPLY_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

struct reply {
	bool bad;
	size_t used;
	char text[8192];
};

__attribute__((format(printf, 2, 3))) static inline void reply_raw(struct reply *r,
								   const char *format, ...)
{
	size_t room = sizeof(r->text) - r->used;
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(r->text + r->used, room, format, args);
	va_end(args);
	if (n > 0 && (size_t)n < room)
		r->used += (size_t)n;
	else
		r->text[r->used] = '\0'; /* a piece that doesn't fit is left out whole */
}

static inline void put_number(struct reply *r, const char *name, long long value)
{
	reply_raw(r, ",\"%s\":%lld", name, value);
}

static inline void put_truth(struct reply *r, const char *name, bool value)
{
	reply_raw(r, ",\"%s\":%s", name, value ? "true" : "false");
}

/* Characters that JSON would have to escape become spaces or apostrophes. */
static inline void put_text(struct reply *r, const char *name, const char *value)
{
	char clean[256];
	size_t i;

	for (i = 0; value[i] && i < sizeof(clean) - 1; i++) {
		unsigned char c = (unsigned char)value[i];

		clean[i] = value[i];
		if (c < ' ' || c == '\\' || c > '~')
			clean[i] = ' ';
		if (c == '"')
			clean[i] = '\'';
	}
	clean[i] = '\0';
	reply_raw(r, ",\"%s\":\"%s\"", name, clean);
}

static inline void put_mask(struct reply *r, const char *name, const struct name_value *names,
			    size_t count, int mask)
{
	const char *separator = "";

	reply_raw(r, ",\"%s\":[", name);
	for (size_t i = 0; i < count; i++) {
		if (!(mask & names[i].value))
			continue;
		reply_raw(r, "%s\"%s\"", separator, names[i].name);
		separator = ",";
	}
	reply_raw(r, "]");
}

/* The command was wrong, as opposed to a system call that failed. */
static inline void put_complaint(struct reply *r, const char *text)
{
	r->bad = true;
	put_text(r, "error", text);
}

static inline void put_errno(struct reply *r, int error)
{
	r->bad = true;
	put_text(r, "errno", errno_name(error));
}

/* What a system call returned; its errno if that was -1. */
static inline void put_result(struct reply *r, long long value)
{
	int error = errno;

	put_number(r, "returned", value);
	if (value < 0)
		put_errno(r, error);
}

static inline void reply_print(const struct reply *r, const char *tag)
{
	flockfile(stdout);
	printf("{");
	if (tag)
		printf("\"tag\":\"%s\",", tag);
	printf("\"ok\":%s%s}\n", r->bad ? "false" : "true", r->text);
	fflush(stdout);
	funlockfile(stdout);
}

#endif
