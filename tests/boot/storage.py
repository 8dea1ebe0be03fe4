"""Disks of a generic Linux kernel: the AHCI and floppy drivers, a host without room, disks that grow. Used by run.py."""
import glob
import hashlib
import http.server
import io
import os
import random
import subprocess
import tarfile
import threading

# Those of the generic kernel, in the order in which they need each other.
MODULES = ['virtio_ring', 'virtio', 'virtio_pci_modern_dev', 'virtio_pci_legacy_dev', 'virtio_pci', 'virtio_blk', 'scsi_common',
           'scsi_mod', 'libata', 'ata_piix', 'libahci', 'ahci', 'crct10dif_common', 'crct10dif_generic', 'crc-t10dif', 'crc64',
           'crc64_rocksoft_generic', 'crc64-rocksoft', 't10-pi', 'cdrom', 'sd_mod', 'sr_mod', 'floppy']

HEAD = '''#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in %s; do [ -f /$m.ko ] && insmod /$m.ko; done
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/sda ] && break; sleep 1; done
# by DRIVER: the disk that it drives.
by() { for d in /sys/block/sd*; do readlink -f $d/device | grep -q /ata && readlink -f $d/../..; done >/dev/null
  for d in /sys/block/sd*; do
    p=$(readlink -f $d/device); p=${p%%/ata[0-9]*}; [ $(basename $(readlink $p/driver)) = $1 ] && basename $d
  done; }
''' % ' '.join(MODULES)

ROOM_INIT = HEAD + '''
dd if=/dev/urandom of=/noise bs=64k count=64 2>/dev/null
for d in vda $(by ahci) $(by ata_piix); do
  echo "writing $d"
  dd if=/noise of=/dev/$d bs=64k conv=fsync 2>/dev/null && echo "wrote $d"
done
echo 3 > /proc/sys/vm/drop_caches
for d in vda $(by ahci) $(by ata_piix); do dd if=/dev/$d bs=64k count=64 2>/dev/null | cmp - /noise && echo "same $d"; done
dd if=/noise of=/dev/vdb bs=64k conv=fsync 2>&1 | grep -o 'Input/output error\\|I/O error'
echo SIZE
while [ $(cat /sys/block/vda/size) = 16384 ]; do sleep 1; done
echo "vda has $(cat /sys/block/vda/size)"
poweroff -f
'''

AHCI_INIT = HEAD + '''
echo "drivers $(by ahci)"
for d in /sys/block/sd*; do [ $(cat $d/size) = 16384 ] && from=$(basename $d) || to=$(basename $d); done
dd if=/dev/$from of=/dev/$to bs=64k 2>/dev/null
sync
echo 3 > /proc/sys/vm/drop_caches
echo "disk $(dd if=/dev/$from bs=1M 2>/dev/null | md5sum)"
echo "depth $(cat /sys/block/$from/device/queue_depth)"
dd if=/dev/fd0 of=/floppy bs=36k 2>/dev/null
echo "floppy $(md5sum < /floppy)"
dd if=/floppy of=/dev/fd1 bs=36k conv=fsync 2>/dev/null
echo "disc $(dd if=/dev/sr0 bs=64k 2>/dev/null | md5sum)"
while [ "$(cat /sys/block/sr0/size)" = 4096 ]; do sleep 1; dd if=/dev/sr0 of=/dev/null bs=2048 count=1 2>/dev/null; done
echo "other $(dd if=/dev/sr0 bs=64k 2>/dev/null | md5sum)"
dmesg | grep -E '(ata[0-9]|fd[01]|floppy).*(rror|xception|failed)'
poweroff -f
'''


READ_INIT = '''#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe virtio_pci; modprobe virtio_blk
echo "told $(dd if=/dev/vdb of=/dev/null bs=64k 2>&1 | grep -o 'Input/output error\\|I/O error')"
echo READING
echo "all $(dd if=/dev/vda bs=64k 2>/dev/null | busybox md5sum)"
dmesg | grep 'vda.*rror'
poweroff -f
'''


class Server(http.server.ThreadingHTTPServer):
    """A file on a web server that while `broken` fails every request for one place in it."""

    PLACE = 8 << 20

    def __init__(self, data):
        super().__init__(('127.0.0.1', 0), Handler)
        self.data, self.broken, self.failed = data, True, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass  # a client that hangs up


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
        pass

    def do_GET(self):
        data = self.server.data
        first, last = (int(n) for n in self.headers.get('Range', f'bytes=0-{len(data) - 1}')[6:].split('-'))
        last = min(last, len(data) - 1)
        bad = self.server.broken and first <= Server.PLACE <= last
        self.server.failed += bad
        body = b'' if bad else data[first:last + 1]
        self.send_response(503 if bad else 206)
        self.send_header('Content-Length', str(len(body)))
        self.send_header('ETag', '"one"')
        if not bad:
            self.send_header('Content-Range', f'bytes {first}-{last}/{len(data)}')
        self.end_headers()
        self.wfile.write(body)


