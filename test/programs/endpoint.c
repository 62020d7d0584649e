// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * A scripted TCP endpoint: reads one command a line, makes the system calls it names and answers
 * with one line of JSON. For tests that decide about every single call. See --help.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "endpoint.h"

#include <linux/errqueue.h>
#include <linux/sockios.h>

/* ---- opening ---- */

/* The connecting end sends stream 1, the accepting end stream 2. */
static void stream_role(struct handle *h, bool connects)
{
	h->stream->key_out = pattern_key(0, 0, 0, !connects);
	h->stream->key_in = pattern_key(0, 0, 0, connects);
}

static bool address_from(struct call *c, int index, struct address *a)
{
	uint64_t port = size_argument(c, index + 1, 65535);

	if (!c->reply.bad && !address_parse(a, c->argv[index], (uint16_t)port))
		put_complaint(&c->reply, "not an address");
	return !c->reply.bad;
}

static int protocol_of(struct call *c)
{
	const char *text = keyword(c, "proto");

	return text && !strcmp(text, "mptcp") ? IPPROTO_MPTCP : 0;
}

/* Makes a socket for the handle unless it has one already. */
static bool ensure_socket(struct call *c, int family)
{
	int fd;

	if (c->h->open)
		return true;
	fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, protocol_of(c));
	if (fd < 0) {
		put_result(&c->reply, fd);
		return false;
	}
	handle_open(c->h, fd);
	return true;
}

static void run_socket(struct call *c)
{
	ensure_socket(c, strcmp(c->argv[2], "6") ? AF_INET : AF_INET6);
}

static void run_bind(struct call *c)
{
	struct address a;

	if (!address_from(c, 2, &a))
		return;
	put_result(&c->reply, bind(c->h->fd, &a.any, a.length));
	put_number(&c->reply, "port", local_port(c->h->fd));
}

static void run_listen(struct call *c)
{
	int backlog = (int)keyword_size(c, "backlog", 128);
	struct address a;
	int result;

	if (!address_from(c, 2, &a) || !ensure_socket(c, a.any.sa_family))
		return;
	set_flag(c->h->fd, SOL_SOCKET, SO_REUSEADDR, 1);
	result = bind(c->h->fd, &a.any, a.length);
	if (!result)
		result = listen(c->h->fd, backlog);
	put_result(&c->reply, result);
	put_number(&c->reply, "port", local_port(c->h->fd));
}

static void run_connect(struct call *c)
{
	struct address a;

	if (!address_from(c, 2, &a) || !ensure_socket(c, a.any.sa_family))
		return;
	stream_role(c->h, true);
	put_result(&c->reply, connect(c->h->fd, &a.any, a.length));
	put_number(&c->reply, "port", local_port(c->h->fd));
}

static void run_accept(struct call *c)
{
	struct handle *h = handle_argument(c, 2, FREE_HANDLE);
	int fd = -1;

	if (!h)
		return;
	if (wait_for(c->h->fd, POLLIN, deadline_of(c)) > 0)
		fd = accept4(c->h->fd, NULL, NULL, SOCK_CLOEXEC);
	put_result(&c->reply, fd < 0 ? -1 : 0);
	if (fd < 0)
		return;
	handle_open(h, fd);
	stream_role(h, false);
	put_number(&c->reply, "port", peer_port(fd));
}

static void run_dup(struct call *c)
{
	struct handle *h = handle_argument(c, 2, FREE_HANDLE);
	int fd;

	if (!h)
		return;
	fd = fcntl(c->h->fd, F_DUPFD_CLOEXEC, 0);
	put_result(&c->reply, fd < 0 ? -1 : 0);
	if (fd < 0)
		return;
	h->fd = fd;
	h->stream = c->h->stream;
	h->open = true;
}

static void run_close(struct call *c)
{
	c->h->open = false; /* the stream stays: duplicates and running calls may use it */
	put_result(&c->reply, close(c->h->fd));
}

static void run_disconnect(struct call *c)
{
	struct sockaddr nobody = {.sa_family = AF_UNSPEC};

	put_result(&c->reply, connect(c->h->fd, &nobody, sizeof(nobody)));
}

static void put_end(struct call *c, const char *name, const char *port_name,
		    int (*get)(int, struct sockaddr *, socklen_t *))
{
	struct address a = {.length = sizeof(a.storage)};
	char text[INET6_ADDRSTRLEN] = "?";

	if (get(c->h->fd, &a.any, &a.length)) {
		put_text(&c->reply, name, errno_name(errno));
		return;
	}
	if (a.any.sa_family == AF_INET)
		inet_ntop(AF_INET, &a.v4.sin_addr, text, sizeof(text));
	else
		inet_ntop(AF_INET6, &a.v6.sin6_addr, text, sizeof(text));
	put_text(&c->reply, name, text);
	put_number(&c->reply, port_name, address_port(&a));
}

static void run_names(struct call *c)
{
	put_end(c, "local", "localPort", getsockname);
	put_end(c, "peer", "peerPort", getpeername);
}

static void run_shutdown(struct call *c)
{
	static const struct name_value how[] = {
		{"rd", SHUT_RD}, {"wr", SHUT_WR}, {"rdwr", SHUT_RDWR}};
	const struct name_value *found = find_name(how, LENGTH(how), c->argv[2]);

	if (found)
		put_result(&c->reply, shutdown(c->h->fd, found->value));
	else
		put_complaint(&c->reply, "rd, wr or rdwr");
}

static void run_nonblock(struct call *c)
{
	int flags = fcntl(c->h->fd, F_GETFL);
	int on = int_argument(c, 2);

	flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	if (!c->reply.bad)
		put_result(&c->reply, fcntl(c->h->fd, F_SETFL, flags));
}

static void put_offsets(struct call *c)
{
	put_number(&c->reply, "sent", (long long)c->h->stream->out);
	put_number(&c->reply, "received", (long long)c->h->stream->in);
}

