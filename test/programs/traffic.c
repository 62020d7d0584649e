// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Many TCP connections that talk in random but reproducible patterns, every byte verified.
 *
 * One process, a group of server threads and a group of client threads, each thread with its own
 * level-triggered epoll loop over non-blocking sockets. What a connection says is computed by both
 * ends (script.h), so each knows what must arrive, when it may send and where the streams end.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/uio.h>

#include "cli.h"
#include "net.h"
#include "pattern.h"
#include "script.h"

#include <linux/sockios.h>

enum side { SERVER, CLIENT };
enum source { FROM_END, FROM_GREETING, FROM_LISTENER, FROM_WAKE };
enum corruption { CORRUPT_NONE, CORRUPT_FLIP, CORRUPT_SKIP, CORRUPT_REPEAT, CORRUPT_TRUNCATE };

#define RECEIVE_MAX (256u << 10)
#define SEND_SEGMENTS 5
#define SEGMENT_GAP 64
#define TICK_MS 200
#define TIMER_MS 5
#define GREETING_BYTES 8
#define STUCK_SHOWN 10
#define CORRUPT_OFFSET 65536
#define SAMPLE 64

struct options {
	struct script_config script;
	unsigned connections, threads, slow_readers;
	uint64_t bytes, seed;
	double seconds, idle_timeout;
	uint16_t port;
	const char *bind, *connect;
	int family, buffers;
	bool mapped, server, client, wait_start, nagle;
	enum corruption corrupt;
};

struct worker;

/* One end of one connection. Belongs to one worker and is touched by no other thread. */
struct end {
	enum source source;
	enum side side;
	struct worker *worker;
	int fd, waiting_fd; /* waiting: the next connection, accepted before this one ended */
	uint32_t id, generation, watched;
	struct script script;
	struct prng io; /* how to read and write, which the other end need not know */
	struct item next;
	enum phase_kind phase;
	uint64_t key[2];
	uint64_t sent, received, ready; /* ready: may be sent now, not sent yet */
	uint64_t header_at;
	uint64_t expected; /* where the received stream ends, once over */
	uint64_t stop_at, stop_bytes;
	uint64_t echo_at;
	int64_t echo_start, due;
	struct end *next_timer;
	enum closing closing;
	bool connecting, begun, has_next, awaiting_header, stop_seen, over, fin_sent, eof, slow,
		paused;
	bool finished;
};

/* An accepted connection that has not said yet which one it is; becomes a message to its worker. */
struct greeting {
	enum source source;
	int fd;
	unsigned got;
	uint32_t words[2]; /* connection, generation */
	struct greeting *next;
};

struct worker {
	pthread_t thread;
	enum side side;
	unsigned index;
	int epoll, wake;
	struct end *timers;
	uint8_t *in, *out;
	bool began;
	pthread_mutex_t lock;
	struct greeting *inbox;
	_Atomic uint64_t sent, received, messages, eofs, opened, echo_max;
};

struct totals {
	uint64_t sent, received, messages, eofs, opened, echo_max;
};

static struct options options = {
	.script = {.max_message = 1 << 20, .pingpong_share = 70},
	.connections = 10,
	.threads = 1,
	.seed = 1,
	.idle_timeout = 20,
	.family = AF_INET,
};
static struct end *ends[2];
static struct worker *workers[2];
static struct address targets[2];
static int listener = -1, main_wake = -1;
static enum source listener_source = FROM_LISTENER, wake_source = FROM_WAKE;
static uint64_t send_max;
static atomic_bool started, stopping, aborting;
static atomic_uint unfinished[2], first_opened[2];
static int64_t start_ns;

/* ---- output ---- */

static void end_describe(const struct end *e)
{
	printf("\"connection\":%u,\"generation\":%u,\"side\":\"%s\",\"sent\":%llu,\"received\":%"
	       "llu",
	       e->id, e->generation, e->side == CLIENT ? "client" : "server",
	       (unsigned long long)e->sent, (unsigned long long)e->received);
}

__attribute__((noreturn, format(printf, 3, 4))) static void
fail(const struct end *e, const char *event, const char *format, ...)
{
	va_list args;

	flockfile(stdout); /* never released: this is the last line */
	printf("{\"event\":\"%s\",", event);
	end_describe(e);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("}\n");
	fflush(stdout);
	_exit(1);
}

__attribute__((noreturn)) static void fail_call(const struct end *e, const char *call)
{
	fail(e, "error", ",\"call\":\"%s\",\"errno\":\"%s\"", call, errno_name(errno));
}

__attribute__((noreturn)) static void give_up(const char *call)
{
	printf("{\"event\":\"error\",\"call\":\"%s\",\"errno\":\"%s\"}\n", call, errno_name(errno));
	fflush(stdout);
	_exit(1);
}

static enum direction outward(const struct end *e)
{
	return e->side == CLIENT ? TO_SERVER : TO_CLIENT;
}

static enum direction inward(const struct end *e)
{
	return !outward(e);
}

/* Finds which stream of this run wrong bytes belong to: its own, or that of another connection. */
static bool locate(const struct end *e, const uint8_t *data, size_t n, char *text, size_t size)
{
	uint64_t offset;

	for (uint32_t i = 0; i < options.connections * 2 * (e->generation + 2); i++) {
		uint32_t id = (e->id + i / 2) % options.connections;
		uint32_t generation = i / 2 / options.connections;
		unsigned direction = (i & 1) ? outward(e) : inward(e);

		if (!pattern_locate(data, n, pattern_key(options.seed, id, generation, direction),
				    &offset))
			continue;
		snprintf(text, size,
			 ",\"from\":{\"connection\":%u,\"generation\":%u,\"direction\":\"%s\","
			 "\"offset\":%llu}",
			 id, generation, direction == TO_SERVER ? "toServer" : "toClient",
			 (unsigned long long)offset);
		return true;
	}
	return false;
}

/* The wrong bytes and, if those are too few to be recognised, what follows them. */
static size_t take_sample(const struct end *e, uint8_t *sample, const uint8_t *data, size_t n)
{
	struct pollfd p = {.fd = e->fd, .events = POLLIN};
	ssize_t more = 0;

	n = n < SAMPLE ? n : SAMPLE;
	memcpy(sample, data, n);
	if (n < SAMPLE && poll(&p, 1, TICK_MS) > 0)
		more = recv(e->fd, sample + n, SAMPLE - n, MSG_DONTWAIT);
	return more > 0 ? n + (size_t)more : n;
}

