/*
 * A client of the agent: finds its socket, sends a request, reads the answer. While no agent answers (it restarts, or has not started) the
 * request is repeated, with jitter, until the deadline. A lost answer does no harm: the same process gets the same answer.
 */
#define _GNU_SOURCE
#include "ask.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "say.h"

#define FIRST_PAUSE_MS 20
#define LAST_PAUSE_MS 500
#define SOCKET_NAME "agent.sock"

static char reply[65536 + 1];
static char candidates[4][sizeof((struct sockaddr_un *)0)->sun_path];
static int candidate_count;
static int answering; /* index of the candidate to which the last connection was made */

static long now_ms(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000L + time.tv_nsec / 1000000;
}

/* Whether a socket can have this path. */
static int add_candidate(const char *directory, size_t length, const char *name)
{
	char *path = candidates[candidate_count];
	int used = snprintf(path, sizeof candidates[0], "%.*s%s%s", (int)length, directory, *name ? "/" : "", name);
	if (used >= (int)sizeof candidates[0])
		return 0;
	for (int i = 0; i < candidate_count; i++)
		if (strcmp(candidates[i], path) == 0)
			return 1;
	candidate_count++;
	return 1;
}

static void find_candidates(const char *conf_dir)
{
	const char *named = variable("SOCKET");
	candidate_count = 0; /* node-report --interval asks again and again, and a directory may have been renamed */
	if (named) {
		if (!add_candidate(named, strlen(named), ""))
			fail(EXIT_NEVER, "CMK_SOCKET=%.40s is longer than the path of a socket can be: %zu bytes", named,
			     sizeof candidates[0] - 1);
		return;
	}
	char self[4096];
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	if (length <= 0) { /* no procfs in this container */
		const char *started = (const char *)getauxval(AT_EXECFN);
		length = started ? snprintf(self, sizeof self, "%s", started) : 0;
	}
	if (length > 0 && length < (ssize_t)sizeof self) {
		self[length] = '\0';
		char *slash = strrchr(self, '/');
		if (slash)
			add_candidate(self, slash - self, SOCKET_NAME);
	}
	if (!add_candidate(conf_dir, strlen(conf_dir), SOCKET_NAME))
		fail(EXIT_NEVER, "--conf-dir=%.40s is longer than the directory of a socket can be: %zu bytes", conf_dir,
		     sizeof candidates[0] - 1 - strlen("/" SOCKET_NAME));
	add_candidate("/run/cmk", strlen("/run/cmk"), SOCKET_NAME);
}

static void set(const char *name, const char *value)
{
	if (setenv(name, value, 1) != 0)
		fail(EXIT_LATER, "cannot set %s: %s", name, strerror(errno));
}

/* The agent gives the path of a file relative to its socket: it does not know where the directory of both is mounted. */
static void set_beside_socket(const char *name, const char *value)
{
	static char path[sizeof candidates[0] + 256];
	const char *slash = strrchr(candidates[answering], '/');
	int length = slash ? (int)(slash - candidates[answering]) : 0;
	snprintf(path, sizeof path, "%.*s%s%.200s", length, candidates[answering], slash ? "/" : "", value);
	set(name, path);
}

/* A connected socket, or -1 when none of the candidates answers. */
static int connect_agent(void)
{
	for (int i = 0; i < candidate_count; i++) {
		struct sockaddr_un address = {.sun_family = AF_UNIX};
		strcpy(address.sun_path, candidates[i]);
		int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0)
			fail(EXIT_LATER, "cannot make a socket: %s", strerror(errno));
		if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
			answering = i;
			return fd;
		}
		int error = errno;
		close(fd);
		if (error == EACCES || error == EPERM)
			fail(EXIT_NEVER, "may not connect to %s: %s", candidates[i], strerror(error));
	}
	return -1;
}

