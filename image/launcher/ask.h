/* The agent's socket and protocol cmk/1. */
#ifndef ASK_H
#define ASK_H

#include "grammar.h"

/* Asks for CPUs and sets the CMK_ variables of the answer. Ends the process with a line if the agent refuses or does not answer. */
void ask_isolate(const struct isolate *what);

/* Prints the agent's answer to a read-only request on stdout. Ends the process with a line when there is none or when it breaks off. */
void ask_show(const char *request, const char *conf_dir);

#endif
