/*
 * Command lines of every CMK version: options before or after the command, by unique prefix, values joined by '=' or apart. The first
 * "--" ends them; directly after the command it is cmk's, later it is a word of the command. Further than they went: "-- command args"
 * and, after the command, options that cmk does not know belong to the command.
 */
#include "grammar.h"

#include <stdlib.h>
#include <string.h>

#include "say.h"

#define SEE "; see cmk isolate --help"

enum option { POOL, SOCKET_ID, CONF_DIR, NAMESPACE, INSTALL_DIR, NO_AFFINITY, ON_MOVE, WAIT, HELP, OPTIONS };

static const struct {
	const char *name;
	int has_value;
} known[OPTIONS] = {
	[POOL] = {"--pool", 1},
	[SOCKET_ID] = {"--socket-id", 1},
	[CONF_DIR] = {"--conf-dir", 1},
	[NAMESPACE] = {"--namespace", 1},
	[INSTALL_DIR] = {"--install-dir", 1},
	[NO_AFFINITY] = {"--no-affinity", 0},
	[ON_MOVE] = {"--on-move", 1},
	[WAIT] = {"--wait", 0},
	[HELP] = {"--help", 0},
};

/* Index of the option that the text up to '=' names, wholly or by a prefix that fits no other; -1 when there is none. */
static int find_option(const char *text)
{
	size_t length = strcspn(text, "=");
	int found = -1;
	if (strcmp(text, "-h") == 0)
		return HELP;
	if (length < 3 || strncmp(text, "--", 2) != 0)
		return -1;
	for (int i = 0; i < OPTIONS; i++) {
		if (strncmp(known[i].name, text, length) != 0)
			continue;
		if (known[i].name[length] == '\0')
			return i;
		if (found >= 0)
			fail(EXIT_NEVER, "option %s could be %s or %s" SEE, text, known[found].name, known[i].name);
		found = i;
	}
	return found;
}

static int to_socket(const char *text)
{
	char *end;
	long number = strtol(text, &end, 10);
	if (*text == '\0' || *end != '\0' || number < -1 || number > 65535)
		fail(EXIT_NEVER, "--socket-id=%s is no socket number; -1 means any" SEE, text);
	return (int)number;
}

static void set(struct isolate *parsed, enum option which, const char *value)
{
	switch (which) {
	case POOL:
		parsed->pool = value;
		break;
	case SOCKET_ID:
		parsed->socket = to_socket(value);
		break;
	case CONF_DIR:
		parsed->conf_dir = value;
		break;
	case NO_AFFINITY:
		parsed->affinity = 0;
		break;
	case ON_MOVE:
		parsed->on_move = value;
		break;
	case WAIT:
		parsed->wait = 1;
		break;
	case HELP:
		parsed->help = 1;
		break;
	default:
		break; /* --namespace and --install-dir mean nothing to a workload any more */
	}
}

struct isolate parse_isolate(int argc, char **argv)
{
	struct isolate parsed = {.conf_dir = "/etc/cmk", .socket = -1, .affinity = 1, .on_move = ""};
	int seen[OPTIONS] = {0};
	int words = 0, i = 0;

	for (; i < argc && !parsed.help; i++) {
		char *word = argv[i];
		if (strcmp(word, "--") == 0) {
			if (words < 2)
				i++;
			break;
		}
		if (word[0] != '-' || word[1] == '\0') {
			argv[words++] = word;
			continue;
		}
		int option = find_option(word);
		if (option < 0) {
			if (words > 0)
				break;
			fail(EXIT_NEVER, "unknown option %s" SEE, word);
		}
		if (seen[option]++)
			fail(EXIT_NEVER, "%s is given twice" SEE, known[option].name);
		const char *value = strchr(word, '=');
		if (known[option].has_value && !value) {
			if (++i == argc)
				fail(EXIT_NEVER, "%s needs a value" SEE, known[option].name);
			value = argv[i];
		} else if (value) {
			if (!known[option].has_value)
				fail(EXIT_NEVER, "%s takes no value" SEE, known[option].name);
			value++;
		}
		set(&parsed, option, value);
	}
	while (i < argc && !parsed.help)
		argv[words++] = argv[i++];
	argv[words] = NULL;
	parsed.command = argv;
	if (parsed.help)
		return parsed;
	if (!parsed.pool)
		fail(EXIT_NEVER, "--pool is missing" SEE);
	if (parsed.pool[0] == '\0' || strlen(parsed.pool) > 253 || strpbrk(parsed.pool, "\n\r=\t "))
		fail(EXIT_NEVER, "--pool=%.40s is no pool name" SEE, parsed.pool);
	if (strlen(parsed.on_move) > 40 || strpbrk(parsed.on_move, "\n\r=\t "))
		fail(EXIT_NEVER, "--on-move=%.40s is none of follow, pinned, notify, notify:SIGNAL" SEE, parsed.on_move);
	if (words == 0)
		fail(EXIT_NEVER, "no command to run" SEE);
	return parsed;
}
