// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * One process of the soak: a server, or clients, of connections that may lose their other end at
 * any moment. Each connection has a thread of its own and a plan that both ends compute from the
 * seed; every byte is verified, also those in front of a killed peer's end.
 *
 * Commands on stdin:  target ID ADDRESS PORT | drop ID | dump | stop
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "cli.h"
#include "net.h"
#include "pattern.h"

#include <linux/sockios.h>

enum side { CLIENT, SERVER };
enum waiting { WAIT_BLOCKING, WAIT_POLL, WAIT_EDGE };
enum phase { PING_PONG, PIPELINED, STREAM, BOTH_WAYS };
enum closing { CLIENT_FIRST, SERVER_FIRST, TOGETHER, HALF_CLOSED_STREAM, PLAIN_CLOSE, CLOSINGS };

#define BUFFER (256u << 10)
#define STREAM_MAX (2u << 20)
#define TICK_MS 200
#define EDGE_MS 2000
#define LOST_TOLD 3
#define TARGETS 64
#define STACK (128u << 10)
#define HELLO_WORDS 6

struct options {
	bool server;
	uint32_t id;
	uint64_t seed;
	unsigned threads, short_share, blocking_share;
	double idle_timeout;
	const char *bind, *to, *from;
	uint16_t port;
	unsigned count;
};

/* One end of one connection, on its thread's stack. */
struct talk {
	struct talk *next, **link;
	int fd, epoll;
	enum side side;
	enum waiting waiting;
	uint32_t client, number; /* names the connection */
	uint32_t peer;   /* the other process; 0: not known yet */
	uint16_t port, peer_port;
	uint64_t key[2]; /* by the sending side */
	uint64_t sent, received, want_sent, want_received;
	struct prng script; /* the same at both ends */
	struct prng io;
	uint8_t *in, *out;
	const char *step;
	_Atomic int64_t progress;
	int64_t stall_told;
	bool slow, thinks;
};

struct target {
	uint32_t id;
	struct address address;
};

static struct options options = {
	.seed = 1,
	.threads = 8,
	.short_share = 30,
	.blocking_share = 25,
	.idle_timeout = 20,
	.bind = "127.0.0.1",
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct talk *talks;
static struct target targets[TARGETS];
static unsigned target_count, running;
static uint32_t told[256]; /* peers whose early end was reported */
static unsigned told_next;
static int listener = -1;
static atomic_bool stopping;
static atomic_uint next_number;
static _Atomic uint64_t finished, early, early_unknown, refused, bytes, messages, handled,
	no_memory, no_wakeup;

/* ---- output: one JSON line at a time, never cut by a signal ---- */

static void begin_line(sigset_t *old)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, old);
	flockfile(stdout);
}

static void end_line(const sigset_t *old)
{
	printf("}\n");
	fflush(stdout);
	funlockfile(stdout);
	pthread_sigmask(SIG_SETMASK, old, NULL);
}

static void describe(const struct talk *t)
{
	printf("\"side\":\"%s\",\"client\":%u,\"number\":%u,\"peer\":%u,\"port\":%u,\"peerPort\":%"
	       "u,\"step\":\"%s\",\"sent\":%llu,\"wantSent\":%llu,\"received\":%llu,"
	       "\"wantReceived\":%llu,\"waiting\":%d",
	       t->side == CLIENT ? "client" : "server", t->client, t->number, t->peer, t->port,
	       t->peer_port, t->step, (unsigned long long)t->sent, (unsigned long long)t->want_sent,
	       (unsigned long long)t->received, (unsigned long long)t->want_received, t->waiting);
}

__attribute__((noreturn, format(printf, 3, 4))) static void
fail(const struct talk *t, const char *event, const char *format, ...)
{
	sigset_t old;
	va_list args;

	begin_line(&old);
	printf("{\"event\":\"%s\",", event);
	describe(t);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("}\n");
	fflush(stdout);
	_exit(1);
}

__attribute__((noreturn)) static void fail_call(const struct talk *t, const char *call)
{
	fail(t, "error", ",\"call\":\"%s\",\"errno\":\"%s\"", call, errno_name(errno));
}

__attribute__((noreturn)) static void give_up(const char *call)
{
	printf("{\"event\":\"error\",\"call\":\"%s\",\"errno\":\"%s\"}\n", call, errno_name(errno));
	fflush(stdout);
	_exit(1);
}

