#include "commands.h"
void command_memory(const char *args) {(void)args;}
void command_pci_dump(const char *args){(void)args;}
void command_disk(const char *args){(void)args;}
void command_bench(const char *args){(void)args;}
void command_hostile_pci(const char *args){(void)args;}
void command_hostile_rings(const char *args){(void)args;}
void command_user(void){}
void command_float(void){}
