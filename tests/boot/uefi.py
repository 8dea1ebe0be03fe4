"""UEFI firmware: its shell on the serial line and the screen, variables that stay, and a disk that boots. Used by run.py."""
import os
import re
import shutil
import subprocess

OVMF = '/usr/share/OVMF/OVMF_CODE_4M.fd'
MEMTEST = '/usr/lib/memtest86+/memtest86+x64.iso'
GUID = '4d6e8f10-1234-4321-8765-0123456789ab'


def tests(run):
    """The tests, on run.py's helpers."""

    def path(name):
        return os.path.join(run.WORK, name)

    def machine(name, *args):
        return run.Machine(name, '--memory', '256M', '--net', 'none', '--no-reboot', *args)

    def colours(m):
        """How many there are on the screen, and its size."""
        m.qmp('screendump', filename=path('uefi.ppm'), format='ppm')
        with open(path('uefi.ppm'), 'rb') as f:
            data = f.read()
        size, pixels = data.split(b'\n', 3)[1], data.split(b'\n', 3)[3]
        return size, len({pixels[i:i + 3] for i in range(0, len(pixels), 3)})

    def to_shell(m):
        m.wait_console('in 5 seconds', 120)
        m.qmp('x-guise-type', text='\n')
        m.wait_console('Shell> ', 30)

    def enter(m, line):
        """Types a line no faster than the shell shows it: the keyboard keeps no more than a few keys."""
        def shown():
            return re.sub('\x1b\\[[0-9;]*[A-Za-z]|[\r\n]', '', m.console())

        for at in range(0, len(line), 8):
            part, before = line[at:at + 8], len(shown())
            m.qmp('x-guise-type', text=part)
            m.wait(lambda: part in shown()[before:], 30, f'"{part}" of "{line}" does not come', m.console)
        m.qmp('x-guise-type', text='\n')

    def test_uefi():
        """A variable set in the shell is there after the machine was killed; shutting down works from there."""
        run.need(OVMF)
        store = path('vars.fd')
        with machine('uefi-first', '--firmware', 'uefi,vars=' + store) as m:
            to_shell(m)
            size, count = colours(m)
            run.check(int(size.split()[0]) >= 640 and count >= 3, f'{size}, {count} colours on the screen')
            enter(m, f'setvar GuiseTest -guid {GUID} -nv -bs =0x47554953')
            enter(m, f'setvar GuiseTest -guid {GUID}')
            m.wait_console('53 49 55 47', 60)
            run.refused(['vars.fd'], '--firmware', 'uefi,vars=' + store, '--display', 'none', status=1)
        with machine('uefi-second', '--firmware', 'uefi,vars=' + store) as m:
            to_shell(m)
            enter(m, f'setvar GuiseTest -guid {GUID}')
            m.wait_console('53 49 55 47', 60)
            enter(m, 'reset -s')
            run.check(m.end() == 0, 'the shell does not power the machine off')
        with open(store, 'r+b') as f:
            f.truncate(12345)
        run.refused(['12345 bytes'], '--firmware', 'uefi,vars=' + store, '--display', 'none', status=1)

    def system_partition(name, files):
        """A disk that is one FAT file system, as firmware takes it from removable media."""
        run.need(shutil.which('mformat') or 'mformat (package mtools)')
        image = path(name)
        env = {**os.environ, 'MTOOLS_SKIP_CHECK': '1'}
        with open(image, 'wb') as f:
            f.truncate(96 << 20)
        subprocess.run(['mformat', '-i', image, '-F', '::'], check=True, env=env)
        subprocess.run(['mmd', '-i', image, '::/EFI', '::/EFI/BOOT'], check=True, env=env)
        for target, source in files.items():
            subprocess.run(['mcopy', '-i', image, source, '::' + target], check=True, env=env)
        return image

    def test_uefi_memtest():
        """A CD's boot loader starts by itself, draws through the graphics output protocol, and sees all of 8 GiB."""
        run.need(OVMF)
        run.need(MEMTEST)
        with machine('uefi-memtest', '--firmware', 'uefi', '--memory', '8G', MEMTEST) as m:
            # It is pale on blue; the firmware's own screens have no blue.
            m.wait(lambda: blue(m), 120, 'memtest86+ does not show', m.console)

    def blue(m):
        m.qmp('screendump', filename=path('uefi.ppm'), format='ppm')
        with open(path('uefi.ppm'), 'rb') as f:
            pixels = f.read().split(b'\n', 3)[3]
        return 2 * pixels.count(b'\x00\x00\xaa') > len(pixels) // 3

    def test_uefi_linux():
        """Linux by its EFI stub, from the firmware's shell: ACPI tables, PCI windows and memory map as UEFI hands them on."""
        run.need(OVMF)
        run.need(os.path.join(run.GUESTS, 'vmlinuz'))
        script = path('startup.nsh')
        with open(script, 'w') as f:
            f.write('fs0:\\vmlinuz.efi initrd=\\initrd console=ttyS0 guise.test panic=-1\r\n')
        disk = system_partition('linux.img', {'/startup.nsh': script, '/vmlinuz.efi': os.path.join(run.GUESTS, 'vmlinuz'),
                                              '/initrd': os.path.join(run.GUESTS, 'initramfs.cpio.gz')})
        with machine('uefi-linux', '--firmware', 'uefi', '--memory', '512M', disk) as m:
            m.wait_console('GUISE-TEST-OK', 120)
            run.check('efi: EFI v2' in m.console(), m.console()[-800:])
            run.check("can't claim BAR" not in m.console(), 'a BAR lies outside the windows')
            run.check(m.end(60) == 0, 'status')

    def test_uefi_boot_order():
        """--boot and bootindex= reach OVMF: the kinds of drives, and one drive of several."""
        run.need(OVMF)
        run.need(MEMTEST)
        run.need(os.path.join(run.GUESTS, 'vmlinuz'))
        disk = system_partition('order.img', {'/EFI/BOOT/BOOTX64.EFI': os.path.join(run.GUESTS, 'vmlinuz')})
        disk += ',format=raw'
        for n, (first, args) in enumerate((('Pci(0x1,0x1)/Ata(Primary,Master', ['--boot', 'disk,cd', '--disk', disk]),
                                           ('Pci(0x1,0x1)/Ata(Secondary,Master', ['--boot', 'cd,disk', '--disk', disk]),
                                           ('Pci(0x4,0x0)', ['--disk', disk + ',bus=virtio,bootindex=1']),
                                           ('Pci(0xF,0x0)/Sata(0x0', ['--boot', 'cd', '--disk', disk + ',bus=sata,bootindex=1']))):
            with machine(f'uefi-order{n}', '--firmware', 'uefi', '--cdrom', MEMTEST, *args) as m:
                m.wait_console('BdsDxe: starting', 120)
                started = m.console().split('BdsDxe: starting', 1)[1].split('\n')[0]
                run.check('PciRoot(0x0)/' + first in started, f'{args}: {started}')

    return [test_uefi_boot_order, test_uefi, test_uefi_memtest, test_uefi_linux]