__attribute__((noreturn)) static void fail_mismatch(const struct end *e, const uint8_t *data,
						    size_t n)
{
	uint8_t expected = pattern_byte(e->key[inward(e)], e->received);
	uint8_t sample[SAMPLE];
	char origin[160] = "";

	n = take_sample(e, sample, data, n);
	locate(e, sample, n, origin, sizeof(origin));
	fail(e, "mismatch",
	     ",\"direction\":\"%s\",\"offset\":%llu,\"expected\":%u,\"got\":%u%s,\"mismatches\":1",
	     inward(e) == TO_SERVER ? "toServer" : "toClient", (unsigned long long)e->received,
	     expected, data[0], origin);
}

/* ---- the script of an end ---- */

static void poke(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		give_up("eventfd");
}

static void end_over(struct end *e)
{
	e->over = true;
	e->expected = e->script.total[inward(e)];
	e->closing = script_closing(&e->script);
}

/* The client announces the end by sending the header of the next phase inverted. */
static void end_announce_stop(struct end *e)
{
	e->stop_at = e->script.total[TO_SERVER];
	e->stop_bytes = script_header(&e->script);
	e->next = (struct item){
		.direction = TO_SERVER, .bytes = e->stop_bytes, .gate = e->script.total[TO_CLIENT]};
	e->has_next = true;
	script_stop(&e->script);
}

/* At a phase boundary; false if nothing more can be taken from the script for now. */
static bool end_next_phase(struct end *e)
{
	if (script_connection_over(&e->script)) {
		end_over(e);
		return false;
	}
	if (e->side == SERVER) {
		e->awaiting_header = true;
		e->header_at = e->script.total[TO_SERVER];
		return false;
	}
	if (atomic_load(&stopping)) {
		end_announce_stop(e);
		return false;
	}
	script_begin_phase(&e->script);
	return true;
}

/* Finds the next item this end sends. */
static void end_pull(struct end *e)
{
	struct item item;

	e->has_next = false;
	do {
		while (script_next(&e->script, &item)) {
			if (item.direction != outward(e))
				continue;
			e->next = item;
			e->phase = e->script.kind;
			e->has_next = true;
			return;
		}
	} while (end_next_phase(e));
}

static bool end_gate_open(const struct end *e)
{
	return e->has_next && e->received >= e->next.gate;
}

/* Moves the next item to the bytes that may be sent, if what it waits for has arrived. */
static bool end_admit(struct end *e)
{
	if (!end_gate_open(e))
		return false;
	e->ready += e->next.bytes;
	atomic_fetch_add_explicit(&e->worker->messages, 1, memory_order_relaxed);
	if (e->next.echo) {
		e->echo_at = e->next.echo;
		e->echo_start = now_ns();
	}
	end_pull(e);
	return true;
}

/* ---- receiving ---- */

static void end_measure_echo(struct end *e)
{
	uint64_t taken = (uint64_t)(now_ns() - e->echo_start) / 1000;

	e->echo_at = 0;
	if (taken > atomic_load_explicit(&e->worker->echo_max, memory_order_relaxed))
		atomic_store_explicit(&e->worker->echo_max, taken, memory_order_relaxed);
}

static void end_verify(struct end *e, const uint8_t *data, size_t n)
{
	size_t good = pattern_check(data, n, e->key[inward(e)], e->received);

	e->received += good;
	if (good < n)
		fail_mismatch(e, data + good, n - good);
	if (e->echo_at && e->received >= e->echo_at)
		end_measure_echo(e);
}

/* Data while the header of the next phase is awaited: at most up to its end. */
static size_t end_verify_header(struct end *e, const uint8_t *data, size_t n)
{
	uint64_t end = e->header_at + script_header(&e->script);
	uint8_t header[SCRIPT_HEADER];

	if (e->received < e->header_at) {
		n = n < e->header_at - e->received ? n : e->header_at - e->received;
		end_verify(e, data, n);
		return n;
	}
	n = n < end - e->received ? n : end - e->received;
	if (e->received == e->header_at)
		e->stop_seen = (data[0] ^ pattern_byte(e->key[inward(e)], e->received)) == 0xff;
	for (size_t i = 0; i < n; i++)
		header[i] = e->stop_seen ? ~data[i] : data[i];
	end_verify(e, header, n);
	if (e->received < end)
		return n;
	e->awaiting_header = false;
	if (e->stop_seen) {
		script_stop(&e->script);
		end_over(e);
	} else {
		script_begin_phase(&e->script);
		end_pull(e);
	}
	return n;
}

static void end_consume(struct end *e, const uint8_t *data, size_t n)
{
	atomic_fetch_add_explicit(&e->worker->received, n, memory_order_relaxed);
	while (n) {
		size_t part = n;

		if (e->awaiting_header)
			part = end_verify_header(e, data, n);
		else
			end_verify(e, data, n);
		data += part;
		n -= part;
	}
	if (e->over && e->received > e->expected)
		fail(e, "excess", ",\"expected\":%llu", (unsigned long long)e->expected);
}

/* Whether the stream may end here; the own script may not have got that far yet. */
static bool end_complete(const struct end *e)
{
	struct script ahead = e->script;
	struct item item;

	if (e->over)
		return e->received == e->expected;
	while (script_next(&ahead, &item))
		;
	return script_connection_over(&ahead) && e->received == ahead.total[inward(e)];
}

static void end_saw_eof(struct end *e)
{
	e->eof = true;
	if (!end_complete(e))
		fail(e, "truncated", ",\"expected\":%lld", e->over ? (long long)e->expected : -1);
	atomic_fetch_add_explicit(&e->worker->eofs, 1, memory_order_relaxed);
}

static ssize_t receive_vector(int fd, uint8_t *to, size_t n, size_t first)
{
	struct iovec parts[2] = {{to, first}, {to + first, n - first}};

	return readv(fd, parts, 2);
}

