/* The command line of "cmk isolate". */
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

/* Reads what follows "isolate"; argv is reordered in place. Ends the process with a line when it cannot be read. */
struct isolate parse_isolate(int argc, char **argv);

#endif
