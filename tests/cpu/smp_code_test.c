/*
 * One vCPU writes code that another one executes, as SDM 3A 9.1.3 has it: the writer stores the code, then a number;
 * the other reads the number, executes a serializing instruction and then the code, which must be as new as the number.
 * The writer's own executions, of course, are always the newest. Every page becomes code while it is written to, by
 * stores of all kinds. The same with a device instead of the writer, by DMA of both kinds; and with a device that writes
 * to the code behind the very instruction that turns to it. On both software engines.
 *
 *	smp_code_test [pages]
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include <pthread.h>
#include <sys/uio.h>
#include <unistd.h>

#define CPUS 2u
#define FIRST_PAGE 0x400000u
#define LAST_PAGE (RAM_SIZE - 0x10000u)
#define SHARED 0x220000u /* what the two tell each other: see the code */
#define WRITER (CODE + 0x1000u)
#define WRITER_STACK (STACK - 0x1000u)
#define STORES 200u
#define TURNS 2000u

/*
 * The code on a page: at 6 mov rax, imm64 whose immediate is at 8, ret. SHARED: the page; 8: the number of the last store;
 * 16: the number that is the page's last; 24: the page that the executor is done with; 32: 1 when something was wrong.
 * The executor, with the way of serializing in R12: CPUID, IRETQ, or INVLPG. The writer, with the first page in RBX, one
 * behind the last in RBP, and the number of stores to a page in R15. A page's number chooses the kind of store (R13: 0 to
 * 6), and whether the writer executes the code as well (bit 3 of R14).
 */
__asm__(".pushsection .rodata\n"
	".macro SERIALIZE_AND_CALL\n"
	"	cmp $1, %r12\n"
	"	je 11f\n"
	"	ja 12f\n"
	"	xor %eax, %eax\n"
	"	cpuid\n"
	"	jmp 13f\n"
	"11:	mov %rsp, %rax\n"
	"	push $0x10\n"
	"	push %rax\n"
	"	pushfq\n"
	"	push $8\n"
	"	lea 13f(%rip), %rax\n"
	"	push %rax\n"
	"	iretq\n"
	"12:	invlpg (%r8)\n"
	"13:	call *%r11\n"
	".endm\n"
	"executor_code:\n"
	"	xor %r8, %r8\n"
	"1:	mov 0x220000, %rax\n"
	"	pause\n"
	"	cmp %rax, %r8\n"
	"	je 1b\n"
	"	cmp $1, %rax\n"
	"	je 4f\n"
	"	mov %rax, %r8\n"
	"	lea 6(%rax), %r11\n"
	"2:	mov 0x220008, %r9\n"
	"	SERIALIZE_AND_CALL\n"
	"	cmp %r9, %rax\n"
	"	jb 3f\n"
	"	cmp 0x220010, %r9\n"
	"	jb 2b\n"
	"	mov %r8, 0x220018\n"
	"	jmp 1b\n"
	"3:	movq $1, 0x220020\n"
	"4:	hlt\n"
	"	jmp 4b\n"
	"executor_end:\n"
	"writer_code:\n"
	"1:	mov %rbx, %r14\n"
	"	shr $12, %r14\n"
	"	mov %r14, %rax\n"
	"	xor %edx, %edx\n"
	"	mov $7, %ecx\n"
	"	div %rcx\n"
	"	mov %rdx, %r13\n"
	"	mov %rbx, %rdi\n" /* a page of zeros counts as data */
	"	xor %eax, %eax\n"
	"	mov $512, %ecx\n"
	"	rep stosq\n"
	"	movw $0xb848, 6(%rbx)\n"
	"	mov %r10, 8(%rbx)\n"
	"	movb $0xc3, 16(%rbx)\n"
	"	lea (%r10,%r15), %rax\n"
	"	mov %rax, 0x220010\n"
	"	mov %rbx, 0x220000\n"
	"2:	inc %r10\n"
	"	cmp $1, %r13\n"
	"	jb 30f\n"
	"	je 31f\n"
	"	cmp $3, %r13\n"
	"	jb 32f\n"
	"	je 33f\n"
	"	cmp $5, %r13\n"
	"	jb 34f\n"
	"	je 35f\n"
	"	addq $1, 8(%rbx)\n"
	"	jmp 40f\n"
	"30:	mov %r10, 8(%rbx)\n"
	"	jmp 40f\n"
	"31:	mov %r10, %rax\n"
	"	xchg %rax, 8(%rbx)\n"
	"	jmp 40f\n"
	"32:	lock addq $1, 8(%rbx)\n"
	"	jmp 40f\n"
	"33:	movq %r10, %xmm0\n"
	"	movq %xmm0, 8(%rbx)\n"
	"	jmp 40f\n"
	"34:	mov %rsp, %rdx\n"
	"	lea 16(%rbx), %rsp\n"
	"	push %r10\n"
	"	mov %rdx, %rsp\n"
	"	jmp 40f\n"
	"35:	mov %r10, 0x220100\n"
	"	mov $0x220100, %esi\n"
	"	lea 8(%rbx), %rdi\n"
	"	movsq\n"
	"40:	mov %r10, 0x220008\n"
	"	test $8, %r14\n"
	"	jz 41f\n"
	"	lea 6(%rbx), %rax\n"
	"	call *%rax\n"
	"	cmp %r10, %rax\n"
	"	jne 5f\n"
	"41:	cmp 0x220010, %r10\n"
	"	jb 2b\n"
	"3:	cmpq $0, 0x220020\n"
	"	jne 6f\n"
	"	pause\n"
	"	cmp %rbx, 0x220018\n"
	"	jne 3b\n"
	"	add $0x1000, %rbx\n"
	"	cmp %rbp, %rbx\n"
	"	jb 1b\n"
	"	movq $1, 0x220000\n"
	"	jmp 6f\n"
	"5:	movq $2, 0x220020\n"
	"	movq $1, 0x220000\n"
	"6:	hlt\n"
	"	jmp 6b\n"
	"writer_end:\n"
	".popsection\n");