static void run_key(struct call *c)
{
	uint64_t out = size_argument(c, 2, UINT64_MAX), in = size_argument(c, 3, UINT64_MAX);

	if (c->reply.bad)
		return;
	c->h->stream->key_out = mix64(out);
	c->h->stream->key_in = mix64(in);
}

static void run_verify(struct call *c)
{
	c->h->stream->verify = int_argument(c, 2);
}

static void run_offset(struct call *c)
{
	c->h->stream->out = keyword_size(c, "sent", c->h->stream->out);
	c->h->stream->in = keyword_size(c, "received", c->h->stream->in);
	put_offsets(c);
}

/* ---- single sends and receives ---- */

static void run_send(struct call *c)
{
	size_t n = size_argument(c, 2, SIZE_LIMIT);
	int flags = flags_from(c, 3), before = pipe_signals;
	void *data = buffer_of(c, n);
	ssize_t result;

	if (!data)
		return;
	fill(c, data, n);
	result = send(c->h->fd, data, n, flags);
	sent(c, result);
	put_result(&c->reply, result);
	put_pipe_signal(c, before);
	if (!(flags & MSG_ZEROCOPY)) /* else the kernel may still read it: kept until exit */
		free(data);
}

static void put_control(struct call *c, struct msghdr *message)
{
	for (struct cmsghdr *m = CMSG_FIRSTHDR(message); m; m = CMSG_NXTHDR(message, m)) {
		int value;

		memcpy(&value, CMSG_DATA(m), sizeof(value));
		if (m->cmsg_level == IPPROTO_TCP && m->cmsg_type == TCP_CM_INQ)
			put_number(&c->reply, "inq", value);
		else if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SO_TIMESTAMPNS)
			put_truth(&c->reply, "timestamp", true);
	}
	put_mask(&c->reply, "flags", message_flags, LENGTH(message_flags), message->msg_flags);
}

/* With MSG_TRUNC TCP throws bytes away without copying them; says whether it did. */
static void took_truncated(struct call *c, const uint8_t *data, size_t n)
{
	struct stream *s = c->h->stream;
	bool blank = true;

	for (size_t i = 0; i < n; i++)
		blank = blank && data[i] == BLANK;
	put_truth(&c->reply, "copied", !blank);
	pthread_mutex_lock(&s->lock);
	s->in += n;
	pthread_mutex_unlock(&s->lock);
}

/* Urgent data is no part of the stream; it was the next byte of it when it was sent. */
static void took_urgent(struct call *c, uint8_t byte)
{
	const struct stream *s = c->h->stream;

	put_number(&c->reply, "byte", byte);
	put_truth(&c->reply, "asSent", byte == pattern_byte(s->key_in, s->in));
}

static void took(struct call *c, const uint8_t *data, size_t n, int flags)
{
	if (flags & MSG_OOB)
		took_urgent(c, data[0]);
	else if (flags & MSG_TRUNC)
		took_truncated(c, data, n);
	else
		verify(c, data, n, keyword_size(c, "ahead", 0), !(flags & MSG_PEEK));
}

static void run_recv(struct call *c)
{
	size_t n = size_argument(c, 2, SIZE_LIMIT);
	int flags = flags_from(c, 3);
	uint8_t *data = buffer_of(c, n);
	union {
		char bytes[512];
		struct cmsghdr align;
	} control;
	struct iovec part = {data, n};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	ssize_t result;

	if (!data)
		return;
	memset(data, BLANK, n);
	result = recvmsg(c->h->fd, &message, flags);
	put_result(&c->reply, result);
	if (result >= 0)
		put_control(c, &message);
	if (result > 0)
		took(c, data, (size_t)result, flags);
	free(data);
}

/* ---- whole amounts ---- */

struct progress {
	uint64_t bytes, calls, again;
	bool eof;
	int error;
};

static void put_progress(struct call *c, const struct progress *p)
{
	put_number(&c->reply, "bytes", (long long)p->bytes);
	put_number(&c->reply, "calls", (long long)p->calls);
	if (p->again)
		put_number(&c->reply, "again", (long long)p->again);
	if (p->eof)
		put_truth(&c->reply, "eof", true);
	if (p->error)
		put_errno(&c->reply, p->error);
}

struct transfer {
	uint8_t *data;
	size_t chunk;
	int flags;
	bool block; /* sit inside the receiving call instead of waiting in poll() */
	int64_t deadline;
};

static bool transfer_begin(struct call *c, struct transfer *t, int flags_index)
{
	const char *wait = keyword(c, "wait");

	t->chunk = keyword_size(c, "chunk", CHUNK);
	t->flags = flags_from(c, flags_index);
	t->block = wait && !strcmp(wait, "block");
	t->deadline = deadline_of(c);
	if (!t->chunk || t->chunk > SIZE_LIMIT)
		put_complaint(&c->reply, "chunk is out of range");
	t->data = buffer_of(c, t->chunk);
	return t->data != NULL;
}

static size_t next_chunk(const struct transfer *t, uint64_t left)
{
	return left < t->chunk ? left : t->chunk;
}

static bool send_all(struct call *c, struct transfer *t, uint64_t n, struct progress *p)
{
	for (uint64_t end = p->bytes + n; p->bytes < end;) {
		size_t part = next_chunk(t, end - p->bytes);
		ssize_t result;

		fill(c, t->data, part);
		result = send(c->h->fd, t->data, part, MSG_DONTWAIT | MSG_NOSIGNAL | t->flags);
		p->calls++;
		if (result >= 0) {
			sent(c, result);
			p->bytes += (uint64_t)result;
		} else if (errno == EAGAIN) {
			p->again++;
			if (wait_for(c->h->fd, POLLOUT, t->deadline) < 0)
				p->error = errno;
		} else if (errno != EINTR) {
			p->error = errno;
		}
		if (p->error)
			return false;
	}
	return true;
}