/* One packet into reply: its length, 0 at the end of the conversation, -1 with errno when it breaks (ETIMEDOUT: at the deadline). */
static ssize_t receive(int fd, long deadline)
{
	for (;;) {
		ssize_t length = recv(fd, reply, sizeof reply - 1, 0);
		if (length >= 0) {
			reply[length] = '\0';
			return length;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -1;
		long left = deadline - now_ms();
		if (left <= 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		poll(&wait, 1, (int)(left < 3600000 ? left : 3600000));
	}
}

static void pause_ms(long milliseconds)
{
	struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
	nanosleep(&time, NULL);
}

static void give_up(long whole)
{
	static char paths[sizeof candidates + 16];
	for (int i = 0; i < candidate_count; i++) {
		strcat(paths, i ? ", " : "");
		strcat(paths, candidates[i]);
	}
	fail(EXIT_LATER, "no cmk agent answered at %s within %g s", paths, whole / 1000.0);
}

/* Leaves the first packet of the answer in reply and returns the socket, from which more may follow. Adds "timeout=" to the request. */
static int ask(const char *request, long deadline, long whole)
{
	static char packet[4096];
	long pause = FIRST_PAUSE_MS;
	for (;;) {
		int fd = connect_agent();
		if (fd >= 0) {
			long left = deadline - now_ms();
			int length = snprintf(packet, sizeof packet, "%s\ntimeout=%ld", request, left > 0 ? left : 0);
			if (send(fd, packet, length, MSG_NOSIGNAL) == length) {
				ssize_t got = receive(fd, deadline);
				if (got > 0)
					return fd;
				if (got < 0 && errno == ETIMEDOUT)
					give_up(whole);
			}
			close(fd);
		}
		long left = deadline - now_ms();
		if (left <= 0)
			give_up(whole);
		/* Jitter, for all containers of a node lose the same agent at once. */
		long jittered = pause / 2 + (now_ms() * 7919 + getpid() * 104729L) % (pause / 2 + 1);
		pause_ms(jittered < left ? jittered : left);
		pause = pause * 2 < LAST_PAUSE_MS ? pause * 2 : LAST_PAUSE_MS;
	}
}

/* Returns the part of the answer after its first line. Ends the process if the answer is a refusal. */
static char *body_of_reply(void)
{
	char *rest = strchr(reply, '\n');
	if (rest)
		*rest++ = '\0';
	if (strcmp(reply, "cmk/1 ok") == 0)
		return rest ? rest : "";
	const char *reason = rest && *rest ? rest : "refused";
	if (strcmp(reply, "cmk/1 error 75") == 0)
		fail(EXIT_LATER, "%s", reason);
	if (strcmp(reply, "cmk/1 error 78") == 0)
		fail(EXIT_NEVER, "%s", reason);
	fail(EXIT_NEVER, "the agent answered \"%.40s\", which this launcher does not understand", reply);
}

void ask_isolate(const struct isolate *what)
{
	long cores = asked_cores();
	long whole = timeout_ms(), deadline = now_ms() + whole;
	find_candidates(what->conf_dir);

	char request[512];
	snprintf(request, sizeof request, "cmk/1 isolate\npool=%s\ncores=%ld\nsocket=%d\naffinity=%d\non-move=%s", what->pool, cores,
		 what->socket, what->affinity, what->on_move);
	close(ask(request, deadline, whole));
	for (char *line = body_of_reply(), *next; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		char *value = strchr(line, '=');
		if (!value || strncmp(line, "CMK_", 4) != 0)
			continue;
		*value++ = '\0';
		if (strcmp(line, "CMK_STATE") == 0)
			set_beside_socket(line, value);
		else
			set(line, value);
		if (strcmp(line, "CMK_CPUS_ASSIGNED") == 0 && strcmp(program(), "kcm") == 0)
			set("KCM_CPUS_ASSIGNED", value);
	}
}

/* The number after "length=" in the first packet of an answer; -1 from an agent older than this key: its answer ends where the connection does. */
static long length_of_answer(const char *body)
{
	for (const char *line = body; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		if (strncmp(line, "length=", 7) == 0)
			return strspn(line + 7, "0123456789") == strcspn(line + 7, "\n") && line[7] ? strtol(line + 7, NULL, 10) : -1;
	return -1;
}

static void print(const char *text, long length)
{
	for (ssize_t done = 0, wrote; done < length; done += wrote) {
		wrote = write(STDOUT_FILENO, text + done, length - done);
		if (wrote < 0 && errno == EINTR)
			wrote = 0;
		else if (wrote < 0)
			fail(EXIT_LATER, "cannot write: %s", strerror(errno));
	}
}

void ask_show(const char *request, const char *conf_dir)
{
	long whole = timeout_ms(), deadline = now_ms() + whole;
	find_candidates(conf_dir);
	int fd = ask(request, deadline, whole);
	long length = length_of_answer(body_of_reply()), size = 0;
	char *text = NULL;
	ssize_t got;
	while ((got = receive(fd, deadline)) > 0) {
		text = realloc(text, size + got);
		if (!text)
			fail(EXIT_LATER, "cannot hold the agent's answer: %s", strerror(errno));
		memcpy(text + size, reply, got);
		size += got;
	}
	close(fd);
	if (length >= 0 && (got < 0 || size != length))
		fail(EXIT_LATER, "the answer of the agent at %s broke off after %ld of %ld bytes; try again", candidates[answering], size, length);
	if (got < 0)
		fail(EXIT_LATER, "the answer of the agent at %s broke off after %ld bytes; try again", candidates[answering], size);
	print(text, size);
	free(text);
}