/* The first report for each peer; whoever reads it knows whether that peer was killed. */
static void tell_early(const struct talk *t, const char *how)
{
	bool known = false;
	sigset_t old;

	atomic_fetch_add(&early, 1);
	if (!t->peer) {
		atomic_fetch_add(&early_unknown, 1);
		return;
	}
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < LENGTH(told); i++)
		known |= told[i] == t->peer;
	if (!known)
		told[told_next++ % LENGTH(told)] = t->peer;
	pthread_mutex_unlock(&lock);
	if (known)
		return;
	begin_line(&old);
	printf("{\"event\":\"early\",\"how\":\"%s\",\"atNs\":%lld,", how, (long long)now_ns());
	describe(t);
	end_line(&old);
}

static void print_stats(void)
{
	sigset_t old;

	begin_line(&old);
	printf("{\"event\":\"stats\",\"connections\":%llu,\"early\":%llu,\"earlyUnknown\":%llu,"
	       "\"refused\":%llu,\"bytes\":%llu,\"messages\":%llu,\"signals\":%llu,"
	       "\"noMemory\":%llu,\"noWakeup\":%llu,\"open\":%u",
	       (unsigned long long)finished, (unsigned long long)early,
	       (unsigned long long)early_unknown, (unsigned long long)refused,
	       (unsigned long long)bytes, (unsigned long long)messages, (unsigned long long)handled,
	       (unsigned long long)no_memory, (unsigned long long)no_wakeup, running);
	end_line(&old);
}

static int socket_count(int fd, unsigned long request)
{
	int value = -1;

	return ioctl(fd, request, &value) ? -1 : value;
}

static void print_talk(const char *event, const struct talk *t)
{
	struct pollfd p = {.fd = t->fd, .events = POLLIN | POLLOUT | POLLRDHUP};
	struct tcp_info info = {0};
	socklen_t length = sizeof(info);
	sigset_t old;

	if (poll(&p, 1, 0) < 0)
		p.revents = -1;
	getsockopt(t->fd, IPPROTO_TCP, TCP_INFO, &info, &length);
	begin_line(&old);
	printf("{\"event\":\"%s\",", event);
	describe(t);
	printf(",\"idleSeconds\":%.1f,\"inq\":%d,\"outq\":%d,\"revents\":%d,\"tcpState\":%u",
	       seconds_since(t->progress), socket_count(t->fd, FIONREAD),
	       socket_count(t->fd, SIOCOUTQ), p.revents, info.tcpi_state);
	end_line(&old);
}

/* ---- bytes ---- */

static void moved(struct talk *t)
{
	atomic_store(&t->progress, now_ns());
}

static void verify(struct talk *t, size_t n)
{
	uint64_t key = t->key[!t->side];
	size_t good = pattern_check(t->in, n, key, t->received);
	uint64_t from = 0;
	bool found;

	t->received += good;
	atomic_fetch_add_explicit(&bytes, good, memory_order_relaxed);
	if (good == n)
		return;
	found = pattern_locate(t->in + good, n - good, key, &from);
	fail(t, "mismatch", ",\"expected\":%u,\"got\":%u,\"left\":%zu,\"sameStreamAt\":%lld",
	     pattern_byte(key, t->received), t->in[good], n - good, found ? (long long)from : -1);
}

static int flags_of(const struct talk *t)
{
	/* Half of those that don't block say so with each call. */
	return t->waiting != WAIT_BLOCKING && (t->number & 1) ? MSG_DONTWAIT : 0;
}

static ssize_t receive_once(struct talk *t, size_t n)
{
	int flags = flags_of(t);
	struct iovec parts[2];
	size_t first;

	if (flags || prng_below(&t->io, 3))
		return recv(t->fd, t->in, n, flags);
	if (n < 2)
		return read(t->fd, t->in, n);
	first = 1 + prng_below(&t->io, n - 1);
	parts[0] = (struct iovec){t->in, first};
	parts[1] = (struct iovec){t->in + first, n - first};
	return readv(t->fd, parts, 2);
}