static ssize_t receive_piece(struct end *e, size_t n)
{
	switch (prng_below(&e->io, 4)) {
	case 0:
		return read(e->fd, e->worker->in, n);
	case 1:
		return receive_vector(e->fd, e->worker->in, n, prng_below(&e->io, n));
	case 2:
		return recv(e->fd, e->worker->in, n, MSG_DONTWAIT);
	default:
		return recv(e->fd, e->worker->in, n, 0);
	}
}

static void timer_set(struct end *e, unsigned milliseconds)
{
	e->due = now_ns() + milliseconds * 1000000LL;
	e->next_timer = e->worker->timers;
	e->worker->timers = e;
}

static void end_maybe_pause(struct end *e)
{
	if (!e->slow || e->paused || prng_below(&e->io, 16))
		return;
	e->paused = true;
	timer_set(e, 1 + prng_below(&e->io, 50));
}

static void end_read(struct end *e)
{
	for (unsigned tries = 1 + prng_below(&e->io, 3); tries && !e->eof; tries--) {
		size_t size = prng_below(&e->io, 2) ? 65536 : prng_log(&e->io, RECEIVE_MAX);
		ssize_t n = receive_piece(e, size);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0)
			fail_call(e, "receive");
		if (n == 0)
			end_saw_eof(e);
		else
			end_consume(e, e->worker->in, (size_t)n);
	}
	end_maybe_pause(e);
}

/* ---- sending ---- */

/* Damages what is sent by connection 0, to prove that the receiver notices. */
static uint64_t corrupt_position(const struct end *e, uint64_t offset)
{
	if (e->id || e->side != CLIENT || offset < CORRUPT_OFFSET)
		return offset;
	if (options.corrupt == CORRUPT_SKIP)
		return offset + 24;
	return options.corrupt == CORRUPT_REPEAT ? offset - 24 : offset;
}

static void corrupt_byte(const struct end *e, uint8_t *data, size_t n, uint64_t offset)
{
	if (options.corrupt != CORRUPT_FLIP || e->id || e->side != CLIENT)
		return;
	if (CORRUPT_OFFSET >= offset && CORRUPT_OFFSET < offset + n)
		data[CORRUPT_OFFSET - offset] ^= 0x10;
}

static void end_fill(const struct end *e, uint8_t *data, size_t n, uint64_t offset)
{
	pattern_fill(data, n, e->key[outward(e)], corrupt_position(e, offset));
	corrupt_byte(e, data, n, offset);
	for (uint64_t i = 0; i < e->stop_bytes; i++)
		if (e->stop_at + i >= offset && e->stop_at + i < offset + n)
			data[e->stop_at + i - offset] ^= 0xff;
}

/* Cuts n bytes into segments, some possibly empty, with gaps between them in memory. */
static int end_segments(struct end *e, struct iovec *parts, size_t n)
{
	int count = 1 + (int)prng_below(&e->io, SEND_SEGMENTS);
	uint8_t *at = e->worker->out;
	uint64_t offset = e->sent;

	for (int i = 0; i < count; i++) {
		size_t part = i == count - 1 ? n : prng_below(&e->io, n + 1);

		end_fill(e, at, part, offset);
		parts[i] = (struct iovec){at, part};
		at += part + prng_below(&e->io, SEGMENT_GAP);
		offset += part;
		n -= part;
	}
	return count;
}

static ssize_t send_segments(struct end *e, size_t n)
{
	struct iovec parts[SEND_SEGMENTS];
	struct msghdr message = {.msg_iov = parts};

	message.msg_iovlen = (size_t)end_segments(e, parts, n);
	if (prng_below(&e->io, 2))
		return writev(e->fd, parts, (int)message.msg_iovlen);
	return sendmsg(e->fd, &message, MSG_NOSIGNAL);
}

static ssize_t send_piece(struct end *e, size_t n)
{
	unsigned way = (unsigned)prng_below(&e->io, 4);

	if (way == 0)
		return send_segments(e, n);
	end_fill(e, e->worker->out, n, e->sent);
	if (way == 1)
		return send(e->fd, e->worker->out, n, MSG_NOSIGNAL);
	return write(e->fd, e->worker->out, n);
}

/* Mostly all there is; sometimes a piece; seldom more than the socket is likely to take. */
static size_t piece_size(struct end *e)
{
	uint64_t most = e->ready < send_max ? e->ready : send_max;

	if (most > RECEIVE_MAX && prng_below(&e->io, 4))
		most = RECEIVE_MAX;
	return prng_below(&e->io, 4) ? most : prng_log(&e->io, most);
}

/* Sends once; false if there was nothing to send or the socket is full. */
static bool end_send(struct end *e)
{
	ssize_t n;

	if (e->fin_sent || (!e->ready && !end_admit(e)))
		return false;
	while (e->ready < send_max && !prng_below(&e->io, 4) && end_admit(e))
		;
	n = send_piece(e, piece_size(e));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n < 0)
		fail_call(e, "send");
	e->sent += (uint64_t)n;
	e->ready -= (uint64_t)n;
	atomic_fetch_add_explicit(&e->worker->sent, (uint64_t)n, memory_order_relaxed);
	return true;
}

/* ---- opening and closing ---- */

static void client_connect(struct end *e);
static void end_begin(struct end *e);

static void end_watch(struct end *e, uint32_t events, int operation)
{
	struct epoll_event event = {.events = events, .data.ptr = e};

	e->watched = events;
	if (epoll_ctl(e->worker->epoll, operation, e->fd, &event))
		fail_call(e, "epoll_ctl");
}

