/*
 * A client of the agent: finds its socket, sends a request, reads the answer. While no agent answers (it restarts, or has not started) the
 * request is repeated, with jitter, until the deadline. A lost answer does no harm: the same process gets the same answer.
 */
#define _GNU_SOURCE
#include "ask.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "say.h"

#define FIRST_PAUSE_MS 20
#define LAST_PAUSE_MS 500
#define QUEUE_MS 500 /* at one candidate */
#define MOMENT_MS 1
#define SOCKET_NAME "agent.sock"

#define LONGEST_PACKET 65536
#define LONGEST_ANSWER (64L << 20)
#define OVERFLOW_UID 65534

static char reply[LONGEST_PACKET + 2]; /* room for one byte too many, which tells that a packet was cut, and for the end */
static ssize_t reply_length;
static char candidates[4][sizeof((struct sockaddr_un *)0)->sun_path];
static int candidate_count;
static int answering; /* index of the candidate to which the last connection was made */
static int strange = -1; /* index of the last candidate that was not root's, and whose it was */
static uid_t stranger;

static long now_ms(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000L + time.tv_nsec / 1000000;
}

static void pause_ms(long milliseconds)
{
	struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
	nanosleep(&time, NULL);
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
	strange = -1;
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
	static char path[sizeof candidates[0] + sizeof reply];
	const char *slash = strrchr(candidates[answering], '/');
	int length = slash ? (int)(slash - candidates[answering]) : 0;
	snprintf(path, sizeof path, "%.*s%s%s", length, candidates[answering], slash ? "/" : "", value);
	set(name, path);
}

/*
 * Whether a uid can be that of root of the host. A user namespace in which that has no number (a pod with hostUsers: false) shows it as the
 * overflow uid, like every other user from outside.
 */
static int may_be_root(uid_t uid)
{
	if (uid != OVERFLOW_UID)
		return uid == 0;
	char map[4096];
	int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, map, sizeof map - 1);
	if (fd >= 0)
		close(fd);
	if (length < 0)
		return 0;
	map[length] = '\0';
	for (const char *line = map; line; line = strchr(line + 1, '\n')) {
		char *outside; /* what is inside comes first, how many last */
		strtoul(line, &outside, 10);
		if (outside != line && strtoul(outside, NULL, 10) == 0)
			return 0;
	}
	return 1;
}

/* Anybody may have put a socket of his own into a directory that he may write: only root's can be the agent. */
static int is_strange(int candidate, uid_t uid)
{
	if (may_be_root(uid))
		return 0;
	strange = candidate;
	stranger = uid;
	return 1;
}

/*
 * connect(2). While the queue of connections to the agent is full, take two chances in turn: wait for a moment in the kernel, which wakes those
 * who wait there one by one, and come again after a moment. The first wins against others who try all the time without waiting, the second
 * against hundreds who wait, whose turns would come before; either alone loses for seconds against the other kind.
 */
static int connect_in_turn(int fd, const struct sockaddr_un *address, long deadline)
{
	const struct timeval moment = {.tv_usec = MOMENT_MS * 1000};
	long end = now_ms() + QUEUE_MS < deadline ? now_ms() + QUEUE_MS : deadline;
	int flags = fcntl(fd, F_GETFL);
	for (int waits = 0; connect(fd, (const struct sockaddr *)address, sizeof *address) != 0;) {
		if (errno != EAGAIN || now_ms() >= end)
			return -1;
		waits = !waits;
		if (!waits)
			pause_ms(MOMENT_MS);
		if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &moment, sizeof moment) != 0 ||
		    fcntl(fd, F_SETFL, waits ? flags & ~O_NONBLOCK : flags) != 0)
			return -1;
	}
	return fcntl(fd, F_SETFL, flags);
}