extern const uint8_t executor_code[], executor_end[], writer_code[], writer_end[];

/*
 * Turns to the device in one of four ways (R12), of which it changes the MOV behind to say how often that was. Ends when
 * that is not EBP, or R15. R11: an address of the device's.
 */
__asm__(".pushsection .rodata\n"
	"teller_code:\n"
	"1:	inc %ebp\n"
	"	lea teller_ways(%rip), %rdx\n"
	"	mov %r12, %rax\n"
	"	shl $4, %rax\n"
	"	add %rax, %rdx\n"
	"	jmp *%rdx\n"
	"	.balign 16, 0x90\n"
	"teller_ways:\n"
	"	out %eax, $0x80\n"
	"	mov $0, %eax\n"
	"	jmp 5f\n"
	"	.balign 16, 0x90\n"
	"	in $0x80, %eax\n"
	"	mov $0, %eax\n"
	"	jmp 5f\n"
	"	.balign 16, 0x90\n"
	"	mov %eax, (%r11)\n"
	"	mov $0, %eax\n"
	"	jmp 5f\n"
	"	.balign 16, 0x90\n"
	"	mov (%r11), %eax\n"
	"	mov $0, %eax\n"
	"	jmp 5f\n"
	"	.balign 16, 0x90\n"
	"5:	cmp %ebp, %eax\n"
	"	jne 6f\n"
	"	cmp %r15d, %eax\n"
	"	jb 1b\n"
	"6:	hlt\n"
	"	jmp 6b\n"
	"teller_end:\n"
	".popsection\n");
extern const uint8_t teller_code[], teller_ways[], teller_end[];

enum { BY_OUT, BY_IN, BY_STORE, BY_LOAD, TELLER_WAYS };
static const uint8_t teller_immediate[TELLER_WAYS] = { 3, 3, 4, 4 }; /* the MOV's, in its way's 16 bytes */

#define NO_RAM 0x3000000u

static struct vcpu *vcpu[CPUS];
static struct vcpu_exit last[CPUS];
/* The device's view of memory, and how it reaches it: by writes, or by pieces that it fills in its own time. */
static struct mem *dma;
static bool by_pieces;

static void dma_write(uint64_t gpa, const void *buf, size_t len)
{
	struct iovec piece;

	if (!by_pieces) {
		mem_write(dma, gpa, buf, len);
		return;
	}
	mem_iovec(dma, gpa, len, true, &piece, 1);
	memcpy(piece.iov_base, buf, len);
	mem_mark_written(dma, gpa, len);
}

static void dma_write64(uint64_t gpa, uint64_t v) { dma_write(gpa, &v, sizeof(v)); }

static uint32_t turns;
static void turned_to(unsigned way)
{
	turns++;
	dma_write(CODE + (uint64_t)(teller_ways - teller_code) + 16 * way + teller_immediate[way], &turns, 4);
}
static void port_written(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint64_t value) { turned_to(BY_OUT); }
static void memory_written(void *opaque, unsigned cpu, uint64_t gpa, unsigned len, uint64_t value) { turned_to(BY_STORE); }
static uint64_t port_was_read(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
	turned_to(BY_IN);
	return 0;
}
static uint64_t memory_was_read(void *opaque, unsigned cpu, uint64_t gpa, unsigned len)
{
	turned_to(BY_LOAD);
	return 0;
}

