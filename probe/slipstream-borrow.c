/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Sets options on sockets of other processes: one that adoption has chosen, or those that
 * have whoever waits for the socket woken.
 *
 * setsockopt(2) waits for whoever has the socket locked, which a thread that sleeps in
 * a page fault in the middle of send(2) has for as long as that takes, and no signal
 * ends the wait. So this is a process of its own, with nothing that its parent could
 * miss: it is left behind, and ends when the lock is let go. It borrows one socket at
 * a time, and gives it back at once: a connection ends with its last descriptor.
 *
 *   slipstream-borrow set LEVEL OPTION
 *   slipstream-borrow wake
 *
 * Reads struct request after struct request, and answers each with an errno number, or
 * 0 (int). Ends with standard input, or with its parent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As controller/adopt/borrow.ts writes it. */
struct request {
	int32_t process;
	int32_t descriptor;
	uint64_t identity; /* inode to set an option, SO_COOKIE to wake */
	unsigned char value[16]; /* of the option */
};

/* What is asked of every socket. */
struct mode {
	int (*act)(const struct mode *mode, const struct request *request, int socket);
	int level, option;
};

/* Returns 0, or an errno number. */
static int set_option(const struct mode *mode, const struct request *request, int socket)
{
	struct stat status;
	uint64_t cookie;
	socklen_t size = sizeof(cookie);

	if (fstat(socket, &status))
		return errno;
	/* The descriptor may be another file by now. */
	if (!S_ISSOCK(status.st_mode) || status.st_ino != request->identity)
		return ENOENT;
	/* A socket has no cookie before somebody asks for it (__sock_gen_cookie). */
	if (getsockopt(socket, SOL_SOCKET, SO_COOKIE, &cookie, &size))
		return errno;
	if (setsockopt(socket, mode->level, mode->option, request->value, sizeof(request->value)))
		return errno;
	return 0;
}

/* Sets an option to what it is. Returns 0, or an errno number. */
static int set_again(int socket, int level, int option)
{
	int value = 0;
	socklen_t size = sizeof(value);

	if (getsockopt(socket, level, option, &value, &size) ||
	    setsockopt(socket, level, option, &value, sizeof(value)))
		return errno;
	return 0;
}

/* Returns 0, or an errno number. */
static int wake(const struct mode *mode, const struct request *request, int socket)
{
	uint64_t cookie = 0;
	socklen_t size = sizeof(cookie);
	int error;

	(void)mode;
	if (getsockopt(socket, SOL_SOCKET, SO_COOKIE, &cookie, &size) ||
	    cookie != request->identity)
		return ENOENT;
	/*
	 * tcp_set_rcvlowat calls tcp_data_ready, do_tcp_setsockopt sk_write_space, whatever
	 * the values were before.
	 */
	error = set_again(socket, SOL_SOCKET, SO_RCVLOWAT);
	return error ? error : set_again(socket, IPPROTO_TCP, TCP_NOTSENT_LOWAT);
}

static int borrow(const struct mode *mode, const struct request *request)
{
	int process = (int)syscall(SYS_pidfd_open, request->process, 0);
	int result, socket;

	if (process < 0)
		return errno;
	socket = (int)syscall(SYS_pidfd_getfd, process, request->descriptor, 0);
	if (socket < 0) {
		result = errno;
	} else {
		result = mode->act(mode, request, socket);
		/* Should its owner have closed it meanwhile, this may wait as SO_LINGER says. */
		close(socket);
	}
	close(process);
	return result;
}

int main(int argc, char **argv)
{
	struct mode mode = {.act = NULL};
	struct request request;

	if (argc == 4 && strcmp(argv[1], "set") == 0)
		mode = (struct mode){set_option, atoi(argv[2]), atoi(argv[3])};
	else if (argc == 2 && strcmp(argv[1], "wake") == 0)
		mode.act = wake;
	if (!mode.act) {
		fputs("usage: slipstream-borrow set LEVEL OPTION | wake\n", stderr);
		return 2;
	}
	/* What ends the daemon is for the daemon alone, though a terminal or systemd tell both. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (fread(&request, sizeof(request), 1, stdin) == 1) {
		int result = borrow(&mode, &request);

		if (write(STDOUT_FILENO, &result, sizeof(result)) != sizeof(result))
			return 1;
	}
	return 0;
}
