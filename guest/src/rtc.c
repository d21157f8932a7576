/* Goldfish RTC: reading TIME_LOW latches TIME_HIGH; nanoseconds since 1970 (QEMU hw/rtc/goldfish_rtc.c). */
#include "rtc.h"
#include "console.h"
#include "fdt.h"

enum { TIME_LOW = 0x00, TIME_HIGH = 0x04 };

/* Days since 1970-01-01 to a date: the era method (400-year cycles of 146 097 days, years begin in March). */
static void date_of(u64 days, u32 *year, u32 *month, u32 *day)
{
    u64 z = days + 719468, era = z / 146097, doe = z % 146097;
    u64 yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    u64 doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    *day = (u32)(doy - (153 * mp + 2) / 5 + 1);
    *month = (u32)(mp < 10 ? mp + 3 : mp - 9);
    *year = (u32)(yoe + era * 400 + (*month <= 2));
}

unsigned rtc_report(void)
{
    if (!machine.rtc.base) {
        print("rtc: none\n");
        return 0;
    }
    u64 ns = read32(machine.rtc.base + TIME_LOW);
    ns |= (u64)read32(machine.rtc.base + TIME_HIGH) << 32;
    u64 s = ns / 1000000000;
    u32 year, month, day;
    date_of(s / 86400, &year, &month, &day);
    print("rtc: date=%04u-%02u-%02uT%02lu:%02lu:%02luZ unix=%lu\n", year, month, day, s / 3600 % 24, s / 60 % 60,
          s % 60, s);
    return year < 2020;
}
