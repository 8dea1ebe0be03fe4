#!/usr/bin/env python3
"""The machine's devices in Linux by the field's own tools: lspci, fio with verification, iperf3, evtest, the frame buffer, the
watchdog; prints TAP. What is missing of fio, iperf3, evtest and pciutils on this host is skipped.

usage: devices.py PATH-TO-GUISE [NAME...]
"""
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import run
from desktop import read_ppm
from run import Machine, Skip, check

HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WANTED = ['virtio_pci', 'virtio_blk', 'virtio_net', 'e1000', '8139cp', 'ata_piix', 'ahci', 'sd_mod', 'uhci_hcd', 'usbhid', 'hid_generic',
          'psmouse', 'evdev', 'bochs', 'i6300esb', 'virtio_console', 'virtio_rng', 'virtio_balloon', 'i2c_piix4']
TOOLS = ['fio', 'iperf3', 'evtest', 'lspci', 'blkdiscard']

# Runs what the host writes to the first serial line, between two marks on the second one.
INIT = '''#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
export PATH=/usr:/bin:/sbin HOME=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in MODULES; do insmod /lib/modules/$module.ko 2>/dev/null; done
for at in /sys/class/net/eth*; do ip link set ${at##*/} up; done
exec 3<> /dev/ttyS0 # what comes while it is not open is lost
stty raw -echo <&3
echo DEVICES-READY
while read -r line <&3; do
	echo "BEGIN ${line%% *}"
	eval "${line#* }" 2>&1
	echo "END ${line%% *} $?"
done
poweroff -f
'''


def entry(name, mode, data):
    head = b'070701' + b''.join(b'%08x' % v for v in (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0))
    head += name.encode() + b'\0'
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def with_dependencies(root):
    """The modules that are wanted, after those that they need; by depmod."""
    base = glob.glob(root + '/lib/modules/*')[0]
    subprocess.run(['depmod', '-b', root, os.path.basename(base)], check=True, stderr=subprocess.DEVNULL)
    needs = {}
    for line in open(base + '/modules.dep'):
        path, rest = line.split(':')
        needs[os.path.basename(path)[:-3].replace('-', '_')] = [path] + rest.split()
    order = []
    for name in WANTED:
        for path in reversed(needs.get(name, [])):
            if path not in order:
                order.append(path)
    return [os.path.join(base, p) for p in order]


def libraries(program):
    return re.findall(r'(/\S+\.so\S*)', subprocess.run(['ldd', program], capture_output=True, text=True).stdout)


def initramfs(root, path):
    busybox = shutil.which('busybox')
    modules = with_dependencies(root)
    files = {'bin/busybox': busybox, **{f'lib/modules/{os.path.basename(m)}': m for m in modules}}
    for tool in filter(None, map(lambda t: shutil.which(t, path=os.environ['PATH'] + ':/usr/sbin:/sbin'), TOOLS)):
        files['usr/' + os.path.basename(tool)] = tool
        files.update({lib.strip('/'): lib for lib in libraries(tool)})
    out, folders = b'', {'bin', 'lib', 'proc', 'sys', 'dev', 'tmp', 'run'}
    for name in files:
        parts = name.split('/')
        folders.update('/'.join(parts[:i]) for i in range(1, len(parts)))
    out = b''.join(entry(f, 0o40755, b'') for f in sorted(folders))
    out += b''.join(entry(name, 0o100755, open(source, 'rb').read()) for name, source in sorted(files.items()))
    names = ' '.join(os.path.basename(m)[:-3] for m in modules)
    out += entry('init', 0o100755, INIT.replace('MODULES', names).encode())
    with open(path, 'wb') as f:
        f.write(out + entry('TRAILER!!!', 0, b''))


def prepare():
    """The kernel that tools/guest-net has unpacked, and a first RAM disk."""
    if subprocess.run([os.path.join(HERE, 'tools', 'guest-net')]).returncode:
        raise Skip('no kernel package')
    path = os.path.join(run.WORK, 'devices.cpio')
    if not os.path.exists(path):
        if not shutil.which('depmod', path='/usr/sbin:/sbin:' + os.environ['PATH']):
            raise Skip('depmod is missing')
        os.environ['PATH'] += ':/usr/sbin:/sbin'
        deb = [d for d in glob.glob(os.path.join(HERE, 'guests', 'cache', 'linux-image-[0-9]*-amd64_*.deb')) if '-cloud-' not in d][0]
        with tempfile.TemporaryDirectory() as root:
            subprocess.run(['dpkg-deb', '-x', deb, root], check=True)
            initramfs(root, path)
    return os.path.join(HERE, 'guests', 'net', 'vmlinux'), path