static void tune(int fd)
{
	if (!options.nagle)
		set_flag(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (options.buffers) {
		set_flag(fd, SOL_SOCKET, SO_SNDBUF, options.buffers);
		set_flag(fd, SOL_SOCKET, SO_RCVBUF, options.buffers);
	}
}

static void end_finished(struct end *e)
{
	e->finished = true;
	if (atomic_fetch_sub(&unfinished[e->side], 1) > 1)
		return;
	for (unsigned i = 0; i < options.threads; i++)
		poke(workers[e->side][i].wake);
	poke(main_wake);
}

static void end_adopt(struct end *e, int fd)
{
	e->fd = fd;
	e->begun = false;
	end_watch(e, 0, EPOLL_CTL_ADD);
	end_begin(e);
}

static void end_reopen(struct end *e)
{
	int fd = e->waiting_fd;

	e->generation++;
	script_reopen(&e->script);
	e->waiting_fd = -1;
	if (e->side == SERVER && fd >= 0)
		end_adopt(e, fd);
	else if (e->side == CLIENT && prng_below(&e->io, 4))
		client_connect(e);
	else if (e->side == CLIENT)
		timer_set(e, 1 + prng_below(&e->io, 20));
}

static void end_close(struct end *e)
{
	close(e->fd);
	e->fd = -1;
	e->begun = e->paused = false;
	if (script_exhausted(&e->script))
		end_finished(e);
	else
		end_reopen(e);
}

static bool end_may_close(const struct end *e)
{
	bool first = (e->closing == CLOSE_CLIENT_FIRST) == (e->side == CLIENT);

	return e->eof || first || e->closing == CLOSE_TOGETHER;
}

static void corrupt_end(struct end *e)
{
	if (e->id || e->side != CLIENT || e->sent < CORRUPT_OFFSET || e->fin_sent)
		return;
	e->fin_sent = true;
	shutdown(e->fd, SHUT_WR);
}

/* Ends the own direction, and the connection once both have ended. */
static void end_finish(struct end *e)
{
	if (options.corrupt == CORRUPT_TRUNCATE)
		corrupt_end(e);
	if (!e->over || e->ready || e->paused)
		return;
	if (!e->fin_sent && end_may_close(e)) {
		e->fin_sent = true;
		/* After the other end's EOF, close() alone must be enough. */
		if (!(e->eof && prng_below(&e->io, 2)) && shutdown(e->fd, SHUT_WR))
			fail_call(e, "shutdown");
	}
	if (e->fin_sent && e->eof)
		end_close(e);
}

static uint32_t end_interest(const struct end *e)
{
	uint32_t events = 0;

	if (!e->eof && !e->paused)
		events |= EPOLLIN;
	if (!e->fin_sent && (e->ready || end_gate_open(e)))
		events |= EPOLLOUT;
	return events;
}

static void end_write(struct end *e)
{
	for (unsigned tries = 1 + prng_below(&e->io, 4); tries; tries--)
		if (!end_send(e))
			break;
	end_finish(e);
	/* Closing may have reopened it, and then it has been seen to already. */
	if (e->fd >= 0 && e->begun && end_interest(e) != e->watched)
		end_watch(e, end_interest(e), EPOLL_CTL_MOD);
}

/* The first bytes of a connection say which one it is; the server accepts in any order. */
static void client_greet(struct end *e)
{
	uint32_t words[2] = {htonl(e->id), htonl(e->generation)};

	if (send(e->fd, words, sizeof(words), MSG_NOSIGNAL) != sizeof(words))
		fail_call(e, "greeting");
}

/* Starts the script on a connection that is open at both ends. */
static void end_begin(struct end *e)
{
	e->begun = true;
	e->sent = e->received = e->ready = e->echo_at = 0;
	e->stop_bytes = e->expected = 0;
	e->over = e->fin_sent = e->eof = e->awaiting_header = e->paused = false;
	for (unsigned d = TO_SERVER; d <= TO_CLIENT; d++)
		e->key[d] = pattern_key(options.seed, e->id, e->generation, d);
	if (e->side == CLIENT)
		client_greet(e);
	end_pull(e);
	end_write(e);
}

static void count_opened(struct end *e)
{
	atomic_fetch_add_explicit(&e->worker->opened, 1, memory_order_relaxed);
	if (e->generation == 0 &&
	    atomic_fetch_add(&first_opened[CLIENT], 1) + 1 == options.connections)
		poke(main_wake);
}

/* The server may not listen yet, or old connections may still hold the ports. */
static void client_retry(struct end *e, int error)
{
	close(e->fd);
	e->fd = -1;
	e->connecting = false;
	errno = error;
	if (error != ECONNREFUSED && error != EADDRNOTAVAIL)
		fail_call(e, "connect");
	timer_set(e, 20);
}

static void client_connect(struct end *e)
{
	const struct address *target = &targets[e->id % 2];

	e->fd = socket(target->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (e->fd < 0)
		fail_call(e, "socket");
	tune(e->fd);
	e->connecting = true;
	if (connect(e->fd, &target->any, target->length) && errno != EINPROGRESS)
		client_retry(e, errno);
	else
		end_watch(e, EPOLLOUT, EPOLL_CTL_ADD);
}

static void client_connected(struct end *e)
{
	socklen_t length = sizeof(int);
	int error = 0;

	getsockopt(e->fd, SOL_SOCKET, SO_ERROR, &error, &length);
	/* A port that nobody listens on can, by chance, connect to itself. */
	if (!error && local_port(e->fd) == options.port)
		error = ECONNREFUSED;
	if (error) {
		client_retry(e, error);
		return;
	}
	e->connecting = false;
	count_opened(e);
	end_watch(e, 0, EPOLL_CTL_MOD);
	if (atomic_load(&started))
		end_begin(e);
}

static void greet_watch(struct worker *w, struct greeting *g)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = g};

	if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, g->fd, &event))
		give_up("epoll_ctl");
}

static void server_accept(struct worker *w)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct greeting *g;

		if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
			return;
		if (fd < 0)
			give_up("accept");
		g = calloc(1, sizeof(*g));
		if (!g)
			give_up("calloc");
		tune(fd);
		g->source = FROM_GREETING;
		g->fd = fd;
		greet_watch(w, g); /* epoll holds the only pointer to it */
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): not lost, see above */
		atomic_fetch_add_explicit(&w->opened, 1, memory_order_relaxed);
		if (atomic_fetch_add(&first_opened[SERVER], 1) + 1 == options.connections)
			poke(main_wake);
	}
}

/* Hands an identified connection to the worker that owns its number. */
static void greet_forward(struct worker *from, struct greeting *g)
{
	uint32_t id = ntohl(g->words[0]);
	struct worker *to = &workers[SERVER][id % options.threads];

	if (id >= options.connections) {
		errno = EDOM; /* the two halves run with different options */
		give_up("greeting");
	}
	epoll_ctl(from->epoll, EPOLL_CTL_DEL, g->fd, NULL);
	pthread_mutex_lock(&to->lock);
	g->next = to->inbox;
	to->inbox = g;
	pthread_mutex_unlock(&to->lock);
	poke(to->wake);
}

