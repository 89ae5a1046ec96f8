/* The command lines of "cmk isolate", "describe" and "node-report", and the environment variables that they read. */
#ifndef GRAMMAR_H
#define GRAMMAR_H

struct isolate {
	const char *pool;
	const char *conf_dir;
	int socket;
	int affinity;
	int wait;
	const char *on_move; /* as given; the agent knows what it means */
	int help;
	char **command; /* NULL-terminated: program and its arguments */
};

struct show {
	const char *conf_dir;
	long interval; /* seconds between reports; 0 is one report */
	int help;
};

/* Reads what follows "isolate"; argv is reordered in place. Ends the process with a line when it cannot be read. */
struct isolate parse_isolate(int argc, char **argv);

/* Reads "describe" or "node-report" and what follows it. Ends the process with a line when it cannot be read. */
struct show parse_show(int argc, char **argv);

/* The value of CMK_name; when it is unset or empty, that of KCM_name; NULL without either. */
const char *variable(const char *name);

/* CMK_NUM_CORES: how many CPU lists of an exclusive pool are wanted. Ends the process with a line when it is not a valid number. */
long asked_cores(void);

/* CMK_LOCK_TIMEOUT in milliseconds. Ends the process with a line when it is not a valid number. */
long timeout_ms(void);

#endif
