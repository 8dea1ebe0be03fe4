"""The VNC display as viewers meet it: in the clear, by WebSocket, and by TLS (VeNCrypt), good ones and bad. Used by run.py."""
import os
import socket
import ssl
import struct
import subprocess
import time

X509_NONE, X509_PASSWORD, TLS_NONE, TLS_PASSWORD = 260, 261, 257, 258


def answer(challenge, password):
    """What RFB's password authentication answers: DES, with the bits of the key's bytes the other way round."""
    key = bytes(int(f'{b:08b}'[::-1], 2) for b in password.encode()[:8].ljust(8, b'\0'))
    return subprocess.run(['openssl', 'enc', '-des-ede3', '-nopad', '-K', (key * 3).hex()], input=challenge,
                          check=True, capture_output=True).stdout


class Drip:
    """A socket by which a viewer sends a byte at a time."""

    def __init__(self, s):
        self.s = s

    def sendall(self, data):
        for byte in data:
            self.s.sendall(bytes([byte]))
            time.sleep(0.0005)

    def recv(self, n):
        return self.s.recv(n)


class Tls:
    """TLS on a Drip, which ssl's own sockets cannot do."""

    def __init__(self, context, s):
        self.s, self.incoming, self.outgoing = s, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname='localhost')
        self.run(self.tls.do_handshake)

    def run(self, what, *args):
        while True:
            try:
                result = what(*args)
                self.s.sendall(self.outgoing.read())
                return result
            except ssl.SSLWantReadError:
                self.s.sendall(self.outgoing.read())
                self.incoming.write(self.s.recv(65536))

    def sendall(self, data):
        self.run(self.tls.write, data)

    def recv(self, n):
        return self.run(self.tls.read, n)