static void greet_read(struct worker *w, struct greeting *g)
{
	ssize_t n = recv(g->fd, (char *)g->words + g->got, GREETING_BYTES - g->got, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		if (!n)
			errno = ECONNABORTED;
		give_up("greeting");
	}
	g->got += (unsigned)n;
	if (g->got == GREETING_BYTES)
		greet_forward(w, g);
}

static void server_receive_connection(const struct greeting *g)
{
	struct end *e = &ends[SERVER][ntohl(g->words[0])];
	uint32_t generation = ntohl(g->words[1]);

	if (e->fd < 0 && e->generation == generation)
		end_adopt(e, g->fd);
	else if (e->waiting_fd < 0 && e->generation + 1 == generation)
		e->waiting_fd = g->fd;
	else
		fail(e, "error", ",\"call\":\"greeting\",\"announced\":%u", generation);
}

/* ---- the loop of a worker ---- */

static void take_inbox(struct worker *w)
{
	struct greeting *g, *next;

	pthread_mutex_lock(&w->lock);
	g = w->inbox;
	w->inbox = NULL;
	pthread_mutex_unlock(&w->lock);
	for (; g; g = next) {
		next = g->next;
		server_receive_connection(g);
		free(g);
	}
}

static void begin_all(struct worker *w)
{
	w->began = true;
	for (unsigned id = w->index; id < options.connections; id += options.threads) {
		struct end *e = &ends[CLIENT][id];

		if (e->fd >= 0 && !e->connecting && !e->begun)
			end_begin(e);
	}
}

static void worker_woken(struct worker *w)
{
	uint64_t count;

	if (read(w->wake, &count, sizeof(count)) < 0 && errno != EAGAIN)
		give_up("eventfd");
	if (w->side == SERVER)
		take_inbox(w);
	else if (atomic_load(&started) && !w->began)
		begin_all(w);
}

static void end_event(struct end *e, uint32_t events)
{
	if (e->connecting) {
		client_connected(e);
		return;
	}
	if (!e->begun) { /* connected, but told to wait: only an error can have happened */
		errno = ECONNRESET;
		fail_call(e, "wait");
	}
	/* A hang-up can't be masked, so a paused reader goes on rather than spin. */
	if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) && !e->eof)
		end_read(e);
	end_write(e);
}

static void worker_event(struct worker *w, const struct epoll_event *event)
{
	switch (*(enum source *)event->data.ptr) {
	case FROM_END:
		end_event(event->data.ptr, event->events);
		break;
	case FROM_GREETING:
		greet_read(w, event->data.ptr);
		break;
	case FROM_LISTENER:
		server_accept(w);
		break;
	case FROM_WAKE:
		worker_woken(w);
		break;
	}
}

static void end_timer(struct end *e)
{
	if (e->fd < 0) {
		client_connect(e);
	} else if (e->paused) {
		e->paused = false;
		end_write(e);
	}
}

static void run_timers(struct worker *w)
{
	int64_t now = now_ns();
	struct end *e = w->timers, *next;

	w->timers = NULL;
	for (; e; e = next) {
		next = e->next_timer;
		if (e->due <= now) {
			end_timer(e);
		} else {
			e->next_timer = w->timers;
			w->timers = e;
		}
	}
}

static void connect_all(struct worker *w)
{
	for (unsigned id = w->index; id < options.connections; id += options.threads)
		client_connect(&ends[CLIENT][id]);
}

static void *worker_run(void *argument)
{
	struct worker *w = argument;
	struct epoll_event events[64];

	if (w->side == CLIENT)
		connect_all(w);
	while (!atomic_load(&aborting) && atomic_load(&unfinished[w->side])) {
		int n = epoll_wait(w->epoll, events, LENGTH(events), w->timers ? TIMER_MS : -1);

		if (n < 0 && errno != EINTR)
			give_up("epoll_wait");
		for (int i = 0; i < n; i++)
			worker_event(w, &events[i]);
		if (w->timers)
			run_timers(w);
	}
	return NULL;
}

static void watch_source(struct worker *w, int fd, enum source *source)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};

	if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &event))
		give_up("epoll_ctl");
}

static void worker_init(struct worker *w, enum side side, unsigned index)
{
	w->side = side;
	w->index = index;
	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	w->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	w->in = malloc(RECEIVE_MAX);
	w->out = malloc(send_max + SEND_SEGMENTS * SEGMENT_GAP);
	if (w->epoll < 0 || w->wake < 0 || !w->in || !w->out)
		give_up("worker");
	pthread_mutex_init(&w->lock, NULL);
	watch_source(w, w->wake, &wake_source);
	if (side == SERVER && index == 0)
		watch_source(w, listener, &listener_source);
}

static void end_init(struct end *e, enum side side, uint32_t id)
{
	uint64_t budget = SCRIPT_UNLIMITED;

	if (options.bytes)
		budget = options.bytes / options.connections +
			 (id < options.bytes % options.connections);
	e->source = FROM_END;
	e->side = side;
	e->id = id;
	e->fd = e->waiting_fd = -1;
	e->worker = &workers[side][id % options.threads];
	e->io.state = mix64(options.seed ^ 0x10) + id * 2 + side;
	e->slow = prng_chance(&e->io, options.slow_readers);
	script_init(&e->script, &options.script, options.seed, id, budget);
}

static void side_init(enum side side)
{
	workers[side] = calloc(options.threads, sizeof(struct worker));
	ends[side] = calloc(options.connections, sizeof(struct end));
	if (!workers[side] || !ends[side])
		give_up("calloc");
	atomic_store(&unfinished[side], options.connections);
	for (unsigned i = 0; i < options.threads; i++)
		worker_init(&workers[side][i], side, i);
	for (uint32_t id = 0; id < options.connections; id++)
		end_init(&ends[side][id], side, id);
}

static void side_start(enum side side)
{
	for (unsigned i = 0; i < options.threads; i++) {
		struct worker *w = &workers[side][i];

		errno = pthread_create(&w->thread, NULL, worker_run, w);
		if (errno)
			give_up("pthread_create");
	}
}

/* ---- supervision ---- */

static bool side_runs(enum side side)
{
	return side == CLIENT ? options.client : options.server;
}

