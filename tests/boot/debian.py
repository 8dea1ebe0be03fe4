"""Debian as it is installed and as it runs from a disk (tools/guest-installer, tools/guest-disk). Used by run.py."""
import os
import subprocess
import time

PARTITION = 2048 * 512


def tests(run):
    """The tests, on run.py's helpers."""

    def path(name):
        return os.path.join(run.WORK, name)

    def guest(name):
        file = os.path.join(run.GUESTS, name)
        run.need(file)
        return file

    def press(m, key):
        m.qmp('send-key', keys=[{'type': 'qcode', 'data': key}])

    def picture(m):
        m.qmp('screendump', filename=path('screen.ppm'), format='ppm')
        with open(path('screen.ppm'), 'rb') as f:
            return f.read()

    def settled(m, seconds, other_than=None):
        """The screen once it has stood still for four seconds."""
        end, last, since = time.time() + run.patience(seconds), None, 0
        while time.time() < end:
            now = picture(m)
            if now != last:
                last, since = now, time.time()
            elif now != other_than and time.time() - since > 4:
                return now
            time.sleep(0.3)
        raise run.Failure('the screen does not come to rest')

    HEAD = b'P6\n640 480\n255\n'

    def colours(image):
        return len({image[i:i + 3] for i in range(len(HEAD), len(image), 3)})

    def rows_that_differ(a, b):
        """Of two pictures 640 pixels wide."""
        row = 640 * 3
        return [y for y in range(480) if a[len(HEAD) + y * row:][:row] != b[len(HEAD) + y * row:][:row]]

    def installer(arch, on_from_menu):
        """isolinux's menu in VESA graphics and the keyboard in it, and the installer's first question on a text screen."""
        with run.Machine('installer-' + arch, guest(f'installer-{arch}.iso'), '--memory', '1G', '--net', 'none') as m:
            m.wait(lambda: picture(m).startswith(HEAD) and colours(picture(m)) > 1000, 120, 'no graphics', lambda: '')
            before = settled(m, 120)
            # The bar goes from the first of the menu's lines, of 16 pixels each, to the second. A busy host may have
            # kept the guest from drawing for a while, so that the screen was taken half done.
            for key in ('down', 'up', 'down'):
                press(m, key)
                after = settled(m, 30, before)
                rows = rows_that_differ(before, after)
                if 30 <= len(rows) <= 34 and rows[-1] - rows[0] < 34:
                    break
                before = after
            else:
                raise run.Failure(f'the menu moved rows {rows}')
            on_from_menu(m)
            m.wait_screen('Choose the language to be used', 240)
            m.wait_screen('English', 30)

    def test_installer_amd64():
        """The command line of the first entry, changed."""
        def edit(m):
            press(m, 'home')
            press(m, 'tab')
            m.qmp('x-guise-type', text=' vga=normal fb=false nomodeset\n')

        installer('amd64', edit)

    def test_installer_i386():
        """By isolinux's prompt to a menu on the text screen, and Enter on its second entry."""
        def text_menu(m):
            press(m, 'esc')
            m.wait_screen('boot:', 30)
            m.qmp('x-guise-type', text='textmenu\n')
            m.wait_screen("The installer's menu as text", 30)
            m.wait_screen('Press [Tab] to edit options', 30)
            run.check('Expert install' in m.screen(), m.screen())
            press(m, 'down')
            m.qmp('x-guise-type', text='\n')

        installer('i386', text_menu)

    def test_installer_grub():
        """GRUB's menu on the text screen, and the installer on the serial line."""
        with run.Machine('installer-grub', guest('installer-grub.iso'), '--memory', '1G', '--net', 'none') as m:
            m.wait_screen('Install on the serial line', 60)
            press(m, 'down')
            m.wait_screen('*Install on the serial line', 30)
            m.qmp('x-guise-type', text='\n')
            m.wait_console('Choose the language to be used', 240)
            m.wait_console('English', 30)

    def boot_disk(bus, device, power_off):
        """MBR, extlinux, kernel and systemd to the login prompts, a command, and off; then the file system is clean."""
        run.need('/sbin/e2fsck')
        image, overlay, after = guest('debian.img'), path(bus + '.qcow2'), path(bus + '.raw')
        status, _, err = run.guise('image', 'create', overlay, '--backing', image)
        run.check(status == 0, err)
        with run.Machine('disk-' + bus, '--disk', f'{overlay},bus={bus}', '--memory', '512M', '--net', 'none') as m:
            m.wait_console('BOOT_IMAGE=/vmlinuz', 120)  # as extlinux says
            m.wait_console('guise login:', 300)
            m.wait_screen('guise login:', 60)
            m.qmp('x-guise-type', text='root\n')
            m.wait_screen('Password:', 60)
            m.qmp('x-guise-type', text='guise\n')
            m.wait_screen('root@guise:~#', 60)
            m.qmp('x-guise-type', text='clear; systemctl is-system-running --wait; findmnt -no SOURCE / | tee /written; echo $((6*7))\n')
            m.wait_screen('\n42', 120)
            run.check('running' in m.screen() and device in m.screen(), m.screen())
            power_off(m)
            run.check(m.end(120) == 0, 'status')
        status, _, err = run.guise('image', 'convert', overlay, after)
        run.check(status == 0, err)
        found = subprocess.run(['/sbin/e2fsck', '-fn', f'{after}?offset={PARTITION}'], capture_output=True, text=True, timeout=120)
        run.check(found.returncode == 0, found.stdout + found.stderr)
        written = subprocess.run(['/sbin/debugfs', '-R', 'cat /written', f'{after}?offset={PARTITION}'], capture_output=True,
                                 text=True, timeout=60)
        run.check(written.stdout.strip() == device, f'the file on the disk says {written.stdout!r}')

    def test_disk_ide():
        boot_disk('ide', '/dev/sda1', lambda m: m.qmp('x-guise-type', text='poweroff\n'))

    def test_disk_virtio():
        """As above, and off by the power button, as systemd-logind hears it."""
        boot_disk('virtio', '/dev/vda1', lambda m: m.qmp('system_powerdown'))

    return [test_installer_amd64, test_installer_i386, test_installer_grub, test_disk_ide, test_disk_virtio]
