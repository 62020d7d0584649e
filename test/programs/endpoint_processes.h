/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Commands of endpoint: child processes, which take commands over a socket of their own. One
 * datagram a command, one an answer; a socket may come along.
 */
#ifndef SLIPSTREAM_TEST_ENDPOINT_PROCESSES_H
#define SLIPSTREAM_TEST_ENDPOINT_PROCESSES_H

#include <sys/prctl.h>

#include "endpoint.h"

#define CHILDREN 8

struct child {
	char name[32];
	int fd;
};

static struct child children[CHILDREN];

/* What travels to a child. */
struct order {
	char line[512];
	int stream; /* of the socket that comes along */
	int handle;
};

static void child_take(struct order *order, int fd)
{
	struct handle *h = &handles[order->handle];

	h->fd = fd;
	h->stream = &streams->all[order->stream];
	h->open = true;
}

static ssize_t order_receive(int channel, struct order *order)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = {order, sizeof(*order)};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
	struct cmsghdr *m = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	int fd;

	if (m && m->cmsg_type == SCM_RIGHTS) {
		memcpy(&fd, CMSG_DATA(m), sizeof(fd));
		child_take(order, fd);
	}
	return n;
}

static ssize_t order_send(int channel, struct order *order, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = {order, sizeof(*order)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (fd >= 0) {
		memset(&control, 0, sizeof(control));
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
	}
	return sendmsg(channel, &message, MSG_NOSIGNAL);
}

__attribute__((noreturn)) static void child_serve(int channel)
{
	struct order order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (order_receive(channel, &order) > 0) {
		struct call c = {.argc = 0};

		split(&c, order.line);
		if (c.argc)
			run_command(&c);
		if (send(channel, &c.reply, sizeof(c.reply), MSG_NOSIGNAL) < 0)
			break;
	}
	_exit(0);
}

static struct child *child_named(const char *name)
{
	for (int i = 0; i < CHILDREN; i++)
		if (!strcmp(children[i].name, name))
			return &children[i];
	return NULL;
}

static void run_fork(struct call *c)
{
	struct child *child = child_named("");
	int ends[2];
	pid_t pid;

	if (!child || child_named(c->argv[1])) {
		put_complaint(&c->reply, "too many children, or this name is in use");
		return;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) {
		put_result(&c->reply, -1);
		return;
	}
	pid = fork();
	if (!pid) {
		close(ends[0]);
		child_serve(ends[1]);
	}
	close(ends[1]);
	put_result(&c->reply, pid < 0 ? -1 : 0);
	snprintf(child->name, sizeof(child->name), "%s", c->argv[1]);
	child->fd = ends[0];
}

/* Hands an order over and repeats the answer. */
static void child_do(struct call *c, const struct child *child, struct order *order, int fd)
{
	struct reply answer;

	if (order_send(child->fd, order, fd) < 0 ||
	    recv(child->fd, &answer, sizeof(answer), 0) != sizeof(answer)) {
		put_complaint(&c->reply, "the child is gone");
		return;
	}
	reply_raw(&c->reply, "%s", answer.text);
	c->reply.bad |= answer.bad;
}

static struct child *child_argument(struct call *c, int index)
{
	struct child *child = child_named(c->argv[index]);

	if (!child)
		put_complaint(&c->reply, "no such child");
	return child;
}

static void run_in(struct call *c)
{
	struct child *child = child_argument(c, 1);
	struct order order = {.stream = 0};

	if (!child)
		return;
	join_arguments(c, 2, order.line, sizeof(order.line));
	child_do(c, child, &order, -1);
}

static void run_pass(struct call *c)
{
	struct child *child = child_argument(c, 2);
	struct order order = {.stream = (int)(c->h->stream - streams->all)};

	order.handle = int_argument(c, 3);
	if (!child || c->reply.bad || order.handle < 0 || order.handle >= HANDLES)
		return;
	child_do(c, child, &order, c->h->fd);
}

#endif