/* After a failed receive: whether to try again. */
static bool receive_again(const struct transfer *t, struct progress *p)
{
	if (!t->block && (errno == EAGAIN || errno == EINTR)) {
		p->again++;
		return true;
	}
	p->error = errno;
	return false;
}

static bool recv_all(struct call *c, struct transfer *t, uint64_t n, struct progress *p)
{
	for (uint64_t end = p->bytes + n; p->bytes < end;) {
		size_t part = next_chunk(t, end - p->bytes);
		ssize_t result = -1;

		if (t->block || wait_for(c->h->fd, POLLIN, t->deadline) > 0)
			result = recv(c->h->fd, t->data, part, t->flags);
		p->calls++;
		p->eof = result == 0;
		if (result > 0) {
			p->bytes += (uint64_t)result;
			if (!verify(c, t->data, (size_t)result, 0, true))
				return false;
		} else if (p->eof || !receive_again(t, p)) {
			return false;
		}
	}
	return true;
}

typedef bool transfer_step(struct call *c, struct transfer *t, uint64_t n, struct progress *p);

static void run_all(struct call *c, transfer_step *step)
{
	uint64_t n = size_argument(c, 2, UINT64_MAX);
	struct progress p = {0};
	struct transfer t;

	if (!transfer_begin(c, &t, 3))
		return;
	if (!step(c, &t, n, &p))
		c->reply.bad = true;
	put_progress(c, &p);
	free(t.data);
}

static void run_sendall(struct call *c)
{
	run_all(c, send_all);
}

static void run_recvall(struct call *c)
{
	run_all(c, recv_all);
}

static void run_fill(struct call *c)
{
	size_t chunk = size_argument(c, 2, SIZE_LIMIT);
	uint64_t limit = size_argument(c, 3, UINT64_MAX);
	uint8_t *data = buffer_of(c, chunk);
	struct progress p = {0};
	bool full = false;

	while (data && p.bytes < limit && !full && !p.error) {
		ssize_t n;

		fill(c, data, chunk);
		n = send(c->h->fd, data, chunk < limit - p.bytes ? chunk : limit - p.bytes,
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		p.calls++;
		sent(c, n);
		p.bytes += n > 0 ? (uint64_t)n : 0;
		full = n < 0 && errno == EAGAIN;
		p.error = n < 0 && !full ? errno : 0;
	}
	put_progress(c, &p);
	put_truth(&c->reply, "full", full);
	free(data);
}

static void run_drain(struct call *c)
{
	uint64_t limit = keyword_size(c, "limit", UINT64_MAX);
	struct progress p = {0};
	struct transfer t;
	bool empty = false;

	if (!transfer_begin(c, &t, 2))
		return;
	while (p.bytes < limit && !empty && !p.eof && !p.error) {
		ssize_t n = recv(c->h->fd, t.data, next_chunk(&t, limit - p.bytes),
				 MSG_DONTWAIT | t.flags);

		p.calls++;
		p.eof = n == 0;
		empty = n < 0 && errno == EAGAIN;
		p.error = n < 0 && !empty ? errno : 0;
		p.bytes += n > 0 ? (uint64_t)n : 0;
		if (n > 0 && !verify(c, t.data, (size_t)n, 0, true))
			break;
	}
	put_progress(c, &p);
	put_truth(&c->reply, "empty", empty);
	free(t.data);
}

/* ---- request and response ---- */

struct rounds {
	uint64_t count, size, reply_size, delay_us, done;
	int64_t slowest, total;
};

static void rounds_from(struct call *c, struct rounds *r)
{
	memset(r, 0, sizeof(*r));
	r->count = size_argument(c, 2, UINT64_MAX);
	r->size = size_argument(c, 3, SIZE_LIMIT);
	r->reply_size = keyword_size(c, "reply", r->size);
	r->delay_us = keyword_size(c, "delay", 0);
}

static void pause_us(uint64_t us)
{
	struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};

	if (us)
		nanosleep(&t, NULL);
}

static void put_rounds(struct call *c, const struct rounds *r)
{
	put_number(&c->reply, "count", (long long)r->done);
	if (r->done) {
		put_number(&c->reply, "maxMicroseconds", r->slowest / 1000);
		put_number(&c->reply, "averageMicroseconds", r->total / 1000 / (int64_t)r->done);
	}
}

static void run_exchange(struct call *c, transfer_step *first, transfer_step *second)
{
	struct progress one = {0}, two = {0};
	struct transfer t;
	struct rounds r;

	rounds_from(c, &r);
	if (!transfer_begin(c, &t, 4))
		return;
	for (; r.done < r.count; r.done++) {
		int64_t start = now_ns(), taken;

		if (!first(c, &t, r.size, &one) || !second(c, &t, r.reply_size, &two))
			break;
		taken = now_ns() - start;
		r.total += taken;
		r.slowest = taken > r.slowest ? taken : r.slowest;
		pause_us(r.delay_us);
	}
	c->reply.bad |= r.done < r.count;
	put_rounds(c, &r);
	put_progress(c, one.error || one.eof ? &one : &two);
	free(t.data);
}

static void run_ask(struct call *c)
{
	run_exchange(c, send_all, recv_all);
}

static void run_echo(struct call *c)
{
	run_exchange(c, recv_all, send_all);
}

/* ---- other ways to move bytes ---- */

static void verify_pipe(struct call *c, int fd, size_t n)
{
	uint8_t *data = buffer_of(c, n);
	size_t got = 0;

	while (data && got < n) {
		ssize_t part = read(fd, data + got, n - got);

		if (part <= 0)
			break;
		got += (size_t)part;
	}
	if (data)
		verify(c, data, got, 0, true);
	free(data);
}

