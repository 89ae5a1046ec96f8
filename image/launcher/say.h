/* Messages to the user, and the exit codes that go with them. */
#ifndef SAY_H
#define SAY_H

enum { EXIT_LATER = 75, EXIT_NEVER = 78 }; /* sysexits: EX_TEMPFAIL, EX_CONFIG */

/* The name that the program was called by: "cmk", or "kcm" with its older words. */
const char *program(void);

/* One line "cmk: ..." on stderr. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, also into the container's termination log, then exit. */
void fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

#endif
