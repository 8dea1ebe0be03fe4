/*
 * In the guest, as its first process: draws the whole screen over and over by the standard VGA's frame buffer (Bochs VBE),
 * in ways that programs do. Reads "CASE WIDTH HEIGHT MILLISECONDS" lines, answers with how many pictures, and seconds.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#define VRAM (16u << 20)
#define WINDOW_BASE 0xa0000
#define WINDOW 0x10000u
#define TEXT_CELLS (80 * 25)

enum { VBE_XRES = 1, VBE_YRES, VBE_BPP, VBE_ENABLE, VBE_BANK };

static uint32_t *vram, *shadow;
static uint8_t *window;
static unsigned width, height;

static void vbe(unsigned index, unsigned value)
{
	outw((uint16_t)index, 0x1ce);
	outw((uint16_t)value, 0x1cf);
}

static void set_mode(void)
{
	vbe(VBE_ENABLE, 0);
	vbe(VBE_XRES, width);
	vbe(VBE_YRES, height);
	vbe(VBE_BPP, 32);
	vbe(VBE_ENABLE, 0x41);
	/* As the BIOS does: all planes, chained by four, shown at 0xa0000. */
	outw(0x0f02, 0x3c4);
	outw(0x0e04, 0x3c4);
	outw(0x4005, 0x3ce);
	outw(0x0506, 0x3ce);
}

static void set_text(void)
{
	vbe(VBE_ENABLE, 0);
	outw(0x0302, 0x3c4);
	outw(0x0204, 0x3c4);
	outw(0x1005, 0x3ce);
	outw(0x0e06, 0x3ce);
}

/* A pixel at a time, as a simple program does. */
static void draw_pixels(uint32_t n)
{
	volatile uint32_t *p = vram;

	for (unsigned i = 0; i < width * height; i++)
		p[i] = n + i;
}

static void draw_fill(uint32_t n)
{
	memset(vram, (int)n, (size_t)width * height * 4);
}

/* From a picture in memory, as X servers do. */
static void draw_copy(uint32_t n)
{
	shadow[n % (width * height)] = n;
	memcpy(vram, shadow, (size_t)width * height * 4);
}

/* Sixteen lines up, within the frame buffer. */
static void draw_scroll(uint32_t n)
{
	const size_t lines = (size_t)width * 16;

	memmove(vram, vram + lines, ((size_t)width * height - lines) * 4);
	memset(vram + (size_t)width * height - lines, (int)n, lines * 4);
}

/* By the 64 KiB at 0xa0000, a bank after the other. */
static void draw_banked(__attribute__((unused)) uint32_t n)
{
	const size_t bytes = (size_t)width * height * 4;

	for (size_t at = 0; at < bytes; at += WINDOW) {
		size_t len = bytes - at < WINDOW ? bytes - at : WINDOW;

		vbe(VBE_BANK, (unsigned)(at / WINDOW));
		memcpy(window, (char *)shadow + at, len);
	}
}

/* The text screen, a character and its attribute at a time. */
static void draw_text(uint32_t n)
{
	volatile uint16_t *cell = (volatile uint16_t *)(window + 0x18000);

	for (unsigned i = 0; i < TEXT_CELLS; i++)
		cell[i] = (uint16_t)(0x0700 + (n + i) % 96 + 32);
}

static const struct {
	const char *name;
	void (*draw)(uint32_t n);
} cases[] = {
	{ "pixels", draw_pixels }, { "fill", draw_fill }, { "copy", draw_copy }, { "scroll", draw_scroll }, { "banked", draw_banked }, { "text", draw_text },
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void measure(void (*draw)(uint32_t n), double seconds)
{
	double start = now(), t;
	uint32_t n = 0;

	do
		draw(n++);
	while ((t = now() - start) < seconds);
	printf("BENCH-RESULT %u %.6f\n", n, t);
	fflush(stdout);
}

static void *map(const char *path, size_t size, off_t at)
{
	int fd = open(path, O_RDWR | O_SYNC);
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);

	if (p == MAP_FAILED) {
		perror(path);
		exit(1);
	}
	return p;
}

/* Nobody may have turned the device's memory on. */
static void enable(const char *path)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, "1", 1) != 1) {
		perror(path);
		exit(1);
	}
	close(fd);
}

int main(void)
{
	unsigned ms;
	char name[32];

	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	iopl(3);
	enable("/sys/bus/pci/devices/0000:00:02.0/enable");
	vram = map("/sys/bus/pci/devices/0000:00:02.0/resource0", VRAM, 0);
	window = map("/dev/mem", 2 * WINDOW, WINDOW_BASE);
	shadow = calloc(1, VRAM);
	memset(shadow, 0x5a, VRAM);
	puts("BENCH-READY");
	fflush(stdout);
	while (scanf("%31s %u %u %u", name, &width, &height, &ms) == 4) {
		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			if (strcmp(cases[i].name, name))
				continue;
			if (width)
				set_mode();
			else
				set_text();
			measure(cases[i].draw, ms / 1000.0);
		}
	}
	return 0;
}