static void *run_vcpu(void *cpu)
{
	unsigned n = (unsigned)(uintptr_t)cpu;

	vcpu[n]->ops->run(vcpu[n], &last[n]);
	return NULL;
}

static void make_two(struct machine *m, const struct accel_ops *ops)
{
	static struct cpu_model model;
	static struct accel_host device;
	struct accel_config cfg = { .host = &device, .cpus = CPUS, .cpu = &model };
	uint32_t words[CPUID_WORDS];
	GError *error = NULL;

	device = host;
	device.port_write = port_written;
	device.port_read = port_was_read;
	device.mmio_write = memory_written;
	device.mmio_read = memory_was_read;
	interp_supported_words(words);
	cpu_model_parse("host", words, CPUS, &model, NULL);
	m->mem = dma = mem_create();
	m->ram = ram_create("test", RAM_SIZE, &error);
	mem_map(m->mem, 0, RAM_SIZE, m->ram, 0, false);
	cfg.mem = m->mem;
	m->accel = ops->open(&cfg, &error);
	for (unsigned n = 0; n < CPUS; n++) {
		vcpu[n] = m->accel ? ops->vcpu_create(m->accel, n, &error) : NULL;
		if (!vcpu[n]) {
			printf("Bail out! %s\n", error->message);
			exit(1);
		}
	}
	m->vcpu = vcpu[0];
}

static void set_states(uint64_t way, uint64_t first, uint64_t end)
{
	struct cpu_state s;

	code_at = CODE;
	start_state(&s, true);
	s.gpr[R12] = way;
	s.gpr[RSP] = STACK - 0x100;
	vcpu[0]->ops->set_state(vcpu[0], &s);
	s.rip = WRITER;
	s.gpr[RBX] = first;
	s.gpr[RBP] = end;
	s.gpr[R10] = 1;
	s.gpr[R15] = STORES;
	s.gpr[RSP] = WRITER_STACK;
	vcpu[1]->ops->set_state(vcpu[1], &s);
}

/* Runs both until they halt; what was wrong: 0 nothing, 1 the executor's code was old, 2 the writer's own. */
static unsigned go(struct machine *m, uint64_t way, uint64_t pages)
{
	uint8_t *ram = m->ram->host;
	pthread_t thread[CPUS];
	struct cpu_state s[CPUS];
	unsigned wrong;

	memset(ram + SHARED, 0, 0x200);
	set_states(way, FIRST_PAGE, FIRST_PAGE + pages * PAGE_SIZE);
	for (unsigned n = 0; n < CPUS; n++)
		pthread_create(&thread[n], NULL, run_vcpu, (void *)(uintptr_t)n);
	for (unsigned n = 0; n < CPUS; n++)
		pthread_join(thread[n], NULL);
	for (unsigned n = 0; n < CPUS; n++)
		vcpu[n]->ops->get_state(vcpu[n], &s[n]);
	wrong = ram[SHARED + 32];
	if (!wrong && (last[0].kind != VCPU_EXIT_HALT || last[1].kind != VCPU_EXIT_HALT || ld64le(ram + SHARED) != 1))
		wrong = 3;
	if (wrong)
		printf("# page %lx, store %lu by way %lu; the executor had read %lu and got %lu, the writer %lu; exits %d at %lx, %d at %lx\n", s[1].gpr[RBX],
		       s[1].gpr[R10], s[1].gpr[R13], s[0].gpr[R9], s[0].gpr[RAX], s[1].gpr[RAX], last[0].kind, s[0].rip, last[1].kind, s[1].rip);
	return wrong;
}

/* The executor's code from a device: as the writer does, page by page. */
static void *run_device(void *pages)
{
	static const uint8_t zeros[PAGE_SIZE], mov[2] = { 0x48, 0xb8 }, ret[1] = { 0xc3 };
	const volatile uint64_t *done = (const volatile uint64_t *)(mem_slot_host(mem_slot(dma, 0), SHARED) + 24);
	uint64_t number = 1;

	for (uint64_t page = FIRST_PAGE; page < FIRST_PAGE + (uintptr_t)pages * PAGE_SIZE && !done[1]; page += PAGE_SIZE) {
		dma_write(page, zeros, sizeof(zeros));
		dma_write(page + 6, mov, sizeof(mov));
		dma_write64(page + 8, number);
		dma_write(page + 16, ret, sizeof(ret));
		dma_write64(SHARED + 16, number + STORES);
		dma_write64(SHARED, page);
		for (unsigned i = 0; i < STORES; i++) {
			dma_write64(page + 8, ++number);
			dma_write64(SHARED + 8, number);
		}
		while (*done != page && !done[1])
			usleep(20);
	}
	dma_write64(SHARED, 1);
	return NULL;
}