static void run_splice(struct call *c)
{
	size_t n = size_argument(c, 2, 1 << 20);
	bool nonblocking = flags_from(c, 3) & MSG_DONTWAIT;
	ssize_t result;
	int ends[2];

	if (c->reply.bad)
		return;
	if (pipe2(ends, O_CLOEXEC)) {
		put_result(&c->reply, -1);
		return;
	}
	fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
	result = splice(c->h->fd, NULL, ends[1], NULL, n,
			SPLICE_F_MOVE | (nonblocking ? SPLICE_F_NONBLOCK : 0));
	put_result(&c->reply, result);
	close(ends[1]);
	if (result > 0)
		verify_pipe(c, ends[0], (size_t)result);
	close(ends[0]);
}

static int pattern_file(struct call *c, size_t n)
{
	uint8_t *data = buffer_of(c, n);
	int fd = data ? memfd_create("pattern", MFD_CLOEXEC) : -1;

	if (fd >= 0) {
		fill(c, data, n);
		if (pwrite(fd, data, n, 0) != (ssize_t)n)
			put_complaint(&c->reply, "cannot write the file");
	}
	free(data);
	return fd;
}

static void run_sendfile(struct call *c)
{
	size_t n = size_argument(c, 2, SIZE_LIMIT);
	int before = pipe_signals;
	int fd = pattern_file(c, n);
	off_t start = 0;
	ssize_t result;

	if (fd < 0)
		return;
	result = sendfile(c->h->fd, fd, &start, n);
	sent(c, result);
	put_result(&c->reply, result);
	put_pipe_signal(c, before);
	close(fd);
}

static void zero_copy_receive(struct call *c, uint8_t *map, uint8_t *rest, size_t n)
{
	struct tcp_zerocopy_receive z = {.address = (uintptr_t)map,
					 .length = (uint32_t)n,
					 .copybuf_address = (uintptr_t)rest,
					 .copybuf_len = (int)n};
	socklen_t length = sizeof(z);
	int result = getsockopt(c->h->fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &z, &length);

	put_result(&c->reply, result);
	if (result)
		return;
	put_number(&c->reply, "mapped", z.length);
	put_number(&c->reply, "copied", z.copybuf_len);
	put_number(&c->reply, "hint", z.recv_skip_hint);
	if (z.length && verify(c, map, z.length, 0, true) && z.copybuf_len > 0)
		verify(c, rest, (size_t)z.copybuf_len, 0, true);
	else if (!z.length && z.copybuf_len > 0)
		verify(c, rest, (size_t)z.copybuf_len, 0, true);
}

static void run_zcrecv(struct call *c)
{
	size_t n = (size_argument(c, 2, 1 << 24) + 4095) & ~(size_t)4095;
	uint8_t *rest = buffer_of(c, n);
	void *map;

	if (!rest || !n) {
		free(rest);
		return;
	}
	map = mmap(NULL, n, PROT_READ, MAP_SHARED, c->h->fd, 0);
	if (map == MAP_FAILED) {
		put_result(&c->reply, -1);
	} else {
		zero_copy_receive(c, map, rest, n);
		munmap(map, n);
	}
	free(rest);
}

/* Completions of MSG_ZEROCOPY: the numbers of the sends they are for. */
static void run_errqueue(struct call *c)
{
	union {
		char bytes[256];
		struct cmsghdr align;
	} control;
	struct msghdr message = {.msg_control = &control, .msg_controllen = sizeof(control)};
	struct sock_extended_err extended;
	ssize_t n = recvmsg(c->h->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT);
	struct cmsghdr *m = n < 0 ? NULL : CMSG_FIRSTHDR(&message);

	put_result(&c->reply, n);
	if (!m)
		return;
	memcpy(&extended, CMSG_DATA(m), sizeof(extended));
	put_truth(&c->reply, "zerocopy", extended.ee_origin == SO_EE_ORIGIN_ZEROCOPY);
	put_number(&c->reply, "first", extended.ee_info);
	put_number(&c->reply, "last", extended.ee_data);
	put_truth(&c->reply, "copied", extended.ee_code & SO_EE_CODE_ZEROCOPY_COPIED);
}

#include "endpoint_messages.h"
#include "endpoint_uring.h"

/* ---- options and state ---- */

union option_value {
	int number;
	struct linger linger;
	struct timeval time;
	char text[64];
	struct tls12_crypto_info_aes_gcm_128 tls;
};

static socklen_t option_from(struct call *c, const struct socket_option *o, const char *text,
			     union option_value *v)
{
	int number = o->kind == OPTION_TEXT || o->kind == OPTION_TLS || !strcmp(text, "off")
			     ? 0
			     : int_argument(c, 3);

	memset(v, 0, sizeof(*v));
	switch (o->kind) {
	case OPTION_TEXT:
		snprintf(v->text, sizeof(v->text), "%s", text);
		return (socklen_t)strlen(v->text);
	case OPTION_TLS: /* a key of zeros will do */
		v->tls.info.version = TLS_1_2_VERSION;
		v->tls.info.cipher_type = TLS_CIPHER_AES_GCM_128;
		return sizeof(v->tls);
	case OPTION_LINGER:
		v->linger.l_onoff = strcmp(text, "off") != 0;
		v->linger.l_linger = number;
		return sizeof(v->linger);
	case OPTION_MILLISECONDS:
		v->time.tv_sec = number / 1000;
		v->time.tv_usec = number % 1000 * 1000;
		return sizeof(v->time);
	default:
		v->number = number;
		return sizeof(v->number);
	}
}

static const struct socket_option *option_argument(struct call *c)
{
	const struct socket_option *o = find_socket_option(c->argv[2]);

	if (!o)
		put_complaint(&c->reply, "unknown socket option");
	return o;
}

static void run_setsockopt(struct call *c)
{
	const struct socket_option *o = option_argument(c);
	union option_value v;
	socklen_t length;

	if (!o)
		return;
	length = option_from(c, o, c->argv[3], &v);
	if (!c->reply.bad)
		put_result(&c->reply, setsockopt(c->h->fd, o->level, o->option, &v, length));
}

