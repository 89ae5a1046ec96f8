/*
 * The cmk of containers: isolate, describe, node-report. It is static, so that it runs in any image, and it has no state: the agent
 * allocates, pins and records; this program asks, sets variables and becomes the workload.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ask.h"
#include "grammar.h"
#include "run.h"
#include "say.h"

static const char usage[] =
	"cmk isolate --pool=POOL [OPTIONS] COMMAND [-- ARGS...]   run COMMAND on CPUs of a pool\n"
	"cmk describe                                             pools, CPU lists and tasks of this node as JSON\n"
	"cmk node-report [--interval=SECONDS]                     the same with checks and topology, again and again\n"
	"cmk --version | --help\n"
	"describe and node-report take --conf-dir=DIR: also look for the agent's socket in DIR (default /etc/cmk, for kcm /etc/kcm)\n";

static const char isolate_usage[] =
	"cmk isolate --pool=POOL [OPTIONS] COMMAND [-- ARGS...]\n"
	"Run COMMAND on CPUs of a pool: the process keeps its pid, and its CPUs are released when it ends.\n"
	"The first -- ends the options. Before COMMAND or directly after it, cmk removes it; elsewhere it is passed on to COMMAND.\n"
	"\n"
	"  --pool=POOL       exclusive, shared, infra or another pool of this node\n"
	"  --socket-id=NUM   only CPUs of this socket; -1 (default) is any\n"
	"  --no-affinity     take the CPUs but leave the affinity alone: COMMAND places itself by CMK_CPUS_ASSIGNED\n"
	"  --wait            stay as parent: forward signals, reap, return the status of COMMAND\n"
	"  --on-move=HOW     what happens when the pools change: follow (default), pinned (such a change is refused), notify (CMK_STATE names a\n"
	"                    file with its current CPUs) or notify:SIGNAL (the signal is sent as well)\n"
	"  --conf-dir=DIR    also look for the agent's socket in DIR (default /etc/cmk, for kcm /etc/kcm)\n"
	"  --namespace, --install-dir   accepted without effect\n"
	"\n"
	"Reads CMK_NUM_CORES (lists to take from an exclusive pool, default 1), CMK_LOCK_TIMEOUT (seconds to wait, default 30), CMK_SOCKET.\n"
	"Sets CMK_CPUS_ASSIGNED, CMK_CPUS_ASSIGNED_MASK, CMK_CPUS_SHARED, CMK_CPUS_INFRA; with notify CMK_STATE.\n"
	"Exit: that of COMMAND; 75 try again later, 78 will never work, 126 and 127 as of a shell.\n";

static const struct {
	const char *command, *instead;
} moved[] = {
	{"init", "the agent lays out the pools: set pools.* in the chart's values"},
	{"discover", "the agent sets label, taint and resource of the node"},
	{"reconcile", "the agent releases CPUs the moment their owner ends"},
	{"install", "the agent installs this launcher"},
	{"uninstall", "take the node out of the chart's selection"},
	{"cluster-init", "helm install prepares the nodes"},
	{"webhook", "it runs in the cluster, from the image"},
	{"reconfigure", "helm upgrade with other pools.*"},
	{"reconfigure_setup", "helm upgrade with other pools.*"},
	{"reaffinitize", "the agent moves tasks itself"},
	{"agent", "it runs in the image, not in the launcher"},
};

static int put(const char *text)
{
	return fputs(text, stdout) < 0 || fflush(stdout) != 0;
}

static int isolate(int argc, char **argv)
{
	struct isolate what = parse_isolate(argc, argv);
	if (what.help)
		return put(isolate_usage);
	if (what.wait)
		stay_as_parent();
	ask_isolate(&what);
	run(what.command);
}

/* The first process of a container gets no signal that it has no handler for. */
static void leave(int signal)
{
	_exit(128 + signal);
}

static int show(int argc, char **argv)
{
	struct show what = parse_show(argc, argv);
	if (what.help)
		return put(usage);
	char request[64];
	snprintf(request, sizeof request, "cmk/1 %s%s", argv[0], strcmp(program(), "kcm") == 0 ? "\nnames=kcm" : "");
	if (what.interval)
		signal(SIGTERM, leave);
	do
		ask_show(request, what.conf_dir);
	while (what.interval && sleep(what.interval) == 0);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		return put(usage);
	if (strcmp(argv[1], "--version") == 0)
		return printf("%s " CMK_VERSION "\n", program()) < 0 || fflush(stdout) != 0;
	if (strcmp(argv[1], "isolate") == 0)
		return isolate(argc - 2, argv + 2);
	if (strcmp(argv[1], "describe") == 0 || strcmp(argv[1], "node-report") == 0)
		return show(argc - 1, argv + 1);
	for (unsigned i = 0; i < sizeof moved / sizeof moved[0]; i++)
		if (strcmp(argv[1], moved[i].command) == 0)
			fail(EXIT_NEVER, "%s is not done from a container: %s", argv[1], moved[i].instead);
	fail(EXIT_NEVER, "unknown command %s; see cmk --help", argv[1]);
}
