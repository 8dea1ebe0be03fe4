"""A desktop as a user has it (tools/guest-desktop): seen, clicked on, typed into, on the network. Used by run.py."""
import os
import re
import socket
import struct
import threading
import time

BUTTON = (0xf0, 0xa0, 0x00)
TITLE_BARS = (0xc0, 0xc0, 0xc0)
BACKGROUNDS = [(0x20, 0x40, 0x60), (0x60, 0x20, 0x40), (0x20, 0x60, 0x40)]
POINTER_MAX = 32767
CURSOR = 32  # the pointer's picture goes no further than this from where it points, in pixels


class Picture:
    """A screen: its size, and three bytes a pixel."""

    def __init__(self, width, height, data):
        self.width, self.height, self.data = width, height, data

    def row(self, y):
        return self.data[y * self.width * 3:(y + 1) * self.width * 3]

    def share(self, colour):
        """How much of the screen has this colour, from 0 to 1, by every seventh pixel."""
        seen = [self.data[i:i + 3] == bytes(colour) for i in range(0, len(self.data), 3 * 7)]
        return sum(seen) / len(seen)

    def box(self, colour):
        """The smallest box around all pixels of a colour (left, top, right, bottom), or None."""
        wanted, at = bytes(colour), []
        for y in range(self.height):
            row = self.row(y)
            if wanted in row:
                at += [(x, y) for x in range(self.width) if row[x * 3:x * 3 + 3] == wanted]
        return (min(x for x, _ in at), at[0][1], max(x for x, _ in at), at[-1][1]) if at else None

    def differences(self, other):
        """The pixels that are not those of another picture of this size."""
        return [(x, y) for y in range(self.height) if self.row(y) != other.row(y)
                for x in range(self.width) if self.row(y)[x * 3:x * 3 + 3] != other.row(y)[x * 3:x * 3 + 3]]


def read_ppm(path):
    with open(path, 'rb') as f:
        _, size, _, data = f.read().split(b'\n', 3)
    return Picture(*map(int, size.split()), data)


def read_xwd(path):
    """What the X server takes its screen to be (X11/XWDFile.h: a header, colours, here 32 bits a pixel)."""
    with open(path, 'rb') as f:
        data = f.read()
    size, version, width, height, order, bits, line, colours = (
        struct.unpack('>I', data[at:at + 4])[0] for at in (0, 4, 16, 20, 28, 44, 48, 76))
    if (version, order, bits) != (7, 0, 32):
        raise OSError(f'{path} is no window dump of 32 bits a pixel: version {version}, byte order {order}, {bits} bits')
    pixels = bytearray(width * height * 3)
    for y in range(height):
        row = data[size + colours * 12 + y * line:][:width * 4]
        for colour in range(3):
            pixels[y * width * 3 + colour:(y + 1) * width * 3:3] = row[2 - colour::4]
    return Picture(width, height, bytes(pixels))


def near(at, *points):
    return any(abs(at[0] - x) < CURSOR and abs(at[1] - y) < CURSOR for x, y in points)


