/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Commands of endpoint: several buffers or messages in one call, and several users of one socket.
 */
#ifndef SLIPSTREAM_TEST_ENDPOINT_MESSAGES_H
#define SLIPSTREAM_TEST_ENDPOINT_MESSAGES_H

#include <sys/uio.h>

#include "endpoint.h"

#define SEGMENTS 1024 /* UIO_MAXIOV */

static void run_read(struct call *c)
{
	size_t n = size_argument(c, 2, SIZE_LIMIT);
	void *data = buffer_of(c, n);
	ssize_t result;

	if (!data)
		return;
	result = read(c->h->fd, data, n);
	put_result(&c->reply, result);
	if (result > 0)
		verify(c, data, (size_t)result, 0, true);
	free(data);
}

static void run_write(struct call *c)
{
	size_t n = size_argument(c, 2, SIZE_LIMIT);
	int before = pipe_signals;
	void *data = buffer_of(c, n);
	ssize_t result;

	if (!data)
		return;
	fill(c, data, n);
	result = write(c->h->fd, data, n);
	sent(c, result);
	put_result(&c->reply, result);
	put_pipe_signal(c, before);
	free(data);
}

/* The buffer of a call with many parts, and the parts. */
struct parts {
	uint8_t *data;
	size_t count, size;
	struct iovec vector[SEGMENTS];
};

static bool parts_begin(struct call *c, struct parts *p)
{
	p->count = size_argument(c, 2, SEGMENTS);
	p->size = size_argument(c, 3, 1 << 20);
	p->data = buffer_of(c, p->count * p->size);
	for (size_t i = 0; p->data && i < p->count; i++)
		p->vector[i] = (struct iovec){p->data + i * p->size, p->size};
	return p->data != NULL;
}

static void run_readv(struct call *c)
{
	struct parts p;
	ssize_t result;

	if (!parts_begin(c, &p))
		return;
	result = readv(c->h->fd, p.vector, (int)p.count);
	put_result(&c->reply, result);
	if (result > 0)
		verify(c, p.data, (size_t)result, 0, true);
	free(p.data);
}

static void run_writev(struct call *c)
{
	struct parts p;
	ssize_t result;

	if (!parts_begin(c, &p))
		return;
	fill(c, p.data, p.count * p.size);
	result = writev(c->h->fd, p.vector, (int)p.count);
	sent(c, result);
	put_result(&c->reply, result);
	free(p.data);
}

static void messages_of(struct parts *p, struct mmsghdr *messages)
{
	memset(messages, 0, p->count * sizeof(*messages));
	for (size_t i = 0; i < p->count; i++) {
		messages[i].msg_hdr.msg_iov = &p->vector[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
}

static void put_lengths(struct call *c, const struct mmsghdr *messages, int count)
{
	reply_raw(&c->reply, ",\"lengths\":[");
	for (int i = 0; i < count; i++)
		reply_raw(&c->reply, "%s%u", i ? "," : "", messages[i].msg_len);
	reply_raw(&c->reply, "]");
}

static void run_sendmmsg(struct call *c)
{
	struct mmsghdr messages[SEGMENTS];
	int flags = flags_from(c, 4), before = pipe_signals, result;
	struct parts p;

	if (!parts_begin(c, &p))
		return;
	messages_of(&p, messages);
	fill(c, p.data, p.count * p.size);
	result = sendmmsg(c->h->fd, messages, (unsigned)p.count, flags);
	put_result(&c->reply, result);
	put_lengths(c, messages, result);
	for (int i = 0; i < result; i++)
		sent(c, messages[i].msg_len);
	put_pipe_signal(c, before);
	free(p.data);
}

static void run_recvmmsg(struct call *c)
{
	struct mmsghdr messages[SEGMENTS];
	int flags = flags_from(c, 4), result;
	struct parts p;

	if (!parts_begin(c, &p))
		return;
	messages_of(&p, messages);
	result = recvmmsg(c->h->fd, messages, (unsigned)p.count, flags, NULL);
	put_result(&c->reply, result);
	put_lengths(c, messages, result);
	for (int i = 0; i < result; i++)
		verify(c, p.vector[i].iov_base, messages[i].msg_len, 0, true);
	free(p.data);
}

static void splice_in(struct call *c, const int ends[2], void *data, size_t n)
{
	unsigned flags = flags_from(c, 3) & MSG_MORE ? SPLICE_F_MORE : 0;
	int before = pipe_signals;
	ssize_t result;

	fill(c, data, n);
	fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
	if (write(ends[1], data, n) != (ssize_t)n) {
		put_complaint(&c->reply, "cannot fill the pipe");
		return;
	}
	result = splice(ends[0], NULL, c->h->fd, NULL, n, SPLICE_F_MOVE | flags);
	sent(c, result);
	put_result(&c->reply, result);
	put_pipe_signal(c, before);
}

static void run_splicein(struct call *c)
{
	size_t n = size_argument(c, 2, 1 << 20);
	void *data = buffer_of(c, n);
	int ends[2];

	if (!data)
		return;
	if (pipe2(ends, O_CLOEXEC)) {
		put_result(&c->reply, -1);
	} else {
		splice_in(c, ends, data, n);
		close(ends[0]);
		close(ends[1]);
	}
	free(data);
}

/* ---- several threads or processes ---- */

/* Each message whole or not at all, in an order that nobody knows: no pattern. */
static void run_marks(struct call *c)
{
	uint64_t count = size_argument(c, 2, 1 << 20), n = size_argument(c, 3, 1 << 20), done = 0;
	int64_t deadline = deadline_of(c);
	int mark = int_argument(c, 4);
	void *data = buffer_of(c, n);

	if (!data)
		return;
	memset(data, mark, n);
	while (done < count && !c->reply.bad) {
		ssize_t result = send(c->h->fd, data, n, MSG_NOSIGNAL);

		if (result == (ssize_t)n)
			done++;
		else if (result >= 0)
			put_complaint(&c->reply, "a message was cut");
		else if (errno != EAGAIN || wait_for(c->h->fd, POLLOUT, deadline) < 0)
			put_result(&c->reply, result);
	}
	put_number(&c->reply, "messages", (long long)done);
	free(data);
}

static void put_tally(struct call *c, const uint64_t *count)
{
	const char *separator = "";

	reply_raw(&c->reply, ",\"tally\":{");
	for (int i = 0; i < 256; i++) {
		if (!count[i])
			continue;
		reply_raw(&c->reply, "%s\"%d\":%llu", separator, i, (unsigned long long)count[i]);
		separator = ",";
	}
	reply_raw(&c->reply, "}");
}

static void run_tally(struct call *c)
{
	bool block = keyword(c, "wait") != NULL;
	int64_t deadline = deadline_of(c);
	uint64_t count[256] = {0};
	uint8_t data[4096];

	for (;;) {
		ssize_t result = -1;

		if (block || wait_for(c->h->fd, POLLIN, deadline) > 0)
			result = recv(c->h->fd, data, sizeof(data), block ? 0 : MSG_DONTWAIT);
		for (ssize_t i = 0; i < result; i++)
			count[data[i]]++;
		if (result > 0 || (result < 0 && errno == EAGAIN && !block))
			continue;
		put_result(&c->reply, result);
		break;
	}
	put_tally(c, count);
}

#endif