static ssize_t send_once(struct talk *t, size_t n, int flags)
{
	struct iovec parts[2];
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	size_t first = prng_below(&t->io, n + 1);

	pattern_fill(t->out, n, t->key[t->side], t->sent);
	if (prng_below(&t->io, 3))
		return send(t->fd, t->out, n, flags | MSG_NOSIGNAL);
	parts[0] = (struct iovec){t->out, first};
	parts[1] = (struct iovec){t->out + first, n - first};
	return sendmsg(t->fd, &message, flags | MSG_NOSIGNAL);
}

/* Waits for an edge; one that should have come and did not is counted. */
static void wait_for_edge(struct talk *t, short events)
{
	struct pollfd p = {.fd = t->fd, .events = events};
	struct epoll_event event;
	int n = epoll_wait(t->epoll, &event, 1, EDGE_MS);

	if (n < 0 && errno != EINTR)
		fail_call(t, "epoll_wait");
	if (n || poll(&p, 1, 0) <= 0 || epoll_wait(t->epoll, &event, 1, 0))
		return;
	if (atomic_fetch_add(&no_wakeup, 1) < LOST_TOLD)
		print_talk("lost wakeup", t);
}

static void wait_for(struct talk *t, short events)
{
	struct pollfd p = {.fd = t->fd, .events = events};

	if (t->waiting == WAIT_EDGE)
		wait_for_edge(t, events);
	else if (poll(&p, 1, -1) < 0 && errno != EINTR)
		fail_call(t, "poll");
}

static bool is_gone(int error)
{
	return error == ECONNRESET || error == EPIPE;
}

/* The other end has gone: what it said before must still be right. */
static bool drain_early(struct talk *t, const char *how)
{
	ssize_t n;

	while ((n = recv(t->fd, t->in, BUFFER, MSG_DONTWAIT)) > 0 || (n < 0 && errno == EINTR))
		if (n > 0)
			verify(t, (size_t)n);
	tell_early(t, how);
	return false;
}

enum result { MOVED, FULL, GONE };

static enum result try_receive(struct talk *t, uint64_t left)
{
	size_t most = prng_below(&t->io, 3) ? BUFFER : prng_log(&t->io, BUFFER);
	ssize_t n;

	if (t->slow && !prng_below(&t->io, 8))
		usleep((useconds_t)prng_below(&t->io, 20000));
	n = receive_once(t, left < most ? left : most);
	if (n > 0) {
		verify(t, (size_t)n);
		moved(t);
		return MOVED;
	}
	if (n == 0) {
		drain_early(t, "eof");
		return GONE;
	}
	if (errno == EAGAIN || errno == EINTR)
		return FULL;
	if (!is_gone(errno))
		fail_call(t, "receive");
	drain_early(t, "reset");
	return GONE;
}

static enum result try_send(struct talk *t, uint64_t left, int flags)
{
	size_t most = prng_below(&t->io, 4) ? BUFFER : prng_log(&t->io, BUFFER);
	ssize_t n = send_once(t, left < most ? left : most, flags | flags_of(t));

	if (n >= 0) {
		t->sent += (uint64_t)n;
		atomic_fetch_add_explicit(&messages, 1, memory_order_relaxed);
		moved(t);
		return MOVED;
	}
	if (errno == EAGAIN || errno == EINTR)
		return FULL;
	if (errno == ENOMEM) {
		/* Nothing was taken; whoever started this process knows whether memory was short.
		 */
		atomic_fetch_add(&no_memory, 1);
		usleep(1000);
		return MOVED;
	}
	if (!is_gone(errno))
		fail_call(t, "send");
	drain_early(t, "send");
	return GONE;
}

/* Sends and receives so many bytes at once; false if the other end has gone. */
static bool transfer(struct talk *t, uint64_t out, uint64_t in)
{
	/* A blocking socket with both to do must wait for either. */
	bool both = t->waiting == WAIT_BLOCKING && out && in;

	t->want_sent = t->sent + out;
	t->want_received = t->received + in;
	for (;;) {
		uint64_t unsent = t->want_sent - t->sent, unread = t->want_received - t->received;
		enum result sending = FULL, receiving = FULL;
		struct pollfd p = {.fd = t->fd, .events = POLLIN};

		if (!unsent && !unread)
			return true;
		if (unsent)
			sending = try_send(t, unsent, both && unread ? MSG_DONTWAIT : 0);
		if (sending == GONE)
			return false;
		if (unread && (!both || !unsent || poll(&p, 1, 0) > 0))
			receiving = try_receive(t, unread);
		if (receiving == GONE)
			return false;
		if (sending == FULL && receiving == FULL && (t->waiting != WAIT_BLOCKING || both))
			wait_for(t, (unsent ? POLLOUT : 0) | (unread ? POLLIN : 0));
	}
}

