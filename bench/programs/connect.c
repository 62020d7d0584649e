// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * How many short connections a second: connect, one request, one answer, close. The server closes
 * first, so that the client's ports are free again at once.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/time.h>

#include "../../test/programs/cli.h"
#include "../../test/programs/net.h"

#define MESSAGE 64
#define BACKLOG 128

static struct address where;
static bool is_local;

__attribute__((noreturn)) static void give_up(const char *call)
{
	printf("{\"error\":\"%s\",\"errno\":\"%s\"}\n", call, errno_name(errno));
	exit(1);
}

/* Returns whether all of it came before the end of the stream. */
static bool receive_all(int fd, char *to, size_t n)
{
	while (n) {
		ssize_t got = recv(fd, to, n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		to += got;
		n -= (size_t)got;
	}
	return true;
}

static void serve(void)
{
	int listener = listen_on(&where, 0, BACKLOG);
	char message[MESSAGE];

	if (listener < 0)
		give_up("listen");
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			give_up("accept");
		/* A client that ends meanwhile is no reason to complain. */
		if (receive_all(fd, message, sizeof(message)))
			(void)!send(fd, message, sizeof(message), MSG_NOSIGNAL);
		close(fd);
	}
}

static void exchange(void)
{
	int fd = socket(where.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char message[MESSAGE] = {0}, end;

	if (fd < 0)
		give_up("socket");
	if (connect(fd, &where.any, where.length))
		give_up("connect");
	if (!is_local)
		set_flag(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (send(fd, message, sizeof(message), MSG_NOSIGNAL) != sizeof(message))
		give_up("send");
	if (!receive_all(fd, message, sizeof(message)))
		give_up("recv");
	if (recv(fd, &end, 1, 0))
		give_up("end");
	close(fd);
}

static void ask(double seconds)
{
	int64_t start = now_ns();
	uint64_t done = 0;

	while (seconds_since(start) < seconds) {
		exchange();
		done++;
	}
	printf("{\"connections\":%llu,\"seconds\":%.6f}\n", (unsigned long long)done,
	       seconds_since(start));
}

static const char usage[] = "usage: connect --server | --client [OPTION]...\n"
			    "Connects, sends 64 bytes, receives 64 and the end, again and again; "
			    "prints a line of JSON.\n"
			    "  --seconds T                how long (1)\n"
			    "  --address ADDR, --port P   where the server listens (127.0.0.1)\n"
			    "  --unix PATH                a UNIX stream socket instead\n";

enum option_name { OPT_SERVER = 256, OPT_CLIENT, OPT_SECONDS, OPT_ADDRESS, OPT_PORT, OPT_UNIX };

static const struct option long_options[] = {
	{"server", no_argument, NULL, OPT_SERVER},
	{"client", no_argument, NULL, OPT_CLIENT},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"address", required_argument, NULL, OPT_ADDRESS},
	{"port", required_argument, NULL, OPT_PORT},
	{"unix", required_argument, NULL, OPT_UNIX},
	{NULL, 0, NULL, 0},
};

int main(int argc, char **argv)
{
	const char *address = "127.0.0.1", *path = NULL;
	bool server = false, client = false;
	uint16_t port = 0;
	double seconds = 1;
	int option;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (option) {
		case OPT_SERVER:
			server = true;
			break;
		case OPT_CLIENT:
			client = true;
			break;
		case OPT_SECONDS:
			seconds = seconds_option("seconds", optarg);
			break;
		case OPT_ADDRESS:
			address = optarg;
			break;
		case OPT_PORT:
			port = (uint16_t)size_option("port", optarg, 1, 65535);
			break;
		case OPT_UNIX:
			path = optarg;
			break;
		default:
			die("%s", usage);
		}
	}
	if (server == client || (!path && !port))
		die("%s", usage);
	is_local = path;
	if (!(path ? address_unix(&where, path) : address_parse(&where, address, port)))
		die("%s is no address", path ? path : address);
	if (server)
		serve();
	ask(seconds);
	return 0;
}