static void put_option(struct call *c, enum option_kind kind, const union option_value *v)
{
	switch (kind) {
	case OPTION_TEXT:
		put_text(&c->reply, "value", v->text);
		break;
	case OPTION_LINGER:
		put_number(&c->reply, "value", v->linger.l_onoff ? v->linger.l_linger : -1);
		break;
	case OPTION_MILLISECONDS:
		put_number(&c->reply, "value", v->time.tv_sec * 1000 + v->time.tv_usec / 1000);
		break;
	default:
		put_number(&c->reply, "value", v->number);
	}
}

static void run_getsockopt(struct call *c)
{
	const struct socket_option *o = option_argument(c);
	union option_value v = {.number = 0};
	socklen_t length = sizeof(v) - 1;
	int result;

	if (!o)
		return;
	/* Some options insist on the size of an int. */
	if (o->kind == OPTION_NUMBER)
		length = sizeof(v.number);
	result = getsockopt(c->h->fd, o->level, o->option, &v, &length);
	put_result(&c->reply, result);
	if (!result)
		put_option(c, o->kind, &v);
}

static void run_ioctl(struct call *c)
{
	static const struct name_value requests[] = {NAMED(FIONREAD), NAMED(SIOCOUTQ),
						     NAMED(SIOCOUTQNSD), NAMED(SIOCATMARK)};
	const struct name_value *request = find_name(requests, LENGTH(requests), c->argv[2]);
	int value = 0, result;

	if (!request) {
		put_complaint(&c->reply, "unknown request");
		return;
	}
	result = ioctl(c->h->fd, (unsigned long)request->value, &value);
	put_result(&c->reply, result);
	if (!result)
		put_number(&c->reply, "value", value);
}

static void run_poll(struct call *c)
{
	struct pollfd p = {.fd = c->h->fd};
	int mask = 0, timeout = int_argument(c, 3), n;

	if (!parse_mask(poll_events, LENGTH(poll_events), c->argv[2], &mask))
		put_complaint(&c->reply, "unknown event");
	if (c->reply.bad)
		return;
	p.events = (short)mask;
	n = poll(&p, 1, timeout);
	put_result(&c->reply, n);
	put_mask(&c->reply, "revents", poll_events, LENGTH(poll_events), p.revents);
}

static void run_select(struct call *c)
{
	int timeout = int_argument(c, 2), n;
	struct timeval t = {timeout / 1000, timeout % 1000 * 1000};
	fd_set in, out, except;

	if (c->h->fd >= FD_SETSIZE)
		put_complaint(&c->reply, "select() can't have this descriptor");
	if (c->reply.bad)
		return;
	FD_ZERO(&in);
	FD_SET(c->h->fd, &in);
	out = except = in;
	n = select(c->h->fd + 1, &in, &out, &except, &t);
	put_result(&c->reply, n);
	put_truth(&c->reply, "readable", n > 0 && FD_ISSET(c->h->fd, &in));
	put_truth(&c->reply, "writable", n > 0 && FD_ISSET(c->h->fd, &out));
	put_truth(&c->reply, "exceptional", n > 0 && FD_ISSET(c->h->fd, &except));
}

static int epoll_set(struct call *c)
{
	uint64_t set = keyword_size(c, "set", 0);

	if (set >= EPOLL_SETS)
		put_complaint(&c->reply, "no such epoll set");
	return c->reply.bad ? -1 : epoll_fds[set];
}

static void run_epolladd(struct call *c)
{
	struct epoll_event event = {.data.u32 = (uint32_t)(c->h - handles)};
	int mask = 0, set = epoll_set(c), result;

	if (!parse_mask(epoll_events, LENGTH(epoll_events), c->argv[2], &mask))
		put_complaint(&c->reply, "unknown event");
	if (c->reply.bad)
		return;
	event.events = (uint32_t)mask;
	result = epoll_ctl(set, EPOLL_CTL_ADD, c->h->fd, &event);
	if (result && errno == EEXIST)
		result = epoll_ctl(set, EPOLL_CTL_MOD, c->h->fd, &event);
	put_result(&c->reply, result);
}

static void run_epollwait(struct call *c)
{
	struct epoll_event events[64];
	int timeout = int_argument(c, 1), set = epoll_set(c), n;

	if (c->reply.bad)
		return;
	n = epoll_wait(set, events, LENGTH(events), timeout);
	put_result(&c->reply, n);
	reply_raw(&c->reply, ",\"ready\":[");
	for (int i = 0; i < n; i++) {
		reply_raw(&c->reply, "%s{\"handle\":%u", i ? "," : "", events[i].data.u32);
		put_mask(&c->reply, "events", epoll_events, LENGTH(epoll_events),
			 (int)events[i].events);
		reply_raw(&c->reply, "}");
	}
	reply_raw(&c->reply, "]");
}

static bool tcp_info_of(const struct call *c, struct tcp_info *info)
{
	socklen_t length = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return !getsockopt(c->h->fd, IPPROTO_TCP, TCP_INFO, info, &length);
}

/* Whether the peer's kernel has seen all that this end sent, its FIN too. */
static bool is_settled(const struct call *c)
{
	struct tcp_info info;
	int unseen = 0;

	if (!tcp_info_of(c, &info) || info.tcpi_state == TCPI_CLOSE)
		return true;
	return !ioctl(c->h->fd, SIOCOUTQ, &unseen) && !unseen;
}

static void run_settle(struct call *c)
{
	int64_t deadline = deadline_of(c);

	while (!is_settled(c)) {
		if (now_ns() > deadline) {
			put_complaint(&c->reply, "what was sent is not acknowledged");
			return;
		}
		pause_us(200); /* no event tells of an ACK */
	}
}

