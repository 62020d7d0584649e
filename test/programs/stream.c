// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * A benchmark of one-way streams and of request/response between two processes, one connection
 * for each pair of them. The clock starts after a warm-up, so that connections can be promoted
 * first. Every byte of a message says what it is for, so the server needs no side channel to know
 * when the measurement begins.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "cli.h"
#include "histogram.h"
#include "net.h"

enum mode { STREAM, PINGPONG };
enum role { SERVER, CLIENT };
enum marker { WARM_STREAM = 'w', WARM_ASK = 'a', STREAM_MEASURED = 'S', ASK_MEASURED = 'A' };

#define CLIENTS_MAX 1024
#define CONNECT_SECONDS 10
#define CLOCK_EVERY 16 /* messages of a stream between two looks at the clock */

struct options {
	enum mode mode, warmup_mode;
	uint64_t size, response_size, receive_size, count, warmup_count;
	double seconds, warmup_seconds, timeout;
	bool nonblocking, nagle, server, client;
	unsigned clients;
	int cpu[2];
	const char *address, *path;
	uint16_t port;
	int buffers;
};

/* What a child leaves behind in shared memory. */
struct result {
	uint64_t bytes, messages;
	double seconds, user, system;
	struct histogram latency;
};

struct shared {
	pthread_barrier_t warm;
	atomic_bool complained;
	struct result results[2][CLIENTS_MAX];
};

struct connection {
	int fd;
	int readable, writable; /* epoll descriptors, for non-blocking sockets */
	char *buffer;
	size_t capacity;
};

static struct options options = {
	.size = 64,
	.clients = 1,
	.cpu = {-1, -1},
	.address = "127.0.0.1",
	.warmup_seconds = 0.2,
	.nonblocking = true,
};
static struct shared *shared;
static struct address target;
static int listener = -1;
static pid_t children[2 * CLIENTS_MAX];
static unsigned children_count;
static volatile sig_atomic_t timed_out;

/* One line of output, even if several children fail at once. */
static bool first_complaint(void)
{
	return !shared || !atomic_exchange(&shared->complained, true);
}

__attribute__((noreturn)) static void give_up(const char *call)
{
	const char *error = errno_name(errno);

	if (first_complaint())
		printf("{\"error\":\"%s\",\"errno\":\"%s\"}\n", call, error);
	fflush(stdout);
	_exit(1);
}

/* ---- one connection ---- */

static int watch(int fd, uint32_t events)
{
	struct epoll_event event = {.events = events};
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		give_up("epoll");
	return epoll;
}

static void wait_on(int epoll)
{
	struct epoll_event event;

	if (epoll_wait(epoll, &event, 1, -1) < 0 && errno != EINTR)
		give_up("epoll_wait");
}

static void tune(int fd)
{
	if (options.path)
		return;
	if (!options.nagle)
		set_flag(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (options.buffers) {
		set_flag(fd, SOL_SOCKET, SO_SNDBUF, options.buffers);
		set_flag(fd, SOL_SOCKET, SO_RCVBUF, options.buffers);
	}
}

static void connection_init(struct connection *c, int fd, size_t capacity)
{
	c->fd = fd;
	c->capacity = capacity;
	c->buffer = malloc(capacity);
	if (!c->buffer)
		give_up("malloc");
	memset(c->buffer, 0, capacity); /* page faults are no part of the measurement */
	tune(fd);
	if (!options.nonblocking)
		return;
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
		give_up("fcntl");
	c->readable = watch(fd, EPOLLIN);
	c->writable = watch(fd, EPOLLOUT);
}

/* Like an event loop: wait, then receive what there is. Returns 0 at the end of the stream. */
static size_t receive(struct connection *c, char *to, size_t n)
{
	for (;;) {
		ssize_t got;

		if (options.nonblocking)
			wait_on(c->readable);
		got = recv(c->fd, to, n, 0);
		if (got >= 0)
			return (size_t)got;
		if (errno != EINTR && errno != EAGAIN)
			give_up("recv");
	}
}

static void send_all(struct connection *c, const char *data, size_t n)
{
	while (n) {
		ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);

		if (sent >= 0) {
			data += sent;
			n -= (size_t)sent;
		} else if (errno == EAGAIN && options.nonblocking) {
			wait_on(c->writable);
		} else if (errno != EINTR) {
			give_up("send");
		}
	}
}

