/* The management commands, one table. */
#include "cli/manage.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "cli/client.h"
#include "host/runtime.h"

static int report(GError *err)
{
	fprintf(stderr, "guise: %s\n", err->message);
	g_error_free(err);
	return 1;
}

/* Runs one command; its reply, or NULL when it failed and the user has been told. */
static JsonNode *execute(const char *name, const char *command, JsonObject *args)
{
	GError *err = NULL;
	struct client *c = client_open(name, &err);
	JsonNode *n = c ? client_execute(c, command, args, &err) : NULL;

	if (!c && args)
		json_object_unref(args);
	client_close(c);
	if (!n)
		report(err);
	return n;
}

/* Runs one command without a reply that matters. */
static int simple(const char *name, const char *command, JsonObject *args)
{
	JsonNode *n = execute(name, command, args);

	if (!n)
		return 1;
	json_node_unref(n);
	return 0;
}

/* Runs one command and prints the text it returns. */
static int print_text(const char *name, const char *command, JsonObject *args)
{
	JsonNode *n = execute(name, command, args);

	if (!n)
		return 1;
	fputs(json_node_get_string(n) ? json_node_get_string(n) : "", stdout);
	json_node_unref(n);
	return 0;
}

static JsonObject *one_arg(const char *name, const char *value)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, name, value);
	return o;
}

static int cmd_ps(int argc, char **argv)
{
	GError *err = NULL;
	g_auto(GStrv) names = runtime_names(&err);

	if (!names)
		return report(err);
	printf("%-24s %s\n", "NAME", "STATUS");
	for (char **n = names; *n; n++) {
		struct client *c = client_open(*n, NULL);
		JsonNode *status = c ? client_execute(c, "query-status", NULL, NULL) : NULL;

		printf("%-24s %s\n", *n,
		       status ? json_object_get_string_member(json_node_get_object(status), "status") : "starting");
		if (status)
			json_node_unref(status);
		client_close(c);
	}
	return 0;
}

/* Its socket is gone a moment before the process is: who starts another of that name, or takes its disks, must not meet it. */
static void wait_gone(const char *name)
{
	for (unsigned i = 0; i < 1000; i++) {
		g_auto(GStrv) names = runtime_names(NULL);

		if (!names || !g_strv_contains((const char *const *)names, name))
			return;
		g_usleep(10000);
	}
}

static int cmd_stop(int argc, char **argv)
{
	bool force = argc > 1 && !strcmp(argv[1], "--force");
	GError *err = NULL;
	struct client *c;
	JsonNode *n;

	if (argc > 1 && !force) {
		fprintf(stderr, "guise: stop takes a name and --force, not %s\n", argv[1]);
		return 2;
	}
	c = client_open(argv[0], &err);
	n = c ? client_execute(c, force ? "quit" : "system_powerdown", NULL, &err) : NULL;
	if (!n) {
		client_close(c);
		return report(err);
	}
	json_node_unref(n);
	if (!client_wait_end(c, force ? 10 : 60)) {
		fprintf(stderr, "guise: %s has not powered off within a minute; end it at once: guise stop %s --force\n", argv[0],
			argv[0]);
		client_close(c);
		return 1;
	}
	client_close(c);
	wait_gone(argv[0]);
	return 0;
}

static int cmd_pause(int argc, char **argv) { return simple(argv[0], "stop", NULL); }
static int cmd_resume(int argc, char **argv) { return simple(argv[0], "cont", NULL); }
static int cmd_reset(int argc, char **argv) { return simple(argv[0], "system_reset", NULL); }
static int cmd_screen(int argc, char **argv) { return print_text(argv[0], "x-guise-screen", NULL); }

static int cmd_screenshot(int argc, char **argv)
{
	g_autofree char *path = g_canonicalize_filename(argv[1], NULL);
	JsonObject *o = one_arg("filename", path);

	json_object_set_string_member(o, "format", g_str_has_suffix(path, ".ppm") ? "ppm" : "png");
	return simple(argv[0], "screendump", o);
}

static int cmd_type(int argc, char **argv)
{
	g_autofree char *text = g_strcompress(argv[1]);

	return simple(argv[0], "x-guise-type", one_arg("text", text));
}

static int cmd_key(int argc, char **argv)
{
	g_auto(GStrv) parts = g_strsplit(argv[1], "-", -1);
	JsonObject *o = json_object_new();
	JsonArray *keys = json_array_new();

	for (char **p = parts; *p; p++) {
		JsonObject *k = one_arg("type", "qcode");

		json_object_set_string_member(k, "data", *p);
		json_array_add_object_element(keys, k);
	}
	json_object_set_array_member(o, "keys", keys);
	return simple(argv[0], "send-key", o);
}

static int cmd_monitor(int argc, char **argv)
{
	char line[1024];
	int status = 0;

	if (argc > 1) {
		g_autofree char *command = g_strjoinv(" ", argv + 1);

		return print_text(argv[0], "human-monitor-command", one_arg("command-line", command));
	}
	for (;;) {
		if (isatty(STDIN_FILENO)) {
			fputs("(guise) ", stdout);
			fflush(stdout);
		}
		if (!fgets(line, sizeof(line), stdin))
			return status;
		status = print_text(argv[0], "human-monitor-command", one_arg("command-line", line));
		if (status)
			return status;
	}
}

static const struct {
	const char *name, *usage;
	int least;
	int (*fn)(int argc, char **argv);
} commands[] = {
	{ "ps", "ps", 0, cmd_ps },
	{ "stop", "stop NAME [--force]", 1, cmd_stop },
	{ "pause", "pause NAME", 1, cmd_pause },
	{ "resume", "resume NAME", 1, cmd_resume },
	{ "reset", "reset NAME", 1, cmd_reset },
	{ "screen", "screen NAME", 1, cmd_screen },
	{ "screenshot", "screenshot NAME FILE.png", 2, cmd_screenshot },
	{ "type", "type NAME TEXT", 2, cmd_type },
	{ "key", "key NAME KEYS", 2, cmd_key },
	{ "monitor", "monitor NAME [COMMAND]", 1, cmd_monitor },
};

int manage_command(const char *command, int argc, char **argv)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(commands[i].name, command))
			continue;
		if (argc && !strcmp(argv[0], "--help")) {
			printf("usage: guise %s\n", commands[i].usage);
			return 0;
		}
		if (argc < commands[i].least) {
			fprintf(stderr, "usage: guise %s\n", commands[i].usage);
			return 2;
		}
		return commands[i].fn(argc, argv);
	}
	return -1;
}

const char *const *manage_command_names(unsigned *count)
{
	static const char *const names[] = { "run", "ps", "stop", "pause", "resume", "reset", "screen", "screenshot",
					     "type", "key", "monitor", "image", "doctor", "version", "help" };

	*count = ARRAY_LEN(names);
	return names;
}
