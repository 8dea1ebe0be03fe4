"""Kernels started directly: the generic one at the screen and keyboard, a 32-bit one, memtest86+, the power button. Used by run.py."""
import os
import re
import time

MEMTEST = '/boot/memtest86+'

BUTTON_INIT = '''#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
modprobe evdev
modprobe button
event=$(grep -A4 'Power Button' /proc/bus/input/devices | grep -o 'event[0-9]*')
# Only who has opened the device hears of the button.
dd if=/dev/input/$event of=/dev/null bs=24 count=1 2>/dev/null &
while ! ls -l /proc/$!/fd 2>/dev/null | grep -q input; do sleep 1; done
echo "BUTTON-READY $event"
wait
echo BUTTON-PRESSED
poweroff -f
'''

PAUSE_INIT = '''#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
echo "memory $(awk '/MemTotal/ { print $2 }' /proc/meminfo)"
dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null
clock=/sys/devices/system/clocksource/clocksource0
for source in kvm-clock tsc; do
	# The TSC is offered only when the kernel has measured it.
	n=0
	until grep -qw $source $clock/available_clocksource || [ $n = 60 ]; do sleep 1; n=$((n+1)); done
	echo $source > $clock/current_clocksource
	for n in 1 2 3 4; do echo "$(cat $clock/current_clocksource) $(cut -d. -f1 /proc/uptime)"; sleep 1; done
done
echo PAUSE-DONE
poweroff -f
'''

# Without TSC_ADJUST Linux compares the counters of two processors whenever one comes, for two milliseconds under a lock.
HOTPLUG_INIT = '''#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
cpu=/sys/devices/system/cpu/cpu1/online
n=0
while [ $n -lt 100 ]; do
	echo 0 > $cpu
	[ "$(grep -c ^processor /proc/cpuinfo)" = 1 ] || echo "CPU 1 stays"
	echo 1 > $cpu
	[ "$(grep -c ^processor /proc/cpuinfo)" = 2 ] || echo "CPU 1 does not come"
	n=$((n+1))
done
echo "sources: $(cat /sys/devices/system/clocksource/clocksource0/available_clocksource)"
dmesg | grep -i warp
echo HOTPLUG-DONE
poweroff -f
'''


def tests(run):
    """The tests, on run.py's helpers."""

    def guest(name):
        path = os.path.join(run.GUESTS, name)
        run.need(path)
        return path

    def test_generic_kernel():
        """Debian's generic kernel to a shell on the VGA text screen, by the PS/2 keyboard, off by ACPI."""
        with run.Machine('generic', guest('vmlinuz-amd64'), '--initrd', guest('initramfs.cpio.gz'), '--append', 'console=tty0 quiet',
                         '--net', 'none', '--cpus', '2') as m:
            m.wait_screen('/root #', 300)
            m.qmp('x-guise-type', text='echo $((6*7)) $(nproc) $(uname -m)\n')
            m.wait_screen(f'42 {m.cpus} x86_64', 60)
            m.qmp('x-guise-type', text='poweroff -f\n')
            run.check(m.end(60) == 0, 'status')

    def test_kernel_32():
        """A 32-bit kernel without PAE: two-level page tables, and two CPUs."""
        with run.Machine('i686', guest('vmlinuz-686'), '--initrd', guest('initramfs-686.cpio.gz'), '--append',
                         'console=ttyS0 guise.test panic=-1', '--net', 'none', '--cpus', '2', '--no-reboot') as m:
            m.wait_console('GUISE-TEST-OK', 400)
            run.check('i686' in m.console() and f'\n{m.cpus}\r\nGUISE-TEST-OK' in m.console(), m.console()[-500:])
            run.check(m.end(60) == 0, 'status')

    def memtest(name, image):
        run.need(image)
        with run.Machine(name, image, '--memory', '32M', '--net', 'none') as m:
            m.wait_screen('Testing:', 120)
            m.wait_screen('Errors: 0', 60)
            m.qmp('quit')
            run.check(m.end() == 0, 'status')

    def test_memtest_64():
        memtest('memtest64', MEMTEST + 'x64.bin')

    def test_memtest_32():
        memtest('memtest32', MEMTEST + 'ia32.bin')

    def test_power_button():
        """The ACPI power button reaches the guest as an interrupt and an input event."""
        with run.Machine('button', os.path.join(run.GUESTS, 'vmlinuz'), '--initrd', run.with_init(BUTTON_INIT), '--append',
                         'console=ttyS0 quiet', '--net', 'none') as m:
            m.wait_console('BUTTON-READY event', 240)
            m.qmp('system_powerdown')
            m.wait_console('BUTTON-PRESSED', 60)
            run.check(m.end(60) == 0, 'status')

    def test_pause():
        """A pause is no time to the guest, by the paravirtual clock and by the TSC. It has memory above 4 GiB."""
        with run.Machine('pause', guest('vmlinuz'), '--initrd', run.with_init(PAUSE_INIT), '--append', 'console=ttyS0 quiet',
                         '--net', 'none', '--cpus', '2', '--memory', '8G') as m:
            for source in ('kvm-clock', 'tsc'):
                m.wait_console(source + ' ', 240)
                m.qmp('stop')
                time.sleep(8)
                m.qmp('cont')
            m.wait_console('PAUSE-DONE', 60)
            up = [int(n) for n in re.findall(r'^(?:kvm-clock|tsc) ([0-9]+)', m.console(), re.M)]
            run.check(len(up) == 8 and all(0 <= b - a <= 5 for a, b in zip(up, up[1:])), f'the guest saw {up}')
            run.check(int(re.search('memory ([0-9]+)', m.console())[1]) > 7800000, m.console()[-500:])
            run.check(m.end(60) == 0, 'status')

    def test_cpu_hotplug():
        """A processor leaves and comes back a hundred times, and never is its time stamp counter behind the other's."""
        with run.Machine('hotplug', guest('vmlinuz'), '--initrd', run.with_init(HOTPLUG_INIT), '--append', 'console=ttyS0 quiet',
                         '--net', 'none', '--cpus', '2', '--cpu', 'max,-tsc_adjust') as m:
            m.wait_console('HOTPLUG-DONE', 300)
            run.check('CPU 1' not in m.console() and re.search('sources:.* tsc', m.console()), m.console()[-2000:])
            run.check(m.end(60) == 0, 'status')

    return [test_pause, test_cpu_hotplug, test_generic_kernel, test_kernel_32, test_memtest_64, test_memtest_32, test_power_button]