def need(tool):
    if not shutil.which(tool, path=os.environ['PATH'] + ':/usr/sbin:/sbin'):
        raise Skip(f'{tool} is missing')


class Guest(Machine):
    """A machine whose guest does what it is told on its first serial line."""

    def __init__(self, name, *args, append='', prefix=()):
        kernel, initrd = prepare()
        self.line_path = os.path.join(run.WORK, name + '.line')
        super().__init__(name, '--serial', 'unix:' + self.line_path, '--kernel', kernel, '--initrd', initrd,
                         '--append', 'console=ttyS1 quiet panic=-1 ' + append, '--memory', '512M', *args, prefix=prefix)
        self.serial_line = None

    def ready(self):
        self.connect()
        self.wait_console('DEVICES-READY', 300)
        return self

    def tell(self, name, command):
        if not self.serial_line:
            self.serial_line = socket.socket(socket.AF_UNIX)
            self.serial_line.connect(self.line_path)
        self.serial_line.sendall(f'{name} {command}\n'.encode())

    def result(self, name, seconds=120):
        self.wait(lambda: re.search(rf'^END {name} \d+', self.console(), re.M), seconds, f'{name} does not end', self.console)
        said = re.search(rf'^BEGIN {name}\r?\n(.*?)^END {name} (\d+)', self.console(), re.M | re.S)
        return said.group(1), int(said.group(2))

    def does(self, name, command, seconds=120):
        self.tell(name, command)
        said, status = self.result(name, seconds)
        check(status == 0, f'{name}: status {status}: {said[-1500:]}')
        return said


def blank(name, size):
    path = os.path.join(run.WORK, name)
    with open(path, 'wb') as f:
        f.truncate(size)
    return path


def ends(m):
    m.tell('off', 'poweroff -f')
    check(m.end(60) == 0, 'status')


def test_lspci():
    """Every device of the board, and the driver that has it."""
    need('lspci')
    expected = {'8086:1237': None, '8086:7000': None, '8086:7010': 'ata_piix', '8086:7020': 'uhci_hcd', '8086:7113': 'piix4_smbus',
                '1234:1111': 'bochs-drm', '1af4:1044': 'virtio-pci', '1af4:1042': 'virtio-pci', '1af4:1043': 'virtio-pci',
                '1af4:1045': 'virtio-pci', '8086:25ab': 'i6300ESB timer', '8086:2922': 'ahci', '1af4:1041': 'virtio-pci',
                '8086:100e': 'e1000', '10ec:8139': '8139cp'}
    with Guest('lspci', '--tablet', '--console', 'none', '--disk', blank('v', 1 << 20) + ',format=raw,bus=virtio',
               '--disk', blank('s', 1 << 20) + ',format=raw,bus=sata', '--net', 'user,model=virtio,forward=none',
               '--net', 'user,model=e1000,forward=none', '--net', 'user,model=rtl8139,forward=none') as m:
        m.ready()
        said = m.does('lspci', '/usr/lspci -nnk')
        found = {}
        for block in re.split(r'\n(?=[0-9a-f]{2}:)', said):
            names = re.findall(r'\[([0-9a-f]{4}:[0-9a-f]{4})\]', block)
            driver = re.search(r'Kernel driver in use: (.*?)\r?$', block, re.M)
            if names:
                found[names[0]] = driver and driver.group(1)
        for name, driver in expected.items():
            check(name in found, f'{name} is not there: {said}')
            check(driver is None or found[name] == driver, f'{name} is driven by {found[name]}, not {driver}: {said}')
        check(set(found) == set(expected), f'more than is known: {set(found) - set(expected)}')
        ends(m)


