#!/usr/bin/env python3
"""Debian's installer, without questions, from a package mirror on the host's loopback, over user networking onto a qcow2
disk; then the disk boots by its own GRUB, and one logs in by ssh. Prints TAP; exit status 77 when the packages cannot be
had here. Five minutes on the translator. docs/installation-test.md says what is whose.

usage: [GUISE_ENGINE=NAME] install.py PATH-TO-GUISE
"""
import os
import re
import subprocess
import sys
import tempfile
import time

import run
from run import Failure, Machine, check

HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MIRROR = os.path.join(HERE, 'guests', 'mirror')
INSTALLER = os.path.join(MIRROR, 'installer')
HOOK = '''#!/bin/sh
# The installed system's apt takes the mirror's key as well.
cp /usr/share/keyrings/archive.gpg /target/etc/apt/trusted.gpg.d/mirror.gpg
'''


def entry(name, mode, data):
    """One file of an initramfs (cpio, newc)."""
    head = b'070701' + b''.join(b'%08x' % v for v in (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0))
    head += name.encode() + b'\0'
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initrd(port, key):
    """The installer's own with the answers and the mirror's key laid over it."""
    with open(os.path.join(HERE, 'tools', 'installer', 'preseed.cfg')) as f:
        answers = f.read().replace('@MIRROR@', f'10.0.2.2:{port}').replace('@KEY@', key)
    with open(os.path.join(INSTALLER, 'archive.gpg'), 'rb') as f:
        archive = f.read()
    path = os.path.join(run.WORK, 'initrd')
    with open(path, 'wb') as f:
        with open(os.path.join(INSTALLER, 'initrd.gz'), 'rb') as base:
            f.write(base.read())
        f.write(bytes(-f.tell() % 4))
        f.write(entry('preseed.cfg', 0o100644, answers.encode()) + entry('usr/share/keyrings/archive.gpg', 0o100644, archive))
        f.write(entry('usr/lib/base-installer.d/10mirror-key', 0o100755, HOOK.encode()) + entry('TRAILER!!!', 0, b''))
    return path


def shown(m):
    """The serial line's text; a question that nobody answers is a failure."""
    text = m.console()
    for trouble in ('!! ERROR', 'Press enter to continue', 'failed with error code'):
        check(trouble not in text, f'"{trouble}": {text[-2500:]}')
    return text


def install(disk, key, port):
    with Machine('install', os.path.join(INSTALLER, 'linux'), '--initrd', initrd(port, key), '--disk', f'{disk},bus=virtio', '--memory', '1G',
                 '--net', 'user,forward=none', '--no-reboot', '--append',
                 'auto=true priority=critical DEBIAN_FRONTEND=text console=ttyS0 panic=-1 --- console=ttyS0') as m:
        for step, seconds in (('guise-disk: everything on /dev/vda is lost', 900), ('Installing the base system', 300),
                              ('base-installer: info: Using kernel', 3600), ("Menu item 'apt-setup-udeb' selected", 1800),
                              ("Menu item 'pkgsel' selected", 600), ("Menu item 'guise-grub' selected", 1800),
                              ('Installation finished. No error reported', 1800), ('reboot: Restarting system', 300)):
            began = time.time()
            m.wait(lambda: step in shown(m), seconds, f'no "{step}" on the serial line', m.console)
            print(f'# {step.split(":")[-1].strip()}: after {time.time() - began:.0f} s', flush=True)
        check(m.end(60) == 3, 'status')  # a restart, with --no-reboot


def ssh(port, command, key):
    return subprocess.run(['ssh', '-i', key, '-p', port, '-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o',
                           'BatchMode=yes', '-o', 'ConnectTimeout=20', '-o', 'LogLevel=ERROR', 'root@127.0.0.1', command],
                          capture_output=True, text=True, timeout=run.patience(60))


def boot(disk, key):
    with Machine('installed', '--disk', f'{disk},bus=virtio', '--memory', '512M', '--net', 'user') as m:
        m.wait_console('GRUB', 60)
        m.wait_console('install login:', 600)
        forward = re.search(r'127\.0\.0\.1:(\d+) -> guest port 22', m.said()) or re.search(r'ssh -p (\d+)', m.said())
        check(forward, m.said())
        answer = ssh(forward.group(1), 'systemctl is-system-running --wait; findmnt -no SOURCE,FSTYPE /; hostname; apt-get -q update && echo APT-OK', key)
        check(answer.returncode == 0, answer.stdout + answer.stderr)
        for word in ('running', '/dev/vda1 ext4', '\ninstall\n', 'APT-OK'):
            check(word in answer.stdout, f'no "{word}": {answer.stdout}{answer.stderr}')
        ssh(forward.group(1), 'systemctl poweroff', key)
        check(m.end(120) == 0, 'status')


def main():
    run.GUISE = os.path.abspath(sys.argv[1])
    prepared = subprocess.run([os.path.join(HERE, 'tools', 'guest-mirror')]).returncode
    if prepared:
        return prepared
    server = subprocess.Popen([os.path.join(HERE, 'tools', 'guest-mirror'), '--serve'], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    failed = 0
    try:
        port = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory(prefix='guise-install-') as run.WORK:
            os.environ['XDG_RUNTIME_DIR'] = run.WORK
            disk, key = os.path.join(run.WORK, 'disk.qcow2'), os.path.join(run.WORK, 'key')
            subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'guise', '-f', key], check=True)
            with open(key + '.pub') as f:
                public = f.read().strip()
            status, _, err = run.guise('image', 'create', disk, '4G')
            check(status == 0, err)
            print('1..2', flush=True)
            for number, (what, test) in enumerate((('install', lambda: install(disk, public, port)), ('boot_ssh', lambda: boot(disk, key))), 1):
                start = time.time()
                try:
                    test()
                    print(f'ok {number} - {what} ({time.time() - start:.1f} s)', flush=True)
                except (Failure, OSError, subprocess.TimeoutExpired) as e:
                    failed = 1
                    print(f'not ok {number} - {what}\n# ' + str(e).replace('\n', '\n# '), flush=True)
                    log = os.environ.get('INSTALL_LOG')
                    if log:
                        subprocess.run(['cp', os.path.join(run.WORK, 'install.serial' if number == 1 else 'installed.serial'), log])
                    break
    finally:
        server.kill()
    return failed


if __name__ == '__main__':
    sys.exit(main())
