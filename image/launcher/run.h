/* Starts the workload. */
#ifndef RUN_H
#define RUN_H

/* Replaces this process by the command; exits with 127 if it is not found, with 126 if it cannot be run. */
void run(char **command) __attribute__((noreturn));

/* Forks and returns in the child. The parent forwards signals, reaps, and exits with the status of the child. */
void stay_as_parent(void);

#endif
