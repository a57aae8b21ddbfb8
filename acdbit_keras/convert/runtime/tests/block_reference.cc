#include "block_reference.h"

#include <math.h>

#include <algorithm>
#include <map>
#include <string>

#include "attention_reference.h"

namespace acdbit {
namespace reference {
namespace {

using Floats = std::vector<float>;
using Words = std::vector<uint32_t>;

// Start of every constant by its name, in the order of the contract.
struct Slices {
  std::map<std::string, const float*> vectors;
  std::map<std::string, const uint32_t*> kernels;
  size_t floats = 0, words = 0;

  Slices(const BlockOptions& options, size_t channels, const float* first_float, const uint32_t* first_word) {
    const size_t heads = options.heads, hidden = channels * options.mlp_ratio;
    const auto vector = [&](const char* name, size_t length, bool given) {
      if (given) vectors[name] = first_float + floats;
      floats += given ? length : 0;
    };
    const auto kernel = [&](const char* name, size_t outputs, size_t inputs) {
      kernels[name] = first_word + words;
      words += outputs * (inputs / 32);
    };
#define ACDBIT_VECTOR(name, length, given) vector(#name, length, given);
#define ACDBIT_KERNEL(name, outputs, inputs) kernel(#name, outputs, inputs);
    ACDBIT_BLOCK_VECTORS(ACDBIT_VECTOR)
    ACDBIT_BLOCK_KERNELS(ACDBIT_KERNEL)
#undef ACDBIT_VECTOR
#undef ACDBIT_KERNEL
  }
  const float* operator[](const std::string& name) const { return vectors.at(name); }
};

// Mean over `number` values, summed in sixteen lanes.
float mean(const float* values, int number) {
  float lanes[16] = {};
  for (int c = 0; c < number; c++) lanes[c % 16] = lanes[c % 16] + values[c];
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] = lanes[i] + lanes[i + half];
  return lanes[0] * (1.0f / float(number));
}

float mean_deviation(const float* values, const float* thresholds, int number) {
  Floats deviations(number);
  for (int c = 0; c < number; c++) deviations[c] = fabsf(values[c] - thresholds[c]);
  return mean(deviations.data(), number);
}

float prelu(float z, float slope) { return z > 0.0f ? z : slope * z; }

// Rows of floats to bits: channel c is set where the value is below threshold c.
Words pack(const Floats& x, const float* threshold, int channels) {
  Words bits(x.size() / 32);
  for (size_t i = 0; i < x.size(); i++)
    if (x[i] < threshold[i % channels]) bits[i / 32] |= uint32_t(1) << (i % 32);
  return bits;
}

// Binary product of `inputs` to `outputs` channels: x is its real input, `bits` the same after the sign.
Floats product(const Slices& slices, const std::string& name, const Floats& x, const Words& bits, int inputs,
               int outputs, bool dynamic) {
  const int words = inputs / 32, tokens = int(x.size()) / inputs;
  const float* multiplier = slices[name + ".multiplier"];
  const float* bias = slices[name + ".bias"];
  const float* row_sum = dynamic ? slices[name + ".row"] : nullptr;
  const float* restore = dynamic ? slices[name + ".restore"] : nullptr;
  const uint32_t* kernel = slices.kernels.at(name);
  Floats result(size_t(tokens) * outputs);
  for (int t = 0; t < tokens; t++) {
    const float* row = x.data() + size_t(t) * inputs;
    const float deviation = dynamic ? mean_deviation(row, slices[name + ".threshold"], inputs) : 0.0f;
    const float center = dynamic ? mean(row, inputs) : 0.0f;
    for (int o = 0; o < outputs; o++) {
      int count = 0;
      for (int w = 0; w < words; w++)
        count += __builtin_popcount(bits[size_t(t) * words + w] ^ kernel[size_t(o) * words + w]);
      const float scaled = float(count) * multiplier[o];
      float& y = result[size_t(t) * outputs + o];
      if (dynamic) {
        const float first = (scaled + row_sum[o]) * deviation;
        const float second = restore[o] * center;
        y = (first + second) + bias[o];
      } else {
        y = scaled + bias[o];
      }
    }
  }
  return result;
}

}  // namespace

size_t block_vectors(const BlockOptions& options, int channels) {
  return Slices(options, channels, nullptr, nullptr).floats;
}

size_t block_kernels(const BlockOptions& options, int channels) {
  return Slices(options, channels, nullptr, nullptr).words;
}

BlockResult block(const BlockOptions& options, int channels, int height, int width, const float* vectors,
                  const uint32_t* kernels, const float* x) {
  const Slices slices(options, channels, vectors, kernels);
  const int c = channels, heads = options.heads, head_dim = c / heads, ratio = options.mlp_ratio, hidden = c * ratio;
  const int tokens = height * width;
  const size_t size = size_t(tokens) * c;

  // Looked up once: names are compared slowly.
  const float *gain_1 = slices["gain_1"], *shift_1 = slices["shift_1"];
  const float *gain_2 = slices["gain_2"], *shift_2 = slices["shift_2"];
  const float *context_count = slices["context.count_multiplier"], *context_kept = slices["context.kept_multiplier"];
  const float *context_bias = slices["context.bias"], *context_slope = slices["context.slope"];
  const float *output_slope = slices["output.slope"], *output_shift = slices["output.shift"];
  const float* mlp_1_slope = slices["mlp_1.slope"];
  const float *mlp_2_slope = slices["mlp_2.slope"], *mlp_2_shift = slices["mlp_2.shift"];
  const bool branches = options.branches != Branches::kNone;
  const float* output_gain = branches ? slices["output.gain"] : nullptr;
  const float* mlp_2_gain = branches ? slices["mlp_2.gain"] : nullptr;

  Floats u(size);
  for (size_t i = 0; i < size; i++) u[i] = gain_1[i % c] * x[i] + shift_1[i % c];
  std::map<std::string, Words> bits;
  std::map<std::string, Floats> values, scale, offset;
  for (const std::string name : {"query", "key", "value"}) {
    bits[name + ".input"] = pack(u, slices[name + ".threshold"], c);
    Floats z = product(slices, name, u, bits[name + ".input"], c, c, options.dynamic_activation);
    const float *slope = slices[name + ".slope"], *threshold = slices[name + "_threshold"];
    for (size_t i = 0; i < size; i++) z[i] = prelu(z[i] + u[i], slope[i % c]);
    bits[name] = pack(z, threshold, c);
    if (options.dynamic_attention && name != "value") {
      for (int t = 0; t < tokens; t++) {
        for (int h = 0; h < heads; h++) {
          const float* head = z.data() + size_t(t) * c + h * head_dim;
          scale[name].push_back(mean_deviation(head, threshold + h * head_dim, head_dim));
          offset[name].push_back(mean(head, head_dim) + slices[name + "_center"][h]);
        }
      }
    }
    values[name] = z;
  }

  AttentionPlan plan = {};
  plan.heads = heads;
  plan.head_dim = head_dim;
  plan.queries = plan.keys = tokens;
  plan.rule = options.rule;
  plan.ratio = options.ratio;
  plan.query = bits["query"].data();
  plan.key = bits["key"].data();
  plan.value = bits["value"].data();
  plan.query_stride = plan.key_stride = plan.value_stride = c / 32;
  plan.score_scale = slices["score_scale"];
  plan.probability_scale = slices["probability_scale"];
  plan.key_weights = options.key_bias ? slices["key_weights"] : nullptr;
  if (options.dynamic_attention) {
    plan.query_scale = scale["query"].data();
    plan.query_offset = offset["query"].data();
    plan.key_scale = scale["key"].data();
    plan.key_offset = offset["key"].data();
  }
  std::vector<int32_t> counts(size), kept(size_t(tokens) * heads);
  Words probabilities(size_t(heads) * tokens * ((tokens + 31) / 32));
  plan.probabilities = probabilities.data();
  attention(plan, 0, tokens, counts.data(), kept.data());

  Floats o(size);
  const Floats &query = values["query"], &key = values["key"], &value = values["value"];
  for (size_t i = 0; i < size; i++) {
    const float total = (query[i] + key[i]) + value[i];
    const float counted = float(counts[i]) * context_count[i % c];
    const float all = float(kept[i / head_dim]) * context_kept[i % c];
    o[i] = prelu(((counted + all) + context_bias[i % c]) + total, context_slope[i % c]);
  }
  bits["output.input"] = pack(o, slices["output.threshold"], c);
  Floats z = product(slices, "output", o, bits["output.input"], c, c, options.dynamic_activation);
  Floats y(size), w(size);
  for (size_t i = 0; i < size; i++) {
    float branch = prelu(z[i] + o[i], output_slope[i % c]);
    if (branches) branch = output_gain[i % c] * branch;
    y[i] = x[i] + (branch + output_shift[i % c]);
    w[i] = gain_2[i % c] * y[i] + shift_2[i % c];
  }

  bits["mlp_1.input"] = pack(w, slices["mlp_1.threshold"], c);
  Floats f = product(slices, "mlp_1", w, bits["mlp_1.input"], c, hidden, options.dynamic_activation);
  for (size_t i = 0; i < f.size(); i++) {
    const size_t token = i / hidden, channel = i % hidden;
    f[i] = prelu(f[i] + w[token * c + channel % c], mlp_1_slope[channel]);
  }
  bits["mlp_2.input"] = pack(f, slices["mlp_2.threshold"], hidden);
  z = product(slices, "mlp_2", f, bits["mlp_2.input"], hidden, c, options.dynamic_hidden);
  BlockResult result;
  result.output.resize(size);
  for (size_t i = 0; i < size; i++) {
    const float* group = f.data() + i * ratio;
    float total = group[0];
    if (ratio == 4) {
      total = (group[0] + group[1]) + (group[2] + group[3]);
    } else {
      for (int j = 1; j < ratio; j++) total = total + group[j];
    }
    float branch = prelu(z[i] + total * (1.0f / float(ratio)), mlp_2_slope[i % c]);
    if (branches) branch = mlp_2_gain[i % c] * branch;
    result.output[i] = y[i] + (branch + mlp_2_shift[i % c]);
  }

  if (options.branches == Branches::kDepthwise) {
    const float* kernel = slices["depthwise"];
    for (int t = 0; t < tokens; t++) {
      for (int channel = 0; channel < c; channel++) {
        float sum = 0.0f;
        for (int down = -1; down <= 1; down++) {
          for (int right = -1; right <= 1; right++) {
            const int i = t / width + down, j = t % width + right;
            const bool inside = i >= 0 && i < height && j >= 0 && j < width;
            const float value = inside ? w[size_t(i * width + j) * c + channel] : 0.0f;
            sum = sum + value * kernel[size_t((down + 1) * 3 + right + 1) * c + channel];
          }
        }
        float& out = result.output[size_t(t) * c + channel];
        out = out + sum;
      }
    }
  }
  if (options.branches == Branches::kPooling) {
    const float* pooling[2][2] = {{slices["pooling.horizontal_3"], slices["pooling.horizontal_5"]},
                                  {slices["pooling.vertical_3"], slices["pooling.vertical_5"]}};
    for (int t = 0; t < tokens; t++) {
      for (int channel = 0; channel < c; channel++) {
        float sum = 0.0f;
        for (const bool vertical : {true, false}) {
          const int place = vertical ? t / width : t % width, places = vertical ? height : width;
          auto neighbour = [&](int k) {
            if (place + k < 0 || place + k >= places) return 0.0f;
            return w[size_t(t + k * (vertical ? width : 1)) * c + channel];
          };
          const float narrow = (neighbour(-1) + neighbour(0)) + neighbour(1);
          const float wide = (narrow + neighbour(-2)) + neighbour(2);
          sum = sum + narrow * pooling[vertical][0][channel];
          sum = sum + wide * pooling[vertical][1][channel];
        }
        float& out = result.output[size_t(t) * c + channel];
        out = out + sum;
      }
    }
  }

  std::map<std::string, Words> taps = {{"probabilities", probabilities}};
  for (const auto& entry : bits) {
    std::string name = entry.first;
    std::replace(name.begin(), name.end(), '.', '_');
    taps[name] = entry.second;
  }
#define ACDBIT_APPEND(name, rows, bits) \
  result.taps.insert(result.taps.end(), taps.at(#name).begin(), taps.at(#name).end());
  ACDBIT_BLOCK_TAPS(ACDBIT_APPEND)
#undef ACDBIT_APPEND
  return result;
}

}  // namespace reference
}  // namespace acdbit