/* Bytes named by the side that sends them. */
static bool exchange(struct talk *t, uint64_t by_client, uint64_t by_server)
{
	return t->side == CLIENT ? transfer(t, by_client, by_server)
				 : transfer(t, by_server, by_client);
}

/* ---- the plan ---- */

static void think(struct talk *t)
{
	if (t->side == CLIENT && t->thinks)
		usleep((useconds_t)prng_below(&t->io, 8000));
}

static bool ping_pong(struct talk *t, uint64_t rounds, uint64_t cap)
{
	t->step = "pingpong";
	for (uint64_t i = 0; i < rounds; i++) {
		uint64_t question = prng_log(&t->script, cap), answer = prng_log(&t->script, cap);

		if (!exchange(t, question, 0) || !exchange(t, 0, answer))
			return false;
		think(t);
	}
	return true;
}

static bool pipelined(struct talk *t, uint64_t rounds, uint64_t cap)
{
	t->step = "pipelined";
	for (uint64_t i = 0; i < rounds; i++) {
		uint64_t depth = 2 + prng_below(&t->script, 15), questions = 0, answers = 0;

		for (uint64_t n = 0; n < depth; n++) {
			uint64_t question = prng_log(&t->script, cap);
			uint64_t answer = prng_log(&t->script, cap);

			questions += question;
			answers += answer;
			if (t->side == SERVER &&
			    (!transfer(t, 0, question) || !transfer(t, answer, 0)))
				return false;
		}
		if (t->side == CLIENT && !transfer(t, questions, answers))
			return false;
		think(t);
	}
	return true;
}

static bool run_phase(struct talk *t)
{
	static const enum phase kinds[] = {PING_PONG, PING_PONG, PING_PONG, PING_PONG,
					   PIPELINED, STREAM,    BOTH_WAYS};
	enum phase kind = kinds[prng_below(&t->script, LENGTH(kinds))];
	uint64_t cap = prng_log(&t->script, prng_below(&t->script, 8) ? 4096 : 65536);
	uint64_t rounds = prng_log(&t->script, kind == PIPELINED ? 64 : 600);
	uint64_t a = prng_log(&t->script, STREAM_MAX), b = prng_log(&t->script, STREAM_MAX);

	switch (kind) {
	case PING_PONG:
		return ping_pong(t, rounds, cap);
	case PIPELINED:
		return pipelined(t, rounds, cap < 2048 ? cap : 2048);
	case STREAM:
		t->step = "stream";
		return prng_below(&t->script, 2) ? exchange(t, a, 0) : exchange(t, 0, b);
	default:
		t->step = "both";
		return exchange(t, a, b);
	}
}

/* The stream of the other end must be over, and nothing behind it. */
static bool expect_eof(struct talk *t)
{
	t->want_received = t->received;
	for (;;) {
		ssize_t n = recv(t->fd, t->in, BUFFER, flags_of(t));

		if (n == 0) {
			moved(t);
			return true;
		}
		if (n > 0)
			fail(t, "excess", ",\"bytes\":%zd,\"first\":%u", n, t->in[0]);
		if (errno == EAGAIN && t->waiting != WAIT_BLOCKING) {
			wait_for(t, POLLIN);
		} else if (is_gone(errno)) {
			tell_early(t, "reset");
			return false;
		} else if (errno != EAGAIN && errno != EINTR) {
			fail_call(t, "receive");
		}
	}
}

/* False if the other end turned out to be gone before. */
static bool end_own_stream(struct talk *t)
{
	if (!shutdown(t->fd, SHUT_WR))
		return true;
	if (errno != ENOTCONN)
		fail_call(t, "shutdown");
	return drain_early(t, "shutdown");
}

static bool close_first(struct talk *t, bool first)
{
	if (first)
		return end_own_stream(t) && expect_eof(t);
	return expect_eof(t) && end_own_stream(t);
}

