#!/usr/bin/env python3
"""Command lines as users get them wrong: each ends with a message, the right status, and nothing left behind.

usage: cli.py PATH-TO-GUISE [NAME...]
"""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import run
from run import Machine, check

VALUED = {'engine': 'jit', 'cpu': 'z80', 'cpus': '1.5', 'memory': '-1G', 'boot': 'tape', 'net': 'wireless', 'display': 'paper',
          'serial': 'com9', 'console': 'hvc', 'qmp': 'tcp:1', 'trace': 'dreams', 'on-panic': 'shout', 'disk': ',bus=scsi',
          'floppy': '', 'name': 'a/b'}


def path(name):
    return os.path.join(run.WORK, name)


def left_behind():
    """Sockets and locks that are held in the runtime directory."""
    folder = path('guise')
    return [f for f in (os.listdir(folder) if os.path.isdir(folder) else []) if not f.endswith('.lock')]


def refused(*args, status=(1, 2), words=(), timeout=20, **more):
    p = subprocess.run([run.GUISE, 'run', '--display', 'none', *args], stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=run.patience(timeout), **more)
    said = p.stderr.decode(errors='replace')
    check(p.returncode in status, f'{args}: status {p.returncode}: {said}')
    check(said.startswith('guise: ') or '\nguise: ' in said, f'{args}: no message: {said!r}')
    for word in words:
        check(word in said, f'{args}: no "{word}": {said}')
    check(not left_behind(), f'{args}: left {left_behind()}')


def test_values():
    for option, value in VALUED.items():
        refused(f'--{option}={value}', status=(2,) if option != 'cpu' else (1, 2))
        refused(f'--{option}={"9" * 70000}')
        # Without a value at the end of the line.
        refused(f'--{option}', status=(2,), words=['needs a value'])
    refused('--cpus', '18446744073709551617', status=(2,))
    refused('--memory', '18446744073709551615G', status=(2,))
    refused('--memory', '16777215T')
    refused('--detach=yes', status=(2,), words=['takes no value'])
    refused('--', status=(2,))
    refused('---', status=(2,))
    refused('-x', status=(2,))
    refused('--net', 'user,vhost=on', status=(2,), words=['vhost=on'])
    refused('--net', 'tap=t0,vhost=perhaps', status=(2,), words=['auto, on, off'])


