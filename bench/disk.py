#!/usr/bin/env python3
"""fio in a guest on a virtio disk: guise against QEMU's TCG with the same kernel, the same initramfs and images of the same
content. Both machines stay up and take turns case by case, so that a slow minute of the host hits both. Prints the median of
the rounds' ratios, and operations a second and their ratio in the round that each was disturbed least in; the exit status is
1 when guise is behind by both in any case.

usage: disk.py PATH-TO-GUISE [--engine E] [--rounds N] [--seconds S] [--cases WORD,...] [--peer tcg,thread=single]
               [--aio threads|io_uring] [--dir D]
"""
import argparse
import glob
import io
import os
import re
import select
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from net import HERE, entry  # noqa: E402

MODULES = 'virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk'.split()
DISKS = {'raw': '/dev/vda', 'qcow2': '/dev/vdb'}
BYTES = 512 << 20
PATTERNS = {'sequential-read': ('read', '256k'), 'sequential-write': ('write', '256k'),
            'random-read': ('randread', '4k'), 'random-write': ('randwrite', '4k')}

INIT = '''#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /tmp
for module in MODULES; do insmod /lib/$module.ko; done
while [ ! -b /dev/vdb ]; do sleep 1; done
echo BENCH-READY
while read line; do
	[ "$line" = off ] && break
	echo "BENCH-RESULT $(fio --name=x --ioengine=libaio --direct=1 --time_based --randrepeat=1 --output-format=terse \\
		--terse-version=3 --invalidate=1 --thread $line 2>&1 | tail -n 1)"
done
poweroff -f
'''


def library_files(program):
    """The shared objects that a program is linked with, at their place in the guest."""
    return [m.strip('/') for m in re.findall(r'(/\S+\.so\S*)', subprocess.run(['ldd', program], capture_output=True, text=True).stdout)]


def kernel_module(name):
    """From the package of the kernel that tools/guest-net has unpacked."""
    for deb in glob.glob(os.path.join(HERE, 'guests', 'cache', 'linux-image-[0-9]*-amd64_*.deb')):
        if '-cloud-' in deb:
            continue
        names = subprocess.run(['dpkg-deb', '-c', deb], capture_output=True, text=True).stdout
        found = re.search(r'(\./\S+/%s\.ko)$' % re.escape(name), names, re.M)
        if found:
            p = subprocess.Popen(['dpkg-deb', '--fsys-tarfile', deb], stdout=subprocess.PIPE)
            with tarfile.open(fileobj=p.stdout, mode='r|') as tar:
                for member in tar:
                    if member.name == found.group(1):
                        data = tar.extractfile(member).read()
                        p.kill()
                        p.wait()
                        return data
    raise RuntimeError(f'no kernel package with {name}.ko in guests/cache')


def initramfs(path):
    import gzip
    with gzip.open(os.path.join(HERE, 'guests', 'net', 'initramfs.cpio.gz')) as f:
        out = io.BytesIO()
        out.write(f.read())
    fio = shutil.which('fio')
    applets = ['tail']
    busybox = shutil.which('busybox')

    def add(name, mode, data):
        out.write(bytes(-out.tell() % 4) + entry(name, mode, data))
    add('bin/fio', 0o100755, open(fio, 'rb').read())
    for applet in applets:
        add(f'bin/{applet}', 0o100755, open(busybox, 'rb').read())
    folders = set()
    for library in library_files(fio):
        parts = library.split('/')
        for i in range(1, len(parts)):
            folder = '/'.join(parts[:i])
            if folder not in folders:
                folders.add(folder)
                add(folder, 0o40755, b'')
        add(library, 0o100755, open('/' + library, 'rb').read())
    add('lib/virtio_blk.ko', 0o100644, kernel_module('virtio_blk'))
    add('init', 0o100755, INIT.replace('MODULES', ' '.join(MODULES)).encode())
    add('TRAILER!!!', 0, b'')
    with open(path, 'wb') as f:
        f.write(out.getvalue())


def images(folder):
    """Data everywhere, so that no case allocates."""
    raw = os.path.join(folder, 'raw')
    with open(raw, 'wb') as f:
        for _ in range(BYTES >> 20):
            f.write(os.urandom(4096) * 256)
    qcow2 = os.path.join(folder, 'qcow2')
    subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, qcow2], check=True)
    return raw, qcow2


def settle(folder):
    """Dirty pages of one run would be written during the next."""
    for disk in DISKS:
        fd = os.open(os.path.join(folder, disk), os.O_RDWR)
        os.fdatasync(fd)
        os.close(fd)


