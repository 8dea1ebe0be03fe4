# The cases and their groups. "self" cases are our own programs: they bracket their measured part, and their
# amount of work is found on the host. "whole" cases are programs of the distribution, measured as a whole.
import collections
import os
import subprocess

Case = collections.namedtuple("Case", "name group kind image cpus command program")

OWN = {
    "integer": "collatz arith sieve sha256 crc32 list-l2 list-64m hash-l2 hash-64m bytecode fib vcall qsort strings",
    "float": "matmul fft mandelbrot nbody x87 avx-float avx-int",
    "memory": "memcpy-64 memcpy-4k memcpy-1m memset-64 memset-4k memset-1m",
    "os": "syscall page-touch mmap signal fork exec pipe futex read-zero read-file open",
    "threads": "thread-1 thread-2 mutex-2",
}

PROGRAMS = {
    "xz": ("/usr/bin/xz", "xz -2 -T1 -c text"),
    "unxz": ("/usr/bin/xz", "xz -dc text.xz text.xz text.xz text.xz"),
    "zstd": ("/usr/bin/zstd", "zstd -q -12 --single-thread -c text"),
    "unzstd": ("/usr/bin/zstd", "zstd -q -dc text.zstd text.zstd text.zstd text.zstd text.zstd text.zstd text.zstd text.zstd"),
    "gcc": ("/usr/bin/gcc", "gcc -O1 -w -x cpp-output -c integer.i -o integer.o && cat integer.o"),
    "python": ("/usr/bin/python3", "/usr/bin/python3 -S -E workload.py"),
    "sqlite": ("/usr/bin/sqlite3", "sqlite3 :memory: < workload.sql"),
    "lua": ("/usr/bin/lua5.4", "lua5.4 workload.lua"),
    "awk": ("/usr/bin/mawk", "mawk -f workload.awk text text text"),
    "perl": ("/usr/bin/perl", "perl workload.pl"),
    "shell": ("/usr/bin/dash", "dash workload.sh"),
}

GROUP_TITLES = {
    "boot": "Boot to init",
    "login": "Boot of a distribution to login",
    "integer": "Integer user code",
    "programs": "Programs of the distribution",
    "float": "Floating point and SIMD",
    "memory": "memcpy and memset",
    "os": "Operations of the operating system",
    "threads": "Two virtual CPUs",
}


def all_cases():
    cases = []
    for group, names in OWN.items():
        for name in names.split():
            cases.append(Case(name, group, "self", "small", 2 if group == "threads" else 1, None, None))
    for name, (program, command) in PROGRAMS.items():
        cases.append(Case(name, "programs", "whole", "full", 1, command, program))
    return cases


def calibrate(cases, binary, work, factor):
    """Gives each of our own cases its command, with the amount that the host does in the case's time."""
    ready = []
    for case in cases:
        if case.kind == "self":
            run = subprocess.run([os.path.abspath(binary), "calibrate", case.name, str(factor)], cwd=work, capture_output=True,
                                 text=True, timeout=120)
            if run.returncode:
                print(f"bench: {case.name} does not run here (status {run.returncode}): left out")
                continue
            case = case._replace(command=f"exec /bench {case.name} {run.stdout.strip()}")
        elif not os.path.exists(case.program):
            print(f"bench: {case.name}: no {case.program} here: left out (tools/setup --bench installs it)")
            continue
        ready.append(case)
    return ready