static void receive_all(struct connection *c, size_t n)
{
	while (n) {
		size_t got = receive(c, c->buffer, n < c->capacity ? n : c->capacity);

		if (!got) {
			errno = ECONNRESET;
			give_up("early end");
		}
		n -= got;
	}
}

/* ---- measuring ---- */

struct stopwatch {
	int64_t start;
	struct rusage usage;
};

static double cpu_seconds(const struct timeval *from, const struct timeval *to)
{
	return (double)(to->tv_sec - from->tv_sec) + (double)(to->tv_usec - from->tv_usec) / 1e6;
}

static void stopwatch_start(struct stopwatch *s)
{
	getrusage(RUSAGE_SELF, &s->usage);
	s->start = now_ns();
}

static void stopwatch_stop(const struct stopwatch *s, struct result *r)
{
	struct rusage now;

	r->seconds = seconds_since(s->start);
	getrusage(RUSAGE_SELF, &now);
	r->user = cpu_seconds(&s->usage.ru_utime, &now.ru_utime);
	r->system = cpu_seconds(&s->usage.ru_stime, &now.ru_stime);
}

/* ---- client ---- */

struct limit {
	uint64_t count;
	double seconds;
	int64_t start;
};

/* Looking at the clock is cheap, but not for free beside a small message. */
static bool limit_reached(const struct limit *l, uint64_t done, unsigned every)
{
	if (l->count)
		return done >= l->count;
	return done % every == 0 && seconds_since(l->start) >= l->seconds;
}

static uint64_t client_stream(struct connection *c, const char *message, uint64_t count,
			      double seconds)
{
	struct limit limit = {count, seconds, now_ns()};
	uint64_t done = 0;

	while (!limit_reached(&limit, done, CLOCK_EVERY)) {
		send_all(c, message, options.size);
		done++;
	}
	return done;
}

static uint64_t client_ask(struct connection *c, const char *message, uint64_t count,
			   double seconds, struct histogram *latency)
{
	struct limit limit = {count, seconds, now_ns()};
	uint64_t done = 0;

	while (!limit_reached(&limit, done, 1)) {
		int64_t start = now_ns();

		send_all(c, message, options.size);
		receive_all(c, options.response_size);
		histogram_add(latency, (uint64_t)(now_ns() - start));
		done++;
	}
	return done;
}

static void client_warm_up(struct connection *c, char *message)
{
	static struct histogram scratch;

	memset(message, options.warmup_mode == PINGPONG ? WARM_ASK : WARM_STREAM, options.size);
	if (!options.warmup_count && !options.warmup_seconds)
		return;
	if (options.warmup_mode == PINGPONG)
		client_ask(c, message, options.warmup_count, options.warmup_seconds, &scratch);
	else
		client_stream(c, message, options.warmup_count, options.warmup_seconds);
}

static void client_end(struct connection *c)
{
	if (shutdown(c->fd, SHUT_WR))
		give_up("shutdown");
	while (receive(c, c->buffer, c->capacity))
		;
}

static void client_measure(struct connection *c, const char *message, struct result *r)
{
	struct stopwatch watch;

	stopwatch_start(&watch);
	if (options.mode == STREAM) {
		r->messages = client_stream(c, message, options.count, options.seconds);
		r->bytes = r->messages * options.size;
		client_end(c); /* the stream has arrived only when the server has read its end */
		stopwatch_stop(&watch, r);
	} else {
		r->messages = client_ask(c, message, options.count, options.seconds, &r->latency);
		r->bytes = r->messages * (options.size + options.response_size);
		stopwatch_stop(&watch, r);
		client_end(c);
	}
}