/* A connected socket, or -1 when none of the candidates answers. */
static int connect_agent(long deadline)
{
	for (int i = 0; i < candidate_count; i++) {
		struct sockaddr_un address = {.sun_family = AF_UNIX};
		strcpy(address.sun_path, candidates[i]);
		int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd >= 0 && fd <= STDERR_FILENO) { /* which is closed: what is printed must not go to the agent */
			int low = fd;
			fd = fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
			close(low);
		}
		if (fd < 0)
			fail(EXIT_LATER, "cannot make a socket: %s", strerror(errno));
		if (connect_in_turn(fd, &address, deadline) == 0) {
			struct ucred peer;
			socklen_t size = sizeof peer;
			if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && !is_strange(i, peer.uid)) {
				answering = i;
				return fd;
			}
			close(fd);
			continue;
		}
		int error = errno;
		close(fd);
		struct stat file;
		if ((error == EACCES || error == EPERM) && (lstat(candidates[i], &file) != 0 || !is_strange(i, file.st_uid)))
			fail(EXIT_NEVER, "may not connect to %s: %s", candidates[i], strerror(error));
	}
	return -1;
}

/* One packet into reply: its length, 0 at the end of the conversation, -1 with errno when it breaks (ETIMEDOUT: at the deadline). */
static ssize_t receive(int fd, long deadline)
{
	for (;;) {
		ssize_t length = recv(fd, reply, LONGEST_PACKET + 1, 0);
		if (length >= 0) {
			reply[length] = '\0';
			return reply_length = length;
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

static void give_up(long whole)
{
	static char paths[sizeof candidates + 16];
	for (int i = 0; i < candidate_count; i++) {
		strcat(paths, i ? ", " : "");
		strcat(paths, candidates[i]);
	}
	if (strange >= 0)
		fail(EXIT_LATER, "no cmk agent answered at %s within %g s; the socket at %s belongs to user %lu instead of root", paths, whole / 1000.0,
		     candidates[strange], (unsigned long)stranger);
	fail(EXIT_LATER, "no cmk agent answered at %s within %g s", paths, whole / 1000.0);
}

/* Leaves the first packet of the answer in reply and returns the socket, from which more may follow. Adds "timeout=" to the request. */
static int ask(const char *request, long deadline, long whole)
{
	static char packet[4096];
	long pause = FIRST_PAUSE_MS;
	for (;;) {
		int fd = connect_agent(deadline);
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
	if (reply_length > LONGEST_PACKET || strlen(reply) != (size_t)reply_length)
		fail(EXIT_LATER, "the answer of the agent at %s has a NUL byte, or more than %d bytes; try again", candidates[answering],
		     LONGEST_PACKET);
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

/* All packets that follow the first one, until the conversation ends; 0 if it ends too early, and then *size is how much came. */
static int read_answer(int fd, long deadline, long length, char **text, long *size)
{
	ssize_t got;
	*size = 0;
	while ((got = receive(fd, deadline)) > 0) {
		if (got > LONGEST_PACKET || *size + got > LONGEST_ANSWER)
			fail(EXIT_LATER, "the answer of the agent at %s is longer than %ld bytes", candidates[answering], LONGEST_ANSWER);
		*text = realloc(*text, *size + got);
		if (!*text)
			fail(EXIT_LATER, "cannot hold the agent's answer: %s", strerror(errno));
		memcpy(*text + *size, reply, got);
		*size += got;
	}
	return got == 0 && (length < 0 || *size == length);
}

void ask_show(const char *request, const char *conf_dir)
{
	long whole = timeout_ms(), deadline = now_ms() + whole, length, size;
	char *text = NULL;
	find_candidates(conf_dir);
	for (;;) {
		int fd = ask(request, deadline, whole);
		length = length_of_answer(body_of_reply());
		int is_whole = read_answer(fd, deadline, length, &text, &size);
		close(fd);
		if (is_whole)
			break;
		if (deadline - now_ms() > LAST_PAUSE_MS) {
			pause_ms(LAST_PAUSE_MS); /* it ended: its successor answers */
			continue;
		}
		if (length >= 0)
			fail(EXIT_LATER, "the answer of the agent at %s broke off after %ld of %ld bytes; try again", candidates[answering], size,
			     length);
		fail(EXIT_LATER, "the answer of the agent at %s broke off after %ld bytes; try again", candidates[answering], size);
	}
	print(text, size);
	free(text);
}