def test_fio():
    """What is written at random places is what is read, on each kind of disk and on qcow2, and with blocks discarded."""
    need('fio')
    qcow2 = os.path.join(run.WORK, 'fio.qcow2')
    status, _, err = run.guise('image', 'create', qcow2, '64M')
    check(status == 0, err)
    with Guest('fio', '--disk', blank('fv', 64 << 20) + ',format=raw,bus=virtio', '--disk', qcow2 + ',bus=virtio',
               '--disk', blank('fi', 48 << 20) + ',format=raw,bus=ide', '--disk', blank('fs', 56 << 20) + ',format=raw,bus=sata',
               '--net', 'none') as m:
        m.ready()
        sizes = m.does('sizes', 'cd /sys/block; for d in vda vdb sda sdb; do echo $d $(cat $d/size); done')
        for size in (131072, 131072, 98304, 114688):
            check(re.search(rf' {size}\r?$', sizes, re.M), sizes)
        for n, disk in enumerate(('vda', 'vdb', 'sda', 'sdb')):
            common = f'fio --name=x --filename=/dev/{disk} --direct=1 --thread --verify=crc32c --verify_fatal=1 --randseed={n + 1}'
            said = m.does('random-' + disk, f'{common} --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=4k-128k --size=32M', 300)
            check('err= 0' in said and 'verify: bad' not in said, said[-1500:])
            said = m.does('again-' + disk, f'{common} --ioengine=psync --rw=rw --bs=8k --size=8M --fsync=32', 300)
            check('err= 0' in said and 'verify: bad' not in said, said[-1500:])
        for disk in ('vda', 'vdb'):
            said = m.does('trim-' + disk, f'fio --name=x --filename=/dev/{disk} --direct=1 --thread --ioengine=psync --rw=randtrim --bs=64k '
                          '--size=16M && dd if=/dev/urandom of=/tmp/d bs=64k count=16 2>/dev/null && dd if=/tmp/d of=/dev/' + disk +
                          ' bs=64k conv=fsync 2>/dev/null && dd if=/dev/' + disk + ' bs=64k count=16 2>/dev/null | cmp - /tmp/d', 300)
            check('err= 0' in said, said[-1500:])
        check('error' not in m.does('log', 'dmesg | grep -E "I/O error|exception|failed command" || true'), 'errors in the log')
        ends(m)
    status, out, err = run.guise('image', 'check', qcow2)
    check(status == 0, out + err)


def test_virtio_blk():
    """A queue for each processor, a serial number, blocks given back to the host and zeroed, a disk that grows while it is used."""
    need('blkdiscard')
    image = blank('vb', 32 << 20)
    with Guest('virtioblk', '--cpus', '2', '--disk', image + ',format=raw,bus=virtio', '--net', 'none') as m:
        m.ready()
        check('2' in m.does('queues', 'ls /sys/block/vda/mq | wc -l'), m.console()[-500:])
        check('virtio0' in m.does('serial', 'echo $(cat /sys/block/vda/serial)'), m.console()[-500:])
        before = os.stat(image).st_blocks
        m.does('write', 'dd if=/dev/urandom of=/dev/vda bs=1M count=32 conv=fsync 2>/dev/null')
        full = os.stat(image).st_blocks
        check(full - before >= 30 << 11, f'{before} blocks of 512 bytes, {full} when it is full')
        m.does('discard', 'blkdiscard -o 0 -l 16M /dev/vda')
        check(os.stat(image).st_blocks <= full - (14 << 11), f'{os.stat(image).st_blocks} blocks of {full} after discarding half')
        m.does('zero', '/usr/blkdiscard -v -z -o 16M -l 8M /dev/vda && sync')
        with open(image, 'rb') as f:
            data = f.read()
        check(not any(data[16 << 20:24 << 20]) and all(any(data[i:i + 4096]) for i in range(24 << 20, 32 << 20, 4096)), f'not zeroed, or too much: {[i for i in range(0, 32 << 20, 4096) if any(data[i:i + 4096])][:5]}; ' + m.console()[-300:])
        m.does('wait', 'echo $(cat /sys/block/vda/size)')
        m.qmp('block_resize', device='virtio0', size=48 << 20)
        m.does('grown', f'until [ $(cat /sys/block/vda/size) = {48 << 11} ]; do sleep 1; done; '
               'dd if=/dev/urandom of=/tmp/d bs=1M count=1 2>/dev/null; dd if=/tmp/d of=/dev/vda bs=1M seek=47 conv=fsync 2>/dev/null; '
               'dd if=/dev/vda bs=1M skip=47 2>/dev/null | cmp - /tmp/d')
        check(os.stat(image).st_size == 48 << 20, 'the image')
        ends(m)