static int client_connect(void)
{
	int64_t start = now_ns();

	for (;;) {
		int fd = socket(target.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			give_up("socket");
		if (!connect(fd, &target.any, target.length))
			return fd;
		/* With --client-only the server may still be starting. */
		if ((errno != ECONNREFUSED && errno != ENOENT && errno != EAGAIN) ||
		    seconds_since(start) > CONNECT_SECONDS)
			give_up("connect");
		close(fd);
		usleep(10000);
	}
}

static void client_run(struct result *r)
{
	struct connection c = {0};
	char *message = malloc(options.size);

	if (!message)
		give_up("malloc");
	connection_init(&c, client_connect(), options.receive_size);
	client_warm_up(&c, message);
	memset(message, options.mode == PINGPONG ? ASK_MEASURED : STREAM_MEASURED, options.size);
	pthread_barrier_wait(&shared->warm);
	client_measure(&c, message, r);
	free(message);
}

/* ---- server ---- */

struct serving {
	struct connection c;
	struct stopwatch watch;
	struct result *result;
	char *response;
	uint64_t pending; /* bytes of a request that is not complete yet */
	bool measuring;
};

static void server_measure(struct serving *s)
{
	if (s->measuring)
		return;
	s->measuring = true;
	stopwatch_start(&s->watch);
}

static void server_answer(struct serving *s, char marker, size_t n)
{
	s->pending += n;
	if (marker == ASK_MEASURED)
		s->result->bytes += n;
	if (s->pending < options.size)
		return;
	s->pending = 0;
	send_all(&s->c, s->response, options.response_size);
	if (marker != ASK_MEASURED)
		return;
	s->result->bytes += options.response_size;
	s->result->messages++;
}

/* A warm-up stream and what follows it may arrive in one piece; answers keep the rest apart. */
static size_t warm_stream_bytes(const char *data, size_t n)
{
	char last = data[n - 1];

	if (last == WARM_STREAM || *data != WARM_STREAM)
		return last == WARM_STREAM ? n : 0;
	return (size_t)((const char *)memchr(data, last, n) - data);
}

static void server_take(struct serving *s, size_t n)
{
	char marker = s->c.buffer[n - 1];

	n -= warm_stream_bytes(s->c.buffer, n);
	if (marker == STREAM_MEASURED || marker == ASK_MEASURED)
		server_measure(s);
	if (marker == STREAM_MEASURED)
		s->result->bytes += n;
	else if (n)
		server_answer(s, marker, n);
}

static void server_run(struct result *r)
{
	struct serving s = {.result = r};
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	size_t n;

	if (fd < 0)
		give_up("accept");
	close(listener);
	s.response = malloc(options.response_size);
	if (!s.response)
		give_up("malloc");
	memset(s.response, 'r', options.response_size);
	connection_init(&s.c, fd, options.receive_size);
	while ((n = receive(&s.c, s.c.buffer, s.c.capacity)))
		server_take(&s, n);
	server_measure(&s); /* in case there was nothing to measure */
	stopwatch_stop(&s.watch, r);
	if (options.mode == STREAM)
		r->messages = r->bytes / options.size;
	close(fd);
	free(s.response);
}

/* ---- parent ---- */

static void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		give_up("sched_setaffinity");
}

static void start_child(enum role role, unsigned index)
{
	struct result *result = &shared->results[role][index];
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		give_up("fork");
	if (pid) {
		children[children_count++] = pid;
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	pin(options.cpu[role]);
	if (role == SERVER)
		server_run(result);
	else
		client_run(result);
	_exit(0);
}

static void kill_children(void)
{
	for (unsigned i = 0; i < children_count; i++)
		if (children[i])
			kill(children[i], SIGKILL);
}

static void on_alarm(int signal)
{
	(void)signal;
	timed_out = 1;
	kill_children();
}

static void forget_child(pid_t pid)
{
	for (unsigned i = 0; i < children_count; i++)
		if (children[i] == pid)
			children[i] = 0;
}

/* Returns whether all children ended well; if one did not, the others would wait for ever. */
static bool wait_for_children(void)
{
	bool good = true;

	for (unsigned left = children_count; left;) {
		int status;
		pid_t pid = waitpid(-1, &status, 0);

		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0)
			give_up("waitpid");
		left--;
		forget_child(pid);
		if (status && good) {
			kill_children();
			good = false;
		}
	}
	return good;
}