class Desktop:
    """A machine with a screen to look at and a pointer to click with."""

    def __init__(self, machine, path):
        self.machine, self.path = machine, path

    def look(self):
        self.machine.qmp('screendump', filename=self.path, format='ppm')
        return read_ppm(self.path)

    def send(self, *events):
        self.machine.qmp('input-send-event', events=[{'type': kind, 'data': data} for kind, data in events])

    def click(self):
        self.send(('btn', {'button': 'left', 'down': True}), ('btn', {'button': 'left', 'down': False}))

    def point(self, x, y):
        """With the tablet."""
        screen = self.look()
        self.send(('abs', {'axis': 'x', 'value': (2 * x + 1) * POINTER_MAX // (2 * screen.width)}),
                  ('abs', {'axis': 'y', 'value': (2 * y + 1) * POINTER_MAX // (2 * screen.height)}))

    def push(self, x, y):
        """With the mouse: into the corner, and from there in steps that it can report."""
        steps = [(-100, -100)] * 30
        steps += [(min(max(x - at, 0), 50), min(max(y - at, 0), 50)) for at in range(0, max(x, y), 50)]
        for dx, dy in steps:
            self.send(('rel', {'axis': 'x', 'value': dx}), ('rel', {'axis': 'y', 'value': dy}))
            time.sleep(0.02)

    def type(self, text):
        self.machine.qmp('x-guise-type', text=text)


class Greeter:
    """A server on the host's loopback that greets whoever connects."""

    def __init__(self, text):
        self.socket = socket.create_server(('127.0.0.1', 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, args=[text], daemon=True).start()

    def serve(self, text):
        client, _ = self.socket.accept()
        client.sendall(text.encode())
        client.close()


def tests(run):
    """The tests, on run.py's helpers."""

    def path(name):
        return os.path.join(run.WORK, name)

    def wait_for(d, background, seconds):
        """The middle of the button, once the background has this colour."""
        end = time.time() + seconds
        while True:
            picture = d.look()
            box, share = picture.box(BUTTON), picture.share(background)
            if box and share > 0.3 and picture.share(TITLE_BARS):
                return (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
            run.check(time.time() < end and d.machine.process.poll() is None,
                      f'{picture.width}x{picture.height}, button {box}, {share:.2f} of the background; {d.machine.console()[-3000:]}')
            time.sleep(0.5)

    def at_rest(d, seconds):
        """The screen once it has stood still for five seconds."""
        end, last, since = time.time() + seconds, d.look(), time.time()
        while time.time() - since < 5:
            run.check(time.time() < end, 'the screen does not come to rest')
            time.sleep(0.5)
            now = d.look()
            if now.data != last.data:
                last, since = now, time.time()
        return last

    def settle(d, place, screen):
        """Points with the tablet, until the pointer is drawn there: keys go to the window under it, and may overtake it."""
        d.point(*place)
        end = time.time() + 30
        while not any(near(at, place) for at in d.look().differences(screen)):
            run.check(time.time() < end, f'no pointer at {place}')

    def check_pointer(d):
        """Where the tablet points is where the pointer is drawn, and nothing else changes."""
        screen = at_rest(d, 120)
        first, second = (screen.width // 4, screen.height * 7 // 8), (screen.width - 70, screen.height // 2)
        pictures = []
        for place in (first, second):
            settle(d, place, screen)
            pictures.append(d.look())
        moved = pictures[0].differences(pictures[1])
        run.check(all(near(at, first, second) for at in moved), f'changed from {first} to {second}: {moved[:10]}')
        run.check(any(near(at, first) for at in moved) and any(near(at, second) for at in moved), f'changed: {moved[:10]}')

    def check_picture(d, button, dump):
        """What the X server has drawn is what we show; the terminal writes it to the disk that has no partitions."""
        at = (button[0] // 4, button[1] + 40)
        settle(d, at, d.look())
        time.sleep(1)
        d.type('for d in /dev/[sv]d?; do [ -e ${d}1 ] || break; done; clear; (sleep 3; xwd -root -silent | '
               'dd of=$d conv=fsync status=none; echo DUMPED > /dev/ttyS0); read x\n')
        d.machine.wait_console('DUMPED', 120)
        shown, drawn = d.look(), read_xwd(dump)
        run.check((shown.width, shown.height) == (drawn.width, drawn.height), f'{drawn.width}x{drawn.height} drawn')
        wrong = [p for p in shown.differences(drawn) if not near(p, at)]
        run.check(not wrong, f'{len(wrong)} pixels differ from what was drawn: {wrong[:10]}')
        d.type('\n')

    def desktop(arch, bus, driver):
        image = os.path.join(run.GUESTS, f'desktop-{arch}.img')
        run.need(image)
        overlay, dump, greeter = path(arch + '.qcow2'), path(arch + '.xwd'), Greeter('HELLO FROM THE HOST\n')
        status, _, err = run.guise('image', 'create', overlay, '--backing', image)
        run.check(status == 0, err)
        with open(dump, 'wb') as f:
            f.truncate(16 << 20)
        with run.Machine('desktop-' + arch, '--disk', f'{overlay},bus={bus}', '--disk', f'{dump},format=raw,bus={bus}',
                         '--memory', '512M', '--tablet', '--net', 'user,forward=none') as m:
            d = Desktop(m, path(arch + '.ppm'))
            wait_for(d, BACKGROUNDS[0], 400)
            m.wait_console('guise login:', 120)
            check_pointer(d)
            button = wait_for(d, BACKGROUNDS[0], 10)
            d.point(*button)
            d.click()
            wait_for(d, BACKGROUNDS[1], 60)
            d.point(*(2 * c for c in button))
            d.push(*button)
            d.click()
            button = wait_for(d, BACKGROUNDS[2], 60)
            check_picture(d, button, dump)
            d.type(r"grep -om1 '[A-Za-z]*(0): Depth.*' /var/log/Xorg.0.log > /dev/ttyS0" + '\n')
            m.wait(lambda: re.search(re.escape(driver), m.console()), 60, 'not by ' + driver, m.console)
            d.type(f'cat < /dev/tcp/10.0.2.2/{greeter.port} > /dev/ttyS0\n')
            m.wait_console('HELLO FROM THE HOST', 60)
            m.qmp('quit')
            run.check(m.end() == 0, 'status')

    def test_desktop_amd64():
        desktop('amd64', 'virtio', 'modeset(0)')

    def test_desktop_i386():
        desktop('i386', 'ide', 'VESA(0)')

    return [test_desktop_amd64, test_desktop_i386]
