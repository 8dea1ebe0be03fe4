"""Boots from CD-ROM, floppy and hard disk, and Linux's drivers on IDE drives. Used by run.py."""
import hashlib
import os
import re

GRUB = '/usr/lib/grub-rescue/'

IDE_INIT = '''#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
for module in ata_piix sd_mod sr_mod; do modprobe $module; done
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/sdb ] && [ -b /dev/sr0 ] && break; sleep 1; done
echo "by DMA: $(cat /sys/class/ata_device/*/dma_mode | grep -c MW_DMA_2)"
# Which is which is a matter of luck.
for d in sda sdb; do [ $(cat /sys/block/$d/size) = 16384 ] && from=$d || to=$d; done
dd if=/dev/$from of=/dev/$to bs=64k 2>/dev/null
sync
echo "disk $(dd if=/dev/$from bs=1M 2>/dev/null | busybox md5sum)"
echo "disc $(dd if=/dev/sr0 bs=64k 2>/dev/null | busybox md5sum)"
echo IDE-READY
while [ "$(cat /sys/block/sr0/size)" = 4096 ]; do sleep 1; dd if=/dev/sr0 of=/dev/null bs=2048 count=1 2>/dev/null; done
echo "other $(dd if=/dev/sr0 bs=64k 2>/dev/null | busybox md5sum)"
dmesg | grep -E 'ata[0-9].*(error|exception|failed)'
poweroff -f
'''


def noise_image(path, size):
    with open(path, 'wb') as f:
        f.write(os.urandom(size))
    with open(path, 'rb') as f:
        return hashlib.md5(f.read()).hexdigest()


def tests(run):
    """The tests, on run.py's helpers."""

    def path(name):
        return os.path.join(run.WORK, name)

    def grub_to_prompt(m):
        m.wait_screen('automatically in', 120)
        m.qmp('x-guise-type', text='c')
        m.wait_screen('grub>', 30)
        m.qmp('x-guise-type', text='ls\n')

    def test_grub_cd():
        """GRUB's rescue disc to its prompt: El Torito, the text screen, the keyboard."""
        run.need(GRUB + 'grub-rescue-cdrom.iso')
        with run.Machine('grub-cd', GRUB + 'grub-rescue-cdrom.iso', '--memory', '128M', '--net', 'none') as m:
            grub_to_prompt(m)
            m.wait_screen('(cd)', 30)
            # The BIOS keeps 15 keys for a guest that gets no time to take them.
            typed = 'grub> '
            for part in ('cat (cd)/boot', '/grub/i386-pc', '/moddep.lst'):
                m.qmp('x-guise-type', text=part)
                typed += part
                m.wait_screen(typed, 30)
            m.qmp('x-guise-type', text='\n')
            m.wait(lambda: len(re.findall('^[0-9a-z_]+: [a-z]', m.screen(), re.M)) > 10, 60, 'not the file', m.screen)

    def test_grub_floppy():
        """The floppy by the 82077AA and the 8237A."""
        run.need(GRUB + 'grub-rescue-floppy.img')
        with run.Machine('grub-fd', '--floppy', GRUB + 'grub-rescue-floppy.img,readonly', '--memory', '128M', '--net', 'none') as m:
            grub_to_prompt(m)
            m.wait_screen('(fd0)', 30)

    def test_sata_boot():
        """SeaBIOS by AHCI."""
        image, con = run.boot_sector(run.print_and_exit('from a SATA disk', 0x15)), path('sata.con')
        status, _, err = run.guise('run', '--disk', image + ',format=raw,bus=sata', '--display', 'none', '--serial', 'none',
                                   '--debugcon', con, '--debug-exit', '--memory', '64M', '--net', 'none', timeout=90)
        with open(con, 'rb') as f:
            text = f.read().decode(errors='replace')
        run.check('from a SATA disk' in text, f'debugcon: {text[-400:]!r}; {err}')
        run.check(status == 0x15 * 2 + 1, f'status {status}; {err}')

    def test_ide():
        """Linux's ata_piix: two disks and a disc by DMA; another disc put in under way."""
        disk = noise_image(path('a.img'), 8 << 20)
        noise_image(path('b.img'), 9 << 20)
        disc, other = noise_image(path('disc.iso'), 2 << 20), noise_image(path('other.iso'), 3 << 20)
        with run.Machine('ide', os.path.join(run.GUESTS, 'vmlinuz'), '--initrd', run.with_init(IDE_INIT),
                         '--append', 'console=ttyS0 panic=-1', '--memory', '256M', '--net', 'none', '--no-reboot',
                         '--disk', path('a.img') + ',format=raw', '--disk', path('b.img') + ',format=raw',
                         '--cdrom', path('disc.iso')) as m:
            m.wait_console('IDE-READY', 240)
            run.check('disk ' + disk in m.console(), 'the disk reads wrong: ' + m.console()[-800:])
            run.check('disc ' + disc in m.console(), 'the disc reads wrong: ' + m.console()[-800:])
            run.check('by DMA: 3' in m.console(), 'not three drives by DMA: ' + m.console()[-800:])
            with open(path('b.img'), 'rb') as f:
                run.check(hashlib.md5(f.read(8 << 20)).hexdigest() == disk, 'what was copied from disk to disk differs')
            m.qmp('blockdev-change-medium', id='ide1-cd0', filename=path('other.iso'))
            run.check([m.event('DEVICE_TRAY_MOVED')['tray-open'] for _ in range(2)] == [True, False], 'the tray did not move')
            m.wait_console('other ' + other, 60)
            run.check('exception' not in m.console(), m.console()[-800:])
            run.check(m.end(60) == 0, 'status')

    return [test_grub_cd, test_grub_floppy, test_sata_boot, test_ide]