static void run_state(struct call *c)
{
	struct tcp_info info;
	bool known = tcp_info_of(c, &info);
	unsigned state = info.tcpi_state;

	put_result(&c->reply, known ? 0 : -1);
	if (!known)
		return;
	put_text(&c->reply, "state", state < LENGTH(tcp_states) ? tcp_states[state] : "?");
	put_number(&c->reply, "bytesSent", (long long)info.tcpi_bytes_sent);
	put_number(&c->reply, "bytesAcked", (long long)info.tcpi_bytes_acked);
	put_number(&c->reply, "bytesReceived", (long long)info.tcpi_bytes_received);
	put_number(&c->reply, "segmentsIn", info.tcpi_segs_in);
	put_number(&c->reply, "segmentsOut", info.tcpi_segs_out);
	put_number(&c->reply, "retransmits", info.tcpi_total_retrans);
	put_number(&c->reply, "unacked", info.tcpi_unacked);
	put_number(&c->reply, "localPort", local_port(c->h->fd));
	put_number(&c->reply, "peerPort", peer_port(c->h->fd));
	reply_raw(&c->reply, ",\"stream\":{\"sent\":%llu,\"received\":%llu}",
		  (unsigned long long)c->h->stream->out, (unsigned long long)c->h->stream->in);
}

/* ---- the process, its threads and signals ---- */

static void on_signal(int number)
{
	if (number == SIGPIPE)
		pipe_signals++;
	else if (number == SIGURG)
		urgent_signals++;
	else if (number == SIGIO)
		io_signals++;
}

/* SIGURG and SIGIO of this socket go to this process. */
static void run_owner(struct call *c)
{
	int flags = fcntl(c->h->fd, F_GETFL);

	put_result(&c->reply, fcntl(c->h->fd, F_SETOWN, getpid()));
	if (!c->reply.bad)
		put_result(&c->reply, fcntl(c->h->fd, F_SETFL, flags | O_ASYNC));
}

static void run_signals(struct call *c)
{
	put_number(&c->reply, "urgent", urgent_signals);
	put_number(&c->reply, "io", io_signals);
	urgent_signals = io_signals = 0;
}

static void run_sigaction(struct call *c)
{
	const struct name_value *number = find_name(signals, LENGTH(signals), c->argv[1]);
	const char *how = c->argv[2];
	struct sigaction action = {.sa_handler = on_signal};

	if (!number) {
		put_complaint(&c->reply, "unknown signal");
		return;
	}
	if (!strcmp(how, "restart"))
		action.sa_flags = SA_RESTART;
	else if (!strcmp(how, "ignore"))
		action.sa_handler = SIG_IGN;
	else if (!strcmp(how, "default"))
		action.sa_handler = SIG_DFL;
	else if (strcmp(how, "interrupt"))
		put_complaint(&c->reply, "restart, interrupt, ignore or default");
	if (!c->reply.bad)
		put_result(&c->reply, sigaction(number->value, &action, NULL));
}

static struct task *task_named(const char *tag)
{
	struct task *found = NULL;

	pthread_mutex_lock(&tasks_lock);
	for (int i = 0; i < TASKS && !found; i++)
		if (tasks[i].used && !strcmp(tasks[i].tag, tag))
			found = &tasks[i];
	pthread_mutex_unlock(&tasks_lock);
	return found;
}

static struct task *task_argument(struct call *c)
{
	struct task *t = task_named(c->argv[1]);

	if (!t)
		put_complaint(&c->reply, "no such task is running");
	return t;
}

static void run_signal(struct call *c)
{
	const struct name_value *number = find_name(signals, LENGTH(signals), c->argv[2]);
	struct task *t = task_argument(c);

	if (!number)
		put_complaint(&c->reply, "unknown signal");
	if (number && t)
		put_result(&c->reply, syscall(SYS_tgkill, getpid(), t->thread_id, number->value));
}

static void read_task_file(const struct task *t, const char *name, char *text, size_t size)
{
	char path[64];
	FILE *file;

	text[0] = '\0';
	snprintf(path, sizeof(path), "/proc/self/task/%d/%s", (int)t->thread_id, name);
	file = fopen(path, "re");
	if (!file)
		return;
	if (!fgets(text, (int)size, file))
		text[0] = '\0';
	fclose(file);
}

/* Whether the thread sleeps, and where in the kernel as far as that can be seen. */
static bool task_sleeps(const struct task *t, char *where, size_t size)
{
	char stat[512], *state;

	read_task_file(t, "stat", stat, sizeof(stat));
	read_task_file(t, "wchan", where, size);
	state = strrchr(stat, ')');
	return state && state[1] == ' ' && (state[2] == 'S' || state[2] == 'D');
}

/* Waits until a task sits in its blocking call: twice, to rule out a short wait on the way. */
static void run_parked(struct call *c)
{
	int64_t deadline = deadline_of(c);
	struct task *t = task_argument(c);
	unsigned times = 0;
	char where[64] = "";

	if (!t)
		return;
	while (times < 2 && now_ns() < deadline && task_named(c->argv[1]) == t) {
		times = t->thread_id && task_sleeps(t, where, sizeof(where)) ? times + 1 : 0;
		pause_us(5000);
	}
	if (times < 2)
		put_complaint(&c->reply, "the task does not sleep");
	put_text(&c->reply, "where", where);
}

static void run_pid(struct call *c)
{
	put_number(&c->reply, "pid", getpid());
}

static void run_sleep(struct call *c)
{
	pause_us(size_argument(c, 1, 3600000) * 1000);
}

static void run_exit(struct call *c)
{
	reply_print(&c->reply, NULL);
	_exit(c->argc > 1 ? atoi(c->argv[1]) : 0);
}

/* ---- command lines ---- */

static void run_async(struct call *c);
static void run_fork(struct call *c);
static void run_in(struct call *c);
static void run_pass(struct call *c);

