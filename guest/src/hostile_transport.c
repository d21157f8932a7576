/* Attacks on the virtio-pci registers themselves (virtio 1.2 §3.1, §4.1.4, §4.1.5). */
#include "fdt.h"
#include "heap.h"
#include "hostile.h"
#include "text.h"
#include "timer.h"

static void write64(u64 address, u64 value)
{
    write32(address, (u32)value);
    write32(address + 4, (u32)(value >> 32));
}

/* Initialise with one register of queue 0 changed before the queue is enabled, then post a read. */
static void restart_queue(struct disk *d, u32 reg, u64 value, unsigned size)
{
    struct virtio *v = &d->v;
    virtio_negotiate(v, v->features);
    virtqueue_program(&d->queues[0]);
    if (size == 2)
        write16(v->common + reg, (u16)value);
    else
        write64(v->common + reg, value);
    write16(v->common + QUEUE_ENABLE, 1);
    virtio_driver_ok(v);
    put_read(d, 0, (u64)area->data, SECTOR);
    offer(d, 0);
}
static void size_zero(struct disk *d) { restart_queue(d, QUEUE_SIZE, 0, 2); }
static void size_three(struct disk *d) { restart_queue(d, QUEUE_SIZE, 3, 2); }
static void size_ffff(struct disk *d) { restart_queue(d, QUEUE_SIZE, 0xffff, 2); }
static void desc_zero(struct disk *d) { restart_queue(d, QUEUE_DESC, 0, 8); }
static void desc_odd(struct disk *d) { restart_queue(d, QUEUE_DESC, (u64)d->queues[0].desc + 1, 8); }
static void desc_top(struct disk *d) { restart_queue(d, QUEUE_DESC, ~0xfUL, 8); }
static void driver_top(struct disk *d) { restart_queue(d, QUEUE_DRIVER, ~0x1UL, 8); }
static void driver_over_ram_end(struct disk *d)
{
    restart_queue(d, QUEUE_DRIVER, machine.memory_base + machine.memory_size - 4, 8);
}
static void device_top(struct disk *d) { restart_queue(d, QUEUE_DEVICE, ~0x3UL, 8); }
static void device_past_ram(struct disk *d)
{
    restart_queue(d, QUEUE_DEVICE, machine.memory_base + machine.memory_size, 8);
}

static void select_ffff(struct disk *d)
{
    virtio_select_queue(&d->v, 0xffff);
    for (u32 reg = QUEUE_SIZE; reg < 0x38; reg += 2)
        write16(d->v.common + reg, 0x5a5a);
    /* §4.1.4.3.1: an unavailable queue has size 0. QEMU does not take the selection at all. */
    attack_failed = read16(d->v.common + QUEUE_SELECT) == 0xffff && read16(d->v.common + QUEUE_SIZE) != 0;
    virtio_select_queue(&d->v, 0);
}

static void notify_strange(struct disk *d)
{
    u64 at = d->queues[0].notify;
    write16(at, 0xffff);
    write32(at, 0xffffffff);
    write8(at, 0xff);
    write16(at + 2, 0);
    write16(d->v.notify + 64UL * d->v.notify_multiplier, 64);
}

static void vector_unavailable(struct disk *d)
{
    virtio_select_queue(&d->v, 0);
    write16(d->v.common + QUEUE_MSIX_VECTOR, 0x7ff);
    attack_failed = read16(d->v.common + QUEUE_MSIX_VECTOR) != VIRTIO_MSI_NO_VECTOR; /* §4.1.5.1.2.1 */
    write16(d->v.common + CONFIG_MSIX_VECTOR, 0x7ff);
    attack_failed |= read16(d->v.common + CONFIG_MSIX_VECTOR) != VIRTIO_MSI_NO_VECTOR;
}

static void driver_ok_alone(struct disk *d)
{
    virtio_reset(&d->v);
    write8(d->v.common + DEVICE_STATUS, STATUS_DRIVER_OK);
    notify(d);
}

