#!/usr/bin/env python3
"""Boots real guests and feeds bad input, as a user would; prints TAP.

usage: [GUISE_ENGINE=NAME] [GUISE_TEST_PATIENCE=N] run.py PATH-TO-GUISE [NAME...]
"""
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import debian
import desktop
import drives
import storage
import kernels
import uefi
import vnc

GUISE = ''
GUESTS = ''
WORK = ''
# Options that every machine gets instead of what its test says (matrix.py).
SHAPE = {}


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def need(path):
    if not os.path.exists(path):
        raise Skip(f'{path} is missing')


def check(ok, message):
    if not ok:
        raise Failure(message)


def engine(args):
    """The engine that the whole run is for, unless a test names its own."""
    wanted = os.environ.get('GUISE_ENGINE')
    return ['--engine', wanted] if wanted and '--engine' not in args else []


def shaped(args):
    args = list(args)
    for option, value in SHAPE.items():
        while option in args:
            at = args.index(option)
            del args[at:at + 2]
        args += [option, value]
    return args


def patience(seconds):
    """The interpreter takes its time, as do a build with sanitizers and a host that does much else (GUISE_TEST_PATIENCE)."""
    return seconds * (4 if os.environ.get('GUISE_ENGINE') == 'interp' else 1) * int(os.environ.get('GUISE_TEST_PATIENCE', 1))


def guise(*args, timeout=60, environment=None):
    """Runs guise to its end; (status, stdout, stderr)."""
    p = subprocess.run([GUISE, *args, *(engine(args) if args[0] == 'run' else [])], stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=patience(timeout), env={**os.environ, **(environment or {})})
    return p.returncode, p.stdout.decode(errors='replace'), p.stderr.decode(errors='replace')


class Machine:
    """A detached-in-spirit machine: a child process with its QMP socket."""

    def __init__(self, name, *args, display='none', prefix=()):
        args = shaped(args)
        self.name = name
        self.cpus = int(args[args.index('--cpus') + 1]) if '--cpus' in args else 1
        self.qmp_path = os.path.join(WORK, name + '.qmp')
        self.serial = os.path.join(WORK, name + '.serial')
        self.log = open(os.path.join(WORK, name + '.log'), 'w+b')
        self.process = subprocess.Popen(
            [*prefix, GUISE, 'run', *engine(args), *args, '--name', name, '--display', display, '--serial', 'file:' + self.serial,
             '--qmp', 'unix:' + self.qmp_path], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.socket = None
        self.buffer = b''
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.socket:
            self.socket.close()
        self.log.close()

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors='replace')

    def line(self):
        while b'\n' not in self.buffer:
            more = self.socket.recv(65536)
            check(more, 'QMP closed: ' + self.said())
            self.buffer += more
        line, self.buffer = self.buffer.split(b'\n', 1)
        return json.loads(line)

    def connect(self):
        end = time.time() + patience(20)
        while not os.path.exists(self.qmp_path):
            check(self.process.poll() is None and time.time() < end, 'no QMP socket: ' + self.said())
            time.sleep(0.05)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(patience(30))
        while True:
            try:
                self.socket.connect(self.qmp_path)
                break
            except ConnectionRefusedError: # there, but nobody listens yet
                check(self.process.poll() is None and time.time() < end, 'no QMP: ' + self.said())
                time.sleep(0.05)
        check('QMP' in self.line(), 'no greeting')
        self.qmp('qmp_capabilities')

    def refused(self, command, **arguments):
        """The reason why a command is refused."""
        answer = self.execute(command, arguments)
        check('error' in answer and answer['error']['class'] == 'GenericError', f'{command} {arguments}: {answer}')
        return answer['error']['desc']

    def qmp(self, command, **arguments):
        answer = self.execute(command, arguments)
        check('return' in answer, f'{command}: {answer}')
        return answer['return']

    def execute(self, command, arguments):
        if not self.socket:
            self.connect()
        request = {'execute': command}
        if arguments:
            request['arguments'] = arguments
        self.socket.sendall(json.dumps(request).encode() + b'\n')
        while True:
            answer = self.line()
            if 'event' in answer:
                self.events.append(answer)
            if 'return' in answer or 'error' in answer:
                return answer

    def event(self, name, seconds=60):
        """The next event of that name, heard since the last one asked for."""
        end = time.time() + seconds
        while True:
            for i, e in enumerate(self.events):
                if e['event'] == name:
                    del self.events[:i + 1]
                    return e['data'] if 'data' in e else {}
            check(time.time() < end, f'no {name}; {self.console()[-800:]}')
            self.qmp('query-status')
            time.sleep(0.05)

    def console(self):
        try:
            with open(self.serial, 'rb') as f:
                return f.read().decode(errors='replace')
        except FileNotFoundError:
            return ''

    def wait_console(self, text, seconds):
        self.wait(lambda: text in self.console(), seconds, f'no "{text}" on the serial line', self.console)

    def wait_screen(self, text, seconds):
        self.wait(lambda: text in self.screen(), seconds, f'no "{text}" on the screen', self.screen)

    def screen(self):
        try:
            return self.qmp('x-guise-screen')
        except Failure as e:
            if 'graphics' in str(e):
                return ''
            raise

    def wait(self, condition, seconds, message, show):
        end = time.time() + patience(seconds)
        while not condition():
            ended = self.process.poll() is not None
            if (ended and not condition()) or time.time() > end:
                raise Failure(f'{message}; ended: {self.process.poll()}; {self.said()[-500:]}; shown: {show()[-1500:]}'
                              if not ended else f'{message}; ended: {self.process.poll()}; {self.said()[-500:]}')
            time.sleep(0.1)

    def end(self, seconds=30):
        try:
            return self.process.wait(patience(seconds))
        except subprocess.TimeoutExpired:
            raise Failure('the machine did not end')


