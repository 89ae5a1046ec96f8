/* Messages: one line each, on stderr and, when the workload does not start, in the container's termination log. */
#include "say.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char line[4096];

static void put(const char *format, va_list arguments)
{
	int used = snprintf(line, sizeof line, "cmk: ");
	int more = vsnprintf(line + used, sizeof line - used - 1, format, arguments);
	if (more > (int)sizeof line - used - 2)
		more = (int)sizeof line - used - 2;
	/* A name from outside must not smuggle terminal sequences or further lines in. */
	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 127)
			*c = '?';
	strcpy(line + used + more, "\n");
	if (write(STDERR_FILENO, line, strlen(line)) < 0)
		return; /* nobody listens: the exit code has to do */
}

void say(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	put(format, arguments);
	va_end(arguments);
}

void fail(int code, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	put(format, arguments);
	va_end(arguments);
	int log = open("/dev/termination-log", O_WRONLY | O_APPEND | O_CLOEXEC);
	if (log >= 0 && write(log, line, strlen(line)) < 0)
		exit(code); /* the log is full: stderr has said it */
	exit(code);
}
