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
        m.qmp('set_link', name='net0', up=False)
        told = m.qmp('human-monitor-command', **{'command-line': 'info network'})
        check(f'net0: {model}, link down' in told and re.search('sent [1-9].*received [1-9]', told), told)
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


TESTS = [test_pxe_virtio, test_pxe_e1000, test_pxe_rtl8139, test_linux]


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
            if test is test_linux and not prepared:
                print(f'ok {n} - linux # SKIP no kernel package', flush=True)
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
