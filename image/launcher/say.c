/* Messages: one line each, on stderr and, if the workload does not start, in the container's termination log. */
#define _GNU_SOURCE
#include "say.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char line[4096];

const char *program(void)
{
	return strcmp(program_invocation_short_name, "kcm") == 0 ? "kcm" : "cmk";
}

static void format_line(const char *format, va_list arguments)
{
	int used = snprintf(line, sizeof line, "%s: ", program());
	int more = vsnprintf(line + used, sizeof line - used - 1, format, arguments);
	if (more > (int)sizeof line - used - 2)
		more = (int)sizeof line - used - 2;
	/* A value from outside must not add lines or terminal sequences: no control characters, U+0080 to U+009F (two bytes) included. */
	for (unsigned char *c = (unsigned char *)line; *c; c++)
		if (*c < ' ' || *c == 127)
			*c = '?';
		else if (*c == 0xC2 && c[1] >= 0x80 && c[1] <= 0x9F)
			c[0] = c[1] = '?';
	strcpy(line + used + more, "\n");
}

/* A pipe that nobody reads must not end the process before it has said why it ends, nor with another code. */
static void put(int fd)
{
	struct sigaction ignored = {.sa_handler = SIG_IGN}, before;
	sigaction(SIGPIPE, &ignored, &before);
	ssize_t wrote = write(fd, line, strlen(line));
	(void)wrote; /* nobody listens, or the log is full: the exit code has to do */
	sigaction(SIGPIPE, &before, NULL);
}

void say(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	format_line(format, arguments);
	va_end(arguments);
	put(STDERR_FILENO);
}

void fail(int code, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	format_line(format, arguments);
	va_end(arguments);
	int log = open("/dev/termination-log", O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (log >= 0)
		put(log);
	if (log != STDERR_FILENO) /* the case when stderr is closed */
		put(STDERR_FILENO);
	exit(code);
}