def tests(run):
    """The tests, on run.py's helpers."""
    check = run.check

    class Viewer:
        def __init__(self, path, drip=False):
            self.s = socket.socket(socket.AF_UNIX)
            self.s.settimeout(run.patience(30))
            while True:
                try:
                    self.s.connect(path)
                    break
                except BlockingIOError: # many come at once
                    time.sleep(0.01)
            self.raw = self.s
            self.drip = drip
            if drip:
                self.s = Drip(self.s)

        def send(self, data):
            self.s.sendall(data)

        def take(self, n):
            data = bytearray()
            while len(data) < n:
                more = self.s.recv(min(n - len(data), 65536))
                check(more, f'the viewer was thrown out after {bytes(data)}')
                data += more
            return bytes(data)

        def rest(self):
            """What comes up to the end of the connection."""
            data = b''
            while more := self.s.recv(65536):
                data += more
            return data

        def types(self, version=b'RFB 003.008\n'):
            check(self.take(12) == b'RFB 003.008\n', 'greeting')
            self.send(version)
            return list(self.take(self.take(1)[0]))

        def subtypes(self):
            check(19 in self.types(), 'no VeNCrypt')
            self.send(b'\x13')
            check(self.take(2) == b'\0\2', "VeNCrypt's version")
            self.send(b'\0\2')
            check(self.take(1) == b'\0', 'version refused')
            return [struct.unpack('>I', self.take(4))[0] for _ in range(self.take(1)[0])]

        def secure(self, subtype, context):
            offered = self.subtypes()
            check(subtype in offered, f'{subtype} is not among {offered}')
            self.send(struct.pack('>I', subtype))
            check(self.take(1) == b'\1', 'type refused')
            if self.drip:
                self.s = Tls(context, self.s)
            else:
                self.s = context.wrap_socket(self.raw, server_hostname='localhost')
            return self

        def log_in(self, password):
            self.send(answer(self.take(16), password))
            return self.result()

        def result(self):
            return struct.unpack('>I', self.take(4))[0]

        def picture(self):
            """The machine's name, and whether a whole picture came; its size may change on the way."""
            self.send(b'\1')
            width, height = struct.unpack('>HH', self.take(4))
            self.take(16)
            name = self.take(struct.unpack('>I', self.take(4))[0]).decode()
            self.send(struct.pack('>BBHii', 2, 0, 2, 0, -223))
            for _ in range(5):
                self.send(struct.pack('>BBHHHH', 3, 0, 0, 0, width, height))
                pixels = 0
                for _ in range(struct.unpack('>H', self.take(4)[2:])[0]):
                    _, _, w, h, encoding = struct.unpack('>HHHHi', self.take(12))
                    if encoding == -223:
                        width, height = w, h
                    else:
                        check(encoding == 0, f'encoding {encoding}')
                        self.take(w * h * 4)
                        pixels += w * h
                if pixels == width * height:
                    return name, True
            return name, False

        def close(self):
            self.raw.close()
            if isinstance(self.s, ssl.SSLSocket):
                self.s.close()

    def certificate():
        key, cert = os.path.join(run.WORK, 'vnc.key'), os.path.join(run.WORK, 'vnc.pem')
        if not os.path.exists(cert):
            try:
                subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert, '-days', '2',
                                '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'], check=True, capture_output=True)
            except FileNotFoundError:
                raise run.Skip('openssl is missing')
        return key, cert

    def x509():
        return ssl.create_default_context(cafile=certificate()[1])

    def anonymous():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers('aNULL:@SECLEVEL=0')
        return context

    def machine(name, *words):
        """A machine that does nothing but show its screen, and where its display listens."""
        path = os.path.join(run.WORK, name + '.vnc')
        hang = run.boot_sector(bytes([0xEB, 0xFE]))
        m = run.Machine(name, hang, '--memory', '32M', display=','.join(('vnc=unix:' + path, *words)))
        try:
            m.connect()
        except BaseException:
            m.__exit__()
            raise
        return m, path

    def pem():
        key, cert = certificate()
        return f'tls-cert={cert}', f'tls-key={key}'

    def secret():
        path = os.path.join(run.WORK, 'vnc.password')
        with open(path, 'w') as f:
            f.write('secret\n')
        return 'password-file=' + path

    def ends(m):
        m.qmp('quit')
        check(m.end() == 0, 'status')

    def test_vnc():
        """A viewer sees the text screen: its size, and something on it."""
        path = os.path.join(run.WORK, 'vnc.sock')
        text = run.boot_sector(run.print_and_exit('for the viewer', 0x01))
        with run.Machine('vnc', text, '--memory', '64M', display='vnc=unix:' + path) as m:
            m.wait_screen('for the viewer', 90)
            v = Viewer(path)
            check(v.types() == [1], 'a password is asked')
            v.send(b'\1')
            v.take(4)
            v.send(b'\1')
            first = v.take(24 + 3)
            check(first[24:] == b'vnc', 'title')
            time.sleep(0.5)
            v.send(struct.pack('>BBHii', 2, 0, 2, 0, -223))
            # The screen may have changed its size before the viewer came, or before it says that it can be told.
            (width, height), colours = struct.unpack('>HH', first[:4]), set()
            end = time.time() + 20
            while (width, height) != (720, 400) or len(colours) < 2:
                check(time.time() < end, f'{width}x{height}, {len(colours)} colours')
                v.send(struct.pack('>BBHHHH', 3, 1, 0, 0, width, height))
                for _ in range(struct.unpack('>H', v.take(4)[2:])[0]):
                    _, _, w, h, encoding = struct.unpack('>HHHHi', v.take(12))
                    if encoding == -223:
                        width, height = w, h
                    else:
                        pixels = v.take(w * h * 4)
                        colours |= {pixels[i:i + 4] for i in range(0, len(pixels), 4)}
            ends(m)

    def websocket_greeting(s):
        """What the VNC server says first, inside of the WebSocket protocol (RFC 6455)."""
        s.sendall(b'GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n'
                  b'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: binary\r\nOrigin: http://x\r\n\r\n')
        data = b''
        while b'\r\n\r\n' not in data or len(data.split(b'\r\n\r\n', 1)[1]) < 14:
            more = s.recv(4096)
            check(more, f'closed after {data}')
            data += more
        head, frame = data.split(b'\r\n\r\n', 1)
        check(b' 101 ' in head and b's3pPLMBiTxaQ9kYGzzhZRbK+xOo=' in head, f'no WebSocket: {head}')
        check(frame[:2] == b'\x82\x0c', f'no binary frame: {frame}')
        return frame[2:14]

    def test_vnc_websocket():
        """Browsers: the VNC port speaks WebSocket, in the clear and, with a certificate, inside of TLS."""
        m, path = machine('websocket')
        with m:
            check(websocket_greeting(Viewer(path).s) == b'RFB 003.008\n', 'no greeting')
            ends(m)
        m, path = machine('websockets', *pem())
        with m:
            for drip in False, True:
                v = Viewer(path, drip)
                s = Tls(x509(), v.s) if drip else x509().wrap_socket(v.s, server_hostname='localhost')
                check(websocket_greeting(s) == b'RFB 003.008\n', 'no greeting')
            v = Viewer(path)
            v.send(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
            check(b' 403 ' in v.rest(), 'a browser without TLS is served')
            v = Viewer(path)
            s = x509().wrap_socket(v.s, server_hostname='localhost')
            s.sendall(b'GET / HTTP/1.1\r\n' + b'X-Long: ' + b'x' * 8192)
            try:
                check(s.recv(1) == b'', 'a request without end is served')
            except OSError:
                pass
            ends(m)

    def test_vnc_tls():
        """A certificate: X509None, checked by the viewer; a picture comes, also to one who sends a byte at a time."""
        m, path = machine('vnctls', *pem())
        with m:
            for drip in False, True:
                v = Viewer(path, drip).secure(X509_NONE, x509())
                check(v.result() == 0, 'refused')
                check(v.picture() == ('vnctls', True), 'no picture')
                v.close()
            for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
                context = x509()
                context.minimum_version = context.maximum_version = version
                v = Viewer(path).secure(X509_NONE, context)
                check(v.result() == 0 and v.picture()[1], f'{version}')
                v.close()
            ends(m)

    def test_vnc_tls_password():
        """Within TLS, the password: right, wrong, none. Anonymous TLS, and a viewer's choice of the two."""
        m, path = machine('vncpass', *pem(), 'tls=anonymous', secret())
        with m:
            check(Viewer(path).subtypes() == [X509_PASSWORD, TLS_PASSWORD], 'types')
            for subtype, context in (X509_PASSWORD, x509()), (TLS_PASSWORD, anonymous()):
                v = Viewer(path).secure(subtype, context)
                check(v.log_in('secret') == 0, 'the right password is refused')
                check(v.picture() == ('vncpass', True), 'no picture')
                v.close()
                v = Viewer(path).secure(subtype, context)
                check(v.log_in('Secret') == 1, 'a wrong password is taken')
                v.rest()
            for subtype in X509_NONE, TLS_NONE:
                v = Viewer(path)
                v.subtypes()
                v.send(struct.pack('>I', subtype))
                check(v.rest() == b'\0', 'no password is asked')
            ends(m)
        m, path = machine('vncanon', 'tls=anonymous')
        with m:
            v = Viewer(path).secure(TLS_NONE, anonymous())
            check(v.result() == 0 and v.picture() == ('vncanon', True), 'no picture')
            ends(m)

    def test_vnc_tls_only():
        """With TLS others are refused with a reason, unless it is said that they are not; who says nothing has 20 s."""
        m, path = machine('vnconly', *pem())
        with m:
            silent, start = Viewer(path), time.monotonic()
            check(Viewer(path).types() == [19], 'types')
            for chosen in 1, 2, 16, 99:
                v = Viewer(path)
                v.types()
                v.send(bytes([chosen]))
                left = v.rest()
                check(left[:4] == b'\0\0\0\1' and b'TLS' in left, f'type {chosen}: {left}')
            v = Viewer(path)
            v.take(12)
            v.send(b'RFB 003.003\n')
            left = v.rest()
            check(left[:4] == b'\0\0\0\0' and b'TLS' in left, f'RFB 3.3: {left}')
            check(silent.rest() == b'RFB 003.008\n' and time.monotonic() - start > 15, 'who says nothing has no time')
            ends(m)
        m, path = machine('vncboth', *pem(), 'allow-plain')
        with m:
            v = Viewer(path)
            check(v.types() == [19, 1], 'types')
            v.send(b'\1')
            check(v.result() == 0 and v.picture() == ('vncboth', True), 'plain')
            v = Viewer(path)
            check(v.types(b'RFB 003.007\n') == [19, 1], 'types of RFB 3.7')
            v.send(b'\1')
            check(v.picture() == ('vncboth', True), 'RFB 3.7')
            v = Viewer(path)
            v.take(12)
            v.send(b'RFB 003.003\n')
            check(v.result() == 1 and v.picture() == ('vncboth', True), 'RFB 3.3')
            v = Viewer(path).secure(X509_NONE, x509())
            check(v.result() == 0 and v.picture()[1], 'TLS')
            check(websocket_greeting(Viewer(path).s) == b'RFB 003.008\n', 'no WebSocket')
            ends(m)

    def test_vnc_tls_hostile():
        """Nonsense, silence, and viewers that take nothing: they are cut, nobody else waits, and nothing is left of them."""
        m, path = machine('vnchostile', *pem(), 'allow-plain')

        def files():
            return len(os.listdir(f'/proc/{m.process.pid}/fd'))

        def good():
            start = time.monotonic()
            v = Viewer(path).secure(X509_NONE, x509())
            check(v.result() == 0 and v.picture()[1], 'no picture')
            check(m.qmp('query-status')['running'], 'not running')
            v.close()
            return time.monotonic() - start

        def hopeless(*said):
            """A viewer that says this, whatever the answers are, is thrown out and told nothing of the machine."""
            v = Viewer(path)
            try:
                for data in said:
                    v.send(data)
                v.raw.shutdown(socket.SHUT_WR)
                left = v.rest()
            except OSError:
                left = b''
            check(b'vnchostile' not in left, f'{said}: {left}')
            v.close()

        with m:
            good()
            before = files()
            to_subtype = (b'RFB 003.008\n', b'\x13', b'\0\2')
            hopeless(b'RFB 999.999\r')
            hopeless(b'nonsense, twelve')
            hopeless(*to_subtype[:2], b'\0\1')
            hopeless(*to_subtype[:2], b'\xff\xff')
            hopeless(*to_subtype, struct.pack('>I', 0))
            hopeless(*to_subtype, struct.pack('>I', 0xffffffff))
            hopeless(*to_subtype, struct.pack('>I', X509_NONE), b'no TLS at all, but plain words' * 20)
            hopeless(*to_subtype, struct.pack('>I', X509_NONE), b'\x16\x03\x01\xff\xff' + bytes(0xffff))
            hopeless(*to_subtype, struct.pack('>I', X509_NONE), b'\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03')
            hopeless(b'\x16\x03\x01\x00\x02\x01\x00', os.urandom(4000))
            hopeless(b'G', b'ET / HTTP/1.1\r\n' + b'x' * 5000)
            for seed in range(50):
                hopeless(*to_subtype[:seed % 4], os.urandom(1 + seed * 7))
            # Silence at each stage: many more than are waited for.
            silent = []
            for n in range(60):
                v = Viewer(path)
                for data in (*to_subtype, struct.pack('>I', X509_NONE), b'\x16\x03\x01\x02\x00')[:n % 6]:
                    v.send(data)
                silent.append(v)
            good()
            check(files() < before + 30, f'{files()} files are open after {before}')
            # Those who came first had to go.
            try:
                silent[0].rest()
            except OSError:
                pass
            # Pictures asked for and never taken.
            stuck = [Viewer(path).secure(X509_NONE, x509()) for _ in range(5)]
            for v in stuck:
                check(v.result() == 0, 'refused')
                v.send(b'\1' + struct.pack('>BBHi', 2, 0, 1, 0) + struct.pack('>BBHHHH', 3, 0, 0, 0, 640, 400) * 50)
            for _ in range(3):
                good()
            for v in silent + stuck:
                v.close()
            m.wait(lambda: files() <= before, 30, 'files stay open', lambda: str(files()))
            # More viewers than there are places.
            many = []
            for _ in range(16):
                v = Viewer(path).secure(X509_NONE, x509())
                check(v.result() == 0, 'refused')
                many.append(v)
            v = Viewer(path).secure(X509_NONE, x509())
            try:
                check(v.s.recv(1) == b'', 'the seventeenth is served')
            except OSError:
                pass
            for v in many:
                v.close()
            m.wait(lambda: files() <= before, 30, 'files stay open', lambda: str(files()))
            good()
            ends(m)

    def test_vnc_tls_refused():
        """What is wrong with certificates is said at the start."""
        key, cert = certificate()
        other = os.path.join(run.WORK, 'other.key')
        subprocess.run(['openssl', 'genrsa', '-out', other, '2048'], check=True, capture_output=True)
        hang = run.boot_sector(bytes([0xEB, 0xFE]))
        address = 'vnc=unix:' + os.path.join(run.WORK, 'refused.vnc')
        for display, words, status in ((f'tls-cert={cert},tls-key=/nonexistent.key', ['/nonexistent.key'], 1),
                                       (f'tls-cert={key},tls-key={key}', ['tls-cert', key], 1),
                                       (f'tls-cert={cert},tls-key={other}', ['tls-key', 'not match'], 1),
                                       (f'tls-cert={cert}', ['go together'], 2), ('allow-plain', ['tls-cert', 'encrypted'], 2),
                                       ('tls=perhaps', ['tls=anonymous'], 2)):
            run.refused(words, hang, '--display', f'{address},{display}', status=status)

    return [test_vnc, test_vnc_websocket, test_vnc_tls, test_vnc_tls_password, test_vnc_tls_only, test_vnc_tls_hostile,
            test_vnc_tls_refused]