static const struct command commands[] = {
	{"socket", run_socket, FREE_HANDLE, 2},
	{"bind", run_bind, OPEN_HANDLE, 3},
	{"listen", run_listen, ANY_HANDLE, 3},
	{"connect", run_connect, ANY_HANDLE, 3},
	{"accept", run_accept, OPEN_HANDLE, 2},
	{"dup", run_dup, OPEN_HANDLE, 2},
	{"close", run_close, OPEN_HANDLE, 1},
	{"shutdown", run_shutdown, OPEN_HANDLE, 2},
	{"disconnect", run_disconnect, OPEN_HANDLE, 1},
	{"names", run_names, OPEN_HANDLE, 1},
	{"nonblock", run_nonblock, OPEN_HANDLE, 2},
	{"key", run_key, OPEN_HANDLE, 3},
	{"verify", run_verify, OPEN_HANDLE, 2},
	{"offset", run_offset, OPEN_HANDLE, 1},
	{"send", run_send, OPEN_HANDLE, 2},
	{"recv", run_recv, OPEN_HANDLE, 2},
	{"sendall", run_sendall, OPEN_HANDLE, 2},
	{"recvall", run_recvall, OPEN_HANDLE, 2},
	{"fill", run_fill, OPEN_HANDLE, 3},
	{"drain", run_drain, OPEN_HANDLE, 1},
	{"ask", run_ask, OPEN_HANDLE, 3},
	{"echo", run_echo, OPEN_HANDLE, 3},
	{"splice", run_splice, OPEN_HANDLE, 2},
	{"sendfile", run_sendfile, OPEN_HANDLE, 2},
	{"zcrecv", run_zcrecv, OPEN_HANDLE, 2},
	{"read", run_read, OPEN_HANDLE, 2},
	{"write", run_write, OPEN_HANDLE, 2},
	{"readv", run_readv, OPEN_HANDLE, 3},
	{"writev", run_writev, OPEN_HANDLE, 3},
	{"sendmmsg", run_sendmmsg, OPEN_HANDLE, 3},
	{"recvmmsg", run_recvmmsg, OPEN_HANDLE, 3},
	{"splicein", run_splicein, OPEN_HANDLE, 2},
	{"marks", run_marks, OPEN_HANDLE, 4},
	{"tally", run_tally, OPEN_HANDLE, 1},
	{"uring", run_uring, OPEN_HANDLE, 3},
	{"errqueue", run_errqueue, OPEN_HANDLE, 1},
	{"setsockopt", run_setsockopt, OPEN_HANDLE, 3},
	{"getsockopt", run_getsockopt, OPEN_HANDLE, 2},
	{"ioctl", run_ioctl, OPEN_HANDLE, 2},
	{"poll", run_poll, OPEN_HANDLE, 3},
	{"select", run_select, OPEN_HANDLE, 2},
	{"settle", run_settle, OPEN_HANDLE, 1},
	{"epolladd", run_epolladd, OPEN_HANDLE, 2},
	{"epollwait", run_epollwait, NO_HANDLE, 1},
	{"state", run_state, OPEN_HANDLE, 1},
	{"async", run_async, NO_HANDLE, 2},
	{"parked", run_parked, NO_HANDLE, 1},
	{"signal", run_signal, NO_HANDLE, 2},
	{"sigaction", run_sigaction, NO_HANDLE, 2},
	{"owner", run_owner, OPEN_HANDLE, 1},
	{"signals", run_signals, NO_HANDLE, 0},
	{"fork", run_fork, NO_HANDLE, 1},
	{"in", run_in, NO_HANDLE, 2},
	{"pass", run_pass, OPEN_HANDLE, 3},
	{"pid", run_pid, NO_HANDLE, 0},
	{"sleep", run_sleep, NO_HANDLE, 1},
	{"exit", run_exit, NO_HANDLE, 0},
};

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < LENGTH(commands); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

static void split(struct call *c, char *line)
{
	char *state = NULL;

	for (char *word = strtok_r(line, " \t\r\n", &state); word && c->argc < ARGUMENTS;
	     word = strtok_r(NULL, " \t\r\n", &state))
		c->argv[c->argc++] = word;
}

static void run_command(struct call *c)
{
	const struct command *command = c->argc ? find_command(c->argv[0]) : NULL;
	int64_t start = now_ns();

	if (!command)
		put_complaint(&c->reply, "unknown command");
	else if (c->argc <= command->arguments)
		put_complaint(&c->reply, "an argument is missing");
	else if (command->needs != NO_HANDLE)
		c->h = handle_argument(c, 1, command->needs);
	if (command && !c->reply.bad)
		command->run(c);
	put_number(&c->reply, "microseconds", (now_ns() - start) / 1000);
}

static void *task_run(void *argument)
{
	struct task *t = argument;
	struct call c = {.argc = 0};
	char tag[sizeof(t->tag)];

	t->thread_id = (pid_t)syscall(SYS_gettid);
	split(&c, t->line);
	run_command(&c);
	pthread_mutex_lock(&tasks_lock);
	memcpy(tag, t->tag, sizeof(tag));
	t->used = false; /* before the answer, so that the tag is free once it has been read */
	pthread_mutex_unlock(&tasks_lock);
	reply_print(&c.reply, tag);
	return NULL;
}

