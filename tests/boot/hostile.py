#!/usr/bin/env python3
"""Guests that mean harm: nonsense to every port, register and descriptor. The machine must answer its monitor and stay small.

usage: [GUISE_ENGINE=NAME] hostile.py PATH-TO-GUISE [NAME...]
"""
import functools
import os
import re
import subprocess
import sys
import time

import run
from run import Machine, Skip, check

ENGINES = (os.environ['GUISE_ENGINE'],) if os.environ.get('GUISE_ENGINE') else ('interp', 'bt')
# Bytes a machine of 64M may take: the guest's memory, the engine's caches, and room for a sanitizer's shadow.
RSS_LIMIT = 1 << 30
SECONDS = 3

PRELUDE = '''
.code16
.org 0
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7c00, %sp
'''

# Steps EBX as a linear congruential generator; the upper bits are the better ones.
RANDOM = '''
random:
	imull $1664525, %ebx, %ebx
	addl $1013904223, %ebx
	movl %ebx, %eax
	shrl $7, %eax
	ret
'''

# Ports that reset the machine or turn it off are left out, and those from where a wide write reaches them: 0x64, 0x92,
# 0xcf9 and the ACPI block.
PORTS = PRELUDE + '''
	movl $12345, %ebx
again:	xorw %dx, %dx
next:	cmpw $0x61, %dx
	jb 1f
	cmpw $0x64, %dx
	jbe skip
	cmpw $0x8f, %dx
	jb 1f
	cmpw $0x92, %dx
	jbe skip
	cmpw $0xcf5, %dx
	jb 1f
	cmpw $0xcff, %dx
	jbe skip
1:	movw %dx, %cx
	andw $0xffc0, %cx
	cmpw $0x600, %cx
	je skip
	call random
	outb %al, %dx
	outw %ax, %dx
	outl %eax, %dx
	inb %dx, %al
	inw %dx, %ax
	inl %dx, %eax
skip:	incw %dx
	jnz next
	jmp again
''' + RANDOM

# Every port there is, from the top: the machine may reset or turn itself off, and that again and again.
ALL_PORTS = PRELUDE + '''
	movw $0x40, %ax
	movw %ax, %fs
	movl %fs:0x6c, %ebx
again:	movw $0xffff, %dx
next:	call random
	outb %al, %dx
	inb %dx, %al
	call random
	outw %ax, %dx
	inw %dx, %ax
	call random
	outl %eax, %dx
	inl %dx, %eax
	decw %dx
	jnz next
	jmp again
''' + RANDOM

# A flat data segment in real mode, for physical memory beyond 1 MiB.
UNREAL = PRELUDE + '''
	lgdtl %cs:0x7c00 + gdtr
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	movw $8, %cx
	movw %cx, %ds
	andb $0xfe, %al
	movl %eax, %cr0
	xorw %cx, %cx
	movw %cx, %ds
	jmp start
gdtr:	.word 15
	.long 0x7c00 + gdt
	.balign 4
gdt:	.quad 0
	.quad 0x00cf92000000ffff
start:
'''

MMIO = UNREAL + '''
	movl $99, %ebx
again:	call random
	movl %eax, %edi
	call random
	testb $3, %bh
	jz wild
	testb $4, %bh
	jz vga
	/* The chips and BARs from 3.5 GiB on. */
	orl $0xe0000000, %edi
	jmp store
vga:	andl $0x1ffff, %edi
	orl $0xa0000, %edi
	jmp store
wild:	cmpl $0x100000, %edi
	jb again
store:	movb %al, %ds:(%edi)
	movw %ax, %ds:2(%edi)
	movl %eax, %ds:4(%edi)
	movl %ds:1(%edi), %ecx
	jmp again
''' + RANDOM

# Random writes to configuration space, BARs over memory and each other, all devices enabled, then their BARs in ports.
PCI = UNREAL + '''
	movl $7, %ebx
again:	call random
	andl $0x0000fffc, %eax
	/* Not the power management function: a moved soft-off register would end the machine by right. */
	movl %eax, %ecx
	andl $0x0000ff00, %ecx
	cmpl $0x00000b00, %ecx
	je again
	orl $0x80000000, %eax
	movw $0xcf8, %dx
	outl %eax, %dx
	call random
	movw $0xcfc, %dx
	outl %eax, %dx
	inl %dx, %eax
	/* The command register of any device: everything on. */
	call random
	andl $0x0000ff00, %eax
	orl $0x80000004, %eax
	movw $0xcf8, %dx
	outl %eax, %dx
	movl $7, %eax
	movw $0xcfc, %dx
	outw %ax, %dx
	/* A port of a BAR, and a place where one may be. */
	call random
	movw %ax, %dx
	orw $0xc000, %dx
	call random
	outl %eax, %dx
	movl %eax, %edi
	cmpl $0x100000, %edi
	jb again
	movl %ebx, %ds:(%edi)
	jmp again
''' + RANDOM