static void sum_up(struct result *total, enum role role)
{
	memset(total, 0, sizeof(*total));
	for (unsigned i = 0; i < options.clients; i++) {
		const struct result *r = &shared->results[role][i];

		total->bytes += r->bytes;
		total->messages += r->messages;
		total->user += r->user;
		total->system += r->system;
		total->seconds = r->seconds > total->seconds ? r->seconds : total->seconds;
		histogram_merge(&total->latency, &r->latency);
	}
}

static void print_cpu(const char *name, const struct result *r)
{
	printf(",\"%s\":{\"user\":%.6f,\"system\":%.6f}", name, r->user, r->system);
}

static void print_latency(const struct histogram *h)
{
	printf(",\"p50Microseconds\":%.2f,\"p99Microseconds\":%.2f,\"maxMicroseconds\":%.2f",
	       (double)histogram_percentile(h, 0.5) / 1e3,
	       (double)histogram_percentile(h, 0.99) / 1e3, (double)h->most / 1e3);
}

static const char *role_name(void)
{
	if (options.server && options.client)
		return "both";
	return options.client ? "client" : "server";
}

static void print_result(const struct result *client, const struct result *server)
{
	const struct result *r = options.client ? client : server;

	printf("{\"mode\":\"%s\",\"role\":\"%s\",\"size\":%llu,\"responseSize\":%llu,"
	       "\"clients\":%u,\"nonblocking\":%s,\"bytes\":%llu,\"messages\":%llu,"
	       "\"seconds\":%.6f,\"bytesPerSecond\":%.0f,\"messagesPerSecond\":%.1f",
	       options.mode == STREAM ? "stream" : "pingpong", role_name(),
	       (unsigned long long)options.size, (unsigned long long)options.response_size,
	       options.clients, options.nonblocking ? "true" : "false",
	       (unsigned long long)r->bytes, (unsigned long long)r->messages, r->seconds,
	       (double)r->bytes / r->seconds, (double)r->messages / r->seconds);
	if (options.client)
		print_cpu("clientCpuSeconds", client);
	if (options.server)
		print_cpu("serverCpuSeconds", server);
	printf(",\"cpuSeconds\":%.6f",
	       client->user + client->system + server->user + server->system);
	if (options.client && options.mode == PINGPONG)
		print_latency(&client->latency);
	printf("}\n");
}

static int report(void)
{
	static struct result client, server;

	sum_up(&client, CLIENT);
	sum_up(&server, SERVER);
	if (options.server && options.client && client.bytes != server.bytes) {
		printf("{\"error\":\"bytes differ\",\"client\":%llu,\"server\":%llu}\n",
		       (unsigned long long)client.bytes, (unsigned long long)server.bytes);
		return 1;
	}
	print_result(&client, &server);
	return 0;
}

static void make_shared(void)
{
	pthread_barrierattr_t attributes;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		give_up("mmap");
	pthread_barrierattr_init(&attributes);
	pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&shared->warm, &attributes, options.clients);
}

static void open_listener(void)
{
	if (options.path)
		unlink(options.path);
	listener = listen_on(&target, 0, CLIENTS_MAX);
	if (listener < 0)
		give_up("listen");
	if (options.path)
		return;
	options.port = local_port(listener);
	address_parse(&target, options.address, options.port);
}

static void start_timeout(void)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct itimerval timer = {.it_value.tv_sec = (time_t)options.timeout + 1};

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

static int run(void)
{
	make_shared();
	if (options.server)
		open_listener();
	if (options.server)
		for (unsigned i = 0; i < options.clients; i++)
			start_child(SERVER, i);
	if (listener >= 0)
		close(listener);
	if (options.client)
		for (unsigned i = 0; i < options.clients; i++)
			start_child(CLIENT, i);
	start_timeout();
	if (wait_for_children())
		return report();
	if (first_complaint())
		printf("{\"error\":\"%s\"}\n", timed_out ? "timeout" : "a child died");
	return 1;
}

/* ---- command line ---- */