static void notify_before_driver_ok(struct disk *d)
{
    virtio_reset(&d->v);
    write8(d->v.common + DEVICE_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    virtqueue_init(&d->queues[0]);
    put_read(d, 0, (u64)area->data, SECTOR);
    offer(d, 0);
}

static void all_features(struct disk *d)
{
    virtio_reset(&d->v);
    write8(d->v.common + DEVICE_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    for (u32 i = 0; i < 4; i++) {
        write32(d->v.common + DRIVER_FEATURE_SELECT, i);
        write32(d->v.common + DRIVER_FEATURE, 0xffffffff);
    }
    write32(d->v.common + DEVICE_FEATURE_SELECT, 0xffffffff);
    attack_failed = read32(d->v.common + DEVICE_FEATURE) != 0; /* no such features */
    write8(d->v.common + DEVICE_STATUS, 0xff);
}

static void features_while_running(struct disk *d)
{
    write32(d->v.common + DRIVER_FEATURE_SELECT, 1);
    write32(d->v.common + DRIVER_FEATURE, 0);
    write32(d->v.common + DRIVER_FEATURE_SELECT, 0);
    write32(d->v.common + DRIVER_FEATURE, 0);
    put_read(d, 0, (u64)area->data, SECTOR);
    offer(d, 0);
}

static void rings_moved_while_running(struct disk *d)
{
    put_read(d, 0, (u64)area->data, SECTOR);
    memset(heap_scratch(), 0, 8192); /* whatever the device makes of the new rings, it finds no wild address */
    memcpy(heap_scratch(), (void *)d->queues[0].desc, 48);
    virtio_select_queue(&d->v, 0);
    write64(d->v.common + QUEUE_DESC, (u64)heap_scratch());
    write64(d->v.common + QUEUE_DRIVER, (u64)heap_scratch() + 4096);
    write16(d->v.common + QUEUE_SIZE, 1);
    offer(d, 0);
}

static void read_only_registers(struct disk *d)
{
    write16(d->v.common + NUM_QUEUES, 0x1234);
    write8(d->v.common + CONFIG_GENERATION, 0xff);
    write32(d->v.common + DEVICE_FEATURE, 0);
    write8(d->v.isr, 0xff);
    u32 sectors = (u32)d->capacity;
    write32(d->v.config, ~sectors);
    attack_failed = read16(d->v.common + NUM_QUEUES) != d->v.num_queues || read32(d->v.config) != sectors;
}

/* Requests in flight when the device is reset, or may no longer reach memory. */
static void post_many(struct disk *d)
{
    for (unsigned slot = 0; slot < 32; slot++)
        disk_submit(d, 0, slot, VIRTIO_BLK_T_IN, 0, heap_scratch() + 4096UL * slot, 4096);
    virtqueue_kick(&d->queues[0]);
}
static void reset_in_flight(struct disk *d)
{
    post_many(d);
    virtio_reset(&d->v);
}
static void master_off_in_flight(struct disk *d)
{
    post_many(d);
    u32 command = pci_read(d->v.pci, PCI_COMMAND, 2);
    pci_write(d->v.pci, PCI_COMMAND, 2, command & ~(u32)PCI_COMMAND_MASTER);
    notify(d);
    for (u64 end = time_now() + time_from_us(2000); time_now() < end;)
        ;
    pci_write(d->v.pci, PCI_COMMAND, 2, command);
}
static void reset_storm(struct disk *d)
{
    for (unsigned i = 0; i < 20; i++) {
        write8(d->v.common + DEVICE_STATUS, 0);
        write8(d->v.common + DEVICE_STATUS, STATUS_ACKNOWLEDGE);
        notify(d);
    }
}

static const struct attack attacks[] = {
    {"size-zero", size_zero, ANYTHING},
    {"size-three", size_three, ANYTHING},
    {"size-ffff", size_ffff, ANYTHING},
    {"desc-zero", desc_zero, ANYTHING},
    {"desc-odd", desc_odd, ANYTHING},
    {"desc-top", desc_top, ANYTHING},
    {"driver-top", driver_top, ANYTHING},
    {"driver-over-ram-end", driver_over_ram_end, ANYTHING},
    {"device-top", device_top, ANYTHING},
    {"device-past-ram", device_past_ram, ANYTHING},
    {"select-ffff", select_ffff, ANYTHING},
    {"notify-strange", notify_strange, ANYTHING},
    {"vector-unavailable", vector_unavailable, ANYTHING},
    {"driver-ok-alone", driver_ok_alone, ANYTHING},
    {"notify-before-driver-ok", notify_before_driver_ok, ANYTHING},
    {"all-features", all_features, ANYTHING},
    {"features-while-running", features_while_running, ANYTHING},
    {"rings-moved-while-running", rings_moved_while_running, ANYTHING},
    {"read-only-registers", read_only_registers, ANYTHING},
    {"reset-in-flight", reset_in_flight, ANYTHING},
    {"master-off-in-flight", master_off_in_flight, ANYTHING},
    {"reset-storm", reset_storm, ANYTHING},
};
const struct attack_list transport_attacks = {attacks, ARRAY_SIZE(attacks)};