static unsigned go_device(struct machine *m, uint64_t way, uint64_t pages)
{
	pthread_t cpu, device;
	struct cpu_state s;

	memset(m->ram->host + SHARED, 0, 0x200);
	set_states(way, 0, 0);
	pthread_create(&cpu, NULL, run_vcpu, (void *)0);
	pthread_create(&device, NULL, run_device, (void *)(uintptr_t)pages);
	pthread_join(cpu, NULL);
	pthread_join(device, NULL);
	if (!m->ram->host[SHARED + 32] && last[0].kind == VCPU_EXIT_HALT)
		return 0;
	vcpu[0]->ops->get_state(vcpu[0], &s);
	printf("# page %lx: the executor had read %lu and got %lu; exit %d at %lx\n", s.gpr[R8], s.gpr[R9], s.gpr[RAX], last[0].kind, s.rip);
	return m->ram->host[SHARED + 32] ? 1 : 3;
}

/* How often the code behind was as it should be, of TURNS. */
static uint32_t turn_to_device(struct machine *m, unsigned way)
{
	struct cpu_state s;

	mem_write(m->mem, CODE, teller_code, (size_t)(teller_end - teller_code));
	turns = 0;
	code_at = CODE;
	start_state(&s, true);
	s.gpr[RBP] = 0;
	s.gpr[R11] = NO_RAM;
	s.gpr[R12] = way;
	s.gpr[R15] = TURNS;
	vcpu[0]->ops->set_state(vcpu[0], &s);
	run_vcpu((void *)0);
	vcpu[0]->ops->get_state(vcpu[0], &s);
	return last[0].kind == VCPU_EXIT_HALT && s.gpr[RAX] == s.gpr[RBP] ? turns : turns - 1;
}

int main(int argc, char **argv)
{
	static const char *const way[] = { "CPUID", "IRETQ", "INVLPG" };
	static const char *const turn[] = { "OUT", "IN", "a store to a device", "a load from a device" };
	static const char *const kind[] = { "DMA", "DMA by pieces" };
	uint64_t pages = argc > 1 ? strtoull(argv[1], NULL, 0) : 100, most = (LAST_PAGE - FIRST_PAGE) / PAGE_SIZE;
	const struct accel_ops *ops[] = { &accel_interp_ops, &accel_bt_ops };
	unsigned test = 0, bad = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned e = 0; e < G_N_ELEMENTS(ops); e++) {
		struct machine m;

		make_two(&m, ops[e]);
		make_tables(&m, true);
		make_gates(&m, true);
		mem_write(m.mem, CODE, executor_code, (size_t)(executor_end - executor_code));
		mem_write(m.mem, WRITER, writer_code, (size_t)(writer_end - writer_code));
		for (unsigned w = 0; w < G_N_ELEMENTS(way); w++) {
			unsigned wrong = 0;

			for (uint64_t left = pages; left && !wrong; left -= MIN(left, most))
				wrong = go(&m, w, MIN(left, most));
			printf("%s %u - %s, %s: %s\n", wrong ? "not ok" : "ok", ++test, ops[e]->name, way[w],
			       wrong == 1 ? "old code" : wrong == 2 ? "the writer's own code is old" : wrong ? "not ended" : "as new as it must be");
			bad += wrong != 0;
		}
		for (unsigned k = 0; k < 2 * G_N_ELEMENTS(way); k++) {
			unsigned w = k % G_N_ELEMENTS(way), wrong;

			by_pieces = k >= G_N_ELEMENTS(way);
			wrong = go_device(&m, w, MIN(pages, most));
			printf("%s %u - %s, %s: %s, %s\n", wrong ? "not ok" : "ok", ++test, ops[e]->name, way[w], kind[by_pieces],
			       wrong == 1 ? "old code" : wrong ? "not ended" : "as new as it must be");
			bad += wrong != 0;
		}
		for (unsigned k = 0; k < 2 * TELLER_WAYS; k++) {
			uint32_t right;

			by_pieces = k >= TELLER_WAYS;
			right = turn_to_device(&m, k % TELLER_WAYS);
			printf("%s %u - %s, %s, and what follows is changed by %s: right %u times of %u\n", right == TURNS ? "ok" : "not ok", ++test, ops[e]->name,
			       turn[k % TELLER_WAYS], kind[by_pieces], right, TURNS);
			bad += right != TURNS;
		}
		ops[e]->vcpu_destroy(vcpu[1]);
		machine_free(&m);
	}
	printf("1..%u\n", test);
	return bad != 0;
}
