// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Many open connections of which few talk. Two processes on loopback: one echoes whatever comes,
 * the other opens the connections and then does what it reads on standard input, a line each:
 *   run SECONDS   round trips on the active connections, one after the other
 * The end of the input ends both. Prints an event in JSON for each step.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../../test/programs/cli.h"
#include "../../test/programs/histogram.h"
#include "../../test/programs/net.h"

#define MESSAGE 64
#define BACKLOG 4096
#define EVENTS 256
/* Connections to one address: fewer than there are ports for clients. */
#define ADDRESS_CONNECTIONS 20000

static unsigned pairs = 1, active = 1;
static uint16_t port;
static int listener, *clients;

__attribute__((noreturn)) static void give_up(const char *call)
{
	printf("{\"error\":\"%s\",\"errno\":\"%s\"}\n", call, errno_name(errno));
	exit(1);
}

/* ---- the echo ---- */

static void watch(int epoll, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		give_up("epoll_ctl");
}

static void take_connections(int epoll)
{
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		set_flag(fd, IPPROTO_TCP, TCP_NODELAY, 1);
		watch(epoll, fd);
	}
	if (errno != EAGAIN)
		give_up("accept");
}

static void answer(int fd)
{
	char buffer[MESSAGE];
	ssize_t got = recv(fd, buffer, sizeof(buffer), 0);

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0)
		close(fd);
	else if (send(fd, buffer, (size_t)got, MSG_NOSIGNAL) != got)
		give_up("send");
}

__attribute__((noreturn)) static void echo(void)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event events[EVENTS];

	watch(epoll, listener);
	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			if (events[i].data.fd == listener)
				take_connections(epoll);
			else
				answer(events[i].data.fd);
		}
	}
}

/* ---- who asks ---- */

static int open_connection(unsigned index)
{
	struct address to;
	int fd;

	address_v4(&to, "127.0.0.1", port);
	to.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + index / ADDRESS_CONNECTIONS);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		give_up("socket");
	if (connect(fd, &to.any, to.length))
		give_up("connect");
	set_flag(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (fcntl(fd, F_SETFL, O_NONBLOCK))
		give_up("fcntl");
	return fd;
}

static void round_trip(int fd)
{
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	char buffer[MESSAGE] = {0};
	size_t left = sizeof(buffer);

	if (send(fd, buffer, sizeof(buffer), MSG_NOSIGNAL) != sizeof(buffer))
		give_up("send");
	while (left) {
		ssize_t got;

		if (poll(&readable, 1, -1) < 0 && errno != EINTR)
			give_up("poll");
		got = recv(fd, buffer, left, 0);
		if (!got || (got < 0 && errno != EAGAIN))
			give_up("recv");
		if (got > 0)
			left -= (size_t)got;
	}
}

static void run(double seconds)
{
	static struct histogram latency;
	int64_t start = now_ns();
	uint64_t done = 0;

	memset(&latency, 0, sizeof(latency));
	while (seconds_since(start) < seconds) {
		int64_t begin = now_ns();

		/* Spread over the table. */
		round_trip(clients[(uint64_t)(done++ % active) * pairs / active]);
		histogram_add(&latency, (uint64_t)(now_ns() - begin));
	}
	printf("{\"event\":\"ran\",\"roundTrips\":%llu,\"p50Microseconds\":%.2f,"
	       "\"p99Microseconds\":%.2f}\n",
	       (unsigned long long)done, (double)histogram_percentile(&latency, 0.5) / 1e3,
	       (double)histogram_percentile(&latency, 0.99) / 1e3);
}

static void obey(void)
{
	char line[64];

	while (fgets(line, sizeof(line), stdin)) {
		double seconds;
		char *end;

		if (strncmp(line, "run ", 4))
			die("%s is no command", line);
		seconds = strtod(line + 4, &end);
		if (*end != '\n' || !(seconds > 0 && seconds < 3600))
			die("%s: how many seconds?", line);
		run(seconds);
		fflush(stdout);
	}
}

static void start_echo(void)
{
	struct address any;

	address_parse(&any, "0.0.0.0", 0);
	listener = listen_on(&any, SOCK_NONBLOCK, BACKLOG);
	if (listener < 0)
		give_up("listen");
	port = local_port(listener);
	switch (fork()) {
	case -1:
		give_up("fork");
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		echo();
	default:
		close(listener);
	}
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
		{"pairs", required_argument, NULL, 'p'},
		{"active", required_argument, NULL, 'a'},
		{NULL, 0, NULL, 0},
	};
	int64_t start;
	int option;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (option == 'p')
			pairs = (unsigned)size_option("pairs", optarg, 1, 1000000);
		else if (option == 'a')
			active = (unsigned)size_option("active", optarg, 1, 1000000);
		else
			die("usage: crowd --pairs N --active N");
	}
	if (active > pairs)
		die("--active: there are only %u pairs", pairs);
	raise_descriptor_limit();
	start_echo();
	clients = calloc(pairs, sizeof(*clients));
	if (!clients)
		give_up("calloc");
	start = now_ns();
	for (unsigned i = 0; i < pairs; i++)
		clients[i] = open_connection(i);
	printf("{\"event\":\"open\",\"seconds\":%.6f}\n", seconds_since(start));
	fflush(stdout);
	obey();
	return 0;
}