static struct totals sum_up(void)
{
	struct totals t = {0};

	for (unsigned i = 0; i < 2 * options.threads; i++) {
		struct worker *w = &workers[i % 2][i / 2];

		if (!side_runs(i % 2))
			continue;
		t.sent += w->sent;
		t.received += w->received;
		t.messages += w->messages;
		t.eofs += w->eofs;
		t.opened += w->opened;
		t.echo_max = w->echo_max > t.echo_max ? w->echo_max : t.echo_max;
	}
	return t;
}

static double elapsed(void)
{
	return start_ns ? seconds_since(start_ns) : 0;
}

/* Each byte once: what arrived here, and, with the other half elsewhere, what went there. */
static uint64_t verified_bytes(const struct totals *t)
{
	return options.server && options.client ? t->received : t->received + t->sent;
}

static void print_totals(const char *event)
{
	struct totals t = sum_up();

	printf("{\"event\":\"%s\",\"connections\":%u,\"bytes\":%llu,\"messages\":%llu,\"eofs\":%"
	       "llu,"
	       "\"opened\":%llu,\"bytesSent\":%llu,\"bytesReceived\":%llu,\"mismatches\":0,"
	       "\"seconds\":%.3f,\"maxEchoMicroseconds\":%llu}\n",
	       event, options.connections, (unsigned long long)verified_bytes(&t),
	       (unsigned long long)t.messages, (unsigned long long)t.eofs,
	       (unsigned long long)t.opened, (unsigned long long)t.sent,
	       (unsigned long long)t.received, elapsed(), (unsigned long long)t.echo_max);
}

static void print_progress(void)
{
	struct totals t = sum_up();

	printf("{\"event\":\"progress\",\"bytes\":%llu,\"messages\":%llu,\"eofs\":%llu,"
	       "\"seconds\":%.3f}\n",
	       (unsigned long long)verified_bytes(&t), (unsigned long long)t.messages,
	       (unsigned long long)t.eofs, elapsed());
}

static void wake_all(void)
{
	for (unsigned i = 0; i < 2 * options.threads; i++)
		if (side_runs(i % 2))
			poke(workers[i % 2][i / 2].wake);
}

/* A worker that hangs inside a system call must not keep the report from being printed. */
static void join_all(void)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 5;
	for (unsigned i = 0; i < 2 * options.threads; i++)
		if (side_runs(i % 2))
			pthread_timedjoin_np(workers[i % 2][i / 2].thread, NULL, &limit);
}

static void stop_workers(void)
{
	atomic_store(&aborting, true);
	wake_all();
	join_all();
}

static int socket_count(int fd, unsigned long request)
{
	int value = -1;

	return fd >= 0 && ioctl(fd, request, &value) == 0 ? value : -1;
}

static short socket_events(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};

	return fd >= 0 && poll(&p, 1, 0) >= 0 ? p.revents : 0;
}

static int socket_state(int fd)
{
	struct tcp_info info = {0};
	socklen_t length = sizeof(info);

	return fd >= 0 && !getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) ? info.tcpi_state
										 : 0;
}

static const char *truth(bool value)
{
	return value ? "true" : "false";
}

static void print_stuck(const struct end *e)
{
	printf("{");
	end_describe(e);
	printf(",\"begun\":%s,\"phase\":\"%s\",\"unsent\":%llu,\"nextGate\":%lld,\"over\":%s,"
	       "\"expected\":%lld,\"finSent\":%s,\"eof\":%s,\"paused\":%s,\"outq\":%d,\"inq\":%d,"
	       "\"revents\":%d,\"watched\":%u,\"tcpState\":%d}",
	       truth(e->begun), phase_name(e->phase), (unsigned long long)e->ready,
	       e->has_next ? (long long)e->next.gate : -1, truth(e->over),
	       e->over ? (long long)e->expected : -1, truth(e->fin_sent), truth(e->eof),
	       truth(e->paused), socket_count(e->fd, SIOCOUTQ), socket_count(e->fd, FIONREAD),
	       socket_events(e->fd), e->watched, socket_state(e->fd));
}

static void print_stall(void)
{
	struct totals t = sum_up();
	unsigned shown = 0;

	printf("{\"event\":\"stall\",\"bytes\":%llu,\"messages\":%llu,\"eofs\":%llu,\"seconds\":%."
	       "3f,"
	       "\"unfinished\":%u,\"stuck\":[",
	       (unsigned long long)verified_bytes(&t), (unsigned long long)t.messages,
	       (unsigned long long)t.eofs, elapsed(),
	       atomic_load(&unfinished[CLIENT]) + atomic_load(&unfinished[SERVER]));
	for (unsigned id = 0; id < options.connections && shown < STUCK_SHOWN; id++) {
		bool any = false;

		for (int side = SERVER; side <= CLIENT; side++) {
			if (!side_runs(side) || ends[side][id].finished)
				continue;
			printf("%s", shown || any ? "," : "");
			print_stuck(&ends[side][id]);
			any = true;
		}
		shown += any;
	}
	printf("]}\n");
}

static bool all_opened(void)
{
	return (!options.client || atomic_load(&first_opened[CLIENT]) >= options.connections) &&
	       (!options.server || atomic_load(&first_opened[SERVER]) >= options.connections);
}

static void begin_traffic(void)
{
	start_ns = now_ns();
	atomic_store(&started, true);
	if (options.client)
		for (unsigned i = 0; i < options.threads; i++)
			poke(workers[CLIENT][i].wake);
}

enum outcome { GOING_ON, DONE, STALLED, INTERRUPTED };

struct supervisor {
	struct pollfd watched[3]; /* signals, wake-ups, stdin */
	bool said_connected;
	int64_t next_progress, last_change;
	uint64_t last_activity;
};

static void supervise_stdin(struct supervisor *s)
{
	char line[256];

	/* The line is only a signal; the end of the input counts as one too. */
	if (read(0, line, sizeof(line)) < 0)
		return;
	s->watched[2].fd = -1;
	s->last_change = now_ns();
	begin_traffic();
}

static void supervise_connecting(struct supervisor *s)
{
	if (s->said_connected || !all_opened())
		return;
	s->said_connected = true;
	printf("{\"event\":\"connected\"}\n");
	if (options.wait_start)
		s->watched[2].fd = 0;
}

