#!/usr/bin/env python3
"""`guise image` against QEMU's tools, both ways: every command, formats and geometries, random content.
usage: run.py GUISE. Exit status 77 (skipped) where qemu-img or qemu-io is missing."""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

from terminal import on_terminal

GUISE = os.path.abspath(sys.argv[1])
DIR = tempfile.mkdtemp(prefix='guise-image-', dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None)
SIZE = 6 << 20
count = failed = 0


def run(*args, status=0):
    """Runs a command; raises unless it ends with `status`. Returns its output."""
    p = subprocess.run([str(a) for a in args], cwd=DIR, capture_output=True, text=True, timeout=120)
    if p.returncode != status:
        raise AssertionError(f'{" ".join(map(str, args))}: status {p.returncode}, not {status}\n{p.stdout}{p.stderr}')
    return p.stdout + p.stderr


def guise(*args, status=0):
    return run(GUISE, 'image', *args, status=status)


def qemu(*args, status=0):
    return run('qemu-img', *args, status=status)


def qemu_io(path, *commands, fmt='qcow2'):
    out = run('qemu-io', '-f', fmt, *[x for c in commands for x in ('-c', c)], path)
    if 'fail' in out.lower() or 'error' in out.lower():
        raise AssertionError(out)


def sound(path):
    guise('check', path)
    qemu('check', '-q', '-f', 'qcow2', path)


