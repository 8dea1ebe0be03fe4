/* The MC146818 real-time clock and its battery-backed memory (Motorola MC146818A; 82371AB 4.2.4). */
#ifndef DEV_RTC_H
#define DEV_RTC_H

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"
#include "host/clock.h"

struct rtc;

/* Ports 0x70 and 0x71. Starts at the host's UTC time and follows it; what the guest sets stays as an offset. */
struct rtc *rtc_create(struct space *ports, struct irq irq, struct clock *clock);
struct device *rtc_device(struct rtc *r);
/* Fills a byte of the memory (index 0x0e to 0x7f but the century's, 0x32); others are left alone. */
void rtc_set_cmos(struct rtc *r, unsigned index, uint8_t value);

#endif