static bool run_closing(struct talk *t)
{
	enum closing closing = (enum closing)prng_below(&t->script, CLOSINGS);
	uint64_t rest = prng_log(&t->script, STREAM_MAX / 4);
	bool client = t->side == CLIENT;

	t->step = "closing";
	switch (closing) {
	case CLIENT_FIRST:
		return close_first(t, client);
	case SERVER_FIRST:
		return close_first(t, !client);
	case TOGETHER:
		return end_own_stream(t) && expect_eof(t);
	case HALF_CLOSED_STREAM:
		if (client)
			return end_own_stream(t) && transfer(t, 0, rest) && expect_eof(t);
		return expect_eof(t) && transfer(t, rest, 0);
	default:
		return client || expect_eof(t);
	}
}

static bool run_plan(struct talk *t)
{
	uint64_t phases = 1 + prng_below(&t->script, 4);

	if (prng_chance(&t->script, options.short_share))
		return ping_pong(t, 1 + prng_below(&t->script, 3), 4096) && run_closing(t);
	while (phases--)
		if (!run_phase(t))
			return false;
	return run_closing(t);
}

/* ---- one connection ---- */

static void enlist(struct talk *t)
{
	pthread_mutex_lock(&lock);
	t->link = &talks;
	t->next = talks;
	if (talks)
		talks->link = &t->next;
	talks = t;
	pthread_mutex_unlock(&lock);
}

static void delist(struct talk *t)
{
	pthread_mutex_lock(&lock);
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	pthread_mutex_unlock(&lock);
}

static void choose_habits(struct talk *t)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};

	t->io.state = mix64(mix64(options.seed ^ t->client) + t->number) + t->side;
	t->waiting = prng_chance(&t->io, options.blocking_share) ? WAIT_BLOCKING
		     : prng_below(&t->io, 2)                     ? WAIT_POLL
								 : WAIT_EDGE;
	t->slow = !prng_below(&t->io, 10);
	t->thinks = prng_below(&t->io, 10);
	if (t->slow)
		set_flag(t->fd, SOL_SOCKET, SO_RCVBUF, 16384);
	if (prng_below(&t->io, 4))
		set_flag(t->fd, IPPROTO_TCP, TCP_NODELAY, 1);
	/* Whoever says MSG_DONTWAIT each time may as well have a blocking socket. */
	if (t->waiting != WAIT_BLOCKING && !flags_of(t))
		fcntl(t->fd, F_SETFL, O_NONBLOCK);
	if (t->waiting != WAIT_EDGE)
		return;
	t->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (t->epoll < 0 || epoll_ctl(t->epoll, EPOLL_CTL_ADD, t->fd, &event))
		fail_call(t, "epoll");
}

static void converse(struct talk *t)
{
	for (enum side side = CLIENT; side <= SERVER; side++)
		t->key[side] = pattern_key(options.seed, t->client, t->number, side);
	t->script.state = mix64(mix64(options.seed + t->client) + t->number);
	choose_habits(t);
	if (run_plan(t))
		atomic_fetch_add(&finished, 1);
}

static void hello_make(uint32_t words[HELLO_WORDS], uint32_t from, uint32_t client, uint32_t number)
{
	uint64_t check = mix64(mix64(options.seed + from) + ((uint64_t)client << 32 | number));

	words[0] = from;
	words[1] = client;
	words[2] = number;
	words[3] = 0;
	memcpy(&words[4], &check, sizeof(check));
}

/* Both directions begin with a hello; false if the other end went away. */
static bool hello_send(struct talk *t)
{
	uint32_t words[HELLO_WORDS];
	ssize_t n;

	hello_make(words, options.id, t->client, t->number);
	do
		n = send(t->fd, words, sizeof(words), MSG_NOSIGNAL);
	while (n < 0 && (errno == EINTR || errno == EAGAIN));
	if (n == sizeof(words))
		return true;
	if (n >= 0 || !is_gone(errno))
		fail_call(t, "send hello");
	tell_early(t, "hello");
	return false;
}