def said_by(*args):
    p = subprocess.run([run.GUISE, *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=run.patience(20))
    check(p.returncode == 0, f'{args}: status {p.returncode}: {p.stderr!r}')
    return p.stdout.decode()


def test_help():
    """Every option and command is in the manual, and the other way round; each command has its own help."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'man', 'guise.1')) as f:
        manual = f.read().replace('\\-', '-')
    of_run, images = manual.split('.SH DISK IMAGES')
    for text, words in ((of_run, said_by('run', '--help')), (images, said_by('image', 'help'))):
        options = set(re.findall(r'^ +--([a-z0-9-]+)', words, re.M))
        check(len(options) > 5, words)
        missing = {o for o in options if not re.search(rf'--{o}\b(?!-)', text)}
        check(not missing, f'not in the manual: {missing}')
    known = said_by('run', '--help') + said_by('image', 'help') + said_by('help')
    strange = {o for o in re.findall(r'(?<![-\w])--([a-z0-9-]+)', manual) if not re.search(rf'--{o}\b', known)}
    check(not strange, f'only in the manual: {strange}')
    for command in re.findall(r'^(?:usage:|      ) guise ([a-z|]+)', said_by('help'), re.M):
        for word in command.split('|'):
            check(f'guise {word}' in manual or f'guise {command}' in manual, f'{word} is not in the manual')
            if word not in ('run', 'image', 'doctor', 'version'):
                check(f'usage: guise {word}' in said_by(word, '--help'), word)
    for verb in re.findall(r'^  ([a-z]+)', said_by('image', 'help'), re.M):
        check(f'guise image {verb}' in manual, f'image {verb} is not in the manual')
        check(f'usage: guise image {verb}' in said_by('image', verb, '--help'), verb)


def test_files():
    os.mkfifo(path('fifo'))
    os.mkdir(path('folder'))
    os.symlink('loop', path('loop'))
    open(path('nothing'), 'w').close()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path('socket'))
    weird = [path(name) for name in ('fifo', 'folder', 'loop', 'nothing', 'socket', 'missing')] + ['/dev/null', '/proc/self/mem']
    for file in weird:
        refused(file, status=(1,))
        for option in ('disk', 'cdrom', 'kernel', 'firmware'):
            refused(f'--{option}={file}', status=(1,))
        refused('--kernel', run.GUISE, '--initrd', file, status=(1,))
    listener.close()


def test_cut_files():
    """The beginnings of a kernel, a firmware and images: a message, or a machine that starts; never a crash."""
    def beginning(name, data, size):
        with open(path(name), 'wb') as f:
            f.write(data[:size])
        return path(name)

    with open(os.path.join(run.GUESTS, 'vmlinuz'), 'rb') as f:
        kernel = f.read(1 << 20)
    with open(run.multiboot_kernel('cut', 1), 'rb') as f:
        elf = f.read()
    subprocess.run([run.GUISE, 'image', 'create', path('whole.qcow2'), '64M'], check=True, capture_output=True)
    with open(path('whole.qcow2'), 'rb') as f:
        image = f.read()
    for size in (1, 511, 0x202, 0x240, 1024, 20000, 1 << 20):
        refused('--kernel', beginning('kernel', kernel, size), status=(1,))
    for size in (4, 51, 52, 83, 90):
        refused('--kernel', beginning('elf', elf, size), status=(1,))
    for size in (4, 71, 103, 70000):
        refused('--disk', beginning('cut.qcow2', image, size) + ',format=qcow2', status=(1,))
    refused('--initrd', beginning('initrd', kernel, 100), status=(1, 2))
    for size in (1, 1000, 65535, 65537):
        refused('--firmware', beginning('bios', bytes(1 << 20), size), status=(1,))
    refused('--firmware', beginning('bios', bytes(32 << 20), 32 << 20), status=(1,))


def test_unwritable():
    hang = run.boot_sector(b'\xeb\xfe')
    for option in ('--serial=file:', '--debugcon=', '--capture='):
        refused(hang, option + path('no/such/folder/log'), status=(1,), words=['no/such/folder/log'])
    refused(hang, '--trace=int', '--trace-file=' + path('no/such/log'), status=(1,), words=['no/such/log'])
    refused(hang, '--qmp', 'unix:' + path('no/such/qmp'), status=(1,))
    refused(hang, '--qmp', 'unix:' + path('x' * 120), status=(1, 2))


def test_full_disk():
    """Writing the log fails: the guest goes on."""
    with Machine('full', run.boot_sector(run.print_and_exit('full', 1)), '--memory', '32M', '--debugcon', '/dev/full') as m:
        m.wait_screen('full', 60)
        m.qmp('quit')
        check(m.end() == 0, m.said())


def test_closed_streams():
    for closed in ('<&-', '>&-', '2>&-', '<&- >&- 2>&-'):
        p = subprocess.run(['sh', '-c', f'"$0" run "$1" --display none --debug-exit --serial stdio --memory 32M {closed}', run.GUISE,
                            run.boot_sector(run.print_and_exit('closed', 0x15))], capture_output=True, timeout=60)
        check(p.returncode == 0x2b, f'{closed}: status {p.returncode}: {p.stderr!r}')


def test_broken_pipe():
    p = subprocess.run(['sh', '-c', '"$0" run --help | true; "$0" list | true'], env={**os.environ, '0': run.GUISE}, timeout=20,
                       executable='/bin/sh', capture_output=True)
    check(p.returncode == 0, f'status {p.returncode}')


def test_stale_socket():
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path('stale.qmp'))
    stale.close()
    with Machine('stale', run.boot_sector(b'\xeb\xfe'), '--memory', '32M') as m:
        m.qmp('quit')
        check(m.end() == 0, m.said())
    check(not os.path.exists(path('stale.qmp')), 'the socket stays behind')


def test_own_socket():
    """A machine with a QMP socket of its own is found under its name all the same."""
    with Machine('own-socket', run.boot_sector(run.print_and_exit('found', 1)), '--memory', '32M') as m:
        m.wait_screen('found', 60)
        status, out, err = run.guise('ps')
        check(status == 0 and [line.split() for line in out.splitlines() if 'own-socket' in line] == [['own-socket', 'running']], out + err)
        status, out, err = run.guise('screen', 'own-socket')
        check(status == 0 and 'found' in out, f'{status}: {out} {err}')
        status, _, err = run.guise('screenshot', 'own-socket', path('own.png'))
        check(status == 0 and os.path.getsize(path('own.png')), f'{status}: {err}')
        status, _, err = run.guise('stop', 'own-socket', '--force')
        check(status == 0 and m.end() == 0, f'{status}: {err}')
        check(not os.path.exists(m.qmp_path), 'the socket stays behind')
    check('own-socket.qmp' not in left_behind(), f'left {left_behind()}')


def test_killed():
    """What a killed machine leaves does not stand in the way of the next."""
    for _ in range(2):
        with Machine('killed', run.boot_sector(b'\xeb\xfe'), '--memory', '32M') as m:
            m.connect()
            m.process.send_signal(signal.SIGKILL)
            m.process.wait()


def test_stop_waits():
    """A machine that was stopped is gone: its name and its disk are free."""
    disk = run.boot_sector(b'\xf4')
    for _ in range(3):
        p = subprocess.run([run.GUISE, 'run', '--disk', disk + ',format=raw', '--display', 'none', '--serial', 'none', '--memory', '32M', '--name',
                            'stopped', '--detach'], stdin=subprocess.DEVNULL, capture_output=True, timeout=run.patience(30))
        check(p.returncode == 0, f'status {p.returncode}: {p.stderr!r}')
        check('stopped' in said_by('ps'), 'not there')
        check('info vga' in said_by('monitor', 'stopped', 'info vga'), 'what is unknown is not named')
        said_by('stop', 'stopped', '--force')
        check('stopped' not in said_by('ps') and not any(f.startswith('stopped') for f in left_behind()), 'still there')


def test_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Machine(f'signal{number}', run.boot_sector(b'\xeb\xfe'), '--memory', '32M') as m:
            m.connect()
            m.process.send_signal(number)
            check(m.end() == 0, m.said())
            check(not os.path.exists(m.qmp_path), 'the socket stays behind')


def test_bare_environment():
    """No HOME, no XDG_RUNTIME_DIR; as nobody where that can be tried."""
    command = [run.GUISE, 'run', run.boot_sector(run.print_and_exit('bare', 0x15)), '--display', 'none', '--serial', 'none', '--debug-exit',
               '--memory', '32M']
    p = subprocess.run(command, env={'PATH': os.environ['PATH']}, capture_output=True, timeout=60)
    check(p.returncode == 0x2b, f'status {p.returncode}: {p.stderr!r}')
    if os.getuid() or not shutil.which('setpriv'):
        return
    binary = shutil.copy(run.GUISE, '/tmp/guise-as-nobody')
    image = shutil.copy(command[2], '/tmp/guise-as-nobody.img')
    try:
        os.chmod(image, 0o644)
        command[0], command[2] = binary, '--disk=' + image + ',format=raw,snapshot'
        p = subprocess.run(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', *command], env={'PATH': os.environ['PATH']},
                           capture_output=True, timeout=60)
        check(p.returncode == 0x2b, f'nobody: status {p.returncode}: {p.stderr!r}')
    finally:
        os.remove(binary)
        os.remove(image)


if __name__ == '__main__':
    run.TESTS = [test for name, test in list(globals().items()) if name.startswith('test_')]
    sys.exit(run.main())