static const char usage[] =
	"usage: stream [OPTION]...\n"
	"Measures one-way streams or request/response over a connection between two processes and\n"
	"prints one line of JSON. Exits with 1 and {\"error\":...} if anything went wrong.\n"
	"  --mode stream|pingpong     (stream)\n"
	"  --size SIZE                message or request (64); suffix K, M\n"
	"  --response-size SIZE       response (as the request)\n"
	"  --receive-size SIZE        largest receive (at least 64K and the message's size)\n"
	"  --seconds T | --count N    how long, or how many messages by each client (1 second)\n"
	"  --warmup N|Ts              messages, or seconds with an s, before the clock starts "
	"(0.2s)\n"
	"  --warmup-mode stream|pingpong   (as --mode)\n"
	"  --nonblocking 0|1          1: epoll and O_NONBLOCK, 0: blocking calls (1)\n"
	"  --clients N                so many pairs of processes, a connection each (1)\n"
	"  --cpu-client C, --cpu-server C   pin the processes\n"
	"  --address ADDR, --port P   (127.0.0.1, any free)\n"
	"  --unix PATH                a UNIX stream socket instead\n"
	"  --buffers SIZE             SO_SNDBUF and SO_RCVBUF\n"
	"  --nagle                    leave TCP_NODELAY off\n"
	"  --server-only, --client-only   one half; give both the same sizes and clients\n"
	"  --timeout S                give up after S seconds (a minute more than the run)\n";

enum option_name {
	OPT_MODE = 256,
	OPT_SIZE,
	OPT_RESPONSE_SIZE,
	OPT_RECEIVE_SIZE,
	OPT_SECONDS,
	OPT_COUNT,
	OPT_WARMUP,
	OPT_WARMUP_MODE,
	OPT_NONBLOCKING,
	OPT_CLIENTS,
	OPT_CPU_CLIENT,
	OPT_CPU_SERVER,
	OPT_ADDRESS,
	OPT_PORT,
	OPT_UNIX,
	OPT_BUFFERS,
	OPT_NAGLE,
	OPT_SERVER_ONLY,
	OPT_CLIENT_ONLY,
	OPT_TIMEOUT,
	OPT_HELP,
};

static const struct option long_options[] = {
	{"mode", required_argument, NULL, OPT_MODE},
	{"size", required_argument, NULL, OPT_SIZE},
	{"response-size", required_argument, NULL, OPT_RESPONSE_SIZE},
	{"receive-size", required_argument, NULL, OPT_RECEIVE_SIZE},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"count", required_argument, NULL, OPT_COUNT},
	{"warmup", required_argument, NULL, OPT_WARMUP},
	{"warmup-mode", required_argument, NULL, OPT_WARMUP_MODE},
	{"nonblocking", required_argument, NULL, OPT_NONBLOCKING},
	{"clients", required_argument, NULL, OPT_CLIENTS},
	{"cpu-client", required_argument, NULL, OPT_CPU_CLIENT},
	{"cpu-server", required_argument, NULL, OPT_CPU_SERVER},
	{"address", required_argument, NULL, OPT_ADDRESS},
	{"port", required_argument, NULL, OPT_PORT},
	{"unix", required_argument, NULL, OPT_UNIX},
	{"buffers", required_argument, NULL, OPT_BUFFERS},
	{"nagle", no_argument, NULL, OPT_NAGLE},
	{"server-only", no_argument, NULL, OPT_SERVER_ONLY},
	{"client-only", no_argument, NULL, OPT_CLIENT_ONLY},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

static enum mode mode_option(const char *title, const char *text)
{
	if (!strcmp(text, "pingpong"))
		return PINGPONG;
	if (strcmp(text, "stream"))
		die("--%s: %s is neither stream nor pingpong", title, text);
	return STREAM;
}

static void set_warmup(const char *title, const char *text)
{
	size_t length = strlen(text);
	char number[32];

	options.warmup_count = 0;
	options.warmup_seconds = 0;
	if (!length || text[length - 1] != 's') {
		options.warmup_count = size_option(title, text, 0, UINT64_MAX);
		return;
	}
	snprintf(number, sizeof(number), "%.*s", (int)length - 1, text);
	options.warmup_seconds = seconds_option(title, number);
}

