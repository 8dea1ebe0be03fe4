#!/usr/bin/env python3
"""iperf3 over user networking, guest to host and host to guest: guise against QEMU's TCG with the same kernel, the same
initramfs and the same card. Prints Mbit/s and ratios.

usage: net.py PATH-TO-GUISE [ENGINE [MODEL...]]
"""
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SECONDS = 5
DRIVERS = {'virtio': 'virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net',
           'e1000': 'e1000', 'rtl8139': 'mii 8139cp'}
QEMU_NAMES = {'virtio': 'virtio-net-pci', 'e1000': 'e1000', 'rtl8139': 'rtl8139'}

INIT = '''#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules); do insmod /lib/$module.ko; done
sleep 1
for at in /sys/class/net/eth*; do dev=${at##*/}; done
ip link set lo up
ip link set $dev up
sleep 1
ip addr add 10.0.2.15/24 dev $dev
ip route add default via 10.0.2.2
for way in "" -R; do
	echo "WAY ${way:-up}"
	iperf3 -c 10.0.2.2 -p 5299 -t SECONDS -f m $way
done
echo BENCH-DONE
poweroff -f
'''


def entry(name, mode, data):
    head = b'070701' + b''.join(b'%08x' % v for v in (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0))
    head += name.encode() + b'\0'
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs(model, path):
    """The guest of the boot test, with iperf3 and its libraries and another first process over it."""
    iperf = shutil.which('iperf3')
    libraries = re.findall(r'(/\S+\.so\S*)', subprocess.run(['ldd', iperf], capture_output=True, text=True).stdout)
    with gzip.open(os.path.join(HERE, 'guests', 'net', 'initramfs.cpio.gz')) as f:
        out = f.read()
    out += bytes(-len(out) % 4) + entry('bin/iperf3', 0o100755, open(iperf, 'rb').read())
    made = set()
    for library in libraries:
        parts = library.strip('/').split('/')
        for i in range(1, len(parts)):
            folder = '/'.join(parts[:i])
            if folder not in made:
                made.add(folder)
                out += entry(folder, 0o40755, b'')
        out += entry(library.strip('/'), 0o100755, open(library, 'rb').read())
    out += entry('modules', 0o100644, DRIVERS[model].encode())
    out += entry('init', 0o100755, INIT.replace('SECONDS', str(SECONDS)).encode()) + entry('TRAILER!!!', 0, b'')
    with gzip.open(path, 'wb', 1) as f:
        f.write(out)


def rates(command):
    """Mbit/s that the receiving side saw, up and down."""
    server = subprocess.Popen(['iperf3', '-s', '-p', '5299', '-B', '127.0.0.1'], stdout=subprocess.DEVNULL)
    try:
        p = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace', timeout=180)
    finally:
        server.kill()
        server.wait()
    found = [float(v) for v in re.findall(r'([\d.]+) Mbits/sec\s+receiver', p.stdout)]
    if len(found) != 2:
        raise RuntimeError(f'{command[0]}: no two results: {p.stdout[-1500:]} {p.stderr[-500:]}')
    return found


def main():
    guise = os.path.abspath(sys.argv[1])
    engine = sys.argv[2] if len(sys.argv) > 2 else 'auto'
    if not shutil.which('iperf3') or subprocess.run([os.path.join(HERE, 'tools', 'guest-net')]).returncode:
        print('bench/net: needs iperf3 and the guest of tools/guest-net')
        return 0
    kernel = os.path.join(HERE, 'guests', 'net', 'vmlinux')
    append = 'console=ttyS0 quiet panic=-1'
    with tempfile.TemporaryDirectory(prefix='guise-bench-') as work:
        initrd = os.path.join(work, 'initrd')
        for model in sys.argv[3:] or DRIVERS:
            initramfs(model, initrd)
            ours = rates([guise, 'run', kernel, '--engine', engine, '--initrd', initrd, '--append', append, '--memory', '384M',
                          '--no-reboot', '--display', 'none', '--serial', 'stdio', '--net', f'user,model={model},forward=none'])
            line = f'{model}: guise {engine} up {ours[0]:.0f}, down {ours[1]:.0f} Mbit/s'
            if shutil.which('qemu-system-x86_64'):
                tcg = rates(['qemu-system-x86_64', '-accel', 'tcg', '-cpu', 'max', '-m', '384M', '-kernel', kernel, '-initrd', initrd,
                             '-append', append, '-no-reboot', '-display', 'none', '-serial', 'stdio', '-monitor', 'none', '-netdev',
                             'user,id=n', '-device', f'{QEMU_NAMES[model]},netdev=n'])
                line += (f'; TCG up {tcg[0]:.0f}, down {tcg[1]:.0f}; ratio up {ours[0] / tcg[0]:.2f}, '
                         f'down {ours[1] / tcg[1]:.2f}')
            print(line, flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
