/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The kernel gate's sockets: pairs of TCP connections over loopback, both ends in
 * this process, driven by lines on standard input. Each command gets one line in
 * answer, "ok ..." or "error ...". Ends with standard input, or with its parent.
 *
 *   open N               makes N pairs in a network namespace of its own, if it can
 *                        ok private|host PORT...   the clients' ports
 *   send P S LENGTH      end S of pair P sends the next bytes of its pattern
 *   fill P S LIMIT SIZE  messages of SIZE until the socket takes no more, or LIMIT
 *   recv P S LENGTH      receives as much and compares it
 *   end P S              expects EOF
 *   shut P S, close P S  shutdown(SHUT_WR), close
 *   count P S EXPECTED   FIONREAD, once it is EXPECTED or after some milliseconds
 *   splice P S LENGTH    splice to a pipe; the bytes are gone
 *   signal P S           interrupts a blocking receive; ok with the name of its errno
 *   sendzc P S LENGTH    sets SO_ZEROCOPY and sends with MSG_ZEROCOPY
 *   completions P S      takes what the error queue has after some milliseconds; ok with their
 * number plain P S            sets SO_ZEROCOPY: no datapath takes it off TCP pingpong P S LENGTH MS
 * end S asks for so long, the other answers in a process of its own; ok ROUND_TRIPS NANOSECONDS P50
 * P99 CPU (nanoseconds, CPU time of both)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_PAIRS 16
#define WAIT_MS 2000 /* waited in full only when something is wrong, or the host very busy */
#define COMPLETION_MS 200 /* waited in full where none comes */
#define BUFFER_SIZE 65536
/* Latencies kept of one run of pingpong; beyond it every second one, and so on. */
#define MAX_SAMPLES (1 << 20)
/* What the kernel doubles and keeps as limit of a socket's buffer. */
#define SOCKET_BUFFER 65536

struct end {
	int fd;
	uint64_t sent;
	uint64_t received;
};

static struct end ends[MAX_PAIRS][2];
static int pairs;

__attribute__((format(printf, 1, 2))) static void answer(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
}

static void fail(const char *what)
{
	answer("error %s: %s", what, strerror(errno));
}

/* Byte `at` of what an end sends. */
static unsigned char pattern(int pair, int side, uint64_t at)
{
	return (unsigned char)((at * 167 + (at >> 8) * 59 + pair * 31 + side * 17) & 0xff);
}

static bool await(int fd, short events)
{
	struct pollfd wanted = {.fd = fd, .events = events};

	return poll(&wanted, 1, WAIT_MS) > 0;
}

static bool own_namespace(void)
{
	struct ifreq request = {.ifr_name = "lo"};
	bool up;
	int fd;

	if (unshare(CLONE_NEWNET))
		return false;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	request.ifr_flags = IFF_UP;
	up = ioctl(fd, SIOCSIFFLAGS, &request) == 0;
	close(fd);
	return up;
}

static int tcp_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), yes = 1;
	int size = SOCKET_BUFFER;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	return fd;
}

static bool connect_pair(int listener, const struct sockaddr_in *to, struct end pair[2])
{
	int error = 0, yes = 1;
	socklen_t length = sizeof(error);

	pair[0].fd = tcp_socket();
	if (pair[0].fd < 0)
		return false;
	if (connect(pair[0].fd, (const struct sockaddr *)to, sizeof(*to)) && errno != EINPROGRESS)
		return false;
	if (!await(pair[0].fd, POLLOUT) || !await(listener, POLLIN)) {
		errno = ETIMEDOUT;
		return false;
	}
	getsockopt(pair[0].fd, SOL_SOCKET, SO_ERROR, &error, &length);
	if (error) {
		errno = error;
		return false;
	}
	pair[1].fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (pair[1].fd < 0)
		return false;
	setsockopt(pair[1].fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	return true;
}

static void open_pairs(int count)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	char ports[MAX_PAIRS * 7] = "";
	bool private = own_namespace();
	int listener = tcp_socket();
	struct sockaddr_in client = {0};

	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) ||
	    listen(listener, MAX_PAIRS) ||
	    getsockname(listener, (struct sockaddr *)&address, &length)) {
		fail("listen on loopback");
		return;
	}
	for (pairs = 0; pairs < count; pairs++) {
		if (!connect_pair(listener, &address, ends[pairs])) {
			fail("connect over loopback");
			return;
		}
		length = sizeof(client);
		getsockname(ends[pairs][0].fd, (struct sockaddr *)&client, &length);
		snprintf(ports + strlen(ports), 7, " %u", ntohs(client.sin_port));
	}
	close(listener);
	answer("ok %s%s", private ? "private" : "host", ports);
}