static bool good_tag(const char *tag)
{
	size_t length = strspn(tag, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789_.-");

	return !tag[length] && length < sizeof(tasks[0].tag);
}

static struct task *task_new(const char *tag)
{
	struct task *t = NULL;

	pthread_mutex_lock(&tasks_lock);
	for (int i = 0; i < TASKS && !t; i++)
		if (!tasks[i].used)
			t = &tasks[i];
	if (t) {
		memset(t, 0, sizeof(*t));
		t->used = true;
		snprintf(t->tag, sizeof(t->tag), "%s", tag);
	}
	pthread_mutex_unlock(&tasks_lock);
	return t;
}

static void join_arguments(const struct call *c, int from, char *line, size_t size)
{
	size_t used = 0;

	for (int i = from; i < c->argc && used < size; i++)
		used += (size_t)snprintf(line + used, size - used, "%s ", c->argv[i]);
}

static void run_async(struct call *c)
{
	pthread_t thread;
	struct task *t;

	if (!good_tag(c->argv[1]) || task_named(c->argv[1])) {
		put_complaint(&c->reply, "this tag is in use or not a plain word");
		return;
	}
	t = task_new(c->argv[1]);
	if (!t) {
		put_complaint(&c->reply, "too many tasks");
		return;
	}
	put_text(&c->reply, "started", t->tag);
	join_arguments(c, 2, t->line, sizeof(t->line));
	errno = pthread_create(&thread, NULL, task_run, t);
	if (errno) {
		t->used = false;
		put_errno(&c->reply, errno);
		return;
	}
	pthread_detach(thread);
}

/* ---- child processes ---- */

#include "endpoint_processes.h"

static const char usage[] =
	"usage: endpoint\n"
	"Reads commands from stdin, one a line, and answers each with a line of JSON on stdout.\n"
	"H is a number below 4096 chosen by the caller. FLAGS: MSG_DONTWAIT, MSG_PEEK, "
	"MSG_WAITALL,\n"
	"MSG_OOB, MSG_TRUNC, MSG_MORE, MSG_ZEROCOPY, MSG_NOSIGNAL, joined by | or spaces. Sizes "
	"may\n"
	"end in K, M, G. timeout= is in milliseconds (10000).\n"
	"\n"
	"  socket H 4|6 [proto=mptcp]          bind H ADDR PORT\n"
	"  listen H ADDR PORT [backlog=N]      connect H ADDR PORT   (both make the socket if "
	"needed)\n"
	"  accept LISTENER H [timeout=]        dup H NEW\n"
	"  close H                             shutdown H rd|wr|rdwr\n"
	"  nonblock H 0|1                      disconnect H          (connect() to AF_UNSPEC)\n"
	"  names H                             addresses and ports of both ends\n"
	"  send H N [FLAGS]                    one send() of the next N bytes of the stream\n"
	"  recv H N [FLAGS] [ahead=N]          one recvmsg(), verified; MSG_PEEK does not move on\n"
	"  sendall H N [FLAGS] [chunk=] [timeout=]\n"
	"  recvall H N [FLAGS] [chunk=] [timeout=] [wait=block]   block: no poll() before recv()\n"
	"  fill H CHUNK LIMIT                  non-blocking sends until EAGAIN or LIMIT\n"
	"  drain H [limit=] [chunk=] [FLAGS]   non-blocking receives until EAGAIN, EOF or limit\n"
	"  ask H COUNT SIZE [reply=SIZE] [delay=MICROSECONDS] [timeout=] [wait=block]\n"
	"  echo H COUNT SIZE [reply=SIZE] ...  the other end of ask\n"
	"  splice H N [MSG_DONTWAIT]           from the socket through a pipe, verified\n"
	"  sendfile H N                        from a file in memory\n"
	"  zcrecv H N                          TCP_ZEROCOPY_RECEIVE\n"
	"  read H N, write H N                 readv H SEGMENTS SIZE, writev H SEGMENTS SIZE\n"
	"  recvmmsg H COUNT SIZE [FLAGS]       sendmmsg H COUNT SIZE [FLAGS]\n"
	"  splicein H N [FLAGS]                from a pipe to the socket\n"
	"  marks H COUNT SIZE BYTE             sends messages that consist of one byte's "
	"repetition\n"
	"  tally H [wait=block]                receives until the end, counts the bytes by value\n"
	"  uring H send|sendzc|recv|poll N [FLAGS]   the same by io_uring\n"
	"  errqueue H                          one MSG_ZEROCOPY completion\n"
	"  setsockopt H NAME VALUE             SO_LINGER: seconds or off; SO_RCVTIMEO: "
	"milliseconds\n"
	"  getsockopt H NAME                   ioctl H FIONREAD|SIOCOUTQ|SIOCOUTQNSD|SIOCATMARK\n"
	"  poll H EVENTS TIMEOUT_MS            select H TIMEOUT_MS\n"
	"  epolladd H EVENTS [set=0..3]        epollwait TIMEOUT_MS [set=0..3]\n"
	"  settle H [timeout=]                 waits until all that was sent is acknowledged\n"
	"  state H                             TCP_INFO and the stream's offsets\n"
	"  key H OUT IN                        other streams than the standard ones\n"
	"  offset H [sent=N] [received=N]      moves in the streams, as after urgent data\n"
	"  verify H 0|1\n"
	"  async TAG COMMAND...                runs in a thread; its answer carries \"tag\"\n"
	"  parked TAG [timeout=]               waits until that thread sleeps in its call\n"
	"  signal TAG NAME                     sends a signal to that thread\n"
	"  sigaction NAME restart|interrupt|ignore|default\n"
	"  owner H, signals                    asks for SIGURG and SIGIO; counts them\n"
	"  fork NAME                           a child process with all handles\n"
	"  in NAME COMMAND...                  runs there\n"
	"  pass H NAME NEW                     gives it a socket (SCM_RIGHTS)\n"
	"  sleep MS, pid, exit [CODE]\n";

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	char line[512];

	if (argc > 1) {
		fputs(usage, strcmp(argv[1], "--help") ? stderr : stdout);
		return strcmp(argv[1], "--help") ? EXIT_USAGE : 0;
	}
	raise_descriptor_limit();
	sigaction(SIGPIPE, &action, NULL); /* counted, so that a send can say it caused one */
	sigaction(SIGURG, &action, NULL);
	sigaction(SIGIO, &action, NULL);
	streams_make();
	for (int i = 0; i < EPOLL_SETS; i++)
		epoll_fds[i] = epoll_create1(EPOLL_CLOEXEC);
	while (fgets(line, sizeof(line), stdin)) {
		struct call c = {.argc = 0};

		split(&c, line);
		run_command(&c);
		reply_print(&c.reply, NULL);
	}
	_exit(0); /* tasks may still sit in blocking calls */
}