def test_tap():
    """A tap interface in a network namespace of its own, so without root where that is allowed: both directions over each card."""
    need('iperf3')
    cards = ('virtio', 'e1000', 'rtl8139')
    script = ' && '.join(['ip link set lo up'] + [f'ip tuntap add tap{n} mode tap && ip addr add 10.9.{n}.1/24 dev tap{n} && ip link set tap{n} up'
                                                  for n in range(len(cards))])
    # With the namespace's first process go all others.
    prefix = ['unshare', '-rn', '--fork', '--pid', '--kill-child', 'sh', '-c']
    if not os.access('/dev/net/tun', os.R_OK | os.W_OK) or subprocess.run([*prefix, script], capture_output=True).returncode:
        raise Skip('no tap interfaces or no namespaces here')
    run_it = script + ' && { iperf3 -s >/dev/null 2>&1 & } && "$@"; exit $?'
    args = [a for n, c in enumerate(cards) for a in ('--net', f'tap=tap{n},model={c}')]
    with Guest('tap', *args, prefix=(*prefix, run_it, 'sh')) as m:
        m.ready()
        for n in range(len(cards)):
            dev = f'eth{n}'
            m.does('up-' + dev, f'ip addr add 10.9.{n}.2/24 dev {dev}; ping -c 3 -W 10 10.9.{n}.1')
            for word in ('', '-R'):
                said = m.does(f'flow{word}-{dev}', f'iperf3 -c 10.9.{n}.1 -n 24M {word} -f m', 300)
                check(re.search(r' 2[0-9.]+ MBytes +[0-9.]+ Mbits/sec.*receiver', said) and 'iperf Done' in said, said[-1500:])
        ends(m)


def test_iperf3():
    """Both directions over each card, without an error of the card's."""
    need('iperf3')
    with socket.create_server(('127.0.0.1', 0)) as s:
        port = s.getsockname()[1]
    server = subprocess.Popen(['iperf3', '-s', '-p', str(port)], stdout=subprocess.DEVNULL)
    try:
        with Guest('iperf', '--cpus', '2', *(a for c in ('virtio', 'e1000', 'rtl8139') for a in ('--net', f'user,model={c},forward=none'))) as m:
            m.ready()
            check('2' in m.does('queues', 'ls -d /sys/class/net/eth0/queues/rx-* | wc -l'), 'one queue for two processors')
            for n in range(3):
                dev = f'eth{n}'
                m.does('up-' + dev, f'ip addr add 10.0.2.15/24 dev {dev}; ping -c 1 -W 10 10.0.2.2 >/dev/null')
                for word in ('', '-R'):
                    said = m.does(f'flow{word}-{dev}', f'iperf3 -c 10.0.2.2 -p {port} -n 24M {word} -f m', 300)
                    came = re.search(r' ([0-9.]+) MBytes +[0-9.]+ Mbits/sec.*receiver', said)
                    check(came and float(came.group(1)) > 20 and 'iperf Done' in said, said[-1500:])
                wrong = m.does('errors-' + dev, f'cat /sys/class/net/{dev}/statistics/[rt]x_errors | grep -v ^0 || true')
                check(not wrong.strip(), wrong)
                m.does('down-' + dev, f'ip addr flush dev {dev}')
            ends(m)
    finally:
        server.kill()
        server.wait()


def test_evtest():
    """Keys, the PS/2 mouse with its wheel, the tablet, as evdev's programs see them."""
    need('evtest')
    with Guest('evtest', '--tablet', '--net', 'none') as m:
        m.ready()
        m.does('tablet', 'until grep -q tablet /proc/bus/input/devices; do sleep 1; done')
        m.does('listen', 'for e in /dev/input/event*; do evtest $e > /tmp/${e##*/} 2>&1 & done; sleep 2')

        def send(*events):
            m.qmp('input-send-event', events=[{'type': kind, 'data': data} for kind, data in events])
            time.sleep(0.2)

        def seen(*wanted):
            end = time.time() + run.patience(30)
            while True:
                said = m.does(f'seen{len(m.console())}', 'grep -h Event: /tmp/* || true')
                if all(re.search(w, said) for w in wanted):
                    return
                check(time.time() < end, f'not all of {wanted}: {said[-3000:]}')
                time.sleep(0.5)

        for down in (True, False):
            send(('key', {'key': {'type': 'qcode', 'data': 'a'}, 'down': down}))
        seen(r'\(KEY_A\), value 1', r'\(KEY_A\), value 0')
        send(('abs', {'axis': 'x', 'value': 12345}), ('abs', {'axis': 'y', 'value': 23456}))
        seen(r'\(ABS_X\), value 12345', r'\(ABS_Y\), value 23456')
        for down in (True, False):
            send(('btn', {'button': 'left', 'down': down}))
        seen(r'\(BTN_LEFT\), value 1', r'\(BTN_LEFT\), value 0')
        for down in (True, False):
            send(('btn', {'button': 'wheel-up', 'down': down}))
        seen(r'\(REL_WHEEL\), value 1')
        # The tablet knows no movements: these are the PS/2 mouse's.
        send(('rel', {'axis': 'x', 'value': 7}), ('rel', {'axis': 'y', 'value': -5}))
        seen(r'\(REL_X\), value 7', r'\(REL_Y\), value -5')
        ends(m)


