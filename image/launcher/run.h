/* Becoming the workload. */
#ifndef RUN_H
#define RUN_H

/* Replaces this process by the command; 127 when it is not found, 126 when it cannot be run. */
void run(char **command) __attribute__((noreturn));

/* Forks and returns in the child. The parent stays: forwards signals, reaps, ends as the child ended. */
void stay_as_parent(void);

#endif