static bool hello_receive(struct talk *t)
{
	uint32_t words[HELLO_WORDS], right[HELLO_WORDS];
	size_t got = 0;

	while (got < sizeof(words)) {
		ssize_t n = recv(t->fd, (char *)words + got, sizeof(words) - got, 0);

		if (n > 0) {
			got += (size_t)n;
		} else if (n == 0 || is_gone(errno)) {
			tell_early(t, "hello");
			return false;
		} else if (errno != EINTR && errno != EAGAIN) {
			fail_call(t, "receive hello");
		}
	}
	hello_make(right, words[0], words[1], words[2]);
	if (memcmp(words, right, sizeof(words)) ||
	    (t->side == CLIENT && (words[1] != t->client || words[2] != t->number)))
		fail(t, "mismatch", ",\"hello\":[%u,%u,%u]", words[0], words[1], words[2]);
	t->peer = words[0];
	t->client = words[1];
	t->number = words[2];
	moved(t);
	return true;
}

static void talk_run(struct talk *t)
{
	t->epoll = -1;
	t->in = malloc(BUFFER);
	t->out = malloc(BUFFER);
	if (!t->in || !t->out)
		give_up("malloc");
	t->port = local_port(t->fd);
	t->peer_port = peer_port(t->fd);
	t->step = "hello";
	moved(t);
	enlist(t);
	if (t->side == CLIENT ? hello_send(t) && hello_receive(t)
			      : hello_receive(t) && hello_send(t))
		converse(t);
	delist(t);
	if (t->epoll >= 0)
		close(t->epoll);
	close(t->fd);
	free(t->in);
	free(t->out);
}

static void count_threads(int change)
{
	pthread_mutex_lock(&lock);
	running += (unsigned)change;
	pthread_mutex_unlock(&lock);
}

static void *serve(void *argument)
{
	struct talk t = {.fd = (int)(intptr_t)argument, .side = SERVER};

	talk_run(&t);
	count_threads(-1);
	return NULL;
}

static void start_thread(void *(*run)(void *), void *argument)
{
	pthread_attr_t attributes;
	pthread_t thread;

	count_threads(1);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	errno = pthread_create(&thread, &attributes, run, argument);
	if (errno)
		give_up("pthread_create");
	pthread_attr_destroy(&attributes);
}

static void *accept_all(void *argument)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			start_thread(serve, (void *)(intptr_t)fd);
		else if (atomic_load(&stopping))
			break;
		else if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN)
			give_up("accept");
	}
	count_threads(-1);
	return argument;
}

/* ---- clients ---- */

static void drop_target(uint32_t id)
{
	for (unsigned i = 0; i < target_count; i++)
		if (targets[i].id == id)
			targets[i--] = targets[--target_count];
}

/* Waits until there is somebody to connect to; false at the end. */
static bool choose_target(uint32_t number, struct target *target)
{
	bool found = false;

	pthread_mutex_lock(&lock);
	while (!target_count && !atomic_load(&stopping))
		pthread_cond_wait(&changed, &lock);
	if (target_count && !atomic_load(&stopping)) {
		*target = targets[mix64(options.seed + number) % target_count];
		found = true;
	}
	pthread_mutex_unlock(&lock);
	return found;
}

/* Nobody listens there any more: it was killed, or there is an early end to report. */
static void lose_target(struct talk *t, const struct target *target)
{
	atomic_fetch_add(&refused, 1);
	t->step = "connect";
	t->peer = target->id;
	tell_early(t, "refused");
	pthread_mutex_lock(&lock);
	drop_target(target->id);
	pthread_mutex_unlock(&lock);
}

static bool connect_to(struct talk *t, const struct target *target)
{
	struct pollfd p = {.events = POLLOUT};
	socklen_t length = sizeof(int);
	int error = 0;

	t->fd = socket(target->address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (t->fd < 0)
		give_up("socket");
	if (connect(t->fd, &target->address.any, target->address.length)) {
		error = errno;
		if (error == EINTR) {
			/* The handshake goes on by itself. */
			p.fd = t->fd;
			while (poll(&p, 1, -1) < 0 && errno == EINTR)
				;
			getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &error, &length);
		}
	}
	if (!error)
		return true;
	errno = error;
	if (error != ECONNREFUSED && error != ECONNRESET)
		fail_call(t, "connect");
	close(t->fd);
	lose_target(t, target);
	return false;
}

static void *make_connections(void *argument)
{
	struct target target;

	while (!atomic_load(&stopping)) {
		struct talk t = {.side = CLIENT,
				 .step = "connect",
				 .client = options.id,
				 .number = atomic_fetch_add(&next_number, 1)};

		if (!choose_target(t.number, &target))
			break;
		t.peer = target.id;
		if (connect_to(&t, &target))
			talk_run(&t);
	}
	count_threads(-1);
	return argument;
}

