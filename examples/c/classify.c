/* Classifies one picture with a file of acdbit-keras, by TensorFlow Lite's C interface and the runtime as its delegate.
 *
 *   acdbit convert RUN model.tflite --input uint8 && unzip -p model.tflite labels.txt > labels.txt
 *   classify model.tflite labels.txt picture.ppm
 *
 * The picture is a binary PPM or PGM file of 8 bits; `convert photo.jpg photo.ppm` makes one. A file that takes uint8
 * normalises pixels itself, so nothing here depends on what it was trained on. */
#include <acdbit_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/lite/c/c_api.h>

static int fail(const char* sentence, const char* what) {
  fprintf(stderr, "classify: %s%s%s\n", sentence, what[0] ? ": " : "", what);
  exit(2);
}

/* Pixels of a picture, (height, width, channels). */
static unsigned char* read_picture(const char* path, int* width, int* height, int* channels) {
  FILE* file = fopen(path, "rb");
  char kind = 0, space = 0;
  int most = 0;
  if (file == NULL) fail("there is no picture", path);
  if (fscanf(file, "P%c %d %d %d%c", &kind, width, height, &most, &space) != 5 || (kind != '5' && kind != '6') ||
      most != 255 || *width < 1 || *height < 1 || *width > 32768 || *height > 32768)
    fail("not a binary PPM or PGM picture of 8 bits", path);
  *channels = kind == '6' ? 3 : 1;
  size_t bytes = (size_t)*width * *height * *channels;
  unsigned char* pixels = malloc(bytes);
  if (pixels == NULL || fread(pixels, 1, bytes, file) != bytes) fail("the picture is cut off", path);
  fclose(file);
  return pixels;
}

/* The central square at another size: a triangle as wide as a pixel of the result, along one direction of `count` lines
 * `line` apart, whose pixels are `step` apart and begin at `first`. */
static void resample(const float* in, int first, int side, int step, int line, int count, float* out, int size,
                     int out_step, int out_line) {
  float scale = (float)side / size, reach = scale > 1 ? scale : 1;
  for (int i = 0; i < size * count; i++) {
    float centre = (i % size + 0.5f) * scale, sum = 0, weights = 0;
    for (int k = (int)fmaxf(centre - reach, 0); k < side && k < centre + reach; k++) {
      float weight = 1 - fabsf(k + 0.5f - centre) / reach;
      if (weight <= 0) continue;
      sum += weight * in[first + k * step + i / size * line], weights += weight;
    }
    out[i % size * out_step + i / size * out_line] = sum / weights;
  }
}

int main(int count, char** arguments) {
  if (count != 4) fail("usage: classify MODEL.tflite LABELS.txt PICTURE.ppm", "");
  TfLiteModel* model = TfLiteModelCreateFromFile(arguments[1]);
  if (model == NULL) fail("not a .tflite file", arguments[1]);
  TfLiteDelegate* delegate = tflite_plugin_create_delegate(NULL, NULL, 0, NULL);
  TfLiteInterpreterOptions* options = TfLiteInterpreterOptionsCreate();
  TfLiteInterpreterOptionsAddDelegate(options, delegate);
  TfLiteInterpreter* interpreter = TfLiteInterpreterCreate(model, options);
  if (interpreter == NULL || TfLiteInterpreterAllocateTensors(interpreter) != kTfLiteOk)
    fail("the model cannot be run", acdbit_last_error());
  TfLiteTensor* input = TfLiteInterpreterGetInputTensor(interpreter, 0);
  if (TfLiteTensorType(input) != kTfLiteUInt8 || TfLiteTensorNumDims(input) != 4)
    fail("the model takes no pixels; convert it with --input uint8", arguments[1]);

  int width, height, channels, size = TfLiteTensorDim(input, 1), wanted = TfLiteTensorDim(input, 3);
  unsigned char* pixels = read_picture(arguments[3], &width, &height, &channels);
  if (channels != wanted) fail("the model takes pictures of another number of channels than", arguments[3]);
  int side = width < height ? width : height, left = (width - side) / 2, top = (height - side) / 2;
  float *plane = malloc(sizeof(float) * width * height), *rows = malloc(sizeof(float) * side * size);
  float* square = malloc(sizeof(float) * size * size);
  unsigned char* scaled = malloc((size_t)size * size * channels);
  for (int c = 0; c < channels; c++) {
    for (int i = 0; i < width * height; i++) plane[i] = pixels[i * channels + c];
    resample(plane, top * width + left, side, 1, width, side, rows, size, 1, size);
    resample(rows, 0, side, size, 1, size, square, size, size, 1);
    for (int i = 0; i < size * size; i++) scaled[i * channels + c] = (unsigned char)(square[i] + 0.5f);
  }
  TfLiteTensorCopyFromBuffer(input, scaled, TfLiteTensorByteSize(input));
  if (TfLiteInterpreterInvoke(interpreter) != kTfLiteOk) fail("the model failed", acdbit_last_error());

  const TfLiteTensor* output = TfLiteInterpreterGetOutputTensor(interpreter, 0);
  const float* logits = TfLiteTensorData(output);
  int classes = (int)(TfLiteTensorByteSize(output) / sizeof(float)), best = 0;
  for (int i = 1; i < classes; i++) best = logits[i] > logits[best] ? i : best;
  double sum = 0;
  for (int i = 0; i < classes; i++) sum += exp(logits[i] - logits[best]);
  char label[256] = "";
  FILE* labels = fopen(arguments[2], "r");
  if (labels == NULL) fail("there is no file of labels", arguments[2]);
  for (int i = 0; i <= best; i++)
    if (fgets(label, sizeof label, labels) == NULL) fail("there are fewer labels than classes", arguments[2]);
  printf("%.*s %.3f\n", (int)strcspn(label, "\r\n"), label, 1 / sum);
  return 0;
}
