#!/usr/bin/env python3
"""fio in a guest on a virtio disk: guise against QEMU's TCG with the same kernel, the same initramfs and images of the same
content. Both machines stay up and take turns case by case, so that a slow minute of the host hits both. Prints the median of
the rounds' ratios, and operations a second and their ratio in the round that each was disturbed least in; the exit status is
1 when guise is behind by both in any case. Allocating writes go to empty images, each round to a part of its own.

usage: disk.py PATH-TO-GUISE [--engine E] [--rounds N] [--seconds S] [--cases WORD,...] [--peer tcg,thread=single]
               [--aio threads|io_uring] [--clock wall|cpu] [--dir D]

With --clock cpu, operations for each second of processor time that the machine took, fio's own start among it.
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
from machine import process_cpu  # noqa: E402
from net import HERE, entry  # noqa: E402

MODULES = 'virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk'.split()
DISKS = {'raw': '/dev/vda', 'qcow2': '/dev/vdb'}
EMPTY = {'raw': '/dev/vdc', 'qcow2': '/dev/vdd'}
BYTES = 512 << 20
EMPTY_BYTES = 64 << 30
PATTERNS = {'sequential-read': ('read', '256k', DISKS), 'sequential-write': ('write', '256k', DISKS),
            'random-read': ('randread', '4k', DISKS), 'random-write': ('randwrite', '4k', DISKS),
            'sequential-allocating-write': ('write', '256k', EMPTY), 'random-allocating-write': ('randwrite', '4k', EMPTY)}
PART = {'256k': 256 << 20, '4k': 16 << 20}  # of an empty image, for a round

INIT = '''#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /tmp
for module in MODULES; do insmod /lib/$module.ko; done
while [ ! -b /dev/vdd ]; do sleep 1; done
echo BENCH-READY
while read line; do
	[ "$line" = off ] && break
	echo "BENCH-RESULT $(fio --name=x --ioengine=libaio --direct=1 --randrepeat=1 --output-format=terse \\
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
    """Two with data everywhere, where no write allocates, and two empty ones, where each does."""
    raw = os.path.join(folder, 'raw')
    with open(raw, 'wb') as f:
        for _ in range(BYTES >> 20):
            f.write(os.urandom(4096) * 256)
    qcow2 = os.path.join(folder, 'qcow2')
    subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, qcow2], check=True)
    for form in EMPTY:
        subprocess.run(['qemu-img', 'create', '-q', '-f', form, os.path.join(folder, f'empty-{form}'), str(EMPTY_BYTES)], check=True)


def drives(folder, option):
    """The disks in the guest's order, each by option(path, format, number)."""
    paths = [(form, form) for form in DISKS] + [(f'empty-{form}', form) for form in EMPTY]
    return [word for number, (name, form) in enumerate(paths) for word in option(os.path.join(folder, name), form, number)]


def settle(folders):
    """Dirty pages of one run would be written during the next. And free memory of a virtual host may be with its own host until
    it is touched, which takes ten times as long as a write: what is written next gets the pages of what was written before."""
    for path in [os.path.join(folder, disk) for folder in folders for disk in os.listdir(folder)]:
        fd = os.open(path, os.O_RDWR)
        os.fdatasync(fd)
        if os.path.basename(path).startswith('empty-'):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
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


def fio(guest, device, rw, size, depth, limits, by_cpu):
    """Operations a second, by the guest's clock or by the processor time that the machine took for them."""
    before = process_cpu(guest.process.pid)
    fields = guest.ask(f'--filename={device} --rw={rw} --bs={size} --iodepth={depth} {limits}', 300).split(';')
    if len(fields) < 100 or fields[4] != '0':
        raise RuntimeError(f'fio said {fields}')
    first = 46 if 'write' in rw else 5  # KiB, KiB a second, operations a second, ms
    if by_cpu:
        return float(fields[first]) / int(size.rstrip('k')) * 1e9 / (process_cpu(guest.process.pid) - before)
    return float(fields[first + 2])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('guise')
    parser.add_argument('--engine', default='bt')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--seconds', type=int, default=1)
    parser.add_argument('--cases', default='')
    parser.add_argument('--clock', choices=('wall', 'cpu'), default='wall')
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
                                 '--net', 'none', *drives(ours, lambda path, form, number: (
                                     '--disk', f'{path},format={form},bus=virtio'))]))
            guests.append(Guest(['qemu-system-x86_64', '-accel', args.peer, '-cpu', 'max', '-m', '768M', '-kernel', kernel,
                                 '-initrd', initrd, '-append', append, '-no-reboot', '-display', 'none', '-serial', 'stdio',
                                 '-monitor', 'none', '-nic', 'none', *drives(theirs, lambda path, form, number: (
                                     '-drive', f'file={path},format={form},id=disk{number},if=none,aio={args.aio}',
                                     '-device', f'virtio-blk-pci,drive=disk{number}'))]))
            used = dict.fromkeys(EMPTY, 0)
            for name, (rw, size, disks) in PATTERNS.items():
                for depth in (1, 32):
                    for disk, device in disks.items():
                        case = f'{name}-{depth}-{disk}'
                        if not all(word in case for word in args.cases.split(',')):
                            continue
                        rates = ([], [])
                        for i in range(args.rounds):
                            limits = f'--time_based --runtime={args.seconds}'
                            if disks is EMPTY:
                                limits = f'--offset={used[disk]} --size={PART[size]}'
                                used[disk] += PART[size]
                            for which in ((0, 1) if i % 2 == 0 else (1, 0)):
                                settle((ours, theirs))
                                rates[which].append(fio(guests[which], device, rw, size, depth, limits, args.clock == 'cpu'))
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
