/* What bench size runs on its nodes.
 *
 * size sleep               for each line "COUNT CPU PROCS" of input, so many processes that sleep in the cgroup of this file, on one CPU or,
 *                          for -1, on all; prints their pids. At the end of the input all of them end, then this one
 * size spawn SOCKET TEXT   send a request while threads are started all the time: by chains of threads, each of which starts the next and
 *                          ends, and by threads that start others that sleep for a while; prints the reply
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHAINS 2
#define STARTERS 2
#define PAUSE_US 20
#define LIFE_US 200000 /* some thousand live at a time; more would take pids that the machine needs */
#define MOST_REPLY 65536

static pthread_attr_t attributes;

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* All later children are in this cgroup too: to join it once is quicker than to do so from each. */
static void join(const char *procs) {
  int file = open(procs, O_WRONLY | O_CLOEXEC);
  if (file < 0 || write(file, "0", 1) != 1)
    die(procs);
  close(file);
}

static void child(pid_t parent, int cpu, int ready) {
  signal(SIGTERM, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent)
    _exit(0);
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu >= 0)
    CPU_SET(cpu, &set);
  const char *outcome = cpu < 0 || !sched_setaffinity(0, sizeof set, &set) ? "+" : "-";
  if (write(ready, outcome, 1) != 1)
    _exit(1);
  close(0);
  close(1);
  for (;;)
    pause();
}

static void sleepers(void) {
  char line[4200], procs[4096], outcome;
  int count, cpu, ready[2];
  pid_t parent = getpid(), pid;
  if (pipe2(ready, O_CLOEXEC))
    die("pipe2");
  signal(SIGTERM, SIG_IGN);
  signal(SIGCHLD, SIG_IGN); /* the kernel reaps: a zombie would be one more process */
  while (fgets(line, sizeof line, stdin)) {
    if (sscanf(line, "%d %d %4095s", &count, &cpu, procs) != 3)
      die(line);
    join(procs);
    for (int number = 0; number < count; number++) {
      if ((pid = fork()) < 0)
        die("fork");
      if (!pid)
        child(parent, cpu, ready[1]);
      printf("%d ", pid);
      fflush(stdout); /* or the next child has it in its buffer too */
      if (read(ready[0], &outcome, 1) != 1 || outcome != '+')
        die("affinity");
    }
    printf("\n");
    fflush(stdout);
  }
  kill(0, SIGTERM); /* the group is that of this process and its children, whatever their pids are by now */
  while (wait(NULL) > 0 || errno == EINTR)
    ;
}

static void *sleeping(void *unused) {
  usleep(LIFE_US);
  return unused;
}

static void *chain(void *unused) {
  pthread_t thread;
  while (pthread_create(&thread, &attributes, chain, NULL))
    usleep(PAUSE_US);
  return unused;
}

static void *starter(void *unused) {
  pthread_t thread;
  for (;;) {
    if (pthread_create(&thread, &attributes, sleeping, NULL))
      usleep(LIFE_US);
    usleep(PAUSE_US);
  }
  return unused;
}

static void spawn(const char *address, const char *request) {
  pthread_t thread;
  static char reply[MOST_REPLY];
  struct sockaddr_un agent = {.sun_family = AF_UNIX};
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 65536);
  for (int number = 0; number < CHAINS + STARTERS; number++)
    if (pthread_create(&thread, &attributes, number < CHAINS ? chain : starter, NULL))
      die("pthread_create");
  usleep(LIFE_US); /* from then on as many end as are started */
  strncpy(agent.sun_path, address, sizeof agent.sun_path - 1);
  int client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (connect(client, (struct sockaddr *)&agent, sizeof agent) || send(client, request, strlen(request), 0) < 0)
    die("agent");
  if (recv(client, reply, sizeof reply - 1, 0) < 0)
    die("recv");
  printf("%s\n", reply);
  fflush(stdout);
  _exit(0);
}

int main(int count, char **words) {
  if (count == 2 && !strcmp(words[1], "sleep"))
    sleepers();
  else if (count == 4 && !strcmp(words[1], "spawn"))
    spawn(words[2], words[3]);
  else
    return 2;
  return 0;
}
