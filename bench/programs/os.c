/*
 * Operations of the operating system: system calls, memory management, signals, processes, switches, reads.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static uint64_t syscall_run(uint64_t n)
{
	uint64_t good = 0;
	long parent = syscall(SYS_getppid);

	for (uint64_t i = 0; i < n; i++)
		good += syscall(SYS_getppid) == parent;
	return good;
}

/* Fresh pages in regions of 4 MiB; the mapping's own cost is shared by 1,024 faults. */
static uint64_t page_touch_run(uint64_t n)
{
	const size_t region = 4 << 20;
	uint64_t sum = 0;

	for (uint64_t done = 0; done < n;) {
		uint8_t *p = mmap(NULL, region, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			bench_fail("mmap");
		madvise(p, region, MADV_NOHUGEPAGE);
		for (size_t at = 0; at < region && done < n; at += 4096, done++) {
			sum += p[at];
			p[at] = 1;
		}
		munmap(p, region);
	}
	return sum + n;
}

static uint64_t mmap_run(uint64_t n)
{
	uint64_t good = 0;

	for (uint64_t i = 0; i < n; i++) {
		uint8_t *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			bench_fail("mmap");
		p[i % 65536] = 1;
		good += !munmap(p, 65536);
	}
	return good;
}

static volatile sig_atomic_t signals;

static void signal_count(int number)
{
	signals++;
}

static uint64_t signal_run(uint64_t n)
{
	struct sigaction sa = { .sa_handler = signal_count };

	signals = 0;
	sigaction(SIGUSR1, &sa, NULL);
	for (uint64_t i = 0; i < n; i++)
		kill(getpid(), SIGUSR1);
	return (uint64_t)signals;
}

static uint64_t child_wait(pid_t pid)
{
	int status = -1;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		bench_fail("child");
	return (uint64_t)(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static uint64_t fork_run(uint64_t n)
{
	uint64_t good = 0;

	for (uint64_t i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		good += child_wait(pid);
	}
	return good;
}

static uint64_t exec_run(uint64_t n)
{
	uint64_t good = 0;

	for (uint64_t i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			execl("/proc/self/exe", "bench", "nothing", (char *)NULL);
			_exit(1);
		}
		good += child_wait(pid);
	}
	return good;
}

/* Both partners on one CPU: each round trip is two switches, on a machine with more CPUs as well. */
static void stay_here(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu < 0 ? 0 : cpu, &set);
	sched_setaffinity(0, sizeof set, &set);
}

static uint64_t pipe_run(uint64_t n)
{
	int ping[2], pong[2];
	uint64_t sum = 0;
	unsigned char byte;

	stay_here();
	if (pipe(ping) || pipe(pong))
		bench_fail("pipe");
	pid_t pid = fork();
	if (pid == 0) {
		close(ping[1]);
		while (read(ping[0], &byte, 1) == 1) {
			byte++;
			if (write(pong[1], &byte, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	for (uint64_t i = 0; i < n; i++) {
		byte = (unsigned char)i;
		if (write(ping[1], &byte, 1) != 1 || read(pong[0], &byte, 1) != 1)
			bench_fail("pipe");
		sum += byte;
	}
	close(ping[1]);
	return sum + child_wait(pid);
}

static void turn_wait(uint32_t *turn, uint32_t mine)
{
	for (;;) {
		uint32_t now = __atomic_load_n(turn, __ATOMIC_ACQUIRE);

		if (now == mine)
			return;
		syscall(SYS_futex, turn, FUTEX_WAIT, now, NULL, NULL, 0);
	}
}

static void turn_pass(uint32_t *turn, uint32_t to)
{
	__atomic_store_n(turn, to, __ATOMIC_RELEASE);
	syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static uint64_t futex_run(uint64_t n)
{
	uint32_t *turn = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	stay_here();
	if (turn == MAP_FAILED)
		bench_fail("mmap");
	pid_t pid = fork();
	if (pid == 0) {
		for (uint64_t i = 0; i < n; i++) {
			turn_wait(turn, 1);
			turn[1]++;
			turn_pass(turn, 0);
		}
		_exit(0);
	}
	for (uint64_t i = 0; i < n; i++) {
		turn_pass(turn, 1);
		turn_wait(turn, 0);
	}
	return turn[1] + child_wait(pid);
}

static uint64_t read_run(uint64_t n, int fd)
{
	static uint8_t data[4096];
	uint64_t sum = 0;

	if (fd < 0)
		bench_fail("open");
	for (uint64_t i = 0; i < n; i++) {
		if (pread(fd, data, sizeof data, (off_t)(i % 256 * sizeof data)) != sizeof data)
			bench_fail("read");
		sum += data[i % 4096];
	}
	return sum;
}

static uint64_t read_zero_run(uint64_t n)
{
	return read_run(n, open("/dev/zero", O_RDONLY));
}

/* 1 MiB in the page cache. */
static int file = -1;

static void file_prepare(void)
{
	static uint8_t data[1 << 20];
	char name[] = "benchXXXXXX";

	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (uint8_t)(i * 3 + (i >> 12));
	file = mkstemp(name);
	if (file < 0 || unlink(name) || write(file, data, sizeof data) != (ssize_t)sizeof data)
		bench_fail(name);
}

static uint64_t read_file_run(uint64_t n)
{
	return read_run(n, file);
}

static uint64_t open_run(uint64_t n)
{
	uint64_t good = 0;

	for (uint64_t i = 0; i < n; i++) {
		int fd = open("/dev/null", O_RDWR);

		good += fd >= 0 && !close(fd);
	}
	return good;
}

const struct bench_case os_cases[] = {
	{ "syscall", "getppid", 0.1, NULL, syscall_run },
	{ "page-touch", "page", 0.1, NULL, page_touch_run },
	{ "mmap", "mmap, touch, munmap", 0.1, NULL, mmap_run },
	{ "signal", "kill and handler", 0.1, NULL, signal_run },
	{ "fork", "fork, exit, wait", 0.1, NULL, fork_run },
	{ "exec", "fork, exec, exit, wait", 0.1, NULL, exec_run },
	{ "pipe", "round trip", 0.1, NULL, pipe_run },
	{ "futex", "round trip", 0.1, NULL, futex_run },
	{ "read-zero", "4 KiB", 0.1, NULL, read_zero_run },
	{ "read-file", "4 KiB", 0.1, file_prepare, read_file_run },
	{ "open", "open and close", 0.1, NULL, open_run },
	{ NULL },
};
