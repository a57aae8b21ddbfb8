/* Plugin for qemu's system emulation that counts the instructions of a microcontroller, repeatable to the instruction.
 *
 * The program marks where a region begins and ends with instructions that do nothing (MARK in mcu/board.h): on Arm
 * movw r12, #0xac00 + number, on RISC-V lui zero, 0xacd00 + number. Counted is what lies between mark 0 and mark 1. At
 * the end the argument output=FILE gets a line
 *     calls instructions
 * and after it, for a profile, one line per instruction that was executed at all:
 *     address count
 *
 * Debian ships qemu without the header for plugins: the few declarations of version 1 of the interface that are used
 * stand here.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t PluginId;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { kInlineAdd = 0, kNoRegisters = 0 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *instruction);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(PluginId id, void (*callback)(PluginId, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *instruction, int operation, void *counter,
                                                uint64_t value);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *instruction, void (*callback)(unsigned, void *),
                                            int flags, void *data);
void qemu_plugin_register_atexit_cb(PluginId id, void (*callback)(PluginId, void *), void *data);

EXPORT int qemu_plugin_version = 1;

enum { kMostSites = 1 << 19 };

typedef struct {
  uint64_t address;
  uint64_t count;
} Site;

static char output[4096];
static uint64_t executed, at_begin, calls, total;
static Site *sites;
static size_t num_sites;

static void begin(unsigned cpu, void *data) {
  (void)cpu, (void)data;
  at_begin = executed;
}

static void end(unsigned cpu, void *data) {
  (void)cpu, (void)data;
  total += executed - at_begin;
  calls++;
}

/* The number of a mark, or -1. */
static int mark_of(const uint8_t *code, size_t size) {
  if (size != 4) return -1;
  uint32_t word;
  memcpy(&word, code, sizeof word);
  if ((word & 0xfff) == 0x037 && word >> 20 == 0xacd) return word >> 12 & 0xff;
  const uint32_t first = word & 0xffff, second = word >> 16;
  if ((first & 0xfbf0) != 0xf240 || (second & 0x8f00) != 0x0c00) return -1;
  const uint32_t immediate = (first & 15) << 12 | (first >> 10 & 1) << 11 | (second >> 12 & 7) << 8 | (second & 255);
  return (immediate & 0xff00) == 0xac00 ? (int)(immediate & 0xff) : -1;
}

static void translated(PluginId id, struct qemu_plugin_tb *block) {
  (void)id;
  const size_t length = qemu_plugin_tb_n_insns(block);
  for (size_t i = 0; i < length; i++) {
    struct qemu_plugin_insn *const instruction = qemu_plugin_tb_get_insn(block, i);
    qemu_plugin_register_vcpu_insn_exec_inline(instruction, kInlineAdd, &executed, 1);
    if (num_sites < kMostSites) {
      Site *const site = &sites[num_sites++];
      site->address = qemu_plugin_insn_vaddr(instruction);
      qemu_plugin_register_vcpu_insn_exec_inline(instruction, kInlineAdd, &site->count, 1);
    }
    const int mark = mark_of(qemu_plugin_insn_data(instruction), qemu_plugin_insn_size(instruction));
    if (mark == 0) qemu_plugin_register_vcpu_insn_exec_cb(instruction, begin, kNoRegisters, NULL);
    if (mark == 1) qemu_plugin_register_vcpu_insn_exec_cb(instruction, end, kNoRegisters, NULL);
  }
}

static void finished(PluginId id, void *data) {
  (void)id, (void)data;
  FILE *file = fopen(output, "w");
  if (!file) {
    perror(output);
    return;
  }
  fprintf(file, "%" PRIu64 " %" PRIu64 "\n", calls, total);
  for (size_t i = 0; i < num_sites; i++)
    if (sites[i].count) fprintf(file, "%" PRIx64 " %" PRIu64 "\n", sites[i].address, sites[i].count);
  fclose(file);
}

EXPORT int qemu_plugin_install(PluginId id, const void *info, int argc, char **argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "output=", 7) != 0 || strlen(argv[0] + 7) >= sizeof output) {
    fprintf(stderr, "the instruction counter needs one argument, output=FILE\n");
    return 1;
  }
  strcpy(output, argv[0] + 7);
  sites = calloc(kMostSites, sizeof *sites);
  if (!sites) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