static ssize_t send_message(int pair, int side, size_t size, int flags)
{
	static unsigned char buffer[BUFFER_SIZE];
	struct end *end = &ends[pair][side];
	ssize_t sent;
	size_t i;

	for (i = 0; i < size; i++)
		buffer[i] = pattern(pair, side, end->sent + i);
	sent = send(end->fd, buffer, size, MSG_NOSIGNAL | flags);
	if (sent > 0)
		end->sent += sent;
	return sent;
}

static void fill(int pair, int side, long limit, long size)
{
	long total = 0;
	ssize_t sent;

	while (total < limit) {
		sent = send_message(pair, side, size, 0);
		if (sent < 0 && errno != EAGAIN) {
			fail("send");
			return;
		}
		if (sent < 0)
			break;
		total += sent;
	}
	answer("ok %ld", total);
}

static void receive(int pair, int side, long length)
{
	static unsigned char buffer[BUFFER_SIZE];
	struct end *end = &ends[pair][side];
	long left = length;
	ssize_t got, i;

	while (left > 0) {
		got = recv(end->fd, buffer, left < BUFFER_SIZE ? left : BUFFER_SIZE, 0);
		if (got < 0 && errno == EAGAIN && await(end->fd, POLLIN))
			got = recv(end->fd, buffer, left < BUFFER_SIZE ? left : BUFFER_SIZE, 0);
		if (got < 0 && errno == EAGAIN) {
			answer("error %ld of %ld bytes never arrived", left, length);
			return;
		}
		if (got < 0) {
			fail("recv");
			return;
		}
		if (got == 0) {
			answer("error EOF with %ld of %ld bytes outstanding", left, length);
			return;
		}
		for (i = 0; i < got; i++) {
			if (buffer[i] == pattern(pair, side ^ 1, end->received + i))
				continue;
			answer("error bytes out of order, lost or doubled at %" PRIu64,
			       end->received + i);
			return;
		}
		end->received += got;
		left -= got;
	}
	answer("ok %ld", length);
}

static void expect_end(int pair, int side)
{
	int fd = ends[pair][side].fd;
	char byte;
	ssize_t got;

	if (!await(fd, POLLIN)) {
		answer("error no EOF");
		return;
	}
	got = recv(fd, &byte, 1, 0);
	if (got == 0)
		answer("ok");
	else if (got > 0)
		answer("error a byte instead of EOF");
	else
		fail("recv for EOF");
}

static void count_readable(int pair, int side, int expected)
{
	const struct timespec pause = {.tv_nsec = 500000};
	int tries = 10, count = -1;

	do {
		if (ioctl(ends[pair][side].fd, FIONREAD, &count)) {
			fail("FIONREAD");
			return;
		}
		if (count == expected)
			break;
		nanosleep(&pause, NULL);
	} while (--tries);
	answer("ok %d", count);
}

static void splice_away(int pair, int side, long length)
{
	int ends_of_pipe[2];
	ssize_t moved;

	if (pipe2(ends_of_pipe, O_CLOEXEC | O_NONBLOCK)) {
		fail("pipe");
		return;
	}
	moved = splice(ends[pair][side].fd, NULL, ends_of_pipe[1], NULL, length, SPLICE_F_NONBLOCK);
	if (moved < 0 && errno == EAGAIN)
		moved = 0;
	if (moved < 0)
		fail("splice");
	else
		answer("ok %zd", moved);
	close(ends_of_pipe[0]);
	close(ends_of_pipe[1]);
}

