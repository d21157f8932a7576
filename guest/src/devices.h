/* Every device that is not a disk. */
#ifndef DEVICES_H
#define DEVICES_H

#include "pci.h"

/* Open the devices found by pci_enumerate and try each; counts those tried and their failures. */
void devices_report(unsigned *exercised, unsigned *failures);

#endif
