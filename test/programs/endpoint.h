/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What the commands of endpoint share: handles, arguments, and the pattern of the streams. */
#ifndef SLIPSTREAM_TEST_ENDPOINT_H
#define SLIPSTREAM_TEST_ENDPOINT_H

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/types.h>

#include "cli.h"
#include "endpoint_options.h"
#include "net.h"
#include "pattern.h"
#include "reply.h"

#define HANDLES 4096
#define ARGUMENTS 16
#define TASKS 64
#define EPOLL_SETS 4
#define CHUNK 65536
#define SIZE_LIMIT (1ULL << 30)
#define TIMEOUT_MS 10000
#define BLANK 0xa5 /* what receive buffers hold before the call */

/*
 * Where the two directions of a connection are; shared by handles that were duplicated, also by
 * those of child processes.
 */
struct stream {
	pthread_mutex_t lock;
	uint64_t key_out, key_in;
	uint64_t out, in;
	bool verify;
};

struct handle {
	bool open;
	int fd;
	struct stream *stream;
};

struct call {
	int argc;
	char *argv[ARGUMENTS];
	struct handle *h;
	struct reply reply;
};

enum needs { NO_HANDLE, OPEN_HANDLE, FREE_HANDLE, ANY_HANDLE };

struct command {
	const char *name;
	void (*run)(struct call *c);
	enum needs needs;
	int arguments; /* at least, after the name */
};

/* A command that runs in a thread of its own. */
struct task {
	bool used;
	_Atomic pid_t thread_id;
	char tag[32];
	char line[512];
};

#define STREAMS 65536

/* Memory that child processes share; its pages come into being when they are used. */
struct streams {
	_Atomic unsigned used;
	struct stream all[STREAMS];
};

static struct streams *streams;
static struct handle handles[HANDLES];
static struct task tasks[TASKS];
static pthread_mutex_t tasks_lock = PTHREAD_MUTEX_INITIALIZER;
static int epoll_fds[EPOLL_SETS];
static _Thread_local volatile sig_atomic_t pipe_signals;
static volatile sig_atomic_t urgent_signals, io_signals;

/* ---- arguments ---- */

static uint64_t size_argument(struct call *c, int index, uint64_t limit)
{
	uint64_t value = 0;

	if (index >= c->argc || !parse_size(c->argv[index], &value) || value > limit) {
		put_complaint(&c->reply, "a number is missing, wrong or too large");
		return 0;
	}
	return value;
}

static int int_argument(struct call *c, int index)
{
	char *end = NULL;
	long value = index < c->argc ? strtol(c->argv[index], &end, 0) : 0;

	if (!end || end == c->argv[index] || *end)
		put_complaint(&c->reply, "a number is missing or wrong");
	return (int)value;
}

/* The text of an argument "name=text", or NULL. */
static const char *keyword(const struct call *c, const char *name)
{
	size_t length = strlen(name);

	for (int i = 1; i < c->argc; i++)
		if (!strncmp(c->argv[i], name, length) && c->argv[i][length] == '=')
			return c->argv[i] + length + 1;
	return NULL;
}

static uint64_t keyword_size(struct call *c, const char *name, uint64_t standard)
{
	const char *text = keyword(c, name);
	uint64_t value = standard;

	if (text && !parse_size(text, &value))
		put_complaint(&c->reply, "a keyword's number is wrong");
	return value;
}

/* All arguments from index on that are no keywords are flags. */
static int flags_from(struct call *c, int index)
{
	int mask = 0;

	for (int i = index; i < c->argc; i++)
		if (!strchr(c->argv[i], '=') &&
		    !parse_mask(message_flags, LENGTH(message_flags), c->argv[i], &mask))
			put_complaint(&c->reply, "unknown flag");
	return mask;
}

static int64_t deadline_of(struct call *c)
{
	return now_ns() + (int64_t)keyword_size(c, "timeout", TIMEOUT_MS) * 1000000;
}