def boot_sector(code):
    path = os.path.join(WORK, f'sector{len(code)}.img')
    with open(path, 'wb') as f:
        f.write(code.ljust(510, b'\0') + b'\x55\xaa' + bytes(1 << 20))
    return path


def assembled(name, *defines):
    """A disk that begins with a program of this folder, linked for where the BIOS loads it."""
    image = os.path.join(WORK, name + '.img')
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + '.S')
    try:
        subprocess.run(['gcc', '-m32', '-nostdlib', '-static', '-Wl,-Ttext=0x7c00,--oformat=binary,--build-id=none', *defines, '-o', image,
                        source], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise Skip(f'no 32-bit assembler: {e}')
    os.truncate(image, 1 << 20)
    return image


def print_and_exit(text, port_value):
    """16-bit code: prints by the BIOS and to the debug console, then writes debug-exit."""
    head = bytes([0x31, 0xC0, 0x8E, 0xD8, 0xBE])  # xor ax,ax; mov ds,ax; mov si,
    loop = bytes([0xAC, 0x84, 0xC0, 0x74, 0x0C,    # lodsb; test al,al; jz tail
                  0xBA, 0x02, 0x04, 0xEE,          # mov dx,0x402; out dx,al
                  0xB4, 0x0E, 0x31, 0xDB, 0xCD, 0x10, 0xEB, 0xEF])  # mov ah,14; xor bx,bx; int 10h; jmp loop
    tail = bytes([0xBA, 0xF4, 0x00, 0xB0, port_value, 0xEE, 0xF4, 0xEB, 0xFD])  # out 0xf4; hlt; jmp
    size = len(head) + 2 + len(loop) + len(tail)
    return head + struct.pack('<H', 0x7C00 + size) + loop + tail + text.encode() + b'\0'


def test_boot_sector():
    image = boot_sector(print_and_exit('boot sector here', 0x15))
    con = os.path.join(WORK, 'sector.con')
    status, _, err = guise('run', image, '--display', 'none', '--serial', 'none', '--debugcon', con, '--debug-exit',
                           '--memory', '64M', timeout=90)
    text = open(con, 'rb').read().decode(errors='replace')
    check('boot sector here' in text, f'debugcon: {text[-400:]!r}; {err}')
    check(status == 0x15 * 2 + 1, f'status {status}; {err}')


def test_memory_end():
    """Guests with more memory than the host, who touch their last page: 20 GiB, and 2 and 60 TiB, whose addresses are longer."""
    if os.environ.get('GUISE_ENGINE') == 'kvm':
        raise Skip('slots of KVM are smaller, and the program is for the other engines')
    with open('/proc/cpuinfo') as f:
        host = int(re.search(r'address sizes\s*: (\d+)', f.read())[1])
    for gib, bits in ((20, 40), (2 << 10, 42), (60 << 10, 46)):
        if bits > host:
            continue
        image = assembled('memory_end', f'-DLAST_PAGE={(gib + 1 << 30) - (2 << 20):#x}')
        status, _, err = guise('run', image, '--display', 'none', '--serial', 'none', '--net', 'none', '--debug-exit', '--memory', f'{gib}G',
                               environment={'GUISE_OVERCOMMIT': '1'})
        check(status == bits * 2 + 1, f'{gib} GiB: status {status}; {err}')
    status, _, err = guise('run', image, '--display', 'none', '--memory', f'{1 << host - 30}G', environment={'GUISE_OVERCOMMIT': '1'})
    check(status == 1 and 'physical addresses' in err, f'status {status}; {err}')


def test_boot_sector_screen():
    code = print_and_exit('on the screen', 0x01)
    with Machine('screen', boot_sector(code), '--memory', '64M') as m:
        m.wait_screen('on the screen', 90)
        m.qmp('screendump', filename=os.path.join(WORK, 'screen.png'))
        with open(os.path.join(WORK, 'screen.png'), 'rb') as f:
            check(f.read(8) == b'\x89PNG\r\n\x1a\n', 'not a PNG')
        check(m.qmp('query-status')['running'], 'not running')
        m.qmp('stop')
        check(m.qmp('query-status')['status'] == 'paused', 'not paused')
        m.qmp('cont')
        check('RIP=' in m.qmp('human-monitor-command', **{'command-line': 'info registers'}), 'no registers')
        m.qmp('quit')
        check(m.end() == 0, 'quit: status')


# Reads a byte of the keyboard every 30 ms (by port 0x61's refresh bit), tells it to the debug console; says R first.
SLOW_READER = bytes([0xB0, 0x52, 0xBA, 0x02, 0x04, 0xEE, 0xFA,                     # mov al,'R'; out 0x402,al; cli
                     0xE4, 0x64, 0xA8, 0x01, 0x74, 0xFA,                            # in al,0x64; test al,1; jz -6
                     0xB9, 0xD0, 0x07,                                              # mov cx,2000
                     0xE4, 0x61, 0x24, 0x10, 0x38, 0xE0, 0x74, 0xF8, 0x88, 0xC4,    # until bit 4 differs from ah
                     0xE2, 0xF4,                                                    # loop
                     0xE4, 0x60, 0xBA, 0x02, 0x04, 0xEE, 0xEB, 0xE3])               # in al,0x60; out 0x402,al; next


def test_slow_typing():
    """What is typed faster than the guest takes it reaches it whole."""
    con = os.path.join(WORK, 'slow.con')
    text = 'the quick brown fox jumps'
    codes = {**dict(zip('qwertyuiop', range(0x10, 0x1a))), **dict(zip('asdfghjkl', range(0x1e, 0x27))),
             **dict(zip('zxcvbnm', range(0x2c, 0x33))), ' ': 0x39}
    with Machine('slow', boot_sector(SLOW_READER), '--memory', '64M', '--net', 'none', '--debugcon', con) as m:
        def heard():
            """After the BIOS's last line and the R; None before."""
            said = open(con, 'rb').read() if os.path.exists(con) else b''
            at = said.rfind(b'\nR')
            return said[at + 2:] if at >= 0 else None
        m.wait(lambda: heard() == b'', 90, 'no start', m.screen)
        m.qmp('x-guise-type', text=text)
        expected = b''.join(bytes([codes[c], codes[c] | 0x80]) for c in text)
        m.wait(lambda: len(heard()) >= len(expected), 60, 'keys are missing', lambda: heard().hex())
        check(heard() == expected, heard().hex())


def test_input_refused():
    """What is wrong with an event is told with its place, and no event of the list has an effect."""
    con = os.path.join(WORK, 'refused.con')
    button, key = {'down': True, 'button': 'left'}, {'down': True, 'key': {'type': 'qcode', 'data': 'a'}}
    good = {'type': 'key', 'data': key}
    bad = [({'type': 'touch', 'data': {}}, 'type is key, btn, rel or abs'), ({}, 'type is'), ('key', 'type is'),
           ({'type': 'key', 'data': {'key': key['key']}}, 'down is missing'), ({'type': 'key'}, 'down is missing'),
           ({'type': 'key', 'data': {'down': 'yes', 'key': key['key']}}, 'down is missing'),
           ({'type': 'key', 'data': {'down': True}}, 'unknown key'),
           ({'type': 'key', 'data': {**key, 'key': {'type': 'qcode', 'data': 'any'}}}, 'unknown key'),
           ({'type': 'btn', 'data': {**button, 'button': 'fire'}}, 'unknown button'),
           ({'type': 'rel', 'data': {'axis': 'z', 'value': 1}}, 'axis is x or y'),
           ({'type': 'rel', 'data': {'axis': 'x', 'value': 32768}}, 'value is out of range'),
           ({'type': 'abs', 'data': {'axis': 'x', 'value': -1}}, 'value is out of range'),
           ({'type': 'abs', 'data': {'axis': 'y', 'value': 'far'}}, 'value is out of range')]
    with Machine('refused', boot_sector(SLOW_READER), '--memory', '64M', '--net', 'none', '--debugcon', con) as m:
        m.wait(lambda: os.path.exists(con) and open(con, 'rb').read().endswith(b'\nR'), 90, 'no start', m.screen)
        for event, why in bad:
            said = m.refused('input-send-event', events=[good, event])
            check(said.startswith('event 2: ' + why), f'{event}: {said}')
        for arguments in ({}, {'events': {}}, {'events': 1}):
            check("'events' is missing" in m.refused('input-send-event', **arguments), str(arguments))
        check('at most' in m.refused('input-send-event', events=[good] * 65), 'too many')
        check('--tablet' in m.refused('input-send-event', events=[{'type': 'abs', 'data': {'axis': 'x', 'value': 1}}]), 'no tablet')
        check('position 2' in m.refused('send-key', keys=[key['key'], {'type': 'qcode', 'data': 'any'}]), 'send-key')
        m.qmp('input-send-event', events=[{**good, 'data': {**key, 'key': {'type': 'qcode', 'data': 'z'}}}])
        m.wait(lambda: not open(con, 'rb').read().endswith(b'\nR'), 30, 'no key', m.screen)
        check(open(con, 'rb').read().endswith(b'\nR\x2c'), 'a refused event had an effect')


def test_vm86():
    """The video BIOS called in virtual-8086 mode: VBE's modes, the banked window, the linear frame buffer, text again."""
    image, con = assembled('vm86'), os.path.join(WORK, 'vm86.con')
    with Machine('vm86', '--disk', image + ',format=raw', '--memory', '64M', '--net', 'none', '--debugcon', con) as m:
        def said():
            return open(con, 'rb').read().decode(errors='replace') if os.path.exists(con) else ''
        m.wait(lambda: 'DRAWN' in said() or 'UNEXPECTED' in said(), 90, 'nothing drawn', said)
        check('UNEXPECTED' not in said(), 'the BIOS does something else; ' + m.qmp('human-monitor-command', **{'command-line': 'info registers'}))
        m.qmp('screendump', filename=os.path.join(WORK, 'vm86.ppm'), format='ppm')
        picture = desktop.read_ppm(os.path.join(WORK, 'vm86.ppm'))
        check((picture.width, picture.height) == (1024, 768), f'{picture.width}x{picture.height}')
        check(picture.data == bytes([0xc0, 0x80, 0x40]) * (1024 * 384) + bytes([0x20, 0x60, 0xa0]) * (1024 * 384), 'another picture')
        m.qmp('x-guise-type', text='x')
        m.wait_screen('text by vm86', 30)
        m.wait(lambda: 'DONE' in said(), 30, 'not done', said)


def test_reset_ends_with_no_reboot():
    image = boot_sector(bytes([0xB0, 0xFE, 0xE6, 0x64, 0xF4]))  # keyboard controller reset
    status, _, err = guise('run', image, '--display', 'none', '--serial', 'none', '--no-reboot', '--memory', '64M', timeout=90)
    check(status == 3, f'status {status}; {err}')


def linux(name, *args, seconds=240, words=()):
    with Machine(name, os.path.join(GUESTS, 'vmlinuz'), '--initrd', os.path.join(GUESTS, 'initramfs.cpio.gz'),
                 '--append', 'console=ttyS0 guise.test panic=-1', '--no-reboot', *args) as m:
        m.wait_console('GUISE-TEST-OK', seconds)
        check(f'\n{m.cpus}\r\nGUISE-TEST-OK' in m.console(), f'not {m.cpus} processors: {m.console()[-800:]}')
        for word in words:
            check(word in m.console(), f'no "{word}": {m.console()[-800:]}')
        check(m.end(60) == 0, 'status')


def test_linux():
    linux('linux')


def test_linux_small_cache():
    """Translated code in a cache so small that all of it is evicted hundreds of times in one boot."""
    linux('small-cache', '--engine', 'bt', '--bt-cache', '2M')


def test_linux_windows_checked():
    """All code in windows from the first time on, and each block proven to do no more than it may."""
    before = dict(os.environ)
    os.environ.update(GUISE_BT_TIER2='always', GUISE_BT_CHECK='1')
    try:
        linux('windows', '--engine', 'bt', '--cpus', '2')
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_linux_smp():
    linux('linux-smp', '--cpus', '4', '--memory', '1G', words=['4 CPUs'])


def with_init(script, files=()):
    """The guest's initramfs with another first process and more files in its root: a second archive goes over the first."""
    def entry(name, mode, data):
        head = b'070701' + b''.join(b'%08x' % v for v in
                                    (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0))
        head += name.encode() + b'\0'
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    path = os.path.join(WORK, 'initrd')
    with open(path, 'wb') as f:
        with open(os.path.join(GUESTS, 'initramfs.cpio.gz'), 'rb') as base:
            f.write(base.read())
        f.write(bytes(-f.tell() % 4))
        for name, data in files:
            f.write(entry(name, 0o100644, data))
        f.write(entry('init', 0o100755, script.encode()) + entry('TRAILER!!!', 0, b''))
    return path


VIRTIO_INIT = '''#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in virtio_pci virtio_blk virtio_net virtio_console virtio-rng virtio_balloon pvpanic-mmio; do modprobe $m; done
for d in /sys/bus/virtio/devices/*; do echo "virtio $(cat $d/device) $(ls -d $d/driver/module >/dev/null && echo bound)"; done
echo "serial $(cat /sys/block/vda/serial)"
dd if=/dev/vda of=/tmp/disk bs=64k 2>/dev/null
dd if=/tmp/disk of=/dev/vdb bs=64k 2>/dev/null
dd if=/dev/zero of=/dev/vda bs=512 count=1 2>&1 | grep -o 'Operation not permitted'
sync
echo "entropy $(dd if=/dev/hwrng bs=64 count=4 2>/dev/null | sort -u | wc -c)"
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
ping -c 2 10.0.2.2 | grep received
exec 3<>/dev/hvc0
echo hello from hvc0 >&3
read answer <&3
echo "heard $answer"
rm /tmp/disk
dd if=/dev/zero of=/tmp/big bs=1M count=128 2>/dev/null
echo MEMORY-TAKEN
read answer <&3
rm /tmp/big
echo MEMORY-FREED
free=$(awk '/MemFree/ { print $2 }' /proc/meminfo)
read answer <&3
while [ $(awk '/MemFree/ { print $2 }' /proc/meminfo) -gt $((free - 200000)) ]; do sleep 1; done
echo BALLOON-FULL
read answer <&3
echo c > /proc/sysrq-trigger
'''


def test_virtio_boot():
    """SeaBIOS finds the disk, although it is not transitional."""
    image = boot_sector(print_and_exit('from a virtio disk', 0x15))
    con = os.path.join(WORK, 'virtio.con')
    status, _, err = guise('run', '--disk', image + ',format=raw,bus=virtio', '--display', 'none', '--serial', 'none',
                           '--debugcon', con, '--debug-exit', '--memory', '64M', timeout=90)
    text = open(con, 'rb').read().decode(errors='replace')
    check('from a virtio disk' in text, f'debugcon: {text[-400:]!r}; {err}')
    check(status == 0x15 * 2 + 1, f'status {status}; {err}')


def test_text_monitor():
    """Ctrl-a c on the text display: the monitor on the same terminal, and back to the guest's screen."""
    command = [GUISE, 'run', *engine([]), boot_sector(print_and_exit('in-the-terminal', 0x01)), '--memory', '64M', '--net', 'none',
               '--display', 'text', '--name', 'text-monitor']
    pid, master = pty.fork()
    if not pid:
        os.execv(GUISE, command)
    heard = b''

    def wait_for(text):
        nonlocal heard
        end = time.time() + 60
        while text not in heard:
            check(select.select([master], [], [], max(0, end - time.time()))[0], f'no {text} in {heard[-800:]}')
            heard += os.read(master, 4096)
        heard = heard.split(text, 1)[1]

    try:
        wait_for(b'in-the-terminal')
        os.write(master, b'\x01c')
        wait_for(b'\x1b[?1049l')
        wait_for(b'(guise) ')
        os.write(master, b'info statusx\x7f\r')
        wait_for(b'VM status: running')
        os.write(master, b'\x01c')
        wait_for(b'\x1b[?1049h')
        wait_for(b'in-the-terminal')
        os.write(master, b'\x01x')
        check(os.waitpid(pid, 0)[1] == 0, 'status')
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(master)


def resident(pid):
    """Bytes that the host spends on a machine's memory files."""
    total = 0
    for fd in os.listdir(f'/proc/{pid}/fd'):
        path = f'/proc/{pid}/fd/{fd}'
        if os.readlink(path).startswith('/memfd:ram'):
            total += os.stat(path).st_blocks * 512
    return total


def test_virtio():
    """Linux's drivers on every virtio device: data, randomness, a console, memory given back, a panic."""
    source, copy = os.path.join(WORK, 'source.img'), os.path.join(WORK, 'copy.img')
    data = os.urandom(4 << 20)
    with open(source, 'wb') as f:
        f.write(data)
    with open(copy, 'wb') as f:
        f.truncate(len(data))
    path = os.path.join(WORK, 'hvc.sock')
    with Machine('virtio', os.path.join(GUESTS, 'vmlinuz'), '--initrd', with_init(VIRTIO_INIT),
                 '--append', 'console=ttyS0 panic=-1', '--memory', '512M', '--on-panic', 'pause', '--console', 'unix:' + path,
                 '--disk', source + ',format=raw,bus=virtio,readonly', '--disk', copy + ',format=raw,bus=virtio') as m:
        m.connect()
        hvc = socket.socket(socket.AF_UNIX)
        hvc.settimeout(240)
        hvc.connect(path)
        check(b'hello from hvc0' in hvc.recv(64), 'no greeting on the virtio console')
        hvc.sendall(b'you\n')
        m.wait_console('heard you', 30)
        for device, name in (('0x0001', 'net'), ('0x0002', 'blk'), ('0x0003', 'console'), ('0x0004', 'rng'), ('0x0005', 'balloon')):
            check(f'virtio {device} bound' in m.console(), f'{name} has no driver: {m.console()[-2000:]}')
        check('serial virtio0' in m.console() and 'Operation not permitted' in m.console(), m.console()[-800:])
        check('2 packets received' in m.console(), 'the gateway does not answer')
        check(re.search('entropy 2[0-9][0-9]', m.console()), 'no entropy')
        with open(copy, 'rb') as f:
            check(f.read() == data, 'what was copied from disk to disk differs')
        m.wait_console('MEMORY-TAKEN', 60)
        before = resident(m.process.pid)
        hvc.sendall(b'\n')
        m.wait_console('MEMORY-FREED', 30)
        m.wait(lambda: resident(m.process.pid) < before - (100 << 20), 90, 'free pages stay with the guest',
               lambda: f'{before >> 20} MiB, now {resident(m.process.pid) >> 20}: {m.qmp("x-guise-memory")}')
        wanted = m.qmp('query-balloon')['actual'] - (256 << 20)
        m.qmp('balloon', value=wanted)
        hvc.sendall(b'\n')
        m.wait_console('BALLOON-FULL', 60)
        m.wait(lambda: m.qmp('query-balloon')['actual'] == wanted, 30, 'the balloon is not full', m.console)
        hvc.sendall(b'\n')
        m.wait(lambda: m.qmp('query-status')['status'] == 'guest-panicked', 30, 'no panic', m.console)
        hvc.close()
        m.qmp('quit')
        check(m.end() == 0, 'status')


def rom(code):
    """A BIOS image of our own: code at f000:0000, where the reset vector jumps."""
    path = os.path.join(WORK, f'rom{len(code)}.bin')
    with open(path, 'wb') as f:
        f.write(code.ljust(0xfff0, b'\xf4') + bytes([0xEA, 0, 0, 0, 0xF0]).ljust(16, b'\0'))
    return path


def diffrun(image, *engines, kind='--firmware'):
    p = subprocess.run([os.path.join(os.path.dirname(GUISE), 'diffrun'), *engines, '--', kind, image, '--net', 'none',
                        '--memory', '16M', '--debug-exit'], stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    return p.returncode, p.stdout.decode(errors='replace') + p.stderr.decode(errors='replace')


DEBUG_EXIT = bytes([0xBA, 0xF4, 0x00, 0xB0, 0x07, 0xEE, 0xF4])  # mov dx,0xf4; mov al,7; out dx,al; hlt


def test_diffrun():
    # mov cx,500; l: add bx,cx; push bx; div cl... no fault: mov ax,cx; mul bx; rol bx,3; pop si; in al,0x40; loop l
    loop = bytes([0xBC, 0x00, 0x7C, 0xB9, 0xF4, 0x01, 0x01, 0xCB, 0x53, 0x89, 0xC8, 0xF7, 0xE3, 0xC1, 0xC3, 0x03, 0x5E, 0xE4,
                  0x40, 0xE2, 0xF1])
    same = rom(loop + DEBUG_EXIT)
    status, out = diffrun(same, 'interp', 'interp')
    check(status == 0 and 'both end the same way after 40' in out, f'status {status}: {out}')
    # The paravirtual clock puts the host's time stamp into memory: mov ecx,0x4b564d01; mov eax,0x2001; xor edx,edx; wrmsr
    differs = rom(bytes([0x66, 0xB9, 0x01, 0x4D, 0x56, 0x4B, 0x66, 0xB8, 0x01, 0x20, 0, 0, 0x66, 0x31, 0xD2, 0x0F, 0x30]) +
                  loop + DEBUG_EXIT)
    status, out = diffrun(differs, 'interp', 'interp')
    check(status == 1 and 'memory at 20' in out, f'status {status}: {out}')
    if os.access('/dev/kvm', os.W_OK):
        status, out = diffrun(same, 'interp', 'kvm')
        check(status == 0 and 'both end the same way' in out, f'status {status}: {out}')


def test_kvm():
    """SeaBIOS on /dev/kvm: the PIT by the PIC, disks, two processors started by the firmware."""
    if not os.access('/dev/kvm', os.W_OK):
        return
    con = os.path.join(WORK, 'kvm.con')
    status, _, err = guise('run', boot_sector(print_and_exit('on KVM', 0x15)), '--engine', 'kvm', '--cpus', '2', '--display', 'none',
                           '--serial', 'none', '--net', 'none', '--debugcon', con, '--debug-exit', '--memory', '64M', timeout=180)
    text = open(con, 'rb').read().decode(errors='replace')
    check(status == 0x15 * 2 + 1 and 'on KVM' in text, f'status {status}; {err}; {text[-400:]}')
    check('Found 2 cpu(s)' in text, text[-2000:])
    check('engine: kvm (as asked' in err, err)


def multiboot_kernel(text, port_value):
    """A 32-bit ELF file with a multiboot header: prints to the debug console, then writes debug-exit."""
    base = 0x100000
    code_at = 52 + 32 + 12
    loop = bytes([0xAC, 0x84, 0xC0, 0x74, 0x07,                          # lodsb; test al,al; jz tail
                  0x66, 0xBA, 0x02, 0x04, 0xEE, 0xEB, 0xF4])             # mov dx,0x402; out dx,al; jmp loop
    tail = bytes([0x66, 0xBA, 0xF4, 0x00, 0xB0, port_value, 0xEE, 0xF4, 0xEB, 0xFD])  # out 0xf4; hlt; jmp
    # The loader's magic in eax, or nothing is printed: cmp eax,0x2badb002; jne tail; mov esi,text
    head = bytes([0x3D]) + struct.pack('<I', 0x2BADB002) + bytes([0x75, 5 + len(loop), 0xBE])
    at = base + code_at + len(head) + 4 + len(loop) + len(tail)
    code = head + struct.pack('<I', at) + loop + tail + text.encode() + b'\0'
    size = code_at + len(code)
    elf = b'\x7fELF\x01\x01\x01' + bytes(9) + struct.pack('<HHIIIIIHHHHHH', 2, 3, 1, base + code_at, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    elf += struct.pack('<IIIIIIII', 1, 0, base, base, size, size, 7, 0x1000)
    elf += struct.pack('<III', 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
    path = os.path.join(WORK, 'multiboot.elf')
    with open(path, 'wb') as f:
        f.write(elf + code)
    return path


def test_multiboot():
    """A kernel of our own by --kernel: the engine of the whole run, and /dev/kvm."""
    wanted = [os.environ.get('GUISE_ENGINE', 'auto')]
    if os.access('/dev/kvm', os.W_OK):
        wanted.append('kvm')
    for name in wanted:
        con = os.path.join(WORK, 'multiboot.con')
        status, _, err = guise('run', '--kernel', multiboot_kernel('by multiboot', 0x2A), '--engine', name, '--display', 'none', '--serial',
                               'none', '--net', 'none', '--debugcon', con, '--debug-exit', '--memory', '32M', timeout=60)
        with open(con, 'rb') as f:
            text = f.read().decode(errors='replace')
        check(status == 0x2A * 2 + 1 and text.endswith('by multiboot'), f'{name}: status {status}; {err}; {text[-400:]}')
    # Behind the video BIOS the code is the translator's own, whose steps are blocks.
    status, out = diffrun(multiboot_kernel('by multiboot', 0x2A), 'interp', 'bt', kind='--kernel')
    check(status == 0 and 'both end the same way' in out and 'bt made' in out, f'status {status}: {out}')


def refused(words, *args, status=2):
    got, out, err = guise('run', *args, timeout=20)
    check(got == status, f'status {got}, not {status}: {err}')
    for word in words:
        check(word in err, f'"{word}" is not in: {err}')


def test_bad_input():
    empty = os.path.join(WORK, 'empty.img')
    open(empty, 'w').close()
    noise = os.path.join(WORK, 'noise.img')
    with open(noise, 'wb') as f:
        f.write(b'just some words\n' * 100)
    refused(['did you mean --memory'], '--memry', '1G')
    refused(['not a size'], '--memory', 'lots')
    refused(['more than this host'], '--memory', '1000000G', '--display', 'none', status=1)
    refused(['/nonexistent'], '/nonexistent.iso', status=1)
    refused(['empty'], empty, status=1)
    refused(['noise.img'], noise, status=1)
    refused(['firmware'], '--firmware', '/nonexistent.bin', '--display', 'none', status=1)
    refused(['1 to 64'], '--cpus', '0')
    refused(['--net'], '--net', 'wireless')


def test_same_name_twice():
    hang = boot_sector(bytes([0xEB, 0xFE]))
    with Machine('twin', hang, '--memory', '32M') as m:
        m.connect()
        refused(['twin is running'], hang, '--name', 'twin', '--display', 'none', status=1)
        m.qmp('quit')
        m.end()


TESTS = [test_bad_input, test_diffrun, test_kvm, test_multiboot, test_boot_sector, test_memory_end, test_boot_sector_screen, test_slow_typing, test_input_refused, test_vm86,
         test_reset_ends_with_no_reboot, test_same_name_twice, test_virtio_boot, test_text_monitor, test_linux, test_linux_small_cache, test_linux_windows_checked, test_linux_smp, test_virtio]
TESTS += vnc.tests(sys.modules[__name__])
TESTS += drives.tests(sys.modules[__name__]) + kernels.tests(sys.modules[__name__])
TESTS += uefi.tests(sys.modules[__name__])
TESTS += storage.tests(sys.modules[__name__])
TESTS += debian.tests(sys.modules[__name__])
TESTS += desktop.tests(sys.modules[__name__])


def attempt(test, n, label):
    """Runs a test and prints its line; whether it failed."""
    start = time.time()
    try:
        test()
        print(f'ok {n} - {label} ({time.time() - start:.1f} s)', flush=True)
    except Skip as e:
        print(f'ok {n} - {label} # SKIP {e}', flush=True)
    except (Failure, OSError, subprocess.TimeoutExpired, KeyError) as e:
        print(f'not ok {n} - {label} ({time.time() - start:.1f} s)\n# ' + str(e).replace('\n', '\n# '), flush=True)
        return True
    return False


def find(guise_path):
    global GUISE, GUESTS
    GUISE = os.path.abspath(guise_path)
    GUESTS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), 'guests')


def main():
    global WORK
    find(sys.argv[1])
    chosen = [t for t in TESTS if not sys.argv[2:] or t.__name__[5:] in sys.argv[2:]]
    failed = 0
    print(f'1..{len(chosen)}', flush=True)
    with tempfile.TemporaryDirectory(prefix='guise-boot-') as WORK:
        # The variables of UEFI machines too: other runs of the same tests are no concern.
        os.environ['XDG_RUNTIME_DIR'] = os.environ['XDG_DATA_HOME'] = WORK
        for n, test in enumerate(chosen, 1):
            failed += attempt(test, n, test.__name__[5:])
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
