/* Inside of the AHCI controller: a port, shared by its registers and commands (ahci_port.c), queued commands
 * (ahci_queue.c) and the descriptor tables (ahci_table.c). */
#ifndef DEV_AHCI_INTERNAL_H
#define DEV_AHCI_INTERNAL_H

#include "dev/ahci.h"
#include "dev/ata.h"

#define AHCI_SLOTS 32
#define AHCI_PORT_SIZE 0x80

/* Port interrupt status. */
#define PORT_IS_DHRS 0x00000001u /* register FIS */
#define PORT_IS_PSS 0x00000002u	 /* PIO setup FIS */
#define PORT_IS_SDBS 0x00000008u /* set device bits FIS */
#define PORT_IS_PCS 0x00000040u	 /* connect change: SERR.DIAG.X */
#define PORT_IS_PRCS 0x00400000u /* PhyRdy change: SERR.DIAG.N */
#define PORT_IS_OFS 0x01000000u	 /* more data than descriptors */
#define PORT_IS_HBFS 0x20000000u /* a structure in memory cannot be reached */
#define PORT_IS_TFES 0x40000000u /* task file error */

struct ahci;
struct ahci_port;

/* Where a command is in its descriptor table. */
struct ahci_table {
	uint64_t at;	  /* of the next descriptor */
	uint32_t entries; /* after this one */
	uint64_t addr;
	uint32_t left;
	uint32_t moved; /* bytes so far */
};

/* A queued command. It outlives its place in the port when it is cancelled. */
struct ahci_queued {
	struct ahci_port *port;
	bool cancelled;
	bool write, fua;
	uint8_t slot;
	uint64_t sector;
	uint32_t left;	/* sectors */
	uint32_t chunk; /* sectors in flight */
	struct ahci_table table;
	uint8_t *buf;
	struct ahci_queued *next_free;
};

struct ahci_port {
	struct ahci *hba;
	unsigned index;
	struct ata_drive drive;

	uint64_t list, fis; /* command list and received FIS */
	uint32_t is, ie, cmd, sig, sctl, serr, sact, ci;
	bool tfd_cleared; /* by command list override */
	bool halted;	  /* after an error, until ST is cleared */
	bool resetting;	  /* the drive's signature is to come */

	/* The command that is not queued. */
	int8_t slot; /* -1: none */
	uint64_t header, command_table;
	struct ahci_table table;

	/* What the drive has said and the port has yet to carry out; see port_run. */
	bool running, block_waits, done_waits;

	struct ahci_queued *queued[AHCI_SLOTS];
	struct ahci_queued *free;
};

struct ahci {
	struct pci_dev pci;
	uint32_t ghc;
	struct ahci_port port[AHCI_PORTS];
};

/* ahci.c */
void ahci_irq_update(struct ahci *ahci);

/* ahci_port.c */
void ahci_port_init(struct ahci_port *p, struct ahci *ahci, unsigned index, const struct ide_drive *drive);
void ahci_port_finish(struct ahci_port *p);
/* Power-on and HBA reset. */
void ahci_port_reset(struct ahci_port *p);
/* Waits until no request is in flight; what is left in CI then is there because of an error. */
void ahci_port_drain(struct ahci_port *p);
int ahci_port_state(struct ahci_port *p, struct state *s);
uint32_t ahci_port_read(struct ahci_port *p, unsigned reg);
void ahci_port_write(struct ahci_port *p, unsigned reg, uint32_t v);
bool ahci_port_interrupts(const struct ahci_port *p);
/* Takes the next commands, when the port is free for them. */
void ahci_port_run(struct ahci_port *p);
/* Puts a FIS where the host wants received ones. */
void ahci_port_receive(struct ahci_port *p, unsigned offset, const void *fis, size_t len);

/* ahci_table.c */
void ahci_table_start(struct ahci_table *t, uint64_t at, uint32_t entries);
/* Returns what it moved: less than len when the table ends or memory cannot be reached. */
size_t ahci_table_copy(struct ahci *ahci, struct ahci_table *t, void *p, size_t len, bool to_guest);
void ahci_table_state(struct ahci_table *t, struct state *s);

/* ahci_queue.c */
bool ahci_is_queued(uint8_t command);
void ahci_queue_start(struct ahci_port *p, unsigned slot, const uint8_t fis[20]);
bool ahci_queue_empty(const struct ahci_port *p);
void ahci_queue_cancel(struct ahci_port *p);
void ahci_queue_finish(struct ahci_port *p);

#endif