def generic_modules(run):
    """The module files of the generic kernel, out of its package."""
    debs = sorted(glob.glob(os.path.join(run.GUESTS, 'cache', 'linux-image-*-amd64_*.deb')))
    debs = [d for d in debs if 'cloud' not in os.path.basename(d)]
    if not debs:
        raise run.Skip('no package of the generic kernel; make guest-installer fetches it')
    run.need(os.path.join(run.GUESTS, 'vmlinuz-amd64'))
    p = subprocess.run(['dpkg-deb', '--fsys-tarfile', debs[-1]], capture_output=True, check=True)
    files = []
    with tarfile.open(fileobj=io.BytesIO(p.stdout)) as tar:
        for member in tar:
            name = os.path.basename(member.name)
            if member.isfile() and name.endswith('.ko') and name[:-3] in MODULES:
                files.append((name, tar.extractfile(member).read()))
    return files


def noise_image(path, size):
    with open(path, 'wb') as f:
        f.write(os.urandom(size))
    with open(path, 'rb') as f:
        return hashlib.md5(f.read()).hexdigest()


def file_md5(path, size):
    with open(path, 'rb') as f:
        return hashlib.md5(f.read(size)).hexdigest()


def tests(run):
    """The tests, on run.py's helpers."""

    def path(name):
        return os.path.join(run.WORK, name)

    def generic(script, append=''):
        files = generic_modules(run)
        return [os.path.join(run.GUESTS, 'vmlinuz-amd64'), '--initrd', run.with_init(script, files), '--append',
                'console=ttyS0 panic=-1 ' + append, '--memory', '256M', '--net', 'none', '--no-reboot']

    def test_ahci_floppy():
        """Linux's ahci.ko, with queued commands, and floppy.ko: what is copied from one to the other is the same."""
        disk, floppy = noise_image(path('sata-a.img'), 8 << 20), noise_image(path('fd-a.img'), 1440 << 10)
        noise_image(path('sata-b.img'), 9 << 20)
        noise_image(path('fd-b.img'), 1440 << 10)
        disc, other = noise_image(path('sata.iso'), 2 << 20), noise_image(path('sata-other.iso'), 3 << 20)
        with run.Machine('ahci', *generic(AHCI_INIT), '--disk', path('sata-a.img') + ',format=raw,bus=sata', '--disk',
                         path('sata-b.img') + ',format=raw,bus=sata', '--floppy', path('fd-a.img') + ',format=raw', '--floppy',
                         path('fd-b.img') + ',format=raw', '--cdrom', path('sata.iso') + ',bus=sata') as m:
            m.wait_console('disc ' + disc, 300)
            m.qmp('blockdev-change-medium', id='sata0-cd0', filename=path('sata-other.iso'))
            for is_open in (True, False):
                e = m.event('DEVICE_TRAY_MOVED')
                run.check(e == {'device': 'sata0-cd0', 'id': 'sata0-cd0', 'tray-open': is_open}, f'{e}')
            m.wait_console('other ' + other, 60)
            run.check(m.end(60) == 0, m.console()[-800:])
            said = m.console()
            run.check('drivers sd' in said, 'ahci.ko drives nothing: ' + said[-2000:])
            run.check('disk ' + disk in said and file_md5(path('sata-b.img'), 8 << 20) == disk, 'the SATA disks differ: ' + said[-2000:])
            run.check('depth 32' in said or 'depth 31' in said, 'no queued commands: ' + said[-800:])
            run.check('floppy ' + floppy in said, 'the floppy reads wrong: ' + said[-800:])
            run.check(file_md5(path('fd-b.img'), 1440 << 10) == floppy, 'the floppies differ: ' + said[-800:])
            run.check('rror' not in said.split('floppy ' + floppy)[1], said[-800:])

    def test_no_room():
        """The host's file system fills up: machine paused, room made, and the guest never knew; or the guest is told."""
        where = path('small')
        os.mkdir(where)
        script = (f'mount -t tmpfs -o size=13m none {where} && cd {where} && truncate -s 8M v r s h && '
                  'for f in 1 2 3; do head -c 4M /dev/zero > fill$f; done && exec "$@"')
        prefix = ['unshare', '-m'] if os.geteuid() == 0 else ['unshare', '-Urm']
        if subprocess.run([*prefix, 'mount', '-t', 'tmpfs', 'none', where], capture_output=True).returncode:
            raise run.Skip('no mount namespaces here')
        disks = []
        for name, parts in (('v', 'bus=virtio'), ('r', 'bus=virtio,werror=report'), ('s', 'bus=sata'), ('h', 'bus=ide')):
            disks += ['--disk', f'{where}/{name},format=raw,{parts}']
        with run.Machine('room', *generic(ROOM_INIT), *disks, prefix=[*prefix, 'sh', '-c', script, 'sh']) as m:
            m.connect()
            for n, device in enumerate(('virtio0', 'sata0-hd2', 'ide0-hd3'), 1):
                e = m.event('BLOCK_IO_ERROR', 240)
                run.check(e['device'] == device and e['operation'] == 'write' and e['action'] == 'stop' and e['nospace'], f'{e}: {m.console()[-800:]}')
                m.event('STOP')
                run.check(m.qmp('query-status')['status'] == 'io-error', 'not stopped')
                if n == 1: # without room it stops again
                    m.qmp('cont')
                    m.event('RESUME')
                    run.check(m.event('BLOCK_IO_ERROR')['action'] == 'stop', 'not stopped again')
                    m.event('STOP')
                os.unlink(f'/proc/{m.process.pid}/root{where}/fill{n}')
                m.qmp('cont')
                m.event('RESUME')
            e = m.event('BLOCK_IO_ERROR', 120)
            run.check(e['device'] == 'virtio1' and e['action'] == 'report', f'{e}')
            m.wait_console('SIZE', 60)
            m.qmp('block_resize', device='virtio0', size=16 << 20)
            m.wait_console('vda has 32768', 30)
            run.check(m.end(60) == 0, m.console()[-800:])
            said = m.console()
            run.check(said.count('wrote ') == 3 and said.count('same ') == 3, said[-2000:])
            run.check('/O error' in said or 'Input/output error' in said, 'the guest was not told: ' + said[-800:])

    def test_read_error():
        """A web server fails for a while: the machine stops and reads anew, or the guest is told."""
        server = Server(random.Random(1).randbytes(12 << 20))
        url = f'http://127.0.0.1:{server.server_address[1]}/'
        with run.Machine('read', os.path.join(run.GUESTS, 'vmlinuz'), '--initrd', run.with_init(READ_INIT), '--append',
                         'console=ttyS0 panic=-1', '--memory', '256M', '--net', 'none', '--no-reboot',
                         '--disk', url + 'a,format=raw,bus=virtio,readonly,rerror=stop',
                         '--disk', url + 'b,format=raw,bus=virtio,readonly', prefix=['env', 'XDG_CACHE_HOME=' + path('cache')]) as m:
            m.connect()
            e = m.event('BLOCK_IO_ERROR', 240)
            run.check(e['device'] == 'virtio1' and e['operation'] == 'read' and e['action'] == 'report', f'{e}')
            m.wait_console('READING', 60)
            run.check('told I' in m.console(), 'the guest was not told: ' + m.console()[-800:])
            m.event('STOP')
            e = m.qmp('query-status')
            run.check(e['status'] == 'io-error' and not e['running'], f'{e}')
            failed = server.failed
            m.qmp('cont')
            m.event('RESUME')
            m.event('STOP')
            run.check(server.failed > failed and m.qmp('query-status')['status'] == 'io-error', 'not read anew')
            server.broken = False
            m.qmp('cont')
            run.check(m.end(60) == 0, m.console()[-800:])
            said = m.console()
            whole = 'all ' + hashlib.md5(server.data).hexdigest()
            run.check(whole in said, 'read wrong: ' + said[-800:])
            run.check('vda' not in said.split(whole)[1] and 'dev vda' not in said, 'the guest knows: ' + said[-800:])

    def test_boot_index():
        """Each device's own place in the boot order, under SeaBIOS."""
        first, wanted = (run.boot_sector(run.print_and_exit(text, value)) for text, value in (('the first', 0x11), ('the wanted', 0x22)))
        for bus in ('ide', 'sata', 'virtio'):
            status, _, err = run.guise('run', '--disk', f'{first},format=raw,bootindex=7', '--disk',
                                       f'{wanted},format=raw,bus={bus},bootindex=2', '--display', 'none', '--serial', 'none',
                                       '--debug-exit', '--memory', '64M', '--net', 'none', timeout=90)
            run.check(status == 0x22 * 2 + 1, f'{bus}: status {status}; {err}')

    return [test_boot_index, test_ahci_floppy, test_no_room, test_read_error]
