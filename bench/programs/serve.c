/*
 * Runs commands for the harness, on the host over pipes and in a guest, as its first process, over the
 * serial line. The harness sends "self COMMAND" or "whole COMMAND"; the answers are lines
 *   @begin             the measured part comes next; waits for an answer before it goes on
 *   @end WALL CPU      it has ended and took these nanoseconds; waits again
 *   @done STATUS LENGTH HASH OUTPUT    the command's standard output, its beginning in hexadecimal
 * While it waits the guest is idle, so the harness can read the machine's own processor time at exactly
 * these moments. "self" commands bracket their measured part themselves, through the two descriptors below;
 * "whole" commands are foreign programs and are measured from before fork to after wait.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "bench.h"

enum { EVENT_FD = 100, ANSWER_FD = 101, OUTPUT_SHOWN = 48 };

/* One line to the harness by way of the server, and its answer. Without a server nobody asks. */
static void event_send(const char *line)
{
	ssize_t len = (ssize_t)strlen(line);
	char answer;

	if (fcntl(EVENT_FD, F_GETFD) < 0)
		return;
	if (write(EVENT_FD, line, (size_t)len) != len || read(ANSWER_FD, &answer, 1) != 1)
		bench_fail("event");
}

static struct region region_start(void)
{
	return (struct region){ wall_time(), cpu_time() };
}

static void region_format(const struct region *r, char *line, size_t size)
{
	uint64_t wall = wall_time() - r->wall, cpu = cpu_time() - r->cpu;

	snprintf(line, size, "@end %llu %llu\n", (unsigned long long)wall, (unsigned long long)cpu);
}

struct region region_begin(void)
{
	event_send("@begin\n");
	return region_start();
}

void region_end(const struct region *r)
{
	char line[80];

	region_format(r, line, sizeof line);
	event_send(line);
}

static void event_relay(const char *line)
{
	char answer[64];

	fputs(line, stdout);
	fflush(stdout);
	if (!fgets(answer, sizeof answer, stdin))
		exit(0);
}

struct output {
	uint64_t length, hash;
	unsigned char start[OUTPUT_SHOWN];
};

static void output_add(struct output *o, const unsigned char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (o->length < OUTPUT_SHOWN)
			o->start[o->length] = data[i];
		o->hash = mix(o->hash, data[i]);
		o->length++;
	}
}

struct child {
	pid_t pid;
	int output, event, answer;
};

static void child_start(struct child *c, const char *command)
{
	int out[2], event[2], answer[2];

	if (pipe2(out, O_CLOEXEC) || pipe2(event, O_CLOEXEC) || pipe2(answer, O_CLOEXEC))
		bench_fail("pipe");
	c->pid = fork();
	if (c->pid < 0)
		bench_fail("fork");
	if (c->pid == 0) {
		int nothing = open("/dev/null", O_RDONLY);

		dup2(nothing, 0);
		dup2(out[1], 1);
		dup2(event[1], EVENT_FD);
		dup2(answer[0], ANSWER_FD);
		char *argv[] = { "sh", "-c", (char *)command, NULL };
		execv("/bin/sh", argv);
		_exit(127);
	}
	close(out[1]);
	close(event[1]);
	close(answer[0]);
	c->output = out[0];
	c->event = event[0];
	c->answer = answer[1];
}

/* Until the child has closed its output: that is its end. */
static void child_follow(struct child *c, struct output *o)
{
	unsigned char data[65536];
	bool open = true;

	while (open) {
		struct pollfd fds[2] = { { c->output, POLLIN, 0 }, { c->event, POLLIN, 0 } };

		poll(fds, 2, -1);
		if (fds[1].revents & POLLIN) {
			ssize_t got = read(c->event, data, sizeof data - 1);

			if (got > 0) {
				data[got] = 0;
				event_relay((char *)data);
				if (write(c->answer, "", 1) != 1)
					bench_fail("answer");
				continue;
			}
		}
		if (fds[0].revents) {
			ssize_t got = read(c->output, data, sizeof data);

			if (got > 0)
				output_add(o, data, (size_t)got);
			else
				open = false;
		}
	}
	close(c->output);
	close(c->event);
	close(c->answer);
}

static void command_run(const char *command, bool whole)
{
	struct output o = { .hash = 0xcbf29ce484222325u };
	struct region r = { 0 };
	struct child c;
	char line[80];
	int status = 0;

	if (whole) {
		event_relay("@begin\n");
		r = region_start();
	}
	child_start(&c, command);
	child_follow(&c, &o);
	waitpid(c.pid, &status, 0);
	if (whole) {
		region_format(&r, line, sizeof line);
		event_relay(line);
	}
	printf("@done %d %llu %016llx ", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
	       (unsigned long long)o.length, (unsigned long long)o.hash);
	for (uint64_t i = 0; i < o.length && i < OUTPUT_SHOWN; i++)
		printf("%02x", o.start[i]);
	printf(".\n");
	fflush(stdout);
}

int serve(const char *directory)
{
	char line[4096];

	if (chdir(directory))
		bench_fail(directory);
	printf("@ready\n");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\r\n")] = 0;
		if (!strncmp(line, "self ", 5))
			command_run(line + 5, false);
		else if (!strncmp(line, "whole ", 6))
			command_run(line + 6, true);
		else if (!strcmp(line, "quit"))
			break;
	}
	return 0;
}

/* The first process: file systems, a raw serial line, then the same service, then power off. */
int serve_guest(void)
{
	static char *const environment[][2] = {
		{ "PATH", "/usr/bin:/bin" }, { "LC_ALL", "C" }, { "HOME", "/work" },
		{ "PYTHONHASHSEED", "0" }, { "PYTHONDONTWRITEBYTECODE", "1" },
	};
	struct termios t;

	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	mkdir("/tmp", 0777);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	for (size_t i = 0; i < sizeof environment / sizeof *environment; i++)
		setenv(environment[i][0], environment[i][1], 1);
	int line = open("/dev/ttyS0", O_RDWR);
	if (line < 0)
		bench_fail("/dev/ttyS0");
	dup2(line, 0);
	dup2(line, 1);
	dup2(line, 2);
	tcgetattr(0, &t);
	cfmakeraw(&t);
	t.c_oflag |= OPOST | ONLCR;
	tcsetattr(0, TCSANOW, &t);
	serve("/work");
	sync();
	reboot(RB_POWER_OFF);
	return 0;
}
