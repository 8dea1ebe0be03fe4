#!/usr/bin/env python3
"""Loads for an hour, not for `make test`: a compiler whose output is known, stress-ng's self-checks, Linux's x86 selftests,
a whole pass of memtest86+. Prints TAP.

usage: [GUISE_ENGINE=NAME] [LOAD_SECONDS=N] [LOAD_CPUS=N] [LOAD_PACKAGES=NAME,...] run.py PATH-TO-GUISE [NAME...]
"""
import os
import re
import subprocess
import sys
import tempfile
import time

GUESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../guests')
LOADS = GUESTS + '/loads'
# Kernels that run the selftests: the cloud kernel would leave out 16-bit segments.
SELFTESTS = {'selftests': ('vmlinuz-amd64', 'initramfs.cpio.gz'), 'selftests_32': ('vmlinuz-686', 'initramfs-686.cpio.gz')}
MEMTEST = '/boot/memtest86+x64.bin'
STRESSORS = ['cpu', 'vm', 'fork', 'signal', 'switch']
# What processors without the feature fail.
MAY_FAIL = {'amx_64'}


def start(guise, work, name, *args):
    serial = os.path.join(work, name)
    engine = ['--engine', os.environ.get('GUISE_ENGINE', 'bt')]
    return serial, subprocess.Popen([guise, 'run', *engine, *args, '--net', 'none', '--no-reboot', '--display', 'none', '--name', f'load-{name}-{os.getpid()}',
                                     '--serial', 'file:' + serial], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def console(serial):
    with open(serial, errors='replace') as f:
        return f.read().replace('\r', '')


def load(guise, work, name, seconds):
    packages = ' packages=' + os.environ['LOAD_PACKAGES'] if 'LOAD_PACKAGES' in os.environ else ''
    serial, machine = start(
        guise, work, name, '--kernel', LOADS + '/vmlinuz', '--initrd', LOADS + '/initrd', '--disk', LOADS + '/disk.img,format=raw,bus=virtio,snapshot',
        '--memory', '1G', '--cpus', os.environ.get('LOAD_CPUS', '2'), '--append',
        f'root=LABEL=loads rw init=/loads/guest console=ttyS0 panic=-1 quiet load={name} seconds={seconds}{packages}')
    try:
        machine.wait(seconds * 3 + 1800)
    except subprocess.TimeoutExpired:
        machine.kill()
    said = console(serial)
    if name in STRESSORS:
        # stress-ng's own words, not its exit status alone: what was done, and that it was as it should be.
        verdict = [line for line in said.splitlines() if re.search(f'metrc: .* {name} |successful run|fail:|error:', line)]
    else:
        verdict = [line for line in said.splitlines() if line.startswith('loads: round ')]
    print('\n'.join('# ' + line for line in verdict), flush=True)
    return f'loads: {name} ends with 0' in said, said


def selftests(guise, work, name):
    """Linux's x86 selftests behind the initial RAM disk of a small guest."""
    kernel, initrd = (os.path.join(GUESTS, file) for file in SELFTESTS[name])
    both = os.path.join(work, name + '.initrd')
    with open(both, 'wb') as f:
        with open(initrd, 'rb') as first, open(LOADS + '/selftests.cpio', 'rb') as second:
            f.write(first.read())
            f.write(bytes(-f.tell() % 4) + second.read())
    serial, machine = start(guise, work, name, '--kernel', kernel, '--initrd', both, '--memory', '512M', '--cpus',
                            os.environ.get('LOAD_CPUS', '2'), '--append', 'console=ttyS0 panic=-1 quiet')
    try:
        machine.wait(3600)
    except subprocess.TimeoutExpired:
        machine.kill()
    said = console(serial)
    print('\n'.join('# ' + line for line in said.splitlines() if line.startswith('selftest ')), flush=True)
    failed = {line.split()[1].rstrip(':') for line in said.splitlines() if line.startswith('selftest ') and ': 0 fails 0 ' not in line}
    return 'loads: selftests end' in said and failed <= MAY_FAIL, said


def memtest(guise, work, seconds):
    """A whole pass on 64 MiB."""
    serial, machine = start(guise, work, 'memtest', '--kernel', MEMTEST, '--append', 'console=ttyS0,115200', '--memory', '64M')
    end = time.time() + seconds + 7200
    try:
        while time.time() < end and machine.poll() is None:
            time.sleep(5)
            said = console(serial)
            found = re.search('Pass:  1 .*?Errors: *([0-9]+)', said, re.S)
            if found:
                print(f'# memtest86+: {found[1]} errors at the end of the first pass', flush=True)
                return found[1] == '0', said
    finally:
        machine.kill()
        machine.wait()
    return False, console(serial)


def main():
    guise, names = sys.argv[1], sys.argv[2:] or [*SELFTESTS, *STRESSORS, 'compile', 'memtest']
    seconds, bad = int(os.environ.get('LOAD_SECONDS', '600')), 0
    print(f'1..{len(names)}', flush=True)
    with tempfile.TemporaryDirectory() as work:
        for n, name in enumerate(names, 1):
            if name in SELFTESTS:
                ok, said = selftests(guise, work, name)
            else:
                ok, said = memtest(guise, work, seconds) if name == 'memtest' else load(guise, work, name, seconds)
            bad += not ok
            if not ok:
                print('\n'.join('# ' + line for line in said.splitlines()[-30:]))
            print(f'{"ok" if ok else "not ok"} {n} - {name}', flush=True)
    return bad != 0


if __name__ == '__main__':
    sys.exit(main())
