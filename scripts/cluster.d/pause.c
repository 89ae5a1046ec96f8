/* The process that holds a pod's namespaces: sleeps, reaps, and ends when asked. */
#include <signal.h>
#include <unistd.h>

static void end(int number)
{
	(void)number;
	_exit(0);
}

int main(void)
{
	signal(SIGTERM, end);
	signal(SIGINT, end);
	signal(SIGCHLD, SIG_IGN); /* ignored children are reaped by the kernel */
	for (;;)
		pause();
}
