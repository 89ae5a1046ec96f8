/*
 * flood SOCKET THREADS WAY [REQUEST]: until killed, each thread
 *   connect   connects and hangs up
 *   try       does the same without ever waiting for room in the queue of connections
 *   send      connects, sends REQUEST, and hangs up
 *   ask       connects, sends REQUEST, reads the whole reply, and hangs up
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static const char *request;
static int reads, flags;

static void *flood(void *unused)
{
	char reply[65536];

	for (;;) {
		int fd = socket(AF_UNIX, SOCK_SEQPACKET | flags, 0);

		if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && request) {
			send(fd, request, strlen(request), MSG_NOSIGNAL);
			while (reads && recv(fd, reply, sizeof reply, 0) > 0)
				;
		}
		close(fd);
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_attr_t small;
	pthread_t thread;

	if (argc < 4 || strlen(argv[1]) >= sizeof address.sun_path)
		return 2;
	strcpy(address.sun_path, argv[1]);
	flags = strcmp(argv[3], "try") == 0 ? SOCK_NONBLOCK : 0;
	reads = strcmp(argv[3], "ask") == 0;
	request = argc > 4 ? argv[4] : NULL;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 256 * 1024);
	for (int i = 0; i < atoi(argv[2]); i++)
		if (pthread_create(&thread, &small, flood, NULL) != 0)
			return 1;
	for (;;)
		pause();
}