static void on_alarm(int number)
{
	(void)number;
}

static void interrupt_receive(int pair, int side)
{
	struct itimerval alarm = {.it_value.tv_usec = 1000, .it_interval.tv_usec = 1000};
	struct sigaction action = {.sa_handler = on_alarm};
	int fd = ends[pair][side].fd, flags = fcntl(fd, F_GETFL), error;
	const struct itimerval none = {0};
	ssize_t got;
	char byte;

	sigaction(SIGALRM, &action, NULL);
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	setitimer(ITIMER_REAL, &alarm, NULL);
	got = recv(fd, &byte, 1, 0);
	error = errno;
	setitimer(ITIMER_REAL, &none, NULL);
	fcntl(fd, F_SETFL, flags);
	if (got >= 0)
		answer("error a receive of nothing returned %zd", got);
	else
		answer("ok %s", strerrorname_np(error));
}

static void send_once(int pair, int side, long length, int flags)
{
	ssize_t sent = send_message(pair, side, length, flags);

	if (sent < 0)
		fail("send");
	else
		answer("ok %zd", sent);
}

static void shut(int pair, int side)
{
	if (shutdown(ends[pair][side].fd, SHUT_WR))
		fail("shutdown");
	else
		answer("ok");
}

static void close_end(int pair, int side)
{
	if (ends[pair][side].fd >= 0)
		close(ends[pair][side].fd);
	ends[pair][side].fd = -1;
	answer("ok");
}

static bool set_zerocopy(int pair, int side)
{
	int yes = 1;

	return !setsockopt(ends[pair][side].fd, SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof(yes));
}

static void send_zerocopy(int pair, int side, long length)
{
	if (set_zerocopy(pair, side))
		send_once(pair, side, length, MSG_ZEROCOPY);
	else
		fail("SO_ZEROCOPY");
}

/* Over loopback the kernel lets go of the pages when it delivers the segment. */
static void count_completions(int pair, int side)
{
	struct pollfd wanted = {.fd = ends[pair][side].fd};
	struct msghdr message;
	char control[256];
	int count = 0;

	poll(&wanted, 1, COMPLETION_MS); /* POLLERR */
	for (;; count++) {
		message =
			(struct msghdr){.msg_control = control, .msg_controllen = sizeof(control)};
		if (recvmsg(wanted.fd, &message, MSG_ERRQUEUE) < 0)
			break;
	}
	if (errno == EAGAIN)
		answer("ok %d", count);
	else
		fail("recvmsg(MSG_ERRQUEUE)");
}