# Random accesses to the first registers behind every BAR of every function, where the firmware has put it, all of it
# enabled; those of the power management function are ports 0x600, which PORTS leaves out as well.
DEVICES = UNREAL + '''
	movl $3, %ebx
again:	call random
	movl %eax, %esi
	andl $0xff00, %esi
	orl $0x80000004, %esi
	movl %esi, %eax
	movw $0xcf8, %dx
	outl %eax, %dx
	movl $7, %eax
	movw $0xcfc, %dx
	outw %ax, %dx
	call random
	xorl %edx, %edx
	movl $6, %ecx
	divl %ecx
	leal 12(%esi,%edx,4), %eax
	movw $0xcf8, %dx
	outl %eax, %dx
	movw $0xcfc, %dx
	inl %dx, %eax
	movl %eax, %edi
	incl %eax
	cmpl $2, %eax
	jb again
	movw $64, %cx
	testl $1, %edi
	jnz ports
	andl $0xfffffff0, %edi
	cmpl $0x100000, %edi
	jb again
1:	call random
	movl %eax, %esi
	andl $0xffc, %esi
	call random
	testb $7, %bh
	jnz 2f
	shrl $24, %eax
2:	movl %eax, %ds:(%edi,%esi)
	movw %ds:2(%edi,%esi), %ax
	movb %al, %ds:1(%edi,%esi)
	loop 1b
	jmp again
ports:	andl $0xfffc, %edi
	jz again
1:	call random
	movw %ax, %dx
	andw $0x7f, %dx
	addw %di, %dx
	call random
	outb %al, %dx
	inb %dx, %al
	outw %ax, %dx
	inw %dx, %ax
	outl %eax, %dx
	inl %dx, %eax
	loop 1b
	jmp again
''' + RANDOM

# IDE's bus master with a table of garbage in low memory, commands without end; devices may read all of it.
DMA = UNREAL + '''
	movl $31, %ebx
	movl $0x80000904, %eax
	movw $0xcf8, %dx
	outl %eax, %dx
	movl $7, %eax
	movw $0xcfc, %dx
	outw %ax, %dx
	movl $0x80000920, %eax
	movw $0xcf8, %dx
	outl %eax, %dx
	movw $0xcfc, %dx
	movl $0xc101, %eax
	outl %eax, %dx
	movl $0x20000, %edi
1:	call random
	movl %eax, %ds:(%edi)
	addl $4, %edi
	cmpl $0x30000, %edi
	jb 1b
again:	movw $0xc104, %dx
	call random
	andl $0x0000fffc, %eax
	orl $0x20000, %eax
	outl %eax, %dx
	movw $0x1f1, %dx
2:	call random
	outb %al, %dx
	incw %dx
	cmpw $0x1f6, %dx
	jb 2b
	movb $0xe0, %al
	outb %al, %dx
	movw $0x1f7, %dx
	call random
	andb $15, %al
	movb $0xc8, %cl
	testb $1, %al
	jz 3f
	movb $0xca, %cl
3:	movb %cl, %al
	outb %al, %dx
	movw $0xc100, %dx
	movb $9, %al
	outb %al, %dx
	inb %dx, %al
	movw $0x1f7, %dx
	inb %dx, %al
	jmp again
''' + RANDOM

# Halts that the timer ends 19,000 times a second, and interrupts to itself in between.
STORM = PRELUDE + '''
	movw $0x7c00 + tick, 0x20
	movw %ax, 0x22
	movb $0x34, %al
	outb %al, $0x43
	movb $62, %al
	outb %al, $0x40
	xorb %al, %al
	outb %al, $0x40
	outb %al, $0x21
	sti
1:	hlt
	int $8
	jmp 1b
tick:	pushw %ax
	movb $0x20, %al
	outb %al, $0x20
	popw %ax
	iretw
'''

# Writes the instructions around a page's border while it runs over it.
MODIFY = PRELUDE + '''
	movl $5, %ebx
	movw $0x8ff0, %di
	movw $32, %cx
	movb $0x90, %al
	cld
	rep stosb
	movb $0xc3, %al
	stosb
again:	call random
	movw %ax, %di
	andw $31, %di
	andb $3, %ah
	orb $0x40, %ah
	movb %ah, 0x8ff0(%di)
	movw %sp, %bp
	movw $0x8ff0, %si
	call *%si
	movw $0x7c00, %sp
	xorw %ax, %ax
	movw %ax, %ds
	jmp again
''' + RANDOM

# Devices that are always at work, under the machine's lock: fw_cfg fills 48 MiB with zeros, over and over.
HOLD = PRELUDE + '''
	movl $3, 0x7004
	movl $0, 0x7008
	movl $0x00001000, 0x700c
again:	movl $0x0a000000, 0x7000
	xorl %eax, %eax
	movw $0x514, %dx
	outl %eax, %dx
	movl $0x00700000, %eax
	movw $0x518, %dx
	outl %eax, %dx
	jmp again
'''

TRIPLE = PRELUDE + '''
	lidtl %cs:0x7c00 + nothing
	int $3
nothing:
	.word 0
	.long 0
'''


