#!/usr/bin/env python3
"""How fast an engine executes guest instructions while a guest boots: instructions for each second of processor time
that the vCPU threads had, so that other load on the host matters little.

usage: boot-speed.py GUISE ENGINE TEXT [ARGUMENT...]
The machine is `guise run ARGUMENT...`; it is measured when TEXT is on its serial line. Without arguments it is Debian's
cloud kernel with the initial RAM disk of tools/guest-linux.
"""
import glob
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLOUD = ["guests/vmlinuz", "--initrd", "guests/initramfs.cpio.gz", "--append", "console=ttyS0 panic=-1", "--net", "none"]


def vcpu_seconds(pid):
    total = 0
    for task in glob.glob(f"/proc/{pid}/task/*"):
        with open(task + "/comm") as f:
            if not f.read().startswith("vcpu"):
                continue
        with open(task + "/schedstat") as f:
            total += int(f.read().split()[0])
    return total / 1e9


def instructions(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    with s, s.makefile("rw") as f:
        f.readline()
        for command in ({"execute": "qmp_capabilities"},
                        {"execute": "human-monitor-command", "arguments": {"command-line": "info stats"}}):
            f.write(json.dumps(command) + "\n")
            f.flush()
            answer = json.loads(f.readline())
            while "event" in answer:
                answer = json.loads(f.readline())
    return sum(int(n) for n in re.findall(r"([0-9]+) instructions", answer["return"]))


def main():
    guise, engine, text, arguments = sys.argv[1], sys.argv[2], sys.argv[3].encode(), sys.argv[4:] or CLOUD
    guise = os.path.abspath(guise)
    os.chdir(HERE)
    with tempfile.TemporaryDirectory() as work:
        serial, qmp, start = work + "/serial", work + "/qmp", time.monotonic()
        vm = subprocess.Popen([guise, "run", "--engine", engine, *arguments, "--display", "none", "--serial", "file:" + serial,
                               "--qmp", "unix:" + qmp, "--name", f"boot-speed-{os.getpid()}"], stdin=subprocess.DEVNULL)
        try:
            while not os.path.exists(serial) or text not in open(serial, "rb").read():
                if vm.poll() is not None or time.monotonic() - start > 1800:
                    sys.exit("boot-speed: it does not get there")
                time.sleep(0.05)
            wall, cpu, count = time.monotonic() - start, vcpu_seconds(vm.pid), instructions(qmp)
        finally:
            vm.kill()
            vm.wait()
    print(f"{wall:.1f} s, {cpu:.2f} s of the vCPU threads, {count / 1e6:.0f} million instructions, {count / cpu / 1e6:.0f} MIPS")


if __name__ == "__main__":
    main()
