/* Starts the workload: by exec, so that it is the process that the agent has pinned; with --wait in a child of a parent that waits. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"

static const int forwarded[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH};
#define FORWARDED (int)(sizeof forwarded / sizeof forwarded[0])

void run(char **command)
{
	execvp(command[0], command);
	int code = errno == ENOENT ? 127 : 126;
	if (code == 127 && strchr(command[0], ' '))
		fail(code, "no program is named \"%s\"; for a shell line write: sh -- -c '%s'", command[0], command[0]);
	fail(code, "cannot run %s: %s", command[0], strerror(errno));
}

void stay_as_parent(void)
{
	sigset_t waited, before;
	/* Inherited as ignored, no end of a child would be seen. The workload inherits it as it was. */
	struct sigaction usual = {.sa_handler = SIG_DFL}, inherited;
	sigaction(SIGCHLD, &usual, &inherited);
	sigemptyset(&waited);
	sigaddset(&waited, SIGCHLD);
	for (int i = 0; i < FORWARDED; i++)
		sigaddset(&waited, forwarded[i]);
	sigprocmask(SIG_BLOCK, &waited, &before);
	pid_t child = fork();
	if (child < 0)
		fail(EXIT_LATER, "cannot fork: %s", strerror(errno));
	if (child == 0) {
		sigaction(SIGCHLD, &inherited, NULL);
		sigprocmask(SIG_SETMASK, &before, NULL);
		return;
	}
	for (;;) {
		int number, status;
		if (sigwait(&waited, &number) != 0)
			continue;
		if (number != SIGCHLD) {
			kill(child, number);
			continue;
		}
		/* Pid 1 of a container inherits every orphan: reap all of them, and exit when the own child has ended. */
		for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;)
			if (ended == child)
				_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	}
}