def random_raw(path, seed, size=SIZE):
    """Data, zeros and holes."""
    r = random.Random(seed)
    with open(os.path.join(DIR, path), 'wb') as f:
        f.truncate(size)
        for _ in range(40):
            f.seek(r.randrange(size // 512) * 512)
            n = min(r.choice((512, 4096, 65536, 200000)), size - f.tell())
            f.write(r.randbytes(n) if r.random() < 0.6 else bytes([r.randrange(256)]) * n)


def random_io(path, seed):
    """QEMU writes, zeros and discards at random."""
    r = random.Random(seed)
    commands = []
    for _ in range(40):
        n = r.choice((512, 4096, 65536, 150 * 512))
        at = r.randrange((SIZE - n) // 512) * 512
        what = r.randrange(6)
        commands.append(f'write -P {r.randrange(1, 256)} {at} {n}' if what < 4 else
                        f'write -z {"-u " if r.random() < 0.5 else ""}{at} {n}' if what == 4 else f'discard {at} {n}')
    qemu_io(path, *commands)


GEOMETRIES = [
    [], ['--compat', '2'], ['--cluster-size', '512'], ['--cluster-size', '2M'], ['--cluster-size=4K', '--refcount-bits=1'],
    ['--refcount-bits', '64', '--cluster-size', '8K'], ['--lazy-refcounts'], ['--compression', 'zstd'],
]


def test_create_ours_used_by_qemu():
    for i, g in enumerate(GEOMETRIES):
        guise('create', 'a.qcow2', '6M', '--force', *g)
        sound('a.qcow2')
        random_io('a.qcow2', i)
        sound('a.qcow2')
        guise('convert', 'a.qcow2', 'a.raw', '--force')
        qemu('compare', '-q', '-f', 'qcow2', '-F', 'raw', 'a.qcow2', 'a.raw')
        guise('compare', 'a.qcow2', 'a.raw', '--quiet')


def test_convert_both_ways():
    for i, g in enumerate(GEOMETRIES):
        random_raw('r.raw', 100 + i)
        for extra in ([], ['--compress']):
            guise('convert', 'r.raw', 'c.qcow2', '--force', '--format', 'raw', *g, *extra)
            sound('c.qcow2')
            qemu('compare', '-q', '-f', 'raw', '-F', 'qcow2', 'r.raw', 'c.qcow2')
    for options in ('', 'compat=0.10', 'cluster_size=512', 'refcount_bits=8', 'compression_type=zstd', 'lazy_refcounts=on',
                    'preallocation=metadata', 'preallocation=falloc'):
        for extra in ([] if 'prealloc' in options else ['-c'], []):
            qemu('convert', '-f', 'raw', '-O', 'qcow2', *extra, *(['-o', options] if options else []), 'r.raw', 'q.qcow2')
            sound('q.qcow2')
            guise('compare', 'r.raw', 'q.qcow2', '--quiet', '--format', 'raw')


def test_backing_and_commit():
    random_raw('base.raw', 7)
    guise('create', 'top.qcow2', '--backing', 'base.raw', '--backing-format', 'raw', '--force')
    assert json.loads(guise('info', '--json', 'top.qcow2'))['backing-format'] == 'raw'
    random_io('top.qcow2', 8)
    sound('top.qcow2')
    guise('convert', 'top.qcow2', 'flat.raw', '--force')
    qemu('compare', '-q', '-f', 'qcow2', '-F', 'raw', 'top.qcow2', 'flat.raw')
    guise('commit', 'top.qcow2')
    sound('top.qcow2')
    guise('compare', 'top.qcow2', 'flat.raw', '--quiet')
    qemu('compare', '-q', '-f', 'raw', '-F', 'raw', 'base.raw', 'flat.raw')
    qemu('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'theirs.qcow2')
    random_io('theirs.qcow2', 9)
    guise('convert', 'theirs.qcow2', 'flat.raw', '--force')
    qemu('compare', '-q', '-f', 'qcow2', '-F', 'raw', 'theirs.qcow2', 'flat.raw')


def test_snapshots():
    guise('create', 's.qcow2', '6M', '--force')
    random_io('s.qcow2', 20)
    shutil.copy(os.path.join(DIR, 's.qcow2'), os.path.join(DIR, 'then.qcow2'))
    guise('snapshot', 'create', 's.qcow2', 'ours')
    random_io('s.qcow2', 21)
    qemu('snapshot', '-c', 'theirs', 's.qcow2')
    random_io('s.qcow2', 22)
    sound('s.qcow2')
    names = guise('snapshot', 'list', 's.qcow2')
    assert 'ours' in names and 'theirs' in names, names
    assert 'ours' in qemu('snapshot', '-l', 's.qcow2')
    qemu('snapshot', '-a', 'ours', 's.qcow2')
    guise('compare', 's.qcow2', 'then.qcow2', '--quiet')
    guise('snapshot', 'apply', 's.qcow2', 'theirs')
    sound('s.qcow2')
    guise('snapshot', 'apply', 's.qcow2', 'ours')
    qemu('compare', '-q', 's.qcow2', 'then.qcow2')
    guise('snapshot', 'delete', 's.qcow2', 'theirs')
    qemu('snapshot', '-d', 'ours', 's.qcow2')
    sound('s.qcow2')
    guise('compare', 's.qcow2', 'then.qcow2', '--quiet')


def test_resize():
    random_raw('r.raw', 30)
    guise('convert', 'r.raw', 'z.qcow2', '--force', '--cluster-size=512', '--format=raw')
    guise('resize', 'z.qcow2', '+5M')
    sound('z.qcow2')
    assert json.loads(qemu('info', '--output=json', 'z.qcow2'))['virtual-size'] == SIZE + (5 << 20)
    guise('compare', 'r.raw', 'z.qcow2', '--quiet', '--format=raw')
    guise('compare', 'r.raw', 'z.qcow2', '--quiet', '--strict', '--format=raw', status=3)
    guise('resize', 'z.qcow2', '1M', status=2)
    guise('resize', 'z.qcow2', '1M', '--shrink')
    sound('z.qcow2')
    qemu('resize', '-q', '-f', 'qcow2', 'z.qcow2', '6M')
    os.truncate(os.path.join(DIR, 'r.raw'), 1 << 20)
    guise('compare', 'r.raw', 'z.qcow2', '--quiet', '--format=raw')
    guise('resize', 'r.raw', '2M', '--format=raw')
    assert os.path.getsize(os.path.join(DIR, 'r.raw')) == 2 << 20


def test_check_and_repair():
    guise('create', 'k.qcow2', '6M', '--force')
    random_io('k.qcow2', 40)
    path = os.path.join(DIR, 'k.qcow2')
    with open(path, 'r+b') as f:
        f.seek(0x20000 + 2 * 70)
        f.write(b'\0\1' * 4)  # refcounts of clusters that nothing refers to
    guise('check', 'k.qcow2', status=3)
    guise('check', '--repair', 'leaks', 'k.qcow2')
    sound('k.qcow2')
    with open(path, 'r+b') as f:
        f.seek(0x20000)
        f.write(bytes(200))
    guise('check', '--quiet', 'k.qcow2', status=4)
    guise('check', '--repair=all', 'k.qcow2')
    sound('k.qcow2')


def test_locks():
    guise('create', 'l.qcow2', '6M', '--force')
    p = subprocess.Popen(['qemu-io', '-f', 'qcow2', 'l.qcow2'], cwd=DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    p.stdin.write('write 0 512\n')
    p.stdin.flush()
    p.stdout.readline()
    try:
        out = guise('resize', 'l.qcow2', '+1M', status=1)
        assert 'in use' in out and str(p.pid) in out, out
    finally:
        p.stdin.close()
        p.wait(20)
    guise('resize', 'l.qcow2', '+1M')


def test_messages():
    assert 'did you mean create' in guise('crate', status=2)
    assert 'did you mean --backing' in guise('create', 'x', '1M', '--backin', 'y', status=2)
    assert 'is there already' in guise('create', 'a.raw', '1M', status=1)
    assert 'not a size' in guise('create', 'n.qcow2', 'big', status=2)
    assert 'guise image create' in guise('info', 'missing.qcow2', status=1)
    assert 'no snapshot' in guise('snapshot', 'apply', 's.qcow2', 'never', status=1)
    assert 'no qcow2 image' in guise('info', '--format=qcow2', 'a.raw', status=1)
    assert 'usage: guise image' in guise('help')


def test_progress():
    """A line on a terminal that is gone at the end, and nothing elsewhere."""
    random_raw('p.raw', 5)
    for what, args in (('converting', ('convert', 'p.raw', 'p.qcow2', '--force')), ('checking', ('check', 'p.qcow2')),
                       ('comparing', ('compare', 'p.raw', 'p.qcow2'))):
        status, said = on_terminal([GUISE, 'image', *args], cwd=DIR)
        assert status == 0 and f'\r{what} [' in said and '%' in said and said.endswith('\r\x1b[K'), f'{args}: {said!r}'
        assert what not in guise(*args), args
    guise('create', 'pb.qcow2', '6M')
    guise('create', 'pt.qcow2', '--backing', 'pb.qcow2')
    qemu_io('pt.qcow2', 'write -P 7 1M 3M')
    status, said = on_terminal([GUISE, 'image', 'commit', 'pt.qcow2'], cwd=DIR)
    assert status == 0 and '\rcommitting [' in said, said
    qemu('compare', '-q', 'pb.qcow2', 'pt.qcow2')


def main():
    global count, failed
    if not shutil.which('qemu-img') or not shutil.which('qemu-io'):
        print('1..0 # SKIP qemu-img or qemu-io is missing (tools/setup installs them)')
        return 77
    tests = [v for k, v in globals().items() if k.startswith('test_')]
    print(f'1..{len(tests)}')
    for t in tests:
        count += 1
        try:
            t()
            print(f'ok {count} {t.__name__}')
        except (AssertionError, subprocess.TimeoutExpired, KeyError) as e:
            failed += 1
            print(f'not ok {count} {t.__name__}')
            print('\n'.join('# ' + line for line in str(e).splitlines()))
    shutil.rmtree(DIR)
    return 1 if failed else 0


sys.exit(main())
