/* The goldfish real-time clock. */
#ifndef RTC_H
#define RTC_H

#include "types.h"

/* Print "rtc: date=... unix=..."; returns the number of failures. */
unsigned rtc_report(void);

#endif