@functools.lru_cache(None)
def assemble(name, text):
    """A disk whose boot sector is the program."""
    base = os.path.join(run.WORK, 'hostile-' + name)
    with open(base + '.s', 'w') as f:
        f.write(text)
    subprocess.run(['as', '--32', '-o', base + '.o', base + '.s'], check=True)
    subprocess.run(['objcopy', '-O', 'binary', '-j', '.text', base + '.o', base + '.bin'], check=True)
    with open(base + '.bin', 'rb') as f:
        code = f.read()
    check(len(code) <= 510, f'{name}: {len(code)} bytes do not fit')
    with open(base + '.img', 'wb') as f:
        f.write(code.ljust(510, b'\0') + b'\x55\xaa' + bytes(1 << 20))
    return base + '.img'


def memory(pid):
    with open(f'/proc/{pid}/status') as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith('VmRSS:'))


def everything():
    """One of each device that can be had."""
    names = {name: os.path.join(run.WORK, 'hostile-' + name) for name in ('virtio', 'sata', 'floppy', 'cd')}
    for name, path in names.items():
        with open(path, 'wb') as f:
            f.truncate(1474560 if name == 'floppy' else 1 << 20)
    return ['--disk', names['virtio'] + ',format=raw,bus=virtio,snapshot', '--disk', names['sata'] + ',format=raw,bus=sata,snapshot',
            '--floppy', names['floppy'] + ',format=raw,snapshot', '--cdrom', names['cd'], '--net', 'user,model=virtio', '--net',
            'user,model=e1000', '--net', 'user,model=rtl8139', '--console', 'none', '--tablet', '--test-device', '--cpus', '2']


def started(m):
    """SeaBIOS has loaded the boot sector."""
    with open(m.serial + '.bios', errors='replace') as f:
        return 'Booting from 0000:7c00' in f.read()


def survive(engine, name, text, *args, stays=False, may_end=False):
    disk = assemble(name, text)
    with Machine(f'{name}-{engine}', '--disk', disk + ',format=raw,snapshot', '--engine', engine, '--memory', '64M',
                 '--on-panic', 'ignore', '--debugcon', os.path.join(run.WORK, f'{name}-{engine}.serial.bios'), *args) as m:
        m.connect()
        m.wait(lambda: started(m), 60, 'the boot sector does not start', m.said)
        end = time.time() + SECONDS
        most = 0
        while time.time() < end:
            time.sleep(0.25)
            if may_end and m.process.poll() is not None:
                check(m.process.poll() == 0, f'ended with {m.process.poll()}: {m.said()[-2000:]}')
                return
            check(m.process.poll() is None, f'ended with {m.process.poll()}: {m.said()[-2000:]}')
            m.qmp('query-status')
            most = max(most, memory(m.process.pid))
        check(most < RSS_LIMIT, f'{most >> 20} MiB')
        registers = m.qmp('human-monitor-command', **{'command-line': 'info registers'})
        rip = int(re.search('RIP=([0-9a-f]+)', registers)[1], 16)
        check(not stays or 0x7c00 <= rip < 0x9100, f'the guest has left its code: {registers}')
        if not may_end:
            m.qmp('system_reset')
            m.qmp('query-status')
        m.qmp('quit')
        check(m.end() == 0, f'status: {m.said()[-2000:]}')


def triple(engine):
    """A triple fault resets; with --no-reboot it ends the machine."""
    disk = assemble('triple', TRIPLE)
    status, _, err = run.guise('run', '--disk', disk + ',format=raw,snapshot', '--engine', engine, '--display', 'none', '--serial', 'none',
                               '--no-reboot', '--memory', '64M', timeout=60)
    check(status == 3, f'status {status}; {err}')
    survive(engine, 'triple-again', TRIPLE)


def all_tests():
    guests = {'ports': PORTS, 'mmio': MMIO, 'dma': DMA, 'storm': STORM, 'modify': MODIFY, 'hold': HOLD}
    for engine in ENGINES:
        for name, text in guests.items():
            yield f'{name}_{engine}', functools.partial(survive, engine, name, text, stays=True)
        yield f'pci_{engine}', functools.partial(survive, engine, 'pci', PCI, '--net', 'user', '--console', 'none')
        yield f'devices_{engine}', lambda engine=engine: survive(engine, 'devices', DEVICES, *everything())
        yield f'all_ports_{engine}', lambda engine=engine: survive(engine, 'all-ports', ALL_PORTS, *everything(), may_end=True)
        yield f'triple_{engine}', functools.partial(triple, engine)


def named(name, function):
    def test():
        if subprocess.run(['which', 'as', 'objcopy'], stdout=subprocess.DEVNULL).returncode:
            raise Skip('binutils are missing')
        function()

    test.__name__ = 'test_' + name
    return test


if __name__ == '__main__':
    run.TESTS = [named(name, function) for name, function in all_tests()]
    sys.exit(run.main())
