# A place where cases run: the host itself, guise, or QEMU. All speak the protocol of programs/serve.c, the
# host over pipes, a guest on its serial line.
import os
import select
import signal
import subprocess
import sys
import time

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/work", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


class Trouble(Exception):
    """The machine died or did not answer; what it said last is in the text."""


def parse_line(line):
    """One line of the protocol as a tuple, or None for anything else a console says."""
    at = line.find("@")
    words = line[at:].split() if at >= 0 else []
    try:
        if words == ["@ready"] or words == ["@begin"]:
            return (words[0][1:],)
        if len(words) == 3 and words[0] == "@end":
            return ("end", int(words[1]), int(words[2]))
        if len(words) == 5 and words[0] == "@done" and words[4].endswith("."):
            return ("done", int(words[1]), int(words[2]), words[3], bytes.fromhex(words[4][:-1]).decode("latin-1"))
    except ValueError:
        pass
    return None


def process_cpu(pid):
    """Processor time of a process in nanoseconds, its ended threads included (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def end_on_signal():
    """A killed harness leaves by way of its `finally` clauses, so that no machine stays behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def tail(text, lines=4):
    return " / ".join(line.strip() for line in text.strip().splitlines()[-lines:])


class Machine:
    def __init__(self, command, guest, environment=None):
        self.guest = guest
        self.log = ""
        self.buffer = b""
        self.started = time.monotonic_ns()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        bufsize=0, env=environment, start_new_session=True)

    def expect(self, kind, deadline):
        """Reads on to the next line of the protocol, which must be of this kind."""
        while True:
            while b"\n" in self.buffer:
                line, self.buffer = self.buffer.split(b"\n", 1)
                text = line.decode("latin-1")
                found = parse_line(text)
                if found is None:
                    self.log = (self.log + text + "\n")[-4000:]
                    continue
                if found[0] not in (kind, "done"):
                    raise Trouble(f"said {found[0]} where {kind} was due")
                return found
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Trouble("timeout: " + tail(self.log))
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Trouble("ended: " + tail(self.log + self.buffer.decode("latin-1")))
            self.buffer += data

    def say(self, text):
        try:
            self.process.stdin.write(text.encode() + b"\n")
        except BrokenPipeError:
            raise Trouble("ended: " + tail(self.log)) from None

    def boot(self, timeout):
        """Waits for the first process; returns wall and processor nanoseconds since the start."""
        self.expect("ready", time.monotonic() + timeout)
        return time.monotonic_ns() - self.started, process_cpu(self.process.pid)

    def boot_to(self, text, timeout):
        """Waits for a text on the console; returns wall and processor nanoseconds since the start."""
        deadline = time.monotonic() + timeout
        while text not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Trouble("timeout: " + tail(self.buffer.decode("latin-1")))
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Trouble("ended: " + tail(self.buffer.decode("latin-1")))
            self.buffer += data
        return time.monotonic_ns() - self.started, process_cpu(self.process.pid)

    def run(self, case, timeout):
        """Runs one case. The result has wall and cpu nanoseconds, status, hash and the output's beginning."""
        deadline = time.monotonic() + timeout
        self.log = ""
        self.say(f"{case.kind} {case.command}")
        answer = self.expect("begin", deadline)
        result = {}
        if answer[0] == "begin":
            before = process_cpu(self.process.pid)
            self.say("go")
            answer = self.expect("end", deadline)
            if answer[0] == "end":
                after = process_cpu(self.process.pid)
                result = {"wall": answer[1], "cpu": after - before if self.guest else answer[2]}
                self.say("go")
                answer = self.expect("done", deadline)
        result.update(status=answer[1], length=answer[2], hash=answer[3], output=answer[4].strip())
        if answer[1]:
            result["error"] = f"status {answer[1]}: {tail(self.log)}"
        elif "cpu" not in result:
            result["error"] = "not measured: " + tail(self.log)
        return result

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Setup:
    """Where things are, and how each engine's machine is started."""

    def __init__(self, guise, kernel, images, binary, work, memory="1G"):
        self.guise, self.kernel, self.images, self.binary, self.work, self.memory = guise, kernel, images, binary, work, memory

    def command(self, engine, image, cpus):
        append = "console=ttyS0 quiet panic=-1 rdinit=/bench"
        if engine == "native":
            return [self.binary, "serve", self.work]
        if engine.startswith("tcg-"):
            return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
                    "-accel", "tcg,thread=" + engine[4:], "-cpu", "max", "-smp", str(cpus), "-m", self.memory,
                    "-kernel", self.kernel, "-initrd", self.images[image], "-append", append]
        return [self.guise, "run", self.kernel, "--engine", engine, "--cpu", "max", "--cpus", str(cpus), "--memory", self.memory,
                "--net", "none", "--display", "none", "--serial", "stdio", "--no-reboot", "--initrd", self.images[image],
                "--append", append]

    def start(self, engine, image, cpus):
        native = engine == "native"
        return Machine(self.command(engine, image, cpus), not native, ENVIRONMENT if native else None)

    def start_disk(self, engine, disk, cpus):
        """A machine that boots from a disk, by its firmware and boot loader; what it writes is lost."""
        if engine.startswith("tcg-"):
            command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "std", "-serial", "stdio",
                       "-accel", "tcg,thread=" + engine[4:], "-cpu", "max", "-smp", str(cpus), "-m", self.memory,
                       "-drive", f"file={disk},format=raw,if=virtio,snapshot=on"]
        else:
            command = [self.guise, "run", "--disk", f"{disk},format=raw,bus=virtio,snapshot", "--engine", engine, "--cpu", "max",
                       "--cpus", str(cpus), "--memory", self.memory, "--net", "none", "--display", "none", "--serial", "stdio"]
        return Machine(command, True)


def run_session(setup, engine, image, cpus, cases, boot_timeout, timeout, note):
    """Boots a machine and runs cases in it; after a hang or a crash boots again for the rest. Yields
    (case name, result); the boot itself is the case "boot"."""
    left = list(cases)
    failures = 0
    booted = False
    while left and failures < 4:
        machine = setup.start(engine, image, cpus)
        case = None
        try:
            wall, cpu = machine.boot(boot_timeout)
            if not booted and engine != "native" and (image, cpus) == ("small", 1):
                yield "boot", {"wall": wall, "cpu": cpu, "status": 0, "hash": "", "output": ""}
            booted = True
            while left:
                case = left.pop(0)
                note(engine, case.name)
                native = case.command.replace("/bench", setup.binary) if engine == "native" else case.command
                yield case.name, machine.run(case._replace(command=native), timeout)
        except Trouble as trouble:
            failures += 1
            if case is None:
                yield "boot", {"error": str(trouble)}
                break
            yield case.name, {"error": str(trouble)}
        finally:
            machine.close()
    for case in left:
        yield case.name, {"error": "not run: the machine failed too often"}
