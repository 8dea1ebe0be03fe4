#!/usr/bin/env python3
"""Images on a web server: ranges, the cache, changed files, servers without ranges, errors. usage: web.py GUISE"""
import http.server
import os
import random
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading

from terminal import on_terminal

GUISE = os.path.abspath(sys.argv[1])
DIR = tempfile.mkdtemp(prefix='guise-http-', dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None)
ENV = dict(os.environ, XDG_CACHE_HOME=os.path.join(DIR, 'cache'), no_proxy='127.0.0.1')
files = {}   # path -> (bytes, etag)
log = []     # (path, range or None)
fail_next = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k.replace('_', '-'), v)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        global fail_next
        rng = self.headers.get('Range')
        log.append((self.path, rng))
        if self.path.startswith('/moved'):
            return self.answer(302, b'', Location='/' + self.path[7:])
        if self.path.startswith('/elsewhere/'):
            return self.answer(302, b'', Location=self.elsewhere + self.path[11:])
        name = self.path.lstrip('/')
        if name not in files:
            return self.answer(404, b'no such page')
        if fail_next and rng != 'bytes=0-0':
            fail_next -= 1
            return self.answer(503, b'later')
        data, tag = files[name]
        if not rng or name.startswith('whole'):
            return self.answer(200, data, ETag=tag)
        a, b = rng[6:].split('-')
        a, b = int(a), min(int(b), len(data) - 1)
        self.answer(206, data[a:b + 1], ETag=tag, Content_Range=f'bytes {a}-{b}/{len(data)}')


def guise(*args, status=0, **env):
    p = subprocess.run([GUISE, 'image', *args], cwd=DIR, env=dict(ENV, **env), capture_output=True, text=True, timeout=60)
    assert p.returncode == status, f'{args}: status {p.returncode}\n{p.stdout}{p.stderr}'
    return p.stdout + p.stderr


def boot(address):
    """Boots a disk that ends with status 0x43; what is written to the terminal."""
    status, said = on_terminal([GUISE, 'run', address, '--engine', 'interp', '--debug-exit', '--display', 'none', '--serial', 'none', '--net', 'none',
                                '--memory', '32M'], cwd=DIR, env=dict(ENV, XDG_RUNTIME_DIR=DIR))
    assert status == 0x43, f'{status}: {said}'
    return said


def over_tls(n, plain, data):
    """A certificate is checked, and what is to come by TLS comes by it."""
    cert, key = os.path.join(DIR, 'cert.pem'), os.path.join(DIR, 'key.pem')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert, '-days', '2', '-subj', '/CN=localhost',
                    '-addext', 'subjectAltName=IP:127.0.0.1'], check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *args: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'https://127.0.0.1:{server.server_address[1]}/'
    files['s.img'] = (data, '"s"')
    assert 'certificate' in guise('convert', url + 's.img', 's.raw', status=1)
    guise('convert', url + 's.img', 's.raw', CURL_CA_BUNDLE=cert)
    same('s.raw', data)
    Handler.elsewhere = plain
    guise('info', url + 'elsewhere/s.img', status=1, CURL_CA_BUNDLE=cert)
    Handler.elsewhere = url
    guise('info', url + 'elsewhere/s.img', CURL_CA_BUNDLE=cert)
    server.shutdown()
    print(f'ok {n} by TLS')


def same(path, data):
    assert open(os.path.join(DIR, path), 'rb').read() == data, path


def main():
    global fail_next
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.handle_error = lambda *args: None  # a client that hangs up
    url = f'http://127.0.0.1:{server.server_address[1]}/'
    data = random.Random(1).randbytes(3 << 20) + bytes(512)
    files['a.img'] = (data, '"one"')
    n = 0

    def ok(what):
        nonlocal n
        n += 1
        print(f'ok {n} {what}')

    print('1..10')
    guise('convert', url + 'a.img', 'a.raw', '--format', 'raw')
    same('a.raw', data)
    assert len(log) < 8 and all(r for _, r in log), log
    ok('ranges')
    log.clear()
    guise('convert', url + 'a.img', 'a.raw', '--format', 'raw', '--force')
    same('a.raw', data)
    assert log == [('/a.img', 'bytes=0-0')], log
    ok('the cache has it')
    changed = data[::-1]
    files['a.img'] = (changed, '"two"')
    guise('convert', url + 'a.img', 'a.raw', '--format', 'raw', '--force')
    same('a.raw', changed)
    ok('the file changed')
    files['whole.img'] = (data, '"w"')
    guise('convert', url + 'moved/whole.img', 'w.raw', '--force')
    same('w.raw', data)
    guise('convert', url + 'whole.img', 'w.raw', '--force')
    log.clear()
    guise('convert', url + 'whole.img', 'w.raw', '--force')
    same('w.raw', data)
    assert log == [('/whole.img', 'bytes=0-0')], log
    ok('a server without ranges, behind a redirect')
    files['b.img'] = (data, '"b"')
    fail_next = 2
    guise('convert', url + 'b.img', 'b.raw')
    same('b.raw', data)
    ok('a server that fails twice')
    assert '404' in guise('info', url + 'none.img', status=1)
    assert 'only be read' in guise('resize', url + 'a.img', '5M', status=1)
    guise('info', 'http://127.0.0.1:1/x', status=1)
    ok('errors')
    guise('create', 'base.qcow2', '1M')
    guise('create', 'top.qcow2', '--backing', 'base.qcow2')
    files['q.qcow2'] = (open(os.path.join(DIR, 'base.qcow2'), 'rb').read(), '"q"')
    files['t.qcow2'] = (open(os.path.join(DIR, 'top.qcow2'), 'rb').read(), '"t"')
    assert 'qcow2' in guise('info', url + 'q.qcow2')
    guise('compare', url + 'q.qcow2', 'base.qcow2')
    assert 'not opened' in guise('convert', url + 't.qcow2', 't.raw', status=1)
    ok('qcow2, and no backing images from elsewhere')
    guise('create', 'over.qcow2', '--backing', url + 'a.img', '--backing-format', 'raw')
    guise('convert', 'over.qcow2', 'o.raw')
    same('o.raw', changed)
    ok('a backing image on the server')
    # A disk whose boot sector says that it runs, by port 0xf4: mov dx,0xf4; mov al,0x21; out dx,al; hlt.
    disk = bytes([0xBA, 0xF4, 0x00, 0xB0, 0x21, 0xEE, 0xF4]).ljust(510, b'\0') + b'\x55\xaa' + bytes(1 << 20)
    files['boot.img'] = (disk, '"boot"')
    log.clear()
    said = boot(url + 'boot.img')
    assert '\rfetching [' in said and '%' in said, said
    assert any(path == '/boot.img' for path, _ in log), log
    log.clear()
    boot(url + 'boot.img')
    assert all(r == 'bytes=0-0' for _, r in log), log
    ok('a machine whose disk is an address, and once more from the cache')
    n += 1
    if shutil.which('openssl'):
        over_tls(n, url, data)
    else:
        print(f'ok {n} # SKIP no openssl to make a certificate')
    server.shutdown()
    shutil.rmtree(DIR)


main()