static struct handle *handle_argument(struct call *c, int index, enum needs needs)
{
	int number = int_argument(c, index);

	if (c->reply.bad)
		return NULL;
	if (number < 0 || number >= HANDLES) {
		put_complaint(&c->reply, "handles are numbers below 4096");
		return NULL;
	}
	if (needs == OPEN_HANDLE && !handles[number].open)
		put_complaint(&c->reply, "this handle is not open");
	if (needs == FREE_HANDLE && handles[number].open)
		put_complaint(&c->reply, "this handle is in use");
	return c->reply.bad ? NULL : &handles[number];
}

static void *buffer_of(struct call *c, size_t size)
{
	void *buffer = c->reply.bad ? NULL : malloc(size + 1);

	if (!buffer && !c->reply.bad)
		put_complaint(&c->reply, "out of memory");
	return buffer;
}

/* ---- opening ---- */

static void streams_make(void)
{
	streams = mmap(NULL, sizeof(*streams), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (streams == MAP_FAILED)
		die("out of memory");
}

static void handle_open(struct handle *h, int fd)
{
	pthread_mutexattr_t shared;
	unsigned index = streams->used++;

	if (index >= STREAMS)
		die("too many streams");
	h->stream = &streams->all[index];
	pthread_mutexattr_init(&shared);
	pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&h->stream->lock, &shared);
	pthread_mutexattr_destroy(&shared);
	h->stream->verify = true;
	h->fd = fd;
	h->open = true;
}

/* Returns 1 when the event is there, or -1 with errno. */
static int wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		int64_t left = (deadline - now_ns() + 999999) / 1000000;
		int n = poll(&p, 1, left > 0 ? (int)left : 0);

		if (n > 0)
			return 1;
		if (n == 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		if (errno != EINTR)
			return -1;
	}
}

/* ---- the pattern ---- */

static void put_origin(struct reply *r, const struct stream *s, const uint8_t *data, size_t n)
{
	uint64_t offset;

	if (pattern_locate(data, n, s->key_in, &offset))
		reply_raw(r, ",\"from\":%llu", (unsigned long long)offset);
}

static void put_mismatch(struct reply *r, const struct stream *s, const uint8_t *data, size_t n,
			 uint64_t offset)
{
	r->bad = true;
	reply_raw(r, ",\"mismatch\":{\"offset\":%llu,\"expected\":%u,\"got\":%u",
		  (unsigned long long)offset, pattern_byte(s->key_in, offset), data[0]);
	put_origin(r, s, data, n);
	reply_raw(r, "}");
}

/* Compares n bytes that were received now; moves on unless they were only looked at. */
static bool verify(struct call *c, const uint8_t *data, size_t n, uint64_t ahead, bool advance)
{
	struct stream *s = c->h->stream;
	size_t good = n;

	pthread_mutex_lock(&s->lock);
	if (s->verify)
		good = pattern_check(data, n, s->key_in, s->in + ahead);
	if (good < n)
		put_mismatch(&c->reply, s, data + good, n - good, s->in + ahead + good);
	if (advance)
		s->in += n;
	pthread_mutex_unlock(&s->lock);
	return good == n;
}

static void fill(struct call *c, void *data, size_t n)
{
	struct stream *s = c->h->stream;

	pthread_mutex_lock(&s->lock);
	pattern_fill(data, n, s->key_out, s->out);
	pthread_mutex_unlock(&s->lock);
}

static void sent(struct call *c, ssize_t n)
{
	struct stream *s = c->h->stream;

	pthread_mutex_lock(&s->lock);
	s->out += n > 0 ? (uint64_t)n : 0;
	pthread_mutex_unlock(&s->lock);
}

static void put_pipe_signal(struct call *c, int before)
{
	if (pipe_signals != before)
		put_truth(&c->reply, "sigpipe", true);
}

#endif
