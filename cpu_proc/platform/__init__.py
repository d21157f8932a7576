"""Platform devices that need the speed of the hart: interrupt controllers, UART, RTC, power."""