static bool supervise_stall(struct supervisor *s)
{
	struct totals t = sum_up();
	uint64_t activity = t.sent + t.received + t.eofs + t.opened;
	int64_t now = now_ns();

	/* Whoever asked for --wait-start may take any time. */
	if (activity != s->last_activity || s->watched[2].fd == 0)
		s->last_change = now;
	s->last_activity = activity;
	return (double)(now - s->last_change) / 1e9 > options.idle_timeout;
}

static void supervise_clock(struct supervisor *s)
{
	if (!start_ns)
		return;
	if (options.seconds && seconds_since(start_ns) >= options.seconds)
		atomic_store(&stopping, true);
	if (now_ns() < s->next_progress)
		return;
	s->next_progress = now_ns() + TICK_MS * 1000000LL;
	print_progress();
}

static enum outcome supervise_once(struct supervisor *s)
{
	uint64_t count;

	if (poll(s->watched, 3, TICK_MS / 4) < 0 && errno != EINTR)
		give_up("poll");
	if (s->watched[0].revents)
		return INTERRUPTED;
	if (s->watched[1].revents && read(main_wake, &count, sizeof(count)) < 0)
		give_up("eventfd");
	supervise_connecting(s);
	if (s->watched[2].fd == 0 && s->watched[2].revents)
		supervise_stdin(s);
	if (!atomic_load(&unfinished[SERVER]) && !atomic_load(&unfinished[CLIENT]))
		return DONE;
	supervise_clock(s);
	return supervise_stall(s) ? STALLED : GOING_ON;
}

static enum outcome supervise(int signals)
{
	struct supervisor s = {.watched = {{.fd = signals, .events = POLLIN},
					   {.fd = main_wake, .events = POLLIN},
					   {.fd = -1, .events = POLLIN}}};
	enum outcome outcome;

	s.last_change = now_ns();
	do
		outcome = supervise_once(&s);
	while (outcome == GOING_ON);
	return outcome;
}

static int report(enum outcome outcome)
{
	struct totals t;

	stop_workers();
	if (outcome == STALLED) {
		print_stall();
		return 2;
	}
	if (outcome == INTERRUPTED) {
		print_totals("interrupted");
		return 0;
	}
	t = sum_up();
	if (options.server && options.client && t.sent != t.received) {
		printf("{\"event\":\"error\",\"sent\":%llu,\"received\":%llu}\n",
		       (unsigned long long)t.sent, (unsigned long long)t.received);
		return 1;
	}
	print_totals("done");
	return 0;
}

/* ---- start ---- */

static int block_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN); /* EPIPE says where it happened */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static void set_target(struct address *a, int family)
{
	bool good = family == AF_INET ? address_v4(a, options.connect, options.port)
				      : address_v6(a, options.connect, options.port);

	if (!good)
		die("--connect: %s is not an address of this family", options.connect);
}

/* With mapped addresses half of the clients speak IPv4, half IPv6, to one IPv6 listener. */
static void set_targets(void)
{
	const char *standard = options.family == AF_INET6 && !options.mapped ? "::1" : "127.0.0.1";

	if (!options.connect)
		options.connect = standard;
	set_target(&targets[0], options.family);
	set_target(&targets[1],
		   options.mapped && !strchr(options.connect, ':') ? AF_INET : options.family);
}

static void open_listener(void)
{
	const char *host = options.bind;
	struct address a;

	if (!host)
		host = options.family == AF_INET6 && !options.mapped ? "::1" : "127.0.0.1";
	if (options.family == AF_INET ? !address_v4(&a, host, options.port)
				      : !address_v6(&a, host, options.port))
		die("--bind: %s is not an address of this family", host);
	listener = listen_on(&a, SOCK_NONBLOCK, 4096);
	if (listener < 0)
		give_up("listen");
	options.port = local_port(listener);
	printf("{\"event\":\"listening\",\"port\":%u}\n", options.port);
}

static const char usage[] =
	"usage: traffic [OPTION]...\n"
	"Verified traffic over many TCP connections. Prints JSON lines; exits with 0 when all "
	"bytes\n"
	"were right or it was told to stop by SIGTERM, 1 on wrong data or an error, 2 on a stall.\n"
	"  --connections N       how many connections (10)\n"
	"  --bytes SIZE          bytes over all connections and both directions; suffix K, M, G\n"
	"  --seconds T           stop after T seconds, at the end of each connection's phase\n"
	"                        (neither --bytes nor --seconds: 64M)\n"
	"  --seed S              same seed, same conversation (1)\n"
	"  --max-message SIZE    largest message (1M)\n"
	"  --pingpong-share P    percentage of phases that are plain request/response (70)\n"
	"  --reconnect           close and reopen connections between phases\n"
	"  --slow-readers P      percentage of ends that now and then stop reading for a while "
	"(0)\n"
	"  --buffers SIZE        SO_SNDBUF and SO_RCVBUF of every socket\n"
	"  --nagle               leave TCP_NODELAY off\n"
	"  --threads N           threads for each side (1)\n"
	"  --family 4|6|mapped   mapped: IPv4 and v4-mapped clients of an IPv6 listener (4)\n"
	"  --bind ADDR           address to listen on (loopback)\n"
	"  --connect ADDR        address to connect to (loopback)\n"
	"  --port P              0: any free port (0)\n"
	"  --server-only, --client-only   one half; run both with the same seed, connections and\n"
	"                        bytes, max-message, pingpong-share and reconnect\n"
	"  --wait-start          after connecting, wait for a line on stdin before any data flows\n"
	"  --idle-timeout S      report a stall after S seconds without progress (20)\n"
	"  --corrupt flip|skip|repeat|truncate   damage connection 0, to test the verification\n";

enum option_name {
	OPT_CONNECTIONS = 256,
	OPT_BYTES,
	OPT_SECONDS,
	OPT_SEED,
	OPT_MAX_MESSAGE,
	OPT_PINGPONG_SHARE,
	OPT_RECONNECT,
	OPT_SLOW_READERS,
	OPT_BUFFERS,
	OPT_NAGLE,
	OPT_THREADS,
	OPT_FAMILY,
	OPT_BIND,
	OPT_CONNECT,
	OPT_PORT,
	OPT_SERVER_ONLY,
	OPT_CLIENT_ONLY,
	OPT_WAIT_START,
	OPT_IDLE_TIMEOUT,
	OPT_CORRUPT,
	OPT_HELP,
};

