/* Plugin for qemu's user emulation that counts executed arm64 instructions, repeatable to the instruction.
 *
 * A guest ends a region with syscall(5000, tag): what ran since its last such call is added to the tag, 0 < tag < 4096;
 * tag 0 adds it to nothing. At the end one line per tag goes to the plugin's argument output=FILE:
 *     tag calls instructions memory simd branch integer
 * and one more with tag 0 for the whole run. Counts are exact while one thread runs.
 *
 * Debian ships qemu-user without the header for plugins: the few declarations of version 1 of the interface that are
 * used stand here.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t PluginId;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { kInlineAdd = 0 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(PluginId id, void (*callback)(PluginId, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, int operation, void *counter,
                                              uint64_t value);
void qemu_plugin_register_vcpu_syscall_cb(PluginId id,
                                          void (*callback)(PluginId, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                           uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(PluginId id, void (*callback)(PluginId, void *), void *data);

EXPORT int qemu_plugin_version = 1;

enum { kAll, kMemory, kSimd, kBranch, kInteger, kClasses };
enum { kMarker = 5000, kTags = 4096 };

typedef struct {
  uint64_t calls;
  uint64_t counts[kClasses];
} Region;

static char output[4096];
static uint64_t counts[kClasses];
static uint64_t at_mark[kClasses];
static Region regions[kTags];

/* The top-level groups of the A64 encoding, bits 28 to 25. */
static int class_of(uint32_t instruction) {
  const uint32_t group = instruction >> 25 & 15;
  if ((group & 5) == 4) return kMemory;
  if ((group & 7) == 7) return kSimd;
  if ((group & 14) == 10) return kBranch;
  return kInteger;
}

static void translated(PluginId id, struct qemu_plugin_tb *block) {
  (void)id;
  uint64_t here[kClasses] = {0};
  const size_t length = qemu_plugin_tb_n_insns(block);
  for (size_t i = 0; i < length; i++) {
    uint32_t instruction;
    memcpy(&instruction, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof instruction);
    here[kAll]++;
    here[class_of(instruction)]++;
  }
  for (int c = 0; c < kClasses; c++)
    if (here[c]) qemu_plugin_register_vcpu_tb_exec_inline(block, kInlineAdd, &counts[c], here[c]);
}

static void system_call(PluginId id, unsigned cpu, int64_t number, uint64_t tag, uint64_t a2, uint64_t a3, uint64_t a4,
                        uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != kMarker) return;
  if (tag > 0 && tag < kTags) {
    regions[tag].calls++;
    for (int c = 0; c < kClasses; c++) regions[tag].counts[c] += counts[c] - at_mark[c];
  }
  memcpy(at_mark, counts, sizeof at_mark);
}

static void finished(PluginId id, void *data) {
  (void)id, (void)data;
  FILE *file = fopen(output, "w");
  if (!file) {
    perror(output);
    return;
  }
  regions[0].calls = 1;
  memcpy(regions[0].counts, counts, sizeof counts);
  for (int tag = 0; tag < kTags; tag++) {
    if (!regions[tag].calls) continue;
    fprintf(file, "%d %" PRIu64, tag, regions[tag].calls);
    for (int c = 0; c < kClasses; c++) fprintf(file, " %" PRIu64, regions[tag].counts[c]);
    fprintf(file, "\n");
  }
  fclose(file);
}

EXPORT int qemu_plugin_install(PluginId id, const void *info, int argc, char **argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "output=", 7) != 0 || strlen(argv[0] + 7) >= sizeof output) {
    fprintf(stderr, "the instruction counter needs one argument, output=FILE\n");
    return 1;
  }
  strcpy(output, argv[0] + 7);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, system_call);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
