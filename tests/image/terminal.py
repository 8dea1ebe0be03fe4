"""Commands whose standard error is a terminal."""
import os
import subprocess


def on_terminal(command, **more):
    """Runs it; its status and what it writes to the terminal."""
    ours, theirs = os.openpty()
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, **more)
    os.close(theirs)
    said = b''
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the terminal's other end is closed
            break
        if not data:
            break
        said += data
    os.close(ours)
    return p.wait(60), said.decode(errors='replace')