static const struct option long_options[] = {
	{"connections", required_argument, NULL, OPT_CONNECTIONS},
	{"bytes", required_argument, NULL, OPT_BYTES},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"seed", required_argument, NULL, OPT_SEED},
	{"max-message", required_argument, NULL, OPT_MAX_MESSAGE},
	{"pingpong-share", required_argument, NULL, OPT_PINGPONG_SHARE},
	{"reconnect", no_argument, NULL, OPT_RECONNECT},
	{"slow-readers", required_argument, NULL, OPT_SLOW_READERS},
	{"buffers", required_argument, NULL, OPT_BUFFERS},
	{"nagle", no_argument, NULL, OPT_NAGLE},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"family", required_argument, NULL, OPT_FAMILY},
	{"bind", required_argument, NULL, OPT_BIND},
	{"connect", required_argument, NULL, OPT_CONNECT},
	{"port", required_argument, NULL, OPT_PORT},
	{"server-only", no_argument, NULL, OPT_SERVER_ONLY},
	{"client-only", no_argument, NULL, OPT_CLIENT_ONLY},
	{"wait-start", no_argument, NULL, OPT_WAIT_START},
	{"idle-timeout", required_argument, NULL, OPT_IDLE_TIMEOUT},
	{"corrupt", required_argument, NULL, OPT_CORRUPT},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

static void set_family(const char *text)
{
	options.mapped = !strcmp(text, "mapped");
	options.family = options.mapped || !strcmp(text, "6") ? AF_INET6 : AF_INET;
	if (options.family == AF_INET && strcmp(text, "4"))
		die("--family: %s is neither 4, 6 nor mapped", text);
}

static void set_corruption(const char *text)
{
	static const struct name_value names[] = {{"flip", CORRUPT_FLIP},
						  {"skip", CORRUPT_SKIP},
						  {"repeat", CORRUPT_REPEAT},
						  {"truncate", CORRUPT_TRUNCATE}};
	const struct name_value *name = find_name(names, LENGTH(names), text);

	if (!name)
		die("--corrupt: unknown kind %s", text);
	options.corrupt = (enum corruption)name->value;
}

static void set_flag_option(int name)
{
	switch (name) {
	case OPT_RECONNECT:
		options.script.reconnect = true;
		break;
	case OPT_NAGLE:
		options.nagle = true;
		break;
	case OPT_SERVER_ONLY:
		options.server = true;
		break;
	case OPT_CLIENT_ONLY:
		options.client = true;
		break;
	case OPT_WAIT_START:
		options.wait_start = true;
		break;
	case OPT_HELP:
		fputs(usage, stdout);
		exit(0);
	default:
		die("see --help");
	}
}

static void set_option(int name, const char *text, const char *title)
{
	switch (name) {
	case OPT_CONNECTIONS:
		options.connections = (unsigned)size_option(title, text, 1, 1000000);
		break;
	case OPT_BYTES:
		options.bytes = size_option(title, text, 1, 1ULL << 60);
		break;
	case OPT_SECONDS:
		options.seconds = seconds_option(title, text);
		break;
	case OPT_SEED:
		options.seed = size_option(title, text, 0, UINT64_MAX);
		break;
	case OPT_MAX_MESSAGE:
		options.script.max_message = size_option(title, text, 1, 1ULL << 30);
		break;
	case OPT_PINGPONG_SHARE:
		options.script.pingpong_share = (unsigned)size_option(title, text, 0, 100);
		break;
	case OPT_SLOW_READERS:
		options.slow_readers = (unsigned)size_option(title, text, 0, 100);
		break;
	case OPT_BUFFERS:
		options.buffers = (int)size_option(title, text, 1, 1 << 30);
		break;
	case OPT_THREADS:
		options.threads = (unsigned)size_option(title, text, 1, 1024);
		break;
	case OPT_FAMILY:
		set_family(text);
		break;
	case OPT_BIND:
		options.bind = text;
		break;
	case OPT_CONNECT:
		options.connect = text;
		break;
	case OPT_PORT:
		options.port = (uint16_t)size_option(title, text, 0, 65535);
		break;
	case OPT_IDLE_TIMEOUT:
		options.idle_timeout = seconds_option(title, text);
		break;
	case OPT_CORRUPT:
		set_corruption(text);
		break;
	default:
		set_flag_option(name);
	}
}

static void complete_options(void)
{
	if (options.server && options.client)
		die("--server-only and --client-only exclude each other");
	if (options.client && !options.port)
		die("--client-only needs --port");
	if (!options.server && !options.client)
		options.server = options.client = true;
	if (!options.bytes && !options.seconds)
		options.bytes = 64 << 20;
	if (options.threads > options.connections)
		options.threads = options.connections;
	/* A server never starts by itself: it waits for the client's first bytes. */
	if (!options.client)
		options.wait_start = false;
	send_max = options.script.max_message;
	send_max = send_max < RECEIVE_MAX ? RECEIVE_MAX : send_max;
	send_max = send_max > 8u << 20 ? 8u << 20 : send_max;
}

static void parse_options(int argc, char **argv)
{
	int index = 0, name;

	while ((name = getopt_long(argc, argv, "", long_options, &index)) != -1)
		set_option(name, optarg, long_options[index].name);
	if (optind < argc)
		die("unexpected argument %s", argv[optind]);
	complete_options();
}

int main(int argc, char **argv)
{
	int signals;

	setvbuf(stdout, NULL, _IOLBF, 0);
	parse_options(argc, argv);
	raise_descriptor_limit();
	signals = block_signals();
	main_wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (signals < 0 || main_wake < 0)
		give_up("start");
	if (options.server)
		open_listener();
	set_targets();
	for (enum side side = SERVER; side <= CLIENT; side++)
		if (side_runs(side))
			side_init(side);
	if (!options.wait_start)
		begin_traffic();
	for (enum side side = SERVER; side <= CLIENT; side++)
		if (side_runs(side))
			side_start(side);
	return report(supervise(signals));
}