static void set_flag_option(int name)
{
	switch (name) {
	case OPT_NAGLE:
		options.nagle = true;
		break;
	case OPT_SERVER_ONLY:
		options.server = true;
		break;
	case OPT_CLIENT_ONLY:
		options.client = true;
		break;
	case OPT_HELP:
		fputs(usage, stdout);
		exit(0);
	default:
		die("see --help");
	}
}

static void set_place_option(int name, const char *text, const char *title)
{
	switch (name) {
	case OPT_CPU_CLIENT:
		options.cpu[CLIENT] = (int)size_option(title, text, 0, CPU_SETSIZE - 1);
		break;
	case OPT_CPU_SERVER:
		options.cpu[SERVER] = (int)size_option(title, text, 0, CPU_SETSIZE - 1);
		break;
	case OPT_ADDRESS:
		options.address = text;
		break;
	case OPT_PORT:
		options.port = (uint16_t)size_option(title, text, 0, 65535);
		break;
	case OPT_UNIX:
		options.path = text;
		break;
	case OPT_BUFFERS:
		options.buffers = (int)size_option(title, text, 1, 1 << 30);
		break;
	default:
		set_flag_option(name);
	}
}

static void set_option(int name, const char *text, const char *title, bool *warmup_mode)
{
	switch (name) {
	case OPT_MODE:
		options.mode = mode_option(title, text);
		break;
	case OPT_WARMUP_MODE:
		options.warmup_mode = mode_option(title, text);
		*warmup_mode = true;
		break;
	case OPT_SIZE:
		options.size = size_option(title, text, 1, 1 << 30);
		break;
	case OPT_RESPONSE_SIZE:
		options.response_size = size_option(title, text, 1, 1 << 30);
		break;
	case OPT_RECEIVE_SIZE:
		options.receive_size = size_option(title, text, 1, 1 << 30);
		break;
	case OPT_SECONDS:
		options.seconds = seconds_option(title, text);
		break;
	case OPT_COUNT:
		options.count = size_option(title, text, 1, UINT64_MAX);
		break;
	case OPT_WARMUP:
		set_warmup(title, text);
		break;
	case OPT_NONBLOCKING:
		options.nonblocking = size_option(title, text, 0, 1);
		break;
	case OPT_CLIENTS:
		options.clients = (unsigned)size_option(title, text, 1, CLIENTS_MAX);
		break;
	case OPT_TIMEOUT:
		options.timeout = seconds_option(title, text);
		break;
	default:
		set_place_option(name, text, title);
	}
}

static void complete_sizes(void)
{
	uint64_t largest = options.size;

	if (!options.response_size)
		options.response_size = options.size;
	largest = options.response_size > largest ? options.response_size : largest;
	if (!options.receive_size)
		options.receive_size = largest > 65536 ? largest : 65536;
}

static void complete_options(bool warmup_mode)
{
	if (options.server && options.client)
		die("--server-only and --client-only exclude each other");
	if (options.server != options.client && !options.port && !options.path)
		die("one half alone needs --port or --unix");
	if (!options.server && !options.client)
		options.server = options.client = true;
	if (options.count && options.seconds)
		die("--seconds and --count exclude each other");
	if (!options.count && !options.seconds)
		options.seconds = 1;
	if (!options.timeout)
		options.timeout = options.seconds + options.warmup_seconds + 60;
	if (!warmup_mode)
		options.warmup_mode = options.mode;
	if (options.path ? !address_unix(&target, options.path)
			 : !address_parse(&target, options.address, options.port))
		die("%s is not an address", options.path ? options.path : options.address);
	complete_sizes();
}

int main(int argc, char **argv)
{
	int index = 0, name, status;
	bool warmup_mode = false;

	while ((name = getopt_long(argc, argv, "", long_options, &index)) != -1)
		set_option(name, optarg, long_options[index].name, &warmup_mode);
	if (optind < argc)
		die("unexpected argument %s", argv[optind]);
	complete_options(warmup_mode);
	status = run();
	if (options.path && options.server)
		unlink(options.path);
	return status;
}
