#!/usr/bin/env python3
"""Network cards in real guests: iPXE boots over each, Linux uses each in both directions; prints TAP.

usage: net.py PATH-TO-GUISE [NAME...]
"""
import base64
import hashlib
import http.server
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import run
from run import Failure, Machine, check

HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROMS = '/usr/lib/ipxe/qemu/'
BLOB = base64.b64encode(os.urandom(3 << 18))  # 1 MiB; busybox's wget posts text only


def frames(path):
    """The Ethernet frames of a pcap file."""
    data = open(path, 'rb').read()
    check(struct.unpack('<I', data[:4])[0] == 0xa1b23c4d, 'not a pcap file with nanoseconds')
    at = 24
    while at < len(data):
        length = struct.unpack('<I', data[at + 8:at + 12])[0]
        yield data[at + 16:at + 16 + length]
        at += 16 + length


def pxe(model):
    """Firmware starts iPXE from the card's ROM; it gets an address and runs a script fetched by TFTP."""
    check(os.path.exists(ROMS + f'efi-{model}.rom'), 'package ipxe-qemu is not installed')
    tftp = os.path.join(run.WORK, 'tftp')
    os.makedirs(tftp, exist_ok=True)
    with open(os.path.join(tftp, 'boot.ipxe'), 'w') as f:
        f.write('#!ipxe\necho GUISE-PXE-OK over ${net0/chip}\nifstat\nshell\n')
    capture = os.path.join(run.WORK, model + '.pcap')
    with Machine('pxe-' + model, '--boot', 'net', '--memory', '64M', '--capture', capture,
                 '--net', f'user,model={model},forward=none,tftp={tftp},bootfile=boot.ipxe') as m:
        m.wait_screen('GUISE-PXE-OK', 150)
        check('10.0.2.15/255.255.255.0 gw 10.0.2.2' in m.screen(), m.screen())
    seen = list(frames(capture))
    check(any(f[12:14] == b'\x08\x00' and f[23] == 17 and f[36:38] == b'\0\x43' for f in seen), 'no DHCP request captured')
    check(any(f[12:14] == b'\x08\x00' and f[23] == 17 and f[36:38] == b'\0\x45' for f in seen), 'no TFTP request captured')


def test_pxe_virtio():
    pxe('virtio')


def test_pxe_e1000():
    pxe('e1000')


def test_pxe_rtl8139():
    pxe('rtl8139')


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, data):
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer(BLOB)

    def do_POST(self):
        left, digest = int(self.headers['Content-Length']), hashlib.md5()
        while left:
            part = self.rfile.read(min(left, 65536))
            if not part:
                return
            digest.update(part)
            left -= len(part)
        self.answer(digest.hexdigest().encode())


def reach(port, seconds):
    """What the guest's web server says through a forward."""
    end = time.time() + seconds
    while True:
        try:
            return urllib.request.urlopen(f'http://127.0.0.1:{port}/cgi-bin/hit', timeout=10).read().decode()
        except OSError as e:
            check(time.time() < end, f'the forward leads nowhere: {e}')
            time.sleep(0.2)


