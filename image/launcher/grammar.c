/*
 * The command lines of every CMK version: options before or after the command, by unique prefix, values joined by '=' or as the next
 * word. The first "--" ends the options; directly after the command cmk removes it, later it is a word of the command. CMK refused two
 * forms that are accepted here: "-- command args", and after the command unknown options, which belong to the command.
 */
#include "grammar.h"

#include <stdio.h>
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

/* Index of the option whose name, or the only option whose prefix, is the text up to '='; -1 if there is none. */
static int find_option(const char *text)
{
	size_t length = strcspn(text, "=");
	int match = -1;
	if (strcmp(text, "-h") == 0)
		return HELP;
	if (length < 3 || strncmp(text, "--", 2) != 0)
		return -1;
	for (int i = 0; i < OPTIONS; i++) {
		if (strncmp(known[i].name, text, length) != 0)
			continue;
		if (known[i].name[length] == '\0')
			return i;
		if (match >= 0)
			fail(EXIT_NEVER, "option %s could be %s or %s" SEE, text, known[match].name, known[i].name);
		match = i;
	}
	return match;
}

/* The value of decimal digits, without sign or blank; -1 for any other text and for values above most. */
static long number(const char *text, long most)
{
	if (*text == '\0' || text[strspn(text, "0123456789")] != '\0')
		return -1;
	long value = strtol(text, NULL, 10); /* LONG_MAX when there are too many digits */
	return value <= most ? value : -1;
}

static int to_socket(const char *text)
{
	long socket = number(text, 65535);
	if (socket < 0 && strcmp(text, "-1") != 0)
		fail(EXIT_NEVER, "--socket-id=%s is not a valid socket number; -1 means any" SEE, text);
	return (int)socket;
}

/* kcm and CMK had different directories. */
static const char *default_conf_dir(void)
{
	return strcmp(program(), "kcm") == 0 ? "/etc/kcm" : "/etc/cmk";
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
		break; /* --namespace and --install-dir have no effect on a workload */
	}
}

struct isolate parse_isolate(int argc, char **argv)
{
	struct isolate parsed = {.conf_dir = default_conf_dir(), .socket = -1, .affinity = 1, .on_move = ""};
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
		fail(EXIT_NEVER, "--pool=%.40s is not a valid pool name" SEE, parsed.pool);
	if (strlen(parsed.on_move) > 40 || strpbrk(parsed.on_move, "\n\r=\t "))
		fail(EXIT_NEVER, "--on-move=%.40s is none of follow, pinned, notify, notify:SIGNAL" SEE, parsed.on_move);
	if (words == 0)
		fail(EXIT_NEVER, "no command to run" SEE);
	return parsed;
}

/* Whether argv[*i] is an option with a value, joined by '=' or the next word. */
static int has_value(int argc, char **argv, int *i, const char *option, const char **value)
{
	size_t length = strlen(option);
	if (strncmp(argv[*i], option, length) != 0 || (argv[*i][length] != '=' && argv[*i][length] != '\0'))
		return 0;
	*value = argv[*i][length] == '=' ? argv[*i] + length + 1 : NULL;
	if (!*value) {
		if (++*i == argc)
			fail(EXIT_NEVER, "%s needs a value; see cmk --help", option);
		*value = argv[*i];
	}
	return 1;
}

struct show parse_show(int argc, char **argv)
{
	struct show parsed = {.conf_dir = default_conf_dir()};
	int reports = strcmp(argv[0], "node-report") == 0, publish = 0;
	const char *seconds;
	for (int i = 1; i < argc; i++) {
		if (has_value(argc, argv, &i, "--conf-dir", &parsed.conf_dir))
			continue;
		if (reports && has_value(argc, argv, &i, "--interval", &seconds)) {
			parsed.interval = number(seconds, 1000000000);
			if (parsed.interval < 0)
				fail(EXIT_NEVER, "--interval=%.40s is not a whole number of seconds; see cmk --help", seconds);
		} else if (reports && strcmp(argv[i], "--publish") == 0) {
			publish = 1;
		} else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			parsed.help = 1;
			return parsed;
		} else {
			fail(EXIT_NEVER, "unknown argument %s of %s; see cmk --help", argv[i], argv[0]);
		}
	}
	if (publish)
		say("--publish means nothing here: the agent publishes by itself");
	return parsed;
}

const char *variable(const char *name)
{
	char full[32];
	snprintf(full, sizeof full, "CMK_%s", name);
	const char *value = getenv(full);
	if (value && *value)
		return value;
	snprintf(full, sizeof full, "KCM_%s", name);
	value = getenv(full);
	return value && *value ? value : NULL;
}

long asked_cores(void)
{
	const char *text = variable("NUM_CORES");
	long cores = text ? number(text, 65536) : 1;
	if (cores < 1)
		fail(EXIT_NEVER, "CMK_NUM_CORES is \"%.40s\": it must be a whole number of CPU lists, 1 to 65536", text);
	return cores;
}

long timeout_ms(void)
{
	const char *text = variable("LOCK_TIMEOUT");
	if (!text)
		return 30000;
	const char *point = strchr(text, '.');
	int is_number = text[strspn(text, "0123456789.")] == '\0' && strpbrk(text, "0123456789") && (!point || !strchr(point + 1, '.'));
	double seconds = is_number ? strtod(text, NULL) : 0;
	if (seconds < 0.001 || seconds > 86400)
		fail(EXIT_NEVER, "CMK_LOCK_TIMEOUT is \"%.40s\": it must be a number of seconds, 0.001 to 86400", text);
	return (long)(seconds * 1000);
}