class Guest:
    def __init__(self, command):
        self.command = command
        self.log = b''
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        self.wait(rb'BENCH-READY', 300)

    def wait(self, pattern, seconds):
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.log)):
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise RuntimeError(f'{self.command[0]}: no answer: {self.log[-2000:]}')
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError(f'{self.command[0]}: ended: {self.log[-2000:]}')
            self.log += data
        self.log = self.log[found.end():]
        return found

    def ask(self, line, seconds):
        """What the guest answers to a line."""
        self.process.stdin.write(line.encode() + b'\n')
        return self.wait(rb'BENCH-RESULT (\S[^\r\n]*)\r?\n', seconds).group(1).decode()

    def end(self):
        self.process.kill()
        self.process.wait()


def fio(guest, device, rw, size, depth, seconds):
    """Operations a second."""
    fields = guest.ask(f'--filename={device} --rw={rw} --bs={size} --iodepth={depth} --runtime={seconds}', seconds + 120).split(';')
    if len(fields) < 100 or fields[4] != '0':
        raise RuntimeError(f'fio said {fields}')
    return float(fields[48 if 'write' in rw else 7])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('guise')
    parser.add_argument('--engine', default='bt')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--seconds', type=int, default=1)
    parser.add_argument('--cases', default='')
    parser.add_argument('--peer', default='tcg')
    parser.add_argument('--aio', default='threads')
    parser.add_argument('--dir', default='/var/tmp')
    args = parser.parse_args()
    if not shutil.which('fio') or not shutil.which('qemu-system-x86_64') or not shutil.which('qemu-img') or \
            subprocess.run([os.path.join(HERE, 'tools', 'guest-net')]).returncode:
        print('bench/disk: needs fio, QEMU, qemu-img and the guest of tools/guest-net')
        return 0
    kernel = os.path.join(HERE, 'guests', 'net', 'vmlinux')
    append = 'console=ttyS0 quiet panic=-1'
    guests = []
    ratios = []
    with tempfile.TemporaryDirectory(prefix='guise-bench-', dir=args.dir) as work:
        initrd = os.path.join(work, 'initrd')
        initramfs(initrd)
        ours, theirs = os.path.join(work, 'guise'), os.path.join(work, 'qemu')
        for folder in (ours, theirs):
            os.mkdir(folder)
            images(folder)
        try:
            guests.append(Guest([os.path.abspath(args.guise), 'run', kernel, '--engine', args.engine, '--initrd', initrd,
                                 '--append', append, '--memory', '768M', '--no-reboot', '--display', 'none', '--serial', 'stdio',
                                 '--net', 'none', '--disk', f'{ours}/raw,format=raw,bus=virtio',
                                 '--disk', f'{ours}/qcow2,format=qcow2,bus=virtio']))
            drive = f'if=none,aio={args.aio}'
            guests.append(Guest(['qemu-system-x86_64', '-accel', args.peer, '-cpu', 'max', '-m', '768M', '-kernel', kernel,
                                 '-initrd', initrd, '-append', append, '-no-reboot', '-display', 'none', '-serial', 'stdio',
                                 '-monitor', 'none', '-nic', 'none',
                                 '-drive', f'file={theirs}/raw,format=raw,id=a,{drive}', '-device', 'virtio-blk-pci,drive=a',
                                 '-drive', f'file={theirs}/qcow2,format=qcow2,id=b,{drive}', '-device', 'virtio-blk-pci,drive=b']))
            for name, (rw, size) in PATTERNS.items():
                for depth in (1, 32):
                    for disk, device in DISKS.items():
                        case = f'{name}-{depth}-{disk}'
                        if not all(word in case for word in args.cases.split(',')):
                            continue
                        rates = ([], [])
                        for i in range(args.rounds):
                            for which in ((0, 1) if i % 2 == 0 else (1, 0)):
                                settle((ours, theirs)[which])
                                rates[which].append(fio(guests[which], device, rw, size, depth, args.seconds))
                        each = [a / b for a, b in zip(*rates)]
                        best = max(rates[0]) / max(rates[1])
                        ratios.append(max(statistics.median(each), best))
                        print(f'{case:28s} median ratio {statistics.median(each):5.2f}, best round: guise {max(rates[0]):6.0f}/s, '
                              f'TCG {max(rates[1]):6.0f}/s, ratio {best:5.2f}', flush=True)
        finally:
            for guest in guests:
                guest.end()
    print(f'least ratio {min(ratios):.2f}, geometric mean {statistics.geometric_mean(ratios):.2f} (the better of both each)')
    return min(ratios) <= 1


if __name__ == '__main__':
    sys.exit(main())