static void stay_plain(int pair, int side)
{
	if (set_zerocopy(pair, side))
		answer("ok");
	else
		fail("SO_ZEROCOPY");
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static uint64_t cpu_ns(int who)
{
	struct rusage usage;

	getrusage(who, &usage);
	return ((uint64_t)usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
	       ((uint64_t)usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

/* As programs with an event loop receive: wait, then take what is there. */
static bool take_message(int fd, unsigned char *buffer, size_t size)
{
	size_t taken = 0;
	ssize_t got;

	while (taken < size) {
		if (!await(fd, POLLIN))
			return false;
		got = recv(fd, buffer + taken, size - taken, 0);
		if (got == 0 || (got < 0 && errno != EAGAIN))
			return false;
		if (got > 0)
			taken += got;
	}
	return true;
}

static bool give_message(int fd, const unsigned char *buffer, size_t size)
{
	size_t given = 0;
	ssize_t sent;

	while (given < size) {
		sent = send(fd, buffer + given, size - given, MSG_NOSIGNAL);
		if (sent < 0 && (errno != EAGAIN || !await(fd, POLLOUT)))
			return false;
		if (sent > 0)
			given += sent;
	}
	return true;
}

/* Sends back what comes, until a message begins with another byte than 0. */
static void echo_messages(int fd, size_t size)
{
	static unsigned char buffer[BUFFER_SIZE];

	do {
		if (!take_message(fd, buffer, size) || !give_message(fd, buffer, size))
			_exit(1);
	} while (!buffer[0]);
	_exit(0);
}

static int by_value(const void *a, const void *b)
{
	uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;

	return (one > other) - (one < other);
}

static void pingpong(int pair, int side, size_t size, long milliseconds)
{
	static unsigned char buffer[BUFFER_SIZE];
	static uint32_t samples[MAX_SAMPLES];
	uint64_t start, end, before, after, cpu, count = 0, stride = 1;
	size_t kept = 0, i;
	int fd = ends[pair][side].fd, status;
	pid_t parent = getpid(), child;
	bool last;

	fflush(stdout);
	cpu = cpu_ns(RUSAGE_SELF) + cpu_ns(RUSAGE_CHILDREN);
	child = fork();
	if (child < 0) {
		fail("fork");
		return;
	}
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		echo_messages(ends[pair][side ^ 1].fd, size);
	}
	start = before = now_ns();
	end = start + (uint64_t)milliseconds * 1000000;
	do {
		last = before >= end;
		buffer[0] = last;
		if (!give_message(fd, buffer, size) || !take_message(fd, buffer, size)) {
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
			answer("error a round trip failed after %" PRIu64, count);
			return;
		}
		after = now_ns();
		if (count++ % stride == 0) {
			if (kept == MAX_SAMPLES) {
				for (i = 0; i < kept / 2; i++)
					samples[i] = samples[2 * i];
				kept /= 2;
				stride *= 2;
			}
			samples[kept++] = after - before > UINT32_MAX ? UINT32_MAX : after - before;
		}
		before = after;
	} while (!last);
	waitpid(child, &status, 0);
	cpu = cpu_ns(RUSAGE_SELF) + cpu_ns(RUSAGE_CHILDREN) - cpu;
	qsort(samples, kept, sizeof(samples[0]), by_value);
	answer("ok %" PRIu64 " %" PRIu64 " %" PRIu32 " %" PRIu32 " %" PRIu64, count, after - start,
	       samples[kept / 2], samples[kept * 99 / 100], cpu);
}

static void obey(const char *line)
{
	long a = 0, b = 0;
	int pair, side;
	char word[16];
	int fields = sscanf(line, "%15s %d %d %ld %ld", word, &pair, &side, &a, &b);

	if (fields == 2 && !strcmp(word, "open") && pair > 0 && pair <= MAX_PAIRS)
		open_pairs(pair);
	else if (fields < 3 || pair < 0 || pair >= pairs || side < 0 || side > 1 || a < 0 ||
		 b < 0 || b > BUFFER_SIZE)
		answer("error unknown command: %s", line);
	else if (!strcmp(word, "send") && a <= BUFFER_SIZE)
		send_once(pair, side, a, 0);
	else if (!strcmp(word, "fill") && b > 0)
		fill(pair, side, a, b);
	else if (!strcmp(word, "recv"))
		receive(pair, side, a);
	else if (!strcmp(word, "end"))
		expect_end(pair, side);
	else if (!strcmp(word, "shut"))
		shut(pair, side);
	else if (!strcmp(word, "close"))
		close_end(pair, side);
	else if (!strcmp(word, "count"))
		count_readable(pair, side, (int)a);
	else if (!strcmp(word, "splice"))
		splice_away(pair, side, a);
	else if (!strcmp(word, "signal"))
		interrupt_receive(pair, side);
	else if (!strcmp(word, "sendzc") && a <= BUFFER_SIZE)
		send_zerocopy(pair, side, a);
	else if (!strcmp(word, "completions"))
		count_completions(pair, side);
	else if (!strcmp(word, "plain"))
		stay_plain(pair, side);
	else if (!strcmp(word, "pingpong") && a > 0 && a <= BUFFER_SIZE)
		pingpong(pair, side, a, b);
	else
		answer("error unknown command: %s", line);
}

int main(void)
{
	char line[128];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		obey(line);
	}
	return 0;
}