/* ---- commands and the watchdog ---- */

static void add_target(const char *line)
{
	struct target target;
	char host[64];
	unsigned port;

	if (sscanf(line, "target %u %63s %u", &target.id, host, &port) != 3 ||
	    !address_parse(&target.address, host, (uint16_t)port))
		die("bad command: %s", line);
	pthread_mutex_lock(&lock);
	if (target_count == TARGETS)
		die("too many targets");
	targets[target_count++] = target;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void stop(void)
{
	pthread_mutex_lock(&lock);
	atomic_store(&stopping, true);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	if (listener >= 0)
		shutdown(listener, SHUT_RD); /* wakes the accepting thread */
}

static void dump(void)
{
	pthread_mutex_lock(&lock);
	for (const struct talk *t = talks; t; t = t->next)
		print_talk("talk", t);
	pthread_mutex_unlock(&lock);
}

static void obey(char *line)
{
	if (!strncmp(line, "target ", 7)) {
		add_target(line);
	} else if (!strncmp(line, "drop ", 5)) {
		pthread_mutex_lock(&lock);
		drop_target((uint32_t)strtoul(line + 5, NULL, 10));
		pthread_mutex_unlock(&lock);
	} else if (!strcmp(line, "dump")) {
		dump();
	} else if (!strcmp(line, "stop")) {
		stop();
	} else {
		die("unknown command: %s", line);
	}
}

static void read_commands(void)
{
	static char text[8192];
	static size_t length;
	ssize_t n = read(0, text + length, sizeof(text) - 1 - length);
	char *line = text, *end;

	/* Whoever started this process is gone. */
	if (n <= 0)
		_exit(0);
	length += (size_t)n;
	text[length] = '\0';
	while ((end = strchr(line, '\n'))) {
		*end = '\0';
		obey(line);
		line = end + 1;
	}
	length -= (size_t)(line - text);
	memmove(text, line, length);
}

static void look_for_stalls(void)
{
	pthread_mutex_lock(&lock);
	for (struct talk *t = talks; t; t = t->next) {
		if (seconds_since(t->progress) < options.idle_timeout ||
		    (t->stall_told && seconds_since(t->stall_told) < options.idle_timeout))
			continue;
		t->stall_told = now_ns();
		print_talk("stall", t);
	}
	pthread_mutex_unlock(&lock);
}

static bool all_ended(void)
{
	bool ended;

	pthread_mutex_lock(&lock);
	ended = atomic_load(&stopping) && !running;
	pthread_mutex_unlock(&lock);
	return ended;
}

static void on_signal(int number)
{
	(void)number;
	atomic_fetch_add(&handled, 1);
}

static int run(void)
{
	struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: EINTR is wanted */
	struct pollfd input = {.events = POLLIN};
	struct address address;

	sigaction(SIGUSR1, &action, NULL);
	raise_descriptor_limit();
	if (options.server) {
		if (!address_parse(&address, options.bind, options.port))
			die("--bind: %s is no address", options.bind);
		listener = listen_on(&address, 0, 4096);
		if (listener < 0)
			give_up("listen");
		start_thread(accept_all, NULL);
		printf("{\"event\":\"listening\",\"port\":%u}\n", local_port(listener));
	} else {
		for (unsigned i = 0; i < options.threads; i++)
			start_thread(make_connections, NULL);
	}
	for (int64_t next = now_ns(); !all_ended();) {
		if (poll(&input, 1, TICK_MS / 4) > 0)
			read_commands();
		if (now_ns() < next)
			continue;
		next = now_ns() + TICK_MS * 1000000LL;
		print_stats();
		look_for_stalls();
	}
	print_stats();
	return 0;
}

/* ---- SYNs whose senders never answer ---- */

static uint16_t checksum(const void *data, size_t n, uint32_t sum)
{
	const uint16_t *words = data;

	for (size_t i = 0; i < n / 2; i++)
		sum += words[i];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static int flood(void)
{
	struct prng random = {.state = options.seed};
	struct address to, from;
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP);

	if (fd < 0)
		give_up("socket");
	if (!options.to || !options.from || !address_v4(&to, options.to, 0) ||
	    !address_v4(&from, options.from, 0))
		die("--count needs --to and --from, IPv4 addresses");
	if (bind(fd, &from.any, from.length) || connect(fd, &to.any, to.length))
		give_up("connect");
	for (unsigned i = 0; i < options.count; i++) {
		uint32_t pseudo[3] = {from.v4.sin_addr.s_addr, to.v4.sin_addr.s_addr,
				      htonl(IPPROTO_TCP << 16 | sizeof(struct tcphdr))};
		struct tcphdr syn = {.source = htons(1024 + prng_below(&random, 31000)),
				     .dest = htons(options.port),
				     .seq = (uint32_t)prng_next(&random),
				     .doff = sizeof(syn) / 4,
				     .syn = 1,
				     .window = htons(1024)};
		uint32_t sum = 0;

		pseudo[2] = htonl((uint32_t)IPPROTO_TCP << 16 | (uint32_t)sizeof(syn));
		for (unsigned n = 0; n < 3; n++)
			sum += (pseudo[n] & 0xffff) + (pseudo[n] >> 16);
		syn.check = checksum(&syn, sizeof(syn), sum);
		if (send(fd, &syn, sizeof(syn), 0) < 0 && errno != ENOBUFS && errno != EINTR)
			give_up("send");
	}
	close(fd);
	printf("{\"event\":\"flooded\",\"count\":%u}\n", options.count);
	return 0;
}

static const char usage[] =
	"usage: soak --server --id N [OPTION]...\n"
	"       soak --id N [OPTION]...\n"
	"       soak --count N --to ADDRESS --from ADDRESS --port P\n"
	"A server, the clients of the servers named on stdin, or a sender of lone SYNs.\n"
	"  --id N                the process's number, named by its peers in their reports\n"
	"  --seed S              the same for all (1)\n"
	"  --bind ADDRESS        of a server (127.0.0.1)\n"
	"  --threads N           connections of a client at a time (8)\n"
	"  --short-share P       percentage of connections with an exchange or three (30)\n"
	"  --blocking-share P    percentage of ends that block in their calls (25)\n"
	"  --idle-timeout S      report connections without progress for S seconds (20)\n";

static void parse_options(int argc, char **argv)
{
	static const struct option names[] = {{"server", no_argument, NULL, 's'},
					      {"id", required_argument, NULL, 'i'},
					      {"seed", required_argument, NULL, 'S'},
					      {"bind", required_argument, NULL, 'b'},
					      {"threads", required_argument, NULL, 't'},
					      {"short-share", required_argument, NULL, 'h'},
					      {"blocking-share", required_argument, NULL, 'B'},
					      {"idle-timeout", required_argument, NULL, 'T'},
					      {"count", required_argument, NULL, 'c'},
					      {"to", required_argument, NULL, 'o'},
					      {"from", required_argument, NULL, 'f'},
					      {"port", required_argument, NULL, 'p'},
					      {"help", no_argument, NULL, 'H'},
					      {NULL, 0, NULL, 0}};
	int name, index = 0;

	while ((name = getopt_long(argc, argv, "", names, &index)) != -1) {
		const char *title = names[index].name;

		switch (name) {
		case 's':
			options.server = true;
			break;
		case 'i':
			options.id = (uint32_t)size_option(title, optarg, 1, UINT32_MAX);
			break;
		case 'S':
			options.seed = size_option(title, optarg, 0, UINT64_MAX);
			break;
		case 'b':
			options.bind = optarg;
			break;
		case 't':
			options.threads = (unsigned)size_option(title, optarg, 1, 1024);
			break;
		case 'h':
			options.short_share = (unsigned)size_option(title, optarg, 0, 100);
			break;
		case 'B':
			options.blocking_share = (unsigned)size_option(title, optarg, 0, 100);
			break;
		case 'T':
			options.idle_timeout = seconds_option(title, optarg);
			break;
		case 'c':
			options.count = (unsigned)size_option(title, optarg, 1, 1 << 24);
			break;
		case 'o':
			options.to = optarg;
			break;
		case 'f':
			options.from = optarg;
			break;
		case 'p':
			options.port = (uint16_t)size_option(title, optarg, 1, 65535);
			break;
		case 'H':
			fputs(usage, stdout);
			exit(0);
		default:
			die("see --help");
		}
	}
	if (optind < argc || (!options.id && !options.count))
		die("see --help");
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	parse_options(argc, argv);
	return options.count ? flood() : run();
}