def test_linux():
    """Linux's own drivers: DHCP, ping of the gateway, 1 MiB down and up over TCP, and a connection into the guest."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.md5(BLOB).hexdigest()
    cards = [('virtio', 'virtio_net'), ('e1000', 'e1000'), ('rtl8139', '8139cp')]
    args = [a for model, _ in cards for a in ('--net', f'user,model={model},forward=tcp:0:80')]
    guests = os.path.join(HERE, 'guests', 'net')
    with Machine('net', os.path.join(guests, 'vmlinux'), '--initrd', os.path.join(guests, 'initramfs.cpio.gz'), '--append',
                 f'console=ttyS0 quiet panic=-1 net.port={server.server_port}', '--memory', '384M', '--no-reboot', *args) as m:
        m.wait_console('CARD virtio_net', 300)
        ports = re.findall(r'127\.0\.0\.1:(\d+) -> guest port 80', m.said())
        check(len(ports) == 3 and '0' not in ports, m.said())
        for (_, driver), port in zip(cards, ports):
            m.wait_console(f'{driver} LISTENS', 120)
            check(reach(port, 30).strip() == f'hit {driver}', 'another card answers')
            m.wait_console(f'{driver} HIT', 60)
            for word in (f'{driver} PING', f'{driver} DOWN {digest}', f'{driver} UP {digest}'):
                check(word in m.console(), f'no "{word}": {m.console()[-1500:]}')
            check(re.search(f'{driver} LEASE.*10.0.2.15/24', m.console()), f'no lease: {m.console()[-1500:]}')
        m.wait_console('NET-DONE', 60)
        check(m.end(60) == 0, 'status')
    server.shutdown()


PAIR_INIT = '''#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for word in $(cat /proc/cmdline); do case $word in pair.me=*) me=${word#pair.me=};; pair.other=*) other=${word#pair.other=};; esac; done
insmod /lib/e1000.ko
sleep 1
ip link set eth0 up
ip addr add $me/24 dev eth0
n=0
until ping -c 1 -W 2 $other >/dev/null; do n=$((n + 1)); [ $n -gt 150 ] && poweroff -f; done
echo "$me REACHES $other"
sleep 1000
'''


def with_init(script):
    """The guest of tools/guest-net with another first process: a second archive goes over the first."""
    def entry(name, mode, data):
        head = b'070701' + b''.join(b'%08x' % v for v in (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0))
        head += name.encode() + b'\0'
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    path = os.path.join(run.WORK, 'initrd')
    with open(path, 'wb') as f:
        with open(os.path.join(HERE, 'guests', 'net', 'initramfs.cpio.gz'), 'rb') as base:
            f.write(base.read())
        f.write(bytes(-f.tell() % 4))
        f.write(entry('init', 0o100755, script.encode()) + entry('TRAILER!!!', 0, b''))
    return path


def test_linux_pair():
    """Two machines joined by a socket reach each other."""
    initrd, lan = with_init(PAIR_INIT), os.path.join(run.WORK, 'lan')
    kernel = os.path.join(HERE, 'guests', 'net', 'vmlinux')

    def machine(me, other):
        return Machine(f'pair{me[-1]}', kernel, '--initrd', initrd, '--memory', '256M', '--net', f'socket={lan},model=e1000',
                       '--append', f'console=ttyS0 quiet panic=-1 pair.me={me} pair.other={other}')

    with machine('10.9.0.1', '10.9.0.2') as a, machine('10.9.0.2', '10.9.0.1') as b:
        a.wait_console('10.9.0.1 REACHES 10.9.0.2', 400)
        b.wait_console('10.9.0.2 REACHES 10.9.0.1', 400)


LINK_INIT = '''#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in MODULES; do insmod /lib/$module.ko; done
sleep 1
for at in /sys/class/net/eth*; do
	dev=${at##*/}; card=$(readlink $at/device/driver); card=${card##*/}
	ip link set $dev up
	ip addr add 10.0.2.15/24 dev $dev
	(
		was=
		while :; do
			is=$(cat $at/carrier)
			[ "$is" = "$was" ] || echo "$card CARRIER $is"
			[ "$is" = 0 ] || [ "$is" = "$was" ] || { ping -I $dev -c 10 -W 5 10.0.2.2 | grep -q from && echo "$card ANSWER"; }
			was=$is
			sleep 1
		done
	) &
done
echo LINKS
while :; do sleep 1000; done
'''


def test_linux_link():
    """The cable of each card, out and in: Linux's drivers see it, and reach the gateway again."""
    modules = re.search(r"^MODULES = \[(.*?)\]", open(os.path.join(HERE, 'tools', 'guest-net')).read(), re.M | re.S).group(1)
    initrd = with_init(LINK_INIT.replace('MODULES', re.sub(r"[',\n]", ' ', modules)))
    drivers = ['virtio_net', 'e1000', '8139cp']
    args = [a for n, model in enumerate(('virtio', 'e1000', 'rtl8139')) for a in ('--net', f'user,model={model},forward=none')]
    with Machine('link', os.path.join(HERE, 'guests', 'net', 'vmlinux'), '--initrd', initrd, '--memory', '256M', '--no-reboot',
                 '--append', 'console=ttyS0 quiet panic=-1', *args) as m:
        m.wait_console('LINKS', 300)
        check('no network card net7' in m.refused('set_link', name='net7', up=True), 'net7')
        check("'up'" in m.refused('set_link', name='net0'), 'up is missing')
        for n, driver in enumerate(drivers):
            m.wait_console(f'{driver} ANSWER', 90)
        for n, driver in enumerate(drivers):
            for up in (False, True):
                before = len(m.console())
                m.qmp('set_link', name=f'net{n}', up=up)
                shown = m.qmp('human-monitor-command', **{'command-line': 'info network'})
                check(f'link {"up" if up else "down"}' in shown.splitlines()[n], shown)
                for word in ['CARRIER 1', 'ANSWER'] if up else ['CARRIER 0']:
                    m.wait(lambda: f'{driver} {word}' in m.console()[before:], 90, f'no "{driver} {word}"', m.console)
        check('Error: there is no network card net9' in m.qmp('human-monitor-command', **{'command-line': 'set_link net9 on'}), 'net9')
        m.qmp('quit')
        check(m.end() == 0, 'status')


TESTS = [test_pxe_virtio, test_pxe_e1000, test_pxe_rtl8139, test_linux, test_linux_pair, test_linux_link]


def main():
    run.GUISE = os.path.abspath(sys.argv[1])
    chosen = [t for t in TESTS if not sys.argv[2:] or t.__name__[5:] in sys.argv[2:]]
    prepared = subprocess.run([os.path.join(HERE, 'tools', 'guest-net')]).returncode == 0
    failed = 0
    print(f'1..{len(chosen)}', flush=True)
    with tempfile.TemporaryDirectory(prefix='guise-net-') as run.WORK:
        os.environ['XDG_RUNTIME_DIR'] = run.WORK
        for n, test in enumerate(chosen, 1):
            start = time.time()
            if test in (test_linux, test_linux_pair, test_linux_link) and not prepared:
                print(f'ok {n} - {test.__name__[5:]} # SKIP no kernel package', flush=True)
                continue
            try:
                test()
                print(f'ok {n} - {test.__name__[5:]} ({time.time() - start:.1f} s)', flush=True)
            except (Failure, OSError, subprocess.TimeoutExpired, KeyError) as e:
                failed += 1
                print(f'not ok {n} - {test.__name__[5:]}\n# ' + str(e).replace('\n', '\n# '), flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