def framebuffer(width, height):
    """What a program writes into the frame buffer is the picture, pixel by pixel."""
    line = b'what is drawn is shown; '
    with Guest(f'fb{width}', '--net', 'none', append=f'video={width}x{height}') as m:
        m.ready()
        size = m.does('size', 'cat /sys/class/graphics/fb0/virtual_size /sys/class/graphics/fb0/bits_per_pixel')
        check(list(map(int, re.findall(r'\d+', size)[:3])) == [width, height, 32], size)
        m.does('draw', 'echo -e "\\033[?25l" > /dev/tty1; echo 0 > /sys/class/graphics/fbcon/cursor_blink; '
               f'while :; do printf "{line.decode()}"; done 2>/dev/null | head -c {width * height * 4} | '
               f'dd of=/dev/fb0 iflag=fullblock bs={width * 40} 2>/dev/null') # by whole lines: Linux forgets pieces that end one
        data = (line * (width * height * 4 // len(line) + 1))[:width * height * 4]
        wanted = bytearray(width * height * 3)
        for n in range(3):
            wanted[n::3] = data[2 - n::4]
        path = os.path.join(run.WORK, 'fb.ppm')
        end = time.time() + run.patience(30)
        while True: # the driver copies to the card by and by
            m.qmp('screendump', filename=path, format='ppm')
            picture = read_ppm(path)
            check((picture.width, picture.height) == (width, height), f'{picture.width}x{picture.height} shown of {width}x{height}')
            if picture.data == wanted:
                break
            wrong = [i // 3 for i in range(0, len(wanted), 3) if picture.data[i:i + 3] != wanted[i:i + 3]]
            check(time.time() < end, f'{len(wrong)} pixels of {width * height} differ, from {wrong[0]} to {wrong[-1]}')
            time.sleep(1)
        ends(m)


def test_framebuffer():
    framebuffer(1024, 768)


def test_framebuffer_large():
    framebuffer(2560, 1600)


def test_watchdog():
    """A guest that stops writing to the watchdog is reset, and the event tells of it."""
    with Guest('watchdog', '--net', 'none') as m:
        m.ready()
        check('i6300ESB' in m.does('identity', 'cat /sys/class/watchdog/watchdog0/identity'), 'no watchdog')
        m.does('fed', 'watchdog -T 4 -t 1 /dev/watchdog; sleep 8')
        check(m.qmp('query-status')['running'], 'a watchdog that is fed bites')
        m.tell('starved', 'kill -9 $(pidof watchdog)')
        check(m.event('WATCHDOG', 60).get('action') == 'reset', 'event')
        m.wait(lambda: m.console().count('DEVICES-READY') == 2, 120, 'no reset', m.console)
        ends(m)


TESTS = [test_lspci, test_fio, test_virtio_blk, test_iperf3, test_tap, test_evtest, test_framebuffer, test_framebuffer_large, test_watchdog]


def main():
    run.find(sys.argv[1])
    chosen = [t for t in TESTS if not sys.argv[2:] or t.__name__[5:] in sys.argv[2:]]
    failed = 0
    print(f'1..{len(chosen)}', flush=True)
    with tempfile.TemporaryDirectory(prefix='guise-devices-') as run.WORK:
        os.environ['XDG_RUNTIME_DIR'] = run.WORK
        for n, test in enumerate(chosen, 1):
            failed += run.attempt(test, n, test.__name__[5:])
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
