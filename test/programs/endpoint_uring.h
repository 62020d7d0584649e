/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Commands of endpoint: single operations through io_uring. */
#ifndef SLIPSTREAM_TEST_ENDPOINT_URING_H
#define SLIPSTREAM_TEST_ENDPOINT_URING_H

#include <liburing.h>

#include "endpoint.h"

#define URING_ENTRIES 4

enum uring_operation { URING_SEND, URING_SEND_ZERO_COPY, URING_RECEIVE, URING_POLL };

static const struct name_value uring_operations[] = {
	{"send", URING_SEND},
	{"sendzc", URING_SEND_ZERO_COPY},
	{"recv", URING_RECEIVE},
	{"poll", URING_POLL},
};

static void uring_prepare(struct call *c, struct io_uring_sqe *sqe, int operation, void *data,
			  size_t n)
{
	int flags = flags_from(c, 4);

	switch (operation) {
	case URING_SEND:
		io_uring_prep_send(sqe, c->h->fd, data, n, flags | MSG_NOSIGNAL);
		break;
	case URING_SEND_ZERO_COPY:
		io_uring_prep_send_zc(sqe, c->h->fd, data, n, flags | MSG_NOSIGNAL, 0);
		break;
	case URING_RECEIVE:
		io_uring_prep_recv(sqe, c->h->fd, data, n, flags);
		break;
	default:
		io_uring_prep_poll_add(sqe, c->h->fd, (unsigned)n);
	}
}

/* The result of one operation; of a second completion, too, where there is one. */
static void uring_complete(struct call *c, struct io_uring *ring, int *result)
{
	struct __kernel_timespec limit = {.tv_sec = TIMEOUT_MS / 1000};
	struct io_uring_cqe *cqe;
	bool more;

	do {
		int error = io_uring_wait_cqe_timeout(ring, &cqe, &limit);

		if (error) {
			put_errno(&c->reply, -error);
			return;
		}
		more = cqe->flags & IORING_CQE_F_MORE;
		if (cqe->flags & IORING_CQE_F_NOTIF)
			put_truth(&c->reply, "notified", true);
		else
			*result = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	} while (more);
}

static void uring_do(struct call *c, struct io_uring *ring, int operation, uint8_t *data, size_t n)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	int result = -EIO;

	if (operation == URING_SEND || operation == URING_SEND_ZERO_COPY)
		fill(c, data, n);
	uring_prepare(c, sqe, operation, data, n);
	io_uring_submit(ring);
	uring_complete(c, ring, &result);
	errno = -result;
	put_result(&c->reply, result < 0 ? -1 : result);
	if (operation == URING_RECEIVE && result > 0)
		verify(c, data, (size_t)result, 0, true);
	else if (operation != URING_RECEIVE && operation != URING_POLL)
		sent(c, result);
}

static void run_uring(struct call *c)
{
	const struct name_value *operation =
		find_name(uring_operations, LENGTH(uring_operations), c->argv[2]);
	size_t n = size_argument(c, 3, SIZE_LIMIT);
	uint8_t *data = buffer_of(c, n);
	struct io_uring ring;
	int error;

	if (!operation)
		put_complaint(&c->reply, "send, sendzc, recv or poll");
	error = c->reply.bad ? 0 : io_uring_queue_init(URING_ENTRIES, &ring, 0);
	if (error) {
		put_text(&c->reply, "unavailable", errno_name(-error));
		put_complaint(&c->reply, "no io_uring");
	}
	if (!c->reply.bad) {
		uring_do(c, &ring, operation->value, data, n);
		io_uring_queue_exit(&ring);
	}
	free(data);
}

#endif
